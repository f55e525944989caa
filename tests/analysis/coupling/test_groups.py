"""Groups: names, spans, masks, and what is said of units that cannot be cut."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.relations import Axis
from tests.analysis.coupling.sandwich import described
from tests.coupling import frozen, groups
from tests.harness import graph, small_graph

RESIDUAL = (
    "float[N,3,6,6] x | float[8,3,1,1] a, float[6,8,1,1] b, float[8,6,1,1] c, float[2,8,1,1] d | "
    "h = Conv(x, a) f = Conv(h, b) g = Conv(f, c) s = Add(h, g) y = Conv(s, d)"
)


def test_a_residual_stream_is_one_group() -> None:
    coupling = groups(small_graph(RESIDUAL))
    assert described(coupling) == ["8 a.0 c.0 -> b.1 d.1", "6 b.0 -> c.1"]
    assert [group.name for group in coupling.groups] == ["Conv_0", "Conv_1"]
    assert coupling["Conv_1"].units == 6


def test_spans_cover_activations_too_in_topological_order() -> None:
    group = groups(small_graph(RESIDUAL))["Conv_0"]
    values = [span.axis.value for span in group.spans]
    assert values == ["a", "h", "b", "c", "g", "s", "d"]
    assert [span.axis.axis for span in group.spans] == [0, 1, 1, 0, 1, 1, 1]
    assert [span.contracted for span in group.spans if span.weight] == [False, True, False, True]


def test_groups_of_one_layer_are_numbered() -> None:
    case = small_graph(
        "float[N,3,6,6] x | float[9,3,1,1] a, float[2,4,1,1] b, float[2,5,1,1] c, int64[2] k = {4, 5} | "
        "h = Conv(x, a) p, q = Split<axis = 1>(h, k) f = Conv(p, b) g = Conv(q, c) y = Add(f, g)"
    )
    coupling = groups(case)
    assert [(group.name, group.node, group.units) for group in coupling.groups] == [
        ("Conv_0", "Conv_0", 4),
        ("Conv_0#2", "Conv_0", 5),
    ]
    assert coupling["Conv_0#2"].spans[0].indices.tolist() == [[4], [5], [6], [7], [8]]


def test_units_may_own_several_indices() -> None:
    case = small_graph(
        "float[N,3,6,6] x | float[4,3,1,1] a, float[2,16] b | "
        "h = Conv<strides = [3, 3]>(x, a) f = Flatten(h) y = Gemm<transB = 1>(f, b)"
    )
    coupling = groups(case)
    assert described(coupling) == ["4 a.0 -> b.1"]
    assert coupling.groups[0].read[0].indices.tolist() == np.arange(16).reshape(4, 4).tolist()


def test_masks_leave_out_what_units_own() -> None:
    coupling = groups(small_graph(RESIDUAL))
    masks = coupling.masks({"Conv_0": [0, 7], "Conv_1": np.array([2])})
    assert np.flatnonzero(~masks[Axis("a", 0)]).tolist() == [0, 7]
    assert np.flatnonzero(~masks[Axis("b", 1)]).tolist() == [0, 7]
    assert np.flatnonzero(~masks[Axis("b", 0)]).tolist() == [2]
    assert Axis("x", 1) not in masks
    assert set(coupling.masks({"Conv_1": [1]})) == {Axis("b", 0), Axis("f", 1), Axis("c", 1)}
    assert not coupling.masks({})


def test_a_name_that_is_no_group_is_an_error() -> None:
    with pytest.raises(StopIteration):
        groups(small_graph(RESIDUAL))["nothing"]


FROZEN = {
    "an input": ("s = Add(x, h) y = Conv(s, d)", "'x' is an input of the model"),
    "an output": ("y = Relu(h)", "'y' is an output of the model"),
    "an operator without a rule": ("y = acme.Thing(h)", "acme.Thing 'Thing_1' has no rule"),
    "an operator that normalises over it": (
        "s = LpNormalization<axis = 1>(h) y = Conv(s, d)",
        "LpNormalization 'LpNormalization_1' normalises over it",
    ),
}


@pytest.mark.parametrize(("nodes", "reason"), FROZEN.values(), ids=FROZEN)
def test_units_that_cannot_be_cut_have_a_reason(nodes: str, reason: str) -> None:
    weights = "float[3,3,1,1] a" + (", float[2,3,1,1] d" if "d)" in nodes else "")
    coupling = groups(small_graph(f"float[N,3,6,6] x | {weights} | h = Conv(x, a) {nodes}"))
    assert not coupling.groups
    assert frozen(coupling)["Conv_0"] == reason
    assert coupling.frozen[0].units == 3


def test_units_that_a_subgraph_reads_stay() -> None:
    case = graph(
        "g (float[N,4] x, bool[1] c) => (float[] y) <float[4,6] a, float[6,2] b> {"
        " h = MatMul(x, a)"
        " r = If(c) <then_branch = t () => (float[] p) { p = Relu(h) },"
        " else_branch = e () => (float[] q) { q = Neg(h) }>"
        " y = MatMul(r, b) }"
    )
    assert "reads it inside a subgraph" in frozen(groups(case))["MatMul_0"]


def test_parts_of_an_axis_are_frozen_each_for_its_own_reason() -> None:
    case = graph(
        "g (float[N,3,4,4] x) => (float[] y, float[] z) <float[9,3,1,1] a, float[2,5,1,1] b, int64[2] k = {4, 5}> "
        "{ h = Conv(x, a) y, q = Split<axis = 1>(h, k) s = Softmax<axis = 1>(q) z = Conv(s, b) }"
    )
    coupling = groups(case)
    found = [(item.name, item.units, str(item.frost)) for item in coupling.frozen]
    assert ("Conv_0", 4, "'y' is an output of the model") in found
    assert ("Conv_0", 5, "Softmax 'Softmax_2' takes the softmax over it") in found


def test_a_graph_without_weights_has_no_groups() -> None:
    coupling = groups(small_graph("float[N,4] x |  | y = Relu(x)"))
    assert isinstance(coupling, Coupling)
    assert not coupling.groups
    assert not coupling.frozen


def test_a_weight_that_a_caller_may_override_is_left_alone() -> None:
    case = small_graph("float[N,4] x, float[4,6] w | float[6,2] b | h = MatMul(x, w) y = MatMul(h, b)")
    coupling = groups(case)
    assert not coupling.groups
    assert frozen(coupling)["MatMul_1"] == "'y' is an output of the model"
