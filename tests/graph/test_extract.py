from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.errors import ModelError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter, extract, with_outputs
from surgery_ir.graph.model import Graph
from tests.harness import graph, random_feeds, run

FLOAT = ir.TensorType(ir.DataType.FLOAT)

RESIDUAL = """
g (float[N,3,8,8] x, float[N,4] z) => (float[N,4] y, float[N,4,8,8] s)
<float[4,3,3,3] w, float[4,4,1,1] v, float[4,4] u, int64[2] axes> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(a)
    b = Conv(r, v)
    s = Add(b, a)
    p = ReduceMean<keepdims=0>(s, axes)
    q = Add(p, z)
    y = MatMul(q, u)
}
"""

BRANCH = """
g (float[N,2] x, bool c) => (float[N,2] y) <float[2] k> {
    a = Relu(x)
    b = Neg(x)
    y0 = If(c) <
        then_branch = t () => (float[N,2] p) { p = Mul(a, k) },
        else_branch = e () => (float[N,2] q) { q = Exp(b) }
    >
    y = Sub(y0, a)
}
"""

FUNCTION = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[N,3] x) => (float[N,3] y) { a = local.twice(x) b = Exp(a) y = local.twice(b) }
<domain: "local", opset_import: ["" : 21]>
twice (a) => (b) { b = Add(a, a) }
"""

SEQUENCE = """
g (float[N,4] x) => (float[N,2] y) <int64[2] n, int64 i, int64 j> {
    s = SplitToSequence<axis=1>(x, n)
    a = SequenceAt(s, i)
    b = SequenceAt(s, j)
    y = Sub(a, b)
}
"""

IR_3 = """
<ir_version: 3, opset_import: ["" : 11]>
g (float[N,3] x, float[3,4] w) => (float[N,4] y) <float[3,4] w> { a = MatMul(x, w) b = Relu(a) y = Neg(b) }
"""

AXES = {"axes": np.array([2, 3])}
SPLIT = {"n": np.array([2, 2]), "i": np.array(0), "j": np.array(1)}


def everything(found: Graph, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run the whole graph with every value of the main graph as an output."""
    names = [value.name or "" for node in found.model.graph for value in node.outputs]
    return run(with_outputs(found, names), feeds) | dict(feeds)


CUTS = [
    ("whole", RESIDUAL, AXES, ("x", "z"), ("y", "s")),
    ("prefix", RESIDUAL, AXES, ("x",), ("r",)),
    ("several", RESIDUAL, AXES, ("x",), ("a", "b", "s")),
    ("middle", RESIDUAL, AXES, ("r",), ("b",)),
    ("two ways in", RESIDUAL, AXES, ("a", "b"), ("s",)),
    ("value and what it is made of", RESIDUAL, AXES, ("x", "a"), ("s",)),
    ("suffix", RESIDUAL, AXES, ("q",), ("y",)),
    ("an input that is not needed", RESIDUAL, AXES, ("x", "z"), ("r",)),
    ("subgraph", BRANCH, {}, ("a", "b", "c"), ("y0",)),
    ("subgraph with what it captures", BRANCH, {}, ("x", "c"), ("y",)),
    ("function", FUNCTION, {}, ("b",), ("y",)),
    ("function ahead", FUNCTION, {}, ("x",), ("a",)),
    ("sequence inside", SEQUENCE, SPLIT, ("x",), ("b",)),
    ("weights listed as inputs", IR_3, {}, ("a",), ("b", "y")),
    ("weights listed as inputs, kept", IR_3, {}, ("x",), ("a",)),
]


@pytest.mark.parametrize(
    ("text", "weights", "inputs", "outputs"), [row[1:] for row in CUTS], ids=[row[0] for row in CUTS]
)
def test_a_cut_gives_what_the_whole_gives(
    text: str, weights: Mapping[str, NDArray[Any]], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    found = graph(text, weights)
    before = found.fingerprint()
    values = everything(found, random_feeds(input_specs(found), 2, seed=0))
    cut = extract(found, {name: ir.TensorType(ir.DataType.from_numpy(values[name].dtype)) for name in inputs}, outputs)
    assert tuple(value.name for value in cut.inputs) == inputs
    assert tuple(value.name for value in cut.outputs) == outputs
    result = run(cut, {name: values[name] for name in inputs})
    assert result.keys() == set(outputs)
    for name in outputs:
        assert np.array_equal(result[name], values[name])
    assert found.fingerprint() == before


def test_a_cut_holds_only_what_it_needs() -> None:
    found = graph(RESIDUAL, AXES)
    cut = extract(found, {"a": FLOAT}, ["b"])
    assert [node.op_type for node in cut.model.graph] == ["Relu", "Conv"]
    assert list(cut.initializers) == ["v"]


def test_weights_are_shared_with_the_whole() -> None:
    found = graph(RESIDUAL, AXES)
    cut = extract(found, {"r": FLOAT}, ["b"])
    assert cut.initializers["v"].const_value is found.initializers["v"].const_value
    Editor(cut, "test").set_weights("v", np.zeros((4, 4, 1, 1)))
    assert found.array("v").any()


def test_inputs_of_the_graph_keep_type_and_shape() -> None:
    cut = extract(graph(RESIDUAL, AXES), {"x": FLOAT}, ["a"])
    assert str(input_specs(cut)["x"]) == "float32 [N, 3, 8, 8]"


def test_sequences_can_be_cut_at() -> None:
    found = graph(SEQUENCE, SPLIT)
    cut = extract(found, {"s": ir.SequenceType(FLOAT)}, ["y"])
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    pieces: Any = [x[:, :2], x[:, 2:]]
    assert np.array_equal(run(cut, {"s": pieces})["y"], run(found, {"x": x})["y"])


def test_with_outputs_replaces_the_outputs() -> None:
    found = graph(RESIDUAL, AXES)
    cut = with_outputs(found, ["b", "r", "b"])
    assert [value.name for value in cut.outputs] == ["b", "r"]
    assert [value.name for value in cut.inputs] == ["x", "z"]
    assert [node.op_type for node in cut.model.graph] == ["Conv", "Relu", "Conv"]


@pytest.mark.parametrize("name", ["x", "u"])
def test_inputs_and_weights_can_be_outputs(name: str) -> None:
    found = graph(RESIDUAL, AXES)
    feeds = random_feeds(input_specs(found), 2, seed=0)
    result = run(with_outputs(found, [name]), feeds)[name]
    assert np.array_equal(result, feeds[name] if name in feeds else found.array(name))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["x", "z"], ["nothing"], "there is no value called 'nothing'"),
        (["nothing"], ["y"], "there is no value called 'nothing'"),
        (["x"], ["y"], "the cut needs the input 'z'"),
        ([], ["a"], "the cut needs the input 'x'"),
        (["r"], ["s"], "the cut needs the input 'x'"),
    ],
)
def test_errors(inputs: list[str], outputs: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=f"^<memory>: {message}$"):
        extract(graph(RESIDUAL, AXES), dict.fromkeys(inputs, FLOAT), outputs)


def test_a_cutter_sees_weights_that_change_between_two_cuts() -> None:
    found = graph(RESIDUAL, AXES)
    cutter = Cutter(found)
    nodes = cutter.needed([cutter.value("b")], {cutter.value("r")})
    feeds = {"r": np.ones((1, 4, 2, 2), np.float32)}
    assert run(cutter.cut(nodes, {"r": FLOAT}, ["b"]), feeds)["b"].any()
    Editor(found, "test").set_weights("v", np.zeros((4, 4, 1, 1)))
    assert not run(cutter.cut(nodes, {"r": FLOAT}, ["b"]), feeds)["b"].any()


def test_reads_include_what_subgraphs_capture() -> None:
    cutter = Cutter(graph(BRANCH))
    assert sorted(value.name or "" for value in cutter.read_by(cutter.graph.node("If_2"))) == ["a", "b", "c", "k"]
