"""The cut itself: which weights, attributes, operands and shapes it changes, and what it writes down about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.prune.cutting import cut, masked
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import assert_equivalent, graph, small_graph

CHAIN = (
    "float[N,3,6,6] x | float[8,3,3,3] a, float[8] p, float[6,8,3,3] b, float[2,6,1,1] c | "
    "h = Conv(x, a, p) g = Relu(h) f = Conv(g, b) y = Conv(f, c)"
)


def made(case: Graph, removed: Mapping[str, Iterable[int]]) -> tuple[Editor, Coupling]:
    coupling = groups(case)
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, {name: np.array(list(units)) for name, units in removed.items()})
    verify(editor.graph)
    return editor, coupling


def test_weights_keep_the_other_units_in_their_order() -> None:
    case = small_graph(CHAIN)
    editor, _ = made(case, {"Conv_0": [1, 6], "Conv_2": [0]})
    rows, columns = [0, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5]
    for name, kept in {"a": (rows,), "p": (rows,), "b": (columns, rows), "c": ([0, 1], columns)}.items():
        np.testing.assert_array_equal(editor.graph.array(name), case.array(name)[np.ix_(*kept)])


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    case = small_graph(CHAIN)
    before = case.fingerprint()
    _, coupling = made(case, {"Conv_0": [1]})
    masked(case, coupling, {"Conv_0": np.array([1])})
    assert case.fingerprint() == before


def test_units_of_groups_that_are_not_named_stay() -> None:
    editor, _ = made(small_graph(CHAIN), {"Conv_2": [0, 3]})
    assert editor.graph.array("a").shape == (8, 3, 3, 3)
    assert editor.graph.array("b").shape == (4, 8, 3, 3)


def test_nothing_is_changed_where_nothing_goes() -> None:
    case = small_graph(CHAIN)
    editor, _ = made(case, {"Conv_0": []})
    assert not editor.edits
    assert editor.graph.fingerprint() == case.fingerprint()


def test_connections_are_counted_exactly() -> None:
    case = small_graph(CHAIN)
    editor, _ = made(case, {"Conv_0": [1, 6], "Conv_2": [0]})
    lost = sum(np.count_nonzero(case.array(name)) - np.count_nonzero(editor.graph.array(name)) for name in "abc")
    assert sum(edit.pruned for edit in editor.edits) == lost
    assert not any(edit.created for edit in editor.edits)


def test_declared_shapes_follow() -> None:
    case = graph(
        "g (float[N,3,6,6] x) => (float[N,2,6,6] y) <float[8,3,1,1] a, float[2,8,1,1] c, "
        "float[N,8,6,6] h, float[N,8,6,6] r> { h = Conv(x, a) r = Relu(h) y = Conv(r, c) }"
    )
    editor, _ = made(case, {"Conv_0": [0, 5, 7]})
    shapes = {value.name: value.shape for node in editor.graph.model.graph for value in node.outputs}
    for name in ("h", "r"):
        shape = shapes[name]
        assert shape is not None
        assert list(shape.numpy()) if shape.is_static() else shape[1] == 5
    assert shapes["y"] is not None
    assert shapes["y"][1] == 2


def test_a_second_cut_tells_what_is_left_of_the_first() -> None:
    case = small_graph(CHAIN)
    first, _ = made(case, {"Conv_0": [1, 6]})
    np.testing.assert_array_equal(first.graph.cuts["h"][1], [0, 2, 3, 4, 5, 7])
    second, _ = made(first.graph, {"Conv_0": [0, 3], "Conv_2": [5]})
    np.testing.assert_array_equal(second.graph.cuts["h"][1], [2, 3, 5, 7])
    np.testing.assert_array_equal(second.graph.cuts["g"][1], [2, 3, 5, 7])
    np.testing.assert_array_equal(second.graph.cuts["f"][1], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(first.graph.cuts["h"][1], [0, 2, 3, 4, 5, 7])
    assert not case.cuts
    np.testing.assert_array_equal(second.graph.array("a"), case.array("a")[[2, 3, 5, 7]])


def test_two_cuts_are_one() -> None:
    case = small_graph(CHAIN)
    first, _ = made(case, {"Conv_0": [1, 6]})
    second, _ = made(first.graph, {"Conv_0": [0, 3]})
    whole, _ = made(case, {"Conv_0": [0, 1, 4, 6]})
    assert second.graph.fingerprint() == whole.graph.fingerprint()


COPIED = (
    "float[N,4,5] x | float[5,8] a, float[8] p, float[8,8] b, float[8,2] c | "
    "h = MatMul(x, a) g = Add(h, p) f = MatMul(g, b) e = Add(f, p) y = MatMul(e, c)"
)


def test_readers_of_one_vector_get_a_copy_each() -> None:
    case = small_graph(COPIED)
    editor, _ = made(case, {"MatMul_0": [0, 1], "MatMul_2": [7]})
    bias = [editor.graph.node(name).inputs[1] for name in ("Add_1", "Add_3")]
    names = [value.name or "" for value in bias if value is not None]
    assert len(set(names)) == 2
    assert "p" not in editor.graph.initializers
    for name, kept in zip(names, (np.arange(2, 8), np.arange(7)), strict=True):
        np.testing.assert_array_equal(editor.graph.array(name), case.array("p")[kept])


def test_a_reader_that_keeps_the_whole_vector_goes_on_reading_it() -> None:
    case = small_graph(COPIED)
    editor, _ = made(case, {"MatMul_2": [7]})
    assert [value.name for value in editor.graph.node("Add_1").inputs if value is not None][1] == "p"
    np.testing.assert_array_equal(editor.graph.array("p"), case.array("p"))


def test_the_number_of_groups_is_written_anew() -> None:
    text = (
        "float[N,3,6,6] x | float[8,3,1,1] a, float[8,1,3,3] d, float[2,8,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 8>(h, d) y = Conv(g, c)"
    )
    editor, _ = made(small_graph(text), {"Conv_0": [2, 3, 4]})
    assert editor.graph.node("Conv_1").attributes["group"].as_int() == 5


SIZES = "int64[4] s = {0, 5, 3, 4}, int64[3] t = {0, 5, 12}"


def sizes_of(case: Graph, *nodes: str) -> list[list[int]]:
    """Second operands of operators."""
    operands = [case.node(name).inputs[1] for name in nodes]
    return [case.array(value.name or "").tolist() for value in operands if value is not None]


def test_an_operand_of_sizes_is_written_anew() -> None:
    text = (
        f"float[N,5,6] x | float[6,12] a, float[12,2] c, {SIZES} | "
        "h = MatMul(x, a) g = Reshape(h, s) f = Softmax(g) e = Reshape(f, t) y = MatMul(e, c)"
    )
    editor, _ = made(small_graph(text), {"MatMul_0": [1]})
    assert sizes_of(editor.graph, "Reshape_1", "Reshape_3") == [[0, 5, 2, 4], [0, 5, 8]]


def test_an_operand_that_others_read_too_is_copied() -> None:
    text = (
        f"float[N,5,6] x | float[6,12] a, float[12,2] c, float[12,12] b, {SIZES} | "
        "h = MatMul(x, a) g = Reshape(h, s) f = Softmax(g) e = Reshape(f, t) "
        "m = MatMul(e, b) n = Reshape(m, s) o = Softmax<axis = 2>(n) p = Reshape(o, t) y = MatMul(p, c)"
    )
    case = small_graph(text)
    coupling = groups(case)
    assert [group.units for group in coupling.groups] == [3, 4]
    editor, _ = made(case, {coupling.groups[0].name: [1]})
    assert sizes_of(editor.graph, "Reshape_1", "Reshape_5") == [[0, 5, 2, 4], [0, 5, 3, 4]]


def test_a_size_that_is_computed_is_changed_behind_it() -> None:
    text = (
        "float[N,5,6] x | float[6,12] a, float[12,2] c, "
        "int64[1] first = {0}, int64[3] s = {5, 3, 4}, int64[3] t = {0, 5, 12} | "
        "h = MatMul(x, a) d = Shape(x) n = Gather<axis = 0>(d, first) k = Concat<axis = 0>(n, s) g = Reshape(h, k) "
        "f = Softmax(g) e = Reshape(f, t) y = MatMul(e, c)"
    )
    case = small_graph(text)
    editor, coupling = made(case, {"MatMul_0": [1]})
    assert_equivalent(editor.graph, masked(case, coupling, {"MatMul_0": np.array([1])}))
    operand = editor.graph.node("Reshape_4").inputs[1]
    assert operand is not None
    assert operand.name != "k"


def test_positions_that_are_no_progression_any_more_are_listed() -> None:
    text = (
        "float[N,3,6,6] x | float[9,3,1,1] a, float[2,5,1,1] c, "
        "int64[1] s = {0}, int64[1] e = {9}, int64[1] i = {1}, int64[1] t = {2} | "
        "h = Conv(x, a) g = Slice(h, s, e, i, t) y = Conv(g, c)"
    )
    case = small_graph(text)
    coupling = groups(case)
    group = next(group for group in coupling.groups if group.units == 5)
    editor, _ = made(case, {group.name: [1]})  # leaves 0, 4, 6, 8 of what was 0, 2, 4, 6, 8
    node = editor.graph.node("Slice_1")
    assert node.op_type == "Gather"
    positions = node.inputs[1]
    assert positions is not None
    kept = [0, *range(1, 2), *range(3, 9)]
    assert editor.graph.array(positions.name or "").tolist() == [kept.index(place) for place in (0, 4, 6, 8)]
    assert_equivalent(editor.graph, masked(case, coupling, {group.name: np.array([1])}))


def test_a_size_that_something_else_computes_with_is_held() -> None:
    text = (
        "float[N,5,6] x | float[6,12] a, float[12,2] c, int64 last = {2} | "
        "h = MatMul(x, a) d = Shape(h) n = Gather<axis = 0>(d, last) f = Cast<to = 1>(n) r = Sqrt(f) "
        "g = Div(h, r) y = MatMul(g, c)"
    )
    assert assert_cut_is_exact(small_graph(text))["MatMul_0"].units == 12


def test_both_sums_of_a_recurrent_layer_are_masked() -> None:
    """One over its inputs by weights that are computed, one over its own state by weights that are constant."""
    text = (
        "float[N,4,5] x | float[5,6] a, float[1,8,6] w, float[1,8,8] r, float[8,2] c, int64[1] one = {1} | "
        "h = MatMul(x, a) t = Transpose<perm = [1, 0, 2]>(h) v = Tanh(w) "
        "s = RNN<hidden_size = 8>(t, v, r) q = Squeeze(s, one) y = MatMul(q, c)"
    )
    coupling = assert_cut_is_exact(small_graph(text))
    assert sorted(group.units for group in coupling.groups) == [6, 8]


def test_what_cannot_be_looked_into_is_left_alone_beside_a_cut() -> None:
    """An operator of which nothing is known may share a vector with a layer that is cut."""
    text = (
        "float[N,3,6,6] x | float[8,3,1,1] a, float[8] p, float[2,8,1,1] c, float[8,2,1,1] d, float[2,8,1,1] e | "
        "h = Conv(x, a, p) g = Conv(h, c) z = acme.Thing(g) f = Conv(z, d, p) y = Conv(f, e)"
    )
    case = small_graph(text)
    coupling = groups(case)
    assert [group.name for group in coupling.groups] == ["Conv_0"]
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, choose(coupling, 0.5, 0))
    assert editor.graph.array("a").shape[0] == 4
    np.testing.assert_array_equal(editor.graph.array("p"), case.array("p"))


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_alone_changes_what_is_computed(seed: int) -> None:
    case = small_graph(CHAIN)
    coupling = groups(case)
    with pytest.raises(AssertionError, match="instead of"):
        assert_equivalent(masked(case, coupling, choose(coupling, 0.4, seed)), case)
