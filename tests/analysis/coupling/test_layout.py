"""Transpose, Expand, Tile, ConstantOfShape and CastLike."""

from __future__ import annotations

import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.sandwich import between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import graph

THROUGH = ["8 a.1 -> b.0"]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("p = Transpose<perm = [0, 2, 1]>(h) q = Relu(p) t = Transpose<perm = [0, 2, 1]>(q)", "", 7),
        ("p = Transpose(h) q = Relu(p) t = Transpose(q)", "", 13),
        ("p = Transpose<perm = [2, 0, 1]>(h) q = Relu(p) t = Transpose<perm = [1, 2, 0]>(q)", "", 21),
        ("t = Expand(h, s)", "int64[3] s = {1, 3, 8}", 13),
        ("t = Expand(h, s)", "int64[1] s = {1}", 8),
        ("t = Expand(h, s)", "int64[2] s = {1, 1}", 13),
        ("t = Expand(h, s)", "int64[2] s = {3, 8}", 13),
        (
            "p = Transpose<perm = [2, 0, 1]>(h) n = Shape<start = 2>(p) q = Expand(p, n) "
            "t = Transpose<perm = [1, 2, 0]>(q)",
            "",
            15,
        ),
        ("t = Expand(h, s)", "int64[4] s = {2, 1, 3, 8}", 13),
        ("u = Expand(c, s) t = Mul(h, u)", "float[1] c, int64[1] s = {8}", 13),
        ("u = Expand(c, s) t = Mul(h, u)", "float[1] c, int64[2] s = {3, 8}", 13),
        ("u = Expand(c, s) t = Mul(h, u)", "float[8] c, int64[2] s = {3, 1}", 13),
        ("u = Expand(c, s) t = Mul(h, u)", "float[8] c, int64[3] s = {1, 3, 8}", 13),
        ("n = Shape(h) u = Expand(c, n) t = Mul(h, u)", "float c = {2.0}", 13),
        ("n = Shape<start = 1>(h) u = Expand(c, n) t = Mul(h, u)", "float c = {2.0}", 15),
        ("t = Tile(h, r)", "int64[3] r = {1, 1, 1}", 6),
        ("t = Tile(h, r)", "int64[3] r = {2, 3, 1}", 13),
        ("u = ConstantOfShape<value = float[1] {2.0}>(s) t = Mul(h, u)", "int64[2] s = {3, 8}", 9),
        ("n = Shape(h) u = ConstantOfShape<value = float[1] {2.0}>(n) t = Mul(h, u)", "", 13),
        (
            "n = Shape<end = 1>(h) m = Concat<axis = 0>(n, s) u = ConstantOfShape<value = float[1] {2.0}>(m) "
            "t = Mul(h, u)",
            "int64[2] s = {1, 8}",
            15,
        ),
        ("t = CastLike(h, c)", "float[3] c", 15),
        ("c = Relu(h) t = CastLike(h, c)", "", 21),
    ],
)
def test_units_pass(nodes: str, weights: str, opset: int) -> None:
    middle = "3,"
    for seed in range(2):
        coupling = assert_cut_is_exact(between_matmuls(nodes, weights, opset, middle=middle), seed=seed)
        assert described(coupling) == THROUGH


@pytest.mark.parametrize(("repeats", "columns"), [("1, 1, 2", 16), ("1, 2, 3", 24)])
def test_repeated_units_are_cut_in_every_repetition(repeats: str, columns: int) -> None:
    weights = f"float[5,8] a, float[{columns},2] b, int64[3] r = {{{repeats}}}"
    body = "h = MatMul(x, a) t = Tile(h, r) y = MatMul(t, b)"
    case = graph(f"g (float[N,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == THROUGH
    assert coupling.groups[0].read[0].indices.shape == (8, columns // 8)


def test_an_axis_that_only_repeats_has_units_of_its_own() -> None:
    """A number for every sample, spread over the columns that a layer reads: any of its rows may go."""
    weights = "float[5,1] a, float[8,2] b, int64[3] s = {1, 3, 8}"
    body = "h = MatMul(x, a) t = Expand(h, s) y = MatMul(t, b)"
    case = graph(f"g (float[N,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    assert described(assert_cut_is_exact(case)) == ["8  -> b.0"]


def test_repeats_for_every_sample() -> None:
    nodes = "n = Shape<end = 1>(x) r = Concat<axis = 0>(n, one, one) c = Tile(k, r) t = Concat<axis = 1>(c, h)"
    case = between_matmuls(nodes, "float[1,1,8] k, int64[1] one = {1}", middle="3,")
    assert described(assert_cut_is_exact(case)) == THROUGH


def test_repeats_that_vary_freeze_the_axis_that_they_repeat() -> None:
    nodes = "n = Shape<start = 1, end = 2>(x) r = Concat<axis = 0>(one, one, n) t = Tile(h, r)"
    weights = "float[5,8] a, float[8,2] b, int64[1] one = {1}"
    body = f"h = MatMul(x, a) {nodes} s = Transpose<perm = [0, 2, 1]>(t) y = ReduceSum(s)"
    case = graph(f"g (float[N,T,5] x) => (float[] y) <{weights}> {{ {body} }}")
    assert reason_against(case).endswith("repeats it as often as is computed")


def test_repeats_that_are_data_freeze_every_axis() -> None:
    nodes = (
        "p = NonZero(x) r = Shape(p) q = Concat<axis = 0>(r, one) s = Div(q, q) m = ReduceMax(x) k = Cast<to = 7>(m)"
    )
    case = between_matmuls(f"{nodes} o = Clip(s, k) t = Tile(h, o)", "int64[1] one = {1}", middle="3,")
    assert "cannot be looked into" in reason_against(case)


def test_ones_in_a_shape_stay() -> None:
    case = between_matmuls("t = Expand(h, s)", "int64[4] s = {2, 1, 1, 1}", middle="3,")
    editor = Editor(case.clone(), "cut")
    coupling = groups(case)
    cut(editor, coupling, choose(coupling, 0.5, 0))
    assert editor.graph.array("s").tolist() == [2, 1, 1, 1]
