"""Sparse eight-bit layers give what ONNX Runtime's own eight-bit kernels give, within one quantum."""

from __future__ import annotations

import numpy as np
import pytest
from bench import models, quantize
from bench.graph import Graph
from onnx import TensorProto, helper, numpy_helper

from tests import quantized_cases
from tests.sessions import NAME, claimed, placement, session

EVERYTHING = {"threshold": "0", "tuning": "off"}
QUICK, ALL = 100, 1000


@pytest.mark.parametrize("seed", range(QUICK))
def test_random_quantized_model(seed: int) -> None:
    quantized_cases.check(quantized_cases.make(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(QUICK, ALL))
def test_more_random_quantized_models(seed: int) -> None:
    quantized_cases.check(quantized_cases.make(seed))


def test_a_residual_is_added_to_sums_before_they_are_quantized() -> None:
    random = np.random.default_rng(0)
    width = 64
    codes = random.integers(-127, 128, (width, width)).astype(np.int8)
    codes[random.random(codes.shape) < 0.9] = 0
    constants = {
        "w": codes,
        "w_scale": np.full(width, 0.01, dtype=np.float32),
        "w_zero": np.zeros(width, dtype=np.int8),
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "y_scale": np.float32(0.03),
        "y_zero": np.uint8(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_real"], axis=1),
        helper.make_node("MatMul", ["x_real", "w_real"], ["product"]),
        helper.make_node("DequantizeLinear", ["r", "scale", "zero"], ["r_real"]),
        helper.make_node("Add", ["product", "r_real"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "y_scale", "y_zero"], ["y"]),
    ]
    x, r, y = (helper.make_tensor_value_info(name, TensorProto.UINT8, [3, 17, width]) for name in "xry")
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "residual", [x, r], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ours, theirs = session(model, EVERYTHING), session(model)
    assert claimed(ours) >= 1
    feeds = {name: random.integers(0, 256, (3, 17, width)).astype(np.uint8) for name in "xr"}
    difference = ours.run(None, feeds)[0].astype(int) - theirs.run(None, feeds)[0]
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.01


def test_of_an_encoder_only_the_attention_is_left() -> None:
    model = quantize.quantize(models.encoder(2, 64, 4, 128, Graph(0.9, "unstructured"), 1))
    ours, theirs = session(model, EVERYTHING), session(model)
    assert claimed(ours) == 2 * 6
    placed = placement(ours)
    assert set(placed["CPUExecutionProvider"]) == {
        *("QuantizeLinear", "DequantizeLinear", "LayerNormalization"),  # of the input
        *("Reshape", "Transpose", "MatMul", "Div", "Softmax"),
    }
    assert placed["CPUExecutionProvider"].count("LayerNormalization") == 1
    assert placed[NAME].count("LayerNormalization") == 2 * 2
    assert sum(part.ep_name == NAME for part in ours.get_provider_graph_assignment_info()) == 3
    x = np.random.default_rng(0).standard_normal((1, models.TOKENS, 64), dtype=np.float32)
    mine, other = ours.run(None, {"x": x})[0], theirs.run(None, {"x": x})[0]
    assert np.abs(mine - other).max() < 0.2  # a few quanta of what is normalised last
    assert np.mean(np.abs(mine - other)) < 0.005
