"""Weights of a compressed model go back into the model of the framework, or it is said why they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import compare
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.writeback import parameter_values, write
from tests.harness import RUNTIME
from tests.live import Framework, framework, lower

HEAD = "g (float[n,3,6,6] x) => (float[n,5] y)"
NORM = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
TAIL = "p = GlobalAveragePool(r) f = Flatten(p) t = Transpose <perm=[1,0]> (fc) y = Gemm(f, t, fb)"
NORMALIZED = f"""{HEAD}
    <float[4,3,3,3] w, {NORM}, float[5,4] fc, float[5] fb>
    {{ c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n) {TAIL} }}"""
BIASED = f"""{HEAD}
    <float[4,3,3,3] w, float[4] b, {NORM}, float[5,4] fc, float[5] fb>
    {{ c = Conv(x, w, b) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n) {TAIL} }}"""
UNCENTRED = f"""{HEAD} <float[4,3,3,3] w, float[4] gamma, float[4] mean, float[4] var, float[5,4] fc, float[5] fb>
    {{ z = Constant <value = float[4] {{0.0, 0.0, 0.0, 0.0}}> () c = Conv(x, w)
       n = BatchNormalization(c, gamma, z, mean, var) r = Relu(n) {TAIL} }}"""
TWICE = """g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
    { t = Transpose <perm=[1,0]> (w) h = MatMul(x, t) r = Relu(h) y = MatMul(r, w) }"""
COMPUTED = """g (float[n,4] x) => (float[n,3] y) <float[4,3] w, float[3] s> { p = Mul(w, s) y = MatMul(x, p) }"""
UNBIASED = f"""{HEAD} <float[4,3,3,3] w, float[5,4] fc>
    {{ c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) t = Transpose <perm=[1,0]> (fc)
       y = MatMul(f, t) }}"""

IMAGES = {"x": np.random.default_rng(0).normal(size=(3, 3, 6, 6)).astype(np.float32)}
ROWS = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
FLATS = {"x": np.random.default_rng(0).normal(size=(3, 2, 3, 2)).astype(np.float32)}


def model_of(text: str, **weights: Any) -> Framework:
    if "BatchNormalization" in text:
        weights = {"var": np.array([0.5, 1.0, 2.0, 3.0]), "gamma": np.array([1.0, -0.5, 2.0, 0.7]), **weights}
    return framework(text, **weights)


def compress(model: Framework, feeds: dict[str, Any], pipeline: str) -> tuple[Any, Graph, Any, PassContext]:
    lowered = lower(model, feeds)
    ctx = PassContext(lowered.graph, RUNTIME)
    passes = parse_pipeline(pipeline)
    graph = lowered.graph
    for item in passes:
        graph = run_pass(item, graph, ctx).graph
    return lowered, graph.clone(), passes, ctx


def halved(graph: Graph, *names: str) -> None:
    """Give initializers other values, zeros among them."""
    editor = Editor(graph, "test")
    for name in names:
        array = graph.array(name).copy()
        array.reshape(-1)[::2] = 0
        array.reshape(-1)[1::4] += 0.25
        editor.set_weights(name, array)


# program, passes, initializers that get new values -> parameters that change
WRITTEN: dict[str, tuple[str, str, tuple[str, ...], set[str]]] = {
    "nothing": (NORMALIZED, "canonicalize", (), set()),
    "weights behind a Transpose": (NORMALIZED, "canonicalize", ("fc", "fb"), {"fc", "fb"}),
    "weights that a BatchNorm was folded into": (NORMALIZED, "canonicalize", ("w",), {"w"}),
    "bias that came from a BatchNorm": (NORMALIZED, "canonicalize", ("w", "w.bias"), {"w", "beta"}),
    "bias that was there before": (BIASED, "canonicalize", ("w", "b"), {"w", "beta"}),
    "BatchNorm without a shift": (UNCENTRED, "canonicalize", ("w", "w.bias"), {"w", "mean"}),
    "not folded": (NORMALIZED, "store-sparse", ("w", "beta"), {"w", "beta"}),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_weights_go_back(case: str) -> None:
    text, pipeline, names, wanted = WRITTEN[case]
    model = model_of(text)
    lowered, graph, passes, ctx = compress(model, IMAGES, pipeline)
    halved(graph, *names)
    values = parameter_values(lowered, graph, passes, model.parameters(), ctx)
    assert values.keys() == wanted
    write(model, values, graph, IMAGES, RUNTIME)
    assert compare(graph, model, IMAGES, RUNTIME) < 1e-5
    assert model.assigned == list(values)
    for name in names:  # a weight that was cut is cut in the framework
        if name in values and values[name].ndim > 1:
            assert np.count_nonzero(values[name] == 0) >= values[name].size // 2


def test_what_did_not_change_is_left_bit_for_bit() -> None:
    model = model_of(NORMALIZED)
    before = model.weights["w"].copy()
    lowered, graph, passes, ctx = compress(model, IMAGES, "canonicalize")
    array = graph.array("w").copy()
    array[2] = 0
    Editor(graph, "test").set_weights("w", array)
    values = parameter_values(lowered, graph, passes, model.parameters(), ctx)
    assert values.keys() == {"w"}
    np.testing.assert_array_equal(values["w"][[0, 1, 3]], before[[0, 1, 3]])
    assert not values["w"][2].any()


def test_a_channel_that_the_batchnorm_silenced_can_speak_again() -> None:
    model = model_of(NORMALIZED, gamma=np.array([1.0, 0.0, 2.0, 0.7]))
    lowered, graph, passes, ctx = compress(model, IMAGES, "canonicalize")
    halved(graph, "w", "w.bias")
    values = parameter_values(lowered, graph, passes, model.parameters(), ctx)
    assert values.keys() == {"w", "beta", "gamma"}
    write(model, values, graph, IMAGES, RUNTIME)
    assert compare(graph, model, IMAGES, RUNTIME) < 1e-5


def cut_channels(graph: Graph) -> None:
    editor = Editor(graph, "test")
    editor.slice_weights("fb", {0: np.arange(4)})
    editor.slice_weights("fc", {1: np.arange(4)})


FLAT = """g (float[n,2,3,2] x) => (float[n,5] y) <float[12,5] w>
    { r = Relu(x) t = Transpose <perm=[0,2,3,1]> (r) f = Flatten(t) y = MatMul(f, w) }"""

REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "twice": (TWICE, ROWS, "w", "w: used in several places, which have different values now"),
    "computed": (COMPUTED, ROWS, "w", "'w' is computed from w, s by Mul, which cannot be undone"),
    "rearranged": (FLAT, FLATS, "w/permuted", "'w/permuted' was made of other weights by a rewrite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, feeds, name, reason = REFUSED[case]
    model = model_of(text)
    lowered, graph, passes, ctx = compress(model, feeds, "canonicalize,cancel-transposes")
    halved(graph, name)
    with pytest.raises(ModelError, match=reason):
        parameter_values(lowered, graph, passes, model.parameters(), ctx)


def test_structure_is_refused() -> None:
    model = model_of(NORMALIZED)
    lowered, graph, passes, ctx = compress(model, IMAGES, "canonicalize")
    cut = graph.clone()
    cut_channels(cut)
    with pytest.raises(ModelError, match=r"channels were cut: 'f[bc]' has shape .* only weights can be written back"):
        parameter_values(lowered, cut, passes, model.parameters(), ctx)
    editor = Editor(graph, "test")
    node = next(node for node in graph.model.graph if node.op_type == "Relu")
    added = editor.insert_node("Neg", [node.inputs[0]], ["minus"], before=node)
    with pytest.raises(ModelError, match=r"operators were created \(test/Neg\), only weights"):
        parameter_values(lowered, graph, passes, model.parameters(), ctx)
    editor.remove_node(added)
    editor.bypass(node, node.inputs[0])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="operators were removed"):
        parameter_values(lowered, graph, passes, model.parameters(), ctx)


def test_a_rewired_operator_is_refused() -> None:
    model = model_of(TWICE)
    lowered, graph, passes, ctx = compress(model, ROWS, "canonicalize")
    relu = next(node for node in graph.model.graph if node.op_type == "Relu")
    Editor(graph, "test").set_input(relu, 0, graph.inputs[0])
    with pytest.raises(ModelError, match="operators were rewired"):
        parameter_values(lowered, graph, passes, model.parameters(), ctx)


def test_a_new_bias_that_has_no_place_is_refused_and_nothing_is_written() -> None:
    model = model_of(UNBIASED)
    before = {name: value.copy() for name, value in model.weights.items()}
    lowered, graph, passes, ctx = compress(model, IMAGES, "canonicalize")
    editor = Editor(graph, "test")
    conv = next(node for node in graph.model.graph if node.op_type == "Conv")
    editor.set_input(conv, 2, editor.add_initializer("w.bias", np.ones(4, np.float32)))
    halved(graph, "w")
    values = parameter_values(lowered, graph, passes, model.parameters(), ctx)
    assert values.keys() == {"w", "w.bias"}
    with pytest.raises(ModelError, match=r"there is no parameter 'w\.bias'"):
        write(model, values, graph, IMAGES, RUNTIME)
    for name, value in before.items():
        np.testing.assert_array_equal(model.weights[name], value)


def test_a_model_that_computes_something_else_is_restored() -> None:
    model = model_of(UNBIASED)
    before = {name: value.copy() for name, value in model.weights.items()}
    _, graph, _, _ = compress(model, IMAGES, "canonicalize")
    halved(graph, "w")
    with pytest.raises(ModelError, match="the compressed model computes something else than Testflow"):
        write(model, {"w": np.zeros_like(before["w"])}, graph, IMAGES, RUNTIME)
    for name, value in before.items():
        np.testing.assert_array_equal(model.weights[name], value)


def test_a_constant_of_the_converter_is_refused() -> None:
    text = """g (float[n,4] x) => (float[n,4] y) <float[4] w>
        { k = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> () h = Mul(x, w) y = Add(h, k) }"""
    model = model_of(text)
    lowered, graph, passes, ctx = compress(model, ROWS, "canonicalize")
    halved(graph, "k")
    with pytest.raises(ModelError, match="'k' has new values, but holds no parameter"):
        parameter_values(lowered, graph, passes, model.parameters(), ctx)
