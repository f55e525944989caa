"""Weights leave a file and come back with the same distribution."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.harness import proto
from tests.zoo.placeholders import LIMIT, fill, strip


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    made = proto(
        "g (float[n,32] x) => (float[n,32] y)"
        "<float[32,32] w, float[128,1] variance, float[32] bias, float[32,32] mask, int64[70] index>"
        "{ z = MatMul(x, w) s = Add(z, bias) y = Mul(s, mask) }",
        w=0.1 + 0.2 * rng.standard_normal((32, 32)),
        variance=rng.uniform(0.5, 1.5, (128, 1)),
        bias=rng.standard_normal(32),
        mask=np.triu(np.ones((32, 32))),
        index=np.arange(70),
    )
    made.doc_string = made.graph.doc_string = made.graph.node[0].doc_string = "made here"
    made.graph.node[0].metadata_props.add(key="trace", value="made here")
    made.graph.input[0].metadata_props.add(key="trace", value="made here")
    return made


def test_random_weights_are_left_out_and_the_rest_is_kept() -> None:
    stripped = strip(model(), {})
    tensors = {tensor.name: tensor for tensor in stripped.graph.initializer}
    assert {name for name, tensor in tensors.items() if not tensor.raw_data} == {"w", "variance"}
    assert tensors["w"].dims == [32, 32]
    kept = {tensor.name: tensor for tensor in model().graph.initializer}
    assert all(tensors[name] == kept[name] for name in ("bias", "mask", "index"))
    assert len(stripped.SerializeToString()) < 6000
    assert b"made here" not in stripped.SerializeToString()


def test_drawn_weights_are_distributed_like_those_left_out() -> None:
    stripped = strip(model(), {})
    fill(stripped, seed=3)
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stripped.graph.initializer}
    assert found["w"].dtype == np.float32
    assert found["w"].mean() == pytest.approx(0.1, abs=0.02)
    assert found["w"].std() == pytest.approx(0.2, abs=0.02)
    assert 0.5 < found["variance"].min() < 0.6 < 1.4 < found["variance"].max() < 1.5
    assert not any(tensor.metadata_props for tensor in stripped.graph.initializer)
    onnx.checker.check_model(stripped)


def test_limits_are_written_on_the_inputs() -> None:
    stripped = strip(model(), {"x": 7})
    assert [(entry.key, entry.value) for entry in stripped.graph.input[0].metadata_props] == [(LIMIT, "7")]
