from __future__ import annotations

from dataclasses import FrozenInstanceError

import networkx as nx
import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.view import Operator, Tensor
from tests.harness import graph

BRANCHES = """
g (float[N,3] x) => (float[N,3] y) <float[3,3] w> {
    a = Relu(x)
    b = MatMul(a, w)
    s, t = Split<axis=1, num_outputs=2>(b)
    c = Concat<axis=1>(t, s)
    y = Add(c, c)
}
"""


def test_nodes_are_operators_in_topological_order() -> None:
    view = graph(BRANCHES).view()
    assert len(view) == 5
    assert [item.name for item in view.operators()] == ["Relu_0", "MatMul_1", "Split_2", "Concat_3", "Add_4"]
    assert view.operator("MatMul_1") == Operator("MatMul_1", "MatMul", "", 1, ("a", "w"), ("b",))
    assert view.operator("Split_2").outputs == ("s", "t")


def test_edges_are_tensors_with_the_indices_at_both_ends() -> None:
    edges = list(graph(BRANCHES).view().tensors())
    assert edges == [
        ("Relu_0", "MatMul_1", Tensor("a", 0, 0)),
        ("MatMul_1", "Split_2", Tensor("b", 0, 0)),
        ("Split_2", "Concat_3", Tensor("t", 1, 0)),
        ("Split_2", "Concat_3", Tensor("s", 0, 1)),
        ("Concat_3", "Add_4", Tensor("c", 0, 0)),
        ("Concat_3", "Add_4", Tensor("c", 0, 1)),
    ]


def test_networkx_algorithms_run_on_the_graph() -> None:
    view = graph(BRANCHES).view()
    assert nx.is_directed_acyclic_graph(view.graph)
    assert nx.shortest_path_length(view.graph, "Relu_0", "Add_4") == 4
    assert view.graph.edges["Relu_0", "MatMul_1", 0]["tensor"].name == "a"


def test_the_view_is_frozen() -> None:
    view = graph(BRANCHES).view()
    with pytest.raises(nx.NetworkXError, match="Frozen"):
        view.graph.remove_node("Relu_0")
    with pytest.raises(nx.NetworkXError, match="Frozen"):
        view.graph.add_edge("Relu_0", "Add_4")
    with pytest.raises(FrozenInstanceError):
        view.operator("Relu_0").name = "other"  # type: ignore[misc]


def test_a_view_lasts_until_the_next_edit_and_shows_it() -> None:
    source = graph(BRANCHES)
    before = source.view()
    assert source.view() is before
    Editor(source, "test").bypass(source.node("Relu_0"), source.inputs[0])
    assert "Relu_0" not in source.view()
    assert source.view().operator("MatMul_1").inputs == ("x", "w")
    assert "Relu_0" in before


def test_producer_and_consumers() -> None:
    view = graph(BRANCHES).view()
    assert (view.producer("t"), view.producer("x"), view.producer("w")) == ("Split_2", None, None)
    assert (view.consumers("x"), view.consumers("w"), view.consumers("c")) == (("Relu_0",), ("MatMul_1",), ("Add_4",))
    assert view.consumers("y") == view.consumers("nothing") == ()


def test_absent_optional_inputs_have_a_place_and_no_edge() -> None:
    view = graph("g (float[N,3] x, float h) => (float[N,3] y) { r = Relu(h) y = Clip(x, , r) }").view()
    assert view.operator("Clip_1").inputs == ("x", "", "r")
    assert list(view.tensors()) == [("Relu_0", "Clip_1", Tensor("r", 0, 2))]


def test_outputs_without_a_name_are_no_edges() -> None:
    text = "g (float[7,N,3] x) => (float[1,N,5] y) <float[1,20,3] w, float[1,20,5] r> { , y = LSTM(x, w, r) }"
    view = graph(text).view()
    assert view.operator("LSTM_0").outputs == ("", "y")
    assert view.producer("") is None


NESTED = """
g (float[2] x, bool c, bool d) => (float[2] y) <float[2] k> {
    a = Relu(x)
    b = Neg(x)
    y = If(c) <
        then_branch = t () => (float[2] p) {
            q = Mul(a, k)
            p = If(d) <
                then_branch = tt () => (float[2] r) { r = Add(q, b) },
                else_branch = te () => (float[2] a2) { a2 = Exp(q) }
            >
        },
        else_branch = e () => (float[2] z) { z = Identity(x) }
    >
}
"""


def test_subgraphs_capture_values_of_the_outer_graph() -> None:
    view = graph(NESTED).view()
    operator = view.operator("If_2")
    assert operator.inputs == ("c",)
    assert sorted(operator.captures) == ["a", "b", "d", "k", "x"]
    assert list(view.tensors()) == [("Relu_0", "If_2", Tensor("a", 0, -1)), ("Neg_1", "If_2", Tensor("b", 0, -1))]
    assert view.consumers("b") == ("If_2",)


def test_the_inputs_of_a_loop_body_are_no_captures() -> None:
    view = graph("""
        g (float[2] x, int64 n, bool c) => (float[2] y) {
            a = Relu(x)
            y = Loop(n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool more, float[2] u) {
                more = Identity(go)
                u = Add(v, a)
            }>
        }
    """).view()
    assert view.operator("Loop_1").captures == ("a",)


def test_around_shows_the_neighbourhood() -> None:
    view = graph(BRANCHES).view()
    assert view.around("MatMul_1") == "\n".join([
        "  a = Relu(x)  [Relu_0]",
        "> b = MatMul(a, w)  [MatMul_1]",
        "  s, t = Split(b)  [Split_2]",
    ])  # fmt: skip
    assert len(view.around("MatMul_1", radius=2).splitlines()) == 4
    assert view.around("MatMul_1", radius=0).splitlines() == ["> b = MatMul(a, w)  [MatMul_1]"]
    assert "Clip(x, '', r)" in graph(
        "g (float[N,3] x, float h) => (float[N,3] y) { r = Relu(h) y = Clip(x, , r) }"
    ).view().around("Clip_1")
