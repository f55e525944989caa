"""Gather and its relatives: constant indices are numbered anew, what is looked up at run time stays."""

from __future__ import annotations

import pytest

from surgery_ir.graph.model import Graph
from tests.analysis.coupling.sandwich import between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, groups
from tests.harness import graph

ROWS = ", ".join("201" * 8)
COLUMNS = ", ".join("01234567" * 3)


def gathered(nodes: str, columns: int, weights: str) -> Graph:
    """Bring 8 units to ``t``, of which a layer reads ``columns``."""
    layers = f"float[5,8] a, float[{columns},2] b, {weights}"
    body = f"h = MatMul(x, a) {nodes} y = MatMul(t, b)"
    return graph(f"g (float[N,3,5] x) => (float[] y) <{layers}> {{ {body} }}")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (gathered("t = Gather<axis = 2>(h, i)", 4, "int64[4] i = {6, 1, 2, 5}"), ["4 a.1 -> ", "4 a.1 -> b.0"]),
        (gathered("t = Gather<axis = -1>(h, i)", 3, "int32[3] i = {-1, 0, -8}"), ["1 a.1 -> b.0", "6 a.1 -> "]),
        (gathered("t = Gather<axis = 2>(h, i)", 6, "int64[6] i = {3, 5, 7, 3, 5, 7}"), ["3 a.1 -> b.0", "5 a.1 -> "]),
        (  # rows in which two layers read the same units twice, in another order
            gathered(
                "p = Gather<axis = 2>(h, i) q = Gather<axis = 2>(p, j) t = Add(p, q)",
                4,
                "int64[4] i = {6, 1, 2, 5}, int64[4] j = {1, 0, 3, 2}",
            ),
            ["2 a.1 -> b.0", "4 a.1 -> "],
        ),
        (  # one operand for two operators, one of which reads another axis
            gathered("p = Gather<axis = 2>(h, i) t = Gather<axis = 1>(p, i)", 3, "int64[3] i = {2, 0, 1}"),
            ["3 a.1 -> b.0", "5 a.1 -> "],
        ),
        (  # one operand for a layer that is cut and one that is not
            gathered(
                "p = Gather<axis = 2>(h, i) r = MatMul(x, c) q = Gather<axis = 2>(r, i) t = Concat<axis = 2>(p, q)",
                6,
                "int64[3] i = {2, 0, 1}, float[5,4] c",
            ),
            ["1 c.1 -> ", "3 a.1 -> b.0", "3 c.1 -> b.0", "5 a.1 -> "],
        ),
        (gathered("t = Gather<axis = 1>(h, i)", 8, "int64 i = {1}"), ["8 a.1 -> b.0"]),
        (gathered("t = Gather<axis = 1>(h, i)", 8, "int64[2] i = {2, 0}"), ["8 a.1 -> b.0"]),
        (gathered("t = Gather<axis = 1>(h, i)", 8, "int64[2,2] i = {2, 0, 1, 0}"), ["8 a.1 -> b.0"]),
    ],
)
def test_constant_indices(case: Graph, expected: list[str]) -> None:
    for seed in range(3):
        coupling = groups(case)
        several = [text for text in expected if not text.startswith("1 ")]  # a group keeps at least one unit
        assert sorted(described(coupling)) == sorted(several)
        assert_cut_is_exact(case, seed=seed)


def test_tables_are_cut_along_their_columns() -> None:
    """Rows are looked up; the positions are those of the input, so that nothing but the columns can go."""
    weights = "float[16,8] e, float[6,8] p, float[8,3] a, int64[4] i = {0, 1, 2, 3}"
    body = "h = Gather(e, x) q = Gather(p, i) t = Add(h, q) y = MatMul(t, a)"
    case = graph(f"g (int64[N,4] x) => (float[] y) <{weights}> {{ {body} }}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["8  -> a.0"]
    assert {span.axis.value for span in coupling.groups[0].spans} >= {"e", "p", "a"}


def test_a_table_that_is_multiplied_too_keeps_its_rows() -> None:
    weights = "float[16,8] e, float[8,8] a"
    body = "h = Gather(e, x) t = MatMul(h, a) r = Relu(t) m = Transpose(e) y = MatMul(r, m)"
    case = graph(f"g (int64[N,4] x) => (float[] y) <{weights}> {{ {body} }}")
    assert "16 " not in " ".join(described(assert_cut_is_exact(case)))


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ("t = GatherElements<axis = 1>(h, i)", f"int64[1,3,8] i = {{{ROWS}}}"),
        ("s, i = TopK<axis = 1>(h, k) t = GatherElements<axis = -2>(h, i)", "int64[1] k = {2}"),
        ("t = GatherND(h, i)", "int64[2,2] i = {0, 1, 0, 2}"),
        ("t = GatherND<batch_dims = 1>(h, i)", "int64[1,2,1] i = {2, 0}"),
        ("t = ScatterND(h, i, u)", "int64[1,2] i = {0, 1}, float[1,8] u"),
        ("u = Gather<axis = 0>(h, k) t = ScatterND(h, i, u)", "int64[1] k = {0}, int64[1,1] i = {0}"),
        ("t = ScatterElements<axis = 1>(h, i, u)", "int64[1,1,8] i = {0, 1, 2, 0, 1, 2, 1, 1}, float[1,1,8] u"),
        (
            't = ScatterElements<axis = 1, reduction = "add">(h, i, h)',
            f"int64[1,3,8] i = {{{ROWS}}}",
        ),
    ],
)
def test_axes_that_pass(nodes: str, weights: str) -> None:
    body = f"h = MatMul(x, a) {nodes} y = MatMul(t, b)"
    case = graph(f"g (float[1,3,5] x) => (float[] y) <float[5,8] a, float[8,2] b, {weights}> {{ {body} }}")
    for seed in range(2):
        coupling = assert_cut_is_exact(case, seed=seed)
        assert [text.removesuffix("b.0") for text in described(coupling)] == ["8 a.1 -> "]


AT_RUN_TIME = "looks its indices up at run time"


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ("s = Gather<axis = 2>(h, i) t = Expand(s, c)", "int64 i = {1}, int64[2] c = {8, 8}", "picks one index of it"),
        (
            "s = Gather<axis = 2>(h, i) r = ReduceSum<keepdims = 0>(s, n) t = Add(r, u)",
            "int64[2,3] i = {1, 2, 3, 4, 5, 0}, int64[2] n = {2, 3}, float[8] u",
            "reads a table of its indices",
        ),
        (
            "m = ArgMax<axis = 2, keepdims = 0>(x) i = Squeeze(m) s = Gather<axis = 2>(h, i) "
            "t = Concat<axis = 2>(s, u)",
            "float[1,3,5] u",
            AT_RUN_TIME,
        ),
        (
            "n = Shape<start = 1, end = 2>(x) s = Gather<axis = 2>(h, n) t = Expand(s, c)",
            "int64[1] c = {8}",
            AT_RUN_TIME,
        ),
        ("t = GatherElements<axis = 2>(h, i)", f"int64[1,3,8] i = {{{COLUMNS}}}", AT_RUN_TIME),
        ("t = GatherElements<axis = 1>(h, i)", "int64[1,3,4] i", "does not let it be cut"),
        ("t = GatherND(h, i)", "int64[1,3,8,3] i", AT_RUN_TIME),
        ("t = ScatterElements<axis = 2>(h, i, u)", "int64[1,3,1] i, float[1,3,1] u", "writes at indices of it"),
        ("t = ScatterElements<axis = 1>(h, i, u)", "int64[1,1,4] i, float[1,1,4] u", "does not let it be cut"),
        ("t = ScatterND(h, i, u)", "int64[1,3] i = {0, 1, 2}, float[1] u", "writes at indices of it"),
    ],
)
def test_what_is_left_alone(nodes: str, weights: str, reason: str) -> None:
    rows = 4 if "3,4] i" in weights else 8
    body = f"h = MatMul(x, a) {nodes} y = MatMul(t, b)"
    layers = f"float[5,8] a, float[{rows},2] b, {weights}"
    case = graph(f"g (float[1,3,5] x) => (float[] y) <{layers}> {{ {body} }}")
    assert reason_against(case).endswith(reason)


def test_updates_are_no_units_where_they_are_written() -> None:
    """Each of the updates changes the sum, wherever it goes."""
    body = "h = MatMul(x, a) s = ScatterElements<axis = 2>(z, i, h) t = Relu(s) y = MatMul(t, b)"
    weights = "float[5,8] a, float[6,2] b, float[1,3,6] z, int64[1,3,8] i"
    case = graph(f"g (float[1,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    assert reason_against(case).endswith("does not let it be cut")


def test_indices_that_are_computed_pass_their_own_axes() -> None:
    nodes = "i = ArgMax<axis = 1, keepdims = 0>(h) t = Gather(e, i)"
    assert described(assert_cut_is_exact(between_matmuls(nodes, "float[3] e", middle="3,"))) == ["8 a.1 -> b.0"]


def test_shared_axes_pass() -> None:
    """Every unit looks up rows of its own."""
    nodes = "g = Transpose<perm = [2, 1, 0]>(h) r = GatherND<batch_dims = 1>(g, i) t = Transpose<perm = [2, 1, 0]>(r)"
    indices = f"int64[8,3,1] i = {{{ROWS}}}"
    body = f"h = MatMul(x, a) {nodes} y = MatMul(t, b)"
    case = graph(f"g (float[N,3,5] x) => (float[] y) <float[5,8] a, float[8,2] b, {indices}> {{ {body} }}")
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]


def test_the_older_name_of_scatter_elements() -> None:
    weights = "int64[1,1,8] i = {0, 1, 2, 0, 1, 2, 1, 1}, float[1,1,8] u"
    case = graph(
        '<ir_version: 10, opset_import: ["" : 10]> g (float[1,3,5] x) => (float[] y) '
        f"<float[5,8] a, float[8,2] b, {weights}> "
        "{ h = MatMul(x, a) t = Scatter<axis = 1>(h, i, u) y = MatMul(t, b) }"
    )
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]
