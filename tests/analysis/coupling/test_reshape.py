"""Reshape, Flatten, Squeeze and Unsqueeze: axes that are split and merged, as exporters spell them."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import graph

THROUGH = ["8 a.1 -> b.0"]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("t = Reshape(h, s)", "int64[3] s = {-1, 3, 8}", 5),
        ("t = Reshape(h, s)", "int64[3] s = {0, 0, 8}", 13),
        ("t = Reshape(h, s)", "int64[3] s = {0, 0, 0}", 13),
        ("t = Reshape(h, s)", "int64[3] s = {0, 0, -1}", 14),
        ("t = Reshape(h, s)", "int64[2] s = {-1, 8}", 21),
        ("p = Reshape(h, s) t = Reshape(p, r)", "int64[4] s = {-1, 1, 3, 8}, int64[3] r = {-1, 3, 8}", 21),
        ("p = Reshape<allowzero = 1>(h, s) t = Reshape(p, r)", "int64[2] s = {-1, 8}, int64[3] r = {-1, 3, 8}", 14),
        ("t = Flatten<axis = 2>(h)", "", 1),
        ("t = Flatten<axis = -1>(h)", "", 11),
        ("p = Unsqueeze<axes = [1, 3]>(h) t = Squeeze<axes = [1, 3]>(p)", "", 1),
        ("p = Unsqueeze<axes = [0, -2]>(h) t = Squeeze<axes = [0, -2]>(p)", "", 11),
        ("p = Unsqueeze(h, n) t = Squeeze(p, n)", "int64[2] n = {1, 3}", 13),
        ("p = Unsqueeze(h, n) t = Squeeze(p, n)", "int64[2] n = {0, -2}", 21),
    ],
)
def test_units_pass(nodes: str, weights: str, opset: int) -> None:
    coupling = assert_cut_is_exact(between_matmuls(nodes, weights, opset, middle="3,"))
    assert described(coupling) == THROUGH


@pytest.mark.parametrize("opset", [11, 13])
def test_the_last_unit_is_not_squeezed_away(opset: int) -> None:
    """All but one of the units go, and Squeeze removes every axis with one index unless they are named."""
    weights = "float[5,4] a, float[4,2] b"
    body = "h = MatMul(x, a) t = Squeeze(h) y = MatMul(t, b)"
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    case = graph(f"{head} g (float[1,1,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    name = groups(case).groups[0].name
    assert described(assert_cut_is_exact(case, removed={name: np.array([0, 1, 3])})) == ["4 a.1 -> b.0"]


def test_a_size_that_is_copied_from_a_cut_axis_is_spelled_out() -> None:
    """(4, 8, 3) becomes (2, 8, 6), whose second axis holds other elements and stays."""
    nodes = "h = MatMul(x, a) g = Transpose<perm = [0, 2, 1]>(h) t = Reshape(g, s) y = MatMul(t, b)"
    weights = "float[5,8] a, int64[3] s = {2, 0, 6}, float[6,2] b"
    case = graph(f"g (float[4,3,5] x) => (float[] y) <{weights}> {{ {nodes} }}")
    assert described(assert_cut_is_exact(case)) == ["2 a.1 -> b.0"]


HEADS = "int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}"


def attention(split: str, merge: str, weights: str, *, length: str = "3", opset: int = 21) -> Graph:
    """Two heads of four columns: ``split`` brings q to u, k to v, w to z; ``merge`` brings o to t."""
    layers = f"float[5,8] wq, float[5,8] wk, float[5,8] wv, float[8,2] b, {weights}"
    body = (
        f"q = MatMul(x, wq) k = MatMul(x, wk) w = MatMul(x, wv) {split} "
        "qh = Transpose<perm = [0, 2, 1, 3]>(u) kh = Transpose<perm = [0, 2, 3, 1]>(v) "
        "vh = Transpose<perm = [0, 2, 1, 3]>(z) c = MatMul(qh, kh) p = Softmax<axis = -1>(c) d = MatMul(p, vh) "
        f"o = Transpose<perm = [0, 2, 1, 3]>(d) {merge} y = MatMul(t, b)"
    )
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return graph(f"{head} g (float[N,{length},5] x) => (float[] y) <{layers}> {{ {body} }}")


SIZES = "n = Shape(q) n0 = Gather(n, i0) n1 = Gather(n, i1) n2 = Gather(n, i2) "
DYNAMO = SIZES + "f = Concat<axis = 0>(n0, n1, heads, each) u = Reshape(q, f) v = Reshape(k, f) z = Reshape(w, f)"
DIVIDED = (
    SIZES + "hd = Div(n2, heads) f = Concat<axis = 0>(n0, n1, heads, hd) "
    "u = Reshape(q, f) v = Reshape(k, f) z = Reshape(w, f)"
)
NUMBERS = "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] heads = {2}, int64[1] each = {4}"


@pytest.mark.parametrize(
    "case",
    [
        attention("u = Reshape(q, split) v = Reshape(k, split) z = Reshape(w, split)", "t = Reshape(o, merge)", HEADS),
        attention(
            "u = Reshape(q, split) v = Reshape(k, split) z = Reshape(w, split)",
            "t = Reshape(o, merge)",
            "int64[4] split = {-1, 3, 2, 4}, int64[3] merge = {-1, 3, 8}",
        ),
        attention(
            "u = Reshape(q, split) v = Reshape(k, split) z = Reshape(w, split)",
            "t = Reshape(o, merge)",
            "int64[4] split = {0, 0, -1, 4}, int64[3] merge = {0, 0, -1}",
            length="T",
        ),
        attention(DYNAMO, "m = Concat<axis = 0>(n0, n1, n2) t = Reshape(o, m)", NUMBERS, length="T"),
        attention(DIVIDED, "m = Concat<axis = 0>(n0, n1, n2) t = Reshape(o, m)", NUMBERS, length="T"),
        attention(DIVIDED, "t = Reshape(o, n)", NUMBERS, length="T"),
    ],
)
def test_heads_and_their_columns(case: Graph) -> None:
    """Whole heads, or the columns of all heads alike: more is saved where queries and keys go with the values."""
    for seed in range(2):
        coupling = assert_cut_is_exact(case, seed=seed)
        assert described(coupling) == ["2 wq.1 wk.1 wv.1 -> b.0"]
        assert coupling.groups[0].written[0].indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


FUSED = "int64[5] s = {0, 0, 3, 2, 4}, int64[3] merge = {0, 0, 8}"
PARTS = {
    "gather": (
        "qh = Gather<axis = 0>(r, i0) k = Gather<axis = 0>(r, i1) vh = Gather<axis = 0>(r, i2)",
        "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {-1}",
    ),
    "split": (
        "r0, r1, r2 = Split<axis = 0>(r, ones) qh = Squeeze(r0, at) k = Squeeze(r1, at) vh = Squeeze(r2, at)",
        "int64[3] ones = {1, 1, 1}, int64[1] at = {0}",
    ),
    "slice": (
        "r0 = Slice(r, zero, one, zero) r1 = Slice(r, one, two, zero) r2 = Slice(r, two, three, zero) "
        "qh = Squeeze(r0, zero) k = Squeeze(r1, zero) vh = Squeeze(r2, zero)",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}",
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_heads_of_a_fused_projection(part: str) -> None:
    nodes, weights = PARTS[part]
    body = (
        "h = MatMul(x, a) f = Reshape(h, s) r = Transpose<perm = [2, 0, 3, 1, 4]>(f) "
        f"{nodes} kh = Transpose<perm = [0, 1, 3, 2]>(k) c = MatMul(qh, kh) p = Softmax<axis = -1>(c) "
        "d = MatMul(p, vh) o = Transpose<perm = [0, 2, 1, 3]>(d) t = Reshape(o, merge) y = MatMul(t, b)"
    )
    case = graph(f"g (float[N,3,5] x) => (float[] y) <float[5,24] a, float[8,2] b, {FUSED}, {weights}> {{ {body} }}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["2 a.1 -> b.0"]
    assert coupling.groups[0].written[0].indices[1].tolist() == [*range(4, 8), *range(12, 16), *range(20, 24)]


def test_queries_that_share_keys_and_values() -> None:
    """Four heads of queries read two of keys and values, each of which is repeated twice."""
    body = (
        "q = MatMul(x, wq) k = MatMul(x, wk) w = MatMul(x, wv) "
        "u = Reshape(q, four) v = Reshape(k, two) z = Reshape(w, two) qh = Transpose<perm = [0, 2, 1, 3]>(u) "
        "k1 = Transpose<perm = [0, 2, 1, 3]>(v) v1 = Transpose<perm = [0, 2, 1, 3]>(z) "
        "k2 = Unsqueeze(k1, at) v2 = Unsqueeze(v1, at) k3 = Expand(k2, twice) v3 = Expand(v2, twice) "
        "k4 = Reshape(k3, flat) vh = Reshape(v3, flat) kh = Transpose<perm = [0, 1, 3, 2]>(k4) "
        "c = MatMul(qh, kh) p = Softmax<axis = -1>(c) d = MatMul(p, vh) o = Transpose<perm = [0, 2, 1, 3]>(d) "
        "t = Reshape(o, merge) y = MatMul(t, b)"
    )
    weights = (
        "float[5,16] wq, float[5,8] wk, float[5,8] wv, float[16,2] b, int64[4] four = {0, 0, 4, 4}, "
        "int64[4] two = {0, 0, 2, 4}, int64[1] at = {2}, int64[5] twice = {1, 2, 2, 3, 4}, "
        "int64[4] flat = {-1, 4, 3, 4}, int64[3] merge = {0, 0, -1}"
    )
    case = graph(f"g (float[N,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["2 wq.1 wk.1 wv.1 -> b.0"]
    widths = [span.indices.shape[1] for span in coupling.groups[0].written]
    assert widths == [8, 4, 4]


def shuffle(split: str, merge: str, weights: str) -> Graph:
    """Two convolutions in two groups, their channels shuffled in between."""
    body = (
        f"h = Conv(x, a) g = Conv<group = 2>(h, v) {split} s = Transpose<perm = [0, 2, 1, 3, 4]>(r) {merge} "
        "u = Conv<group = 2>(t, w) y = Conv(u, b)"
    )
    layers = "float[8,2,1,1] a, float[8,4,1,1] v, float[8,4,1,1] w, float[3,8,1,1] b"
    return graph(f"g (float[N,2,3,3] x) => (float[] y) <{layers}, {weights}> {{ {body} }}")


@pytest.mark.parametrize(
    "case",
    [
        shuffle("r = Reshape(g, f)", "t = Reshape(s, m)", "int64[5] f = {-1, 2, 4, 3, 3}, int64[4] m = {-1, 8, 3, 3}"),
        shuffle("r = Reshape(g, f)", "t = Reshape(s, m)", "int64[5] f = {0, 2, 4, 3, 3}, int64[4] m = {0, -1, 3, 3}"),
        shuffle(
            "n = Shape(g) n0 = Gather(n, i0) n1 = Gather(n, i1) n2 = Gather(n, i2) n3 = Gather(n, i3) "
            "e = Div(n1, two) f = Concat<axis = 0>(n0, two, e, n2, n3) r = Reshape(g, f)",
            "m = Concat<axis = 0>(n0, open, n2, n3) t = Reshape(s, m)",
            "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] two = {2}, "
            "int64[1] open = {-1}",
        ),
    ],
)
def test_channels_are_shuffled_in_groups(case: Graph) -> None:
    """Channel i of both groups goes to channels 2 i and 2 i + 1, which has to leave the groups of equal size."""
    for seed in range(2):
        coupling = assert_cut_is_exact(case, seed=seed)
        assert "v.0" in " ".join(described(coupling))
        shuffled = next(group for group in coupling.groups if "v" in {span.axis.value for span in group.written})
        assert shuffled.units == 2
        assert shuffled.written[0].indices.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


GROUPNORM = (
    "int64[3] s = {0, 2, -1}, float[2] one = {1.0, 1.0}, float[2] nil = {0.0, 0.0}, float[8,1,1] c, float[8,1,1] d"
)


@pytest.mark.parametrize(
    "back",
    [
        "n = Shape(h) q = Reshape(p, n)",
        "q = Reshape(p, k)",
        "n = Shape(h) m = Shape(p) l = Gather(m, zero) k1 = Slice(n, at, end) o = Concat<axis = 0>(l, k1) "
        "q = Reshape(p, o)",
    ],
)
def test_groups_of_normalised_channels(back: str) -> None:
    """Statistics are those of a group: whole groups may go, and channels may not."""
    weights = (
        f"{GROUPNORM}, int64[4] k = {{-1, 8, 6, 6}}, int64[1] zero = {{0}}, int64[1] at = {{1}}, int64[1] end = {{4}}"
    )
    nodes = f"r = Reshape(h, s) p = InstanceNormalization(r, one, nil) {back} e = Mul(q, c) t = Add(e, d)"
    coupling = assert_cut_is_exact(between_convs(nodes, weights))
    assert described(coupling) == ["2 a.0 -> b.1"]
    assert coupling.groups[0].written[0].indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("t = Flatten(h)", "", 11),
        ("t = Flatten<axis = -3>(h)", "", 13),
        ("t = Reshape(h, s)", "int64[2] s = {-1, 32}", 13),
        ("t = Reshape(h, s)", "int64[2] s = {0, -1}", 21),
        (
            "n = Shape(h) i = Gather(n, z) c = Concat<axis = 0>(i, o) t = Reshape(h, c)",
            "int64[1] z = {0}, int64[1] o = {-1}",
            13,
        ),
        (
            "n = Shape(h) i = Gather(n, z) c = Concat<axis = 0>(i, o) t = Reshape(h, c)",
            "int64[1] z = {0}, int64[1] o = {32}",
            13,
        ),
    ],
)
def test_channels_are_flattened_into_columns(nodes: str, weights: str, opset: int) -> None:
    layers = ", ".join(filter(None, ["float[8,2,1,1] a, float[3,32] b, float[3] c0", weights]))
    body = f"h = Conv(x, a) {nodes} y = Gemm<transB = 1>(t, b, c0)"
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    case = graph(f"{head} g (float[N,2,2,2] x) => (float[] y) <{layers}> {{ {body} }}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["8 a.0 -> b.1"]
    assert coupling.groups[0].read[0].indices[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset", "reason"),
    [
        (
            "p = Reshape(h, s) t = MatMul(p, w)",
            "int64[3] s = {-1, 4, 6}, float[6,8] w",
            21,
            "lays its elements out anew, and not in whole rows",
        ),
        (  # heads stay apart in the result, and their columns are normalised
            "p = Reshape(h, s) q = Softmax<axis = -1>(p) r = ReduceMax<axes = [-1], keepdims = 0>(q) "
            "o = Reshape(r, n) t = Concat<axis = 2>(o, o, o, o)",
            "int64[4] s = {0, 0, 2, 4}, int64[3] n = {0, 0, 2}",
            13,
            None,
        ),
        (
            "p = Reshape(h, s) q = Softmax<axis = 1>(p) t = Reshape(q, r)",
            "int64[2] s = {-1, 24}, int64[3] r = {-1, 3, 8}",
            13,
            "another factor of it is cut",
        ),
    ],
)
def test_what_is_left_alone(nodes: str, weights: str, opset: int, reason: str | None) -> None:
    case = between_matmuls(nodes, weights, opset, middle="3,")
    if reason is None:
        assert described(assert_cut_is_exact(case)) == ["2 a.1 -> b.0"]
    else:
        assert reason_against(case).endswith(reason)


@pytest.mark.parametrize("spelling", [0, -1])
def test_only_what_changes_is_written(spelling: int) -> None:
    case = between_matmuls("t = Reshape(h, s)", f"int64[3] s = {{0, 0, {spelling}}}", middle="3,")
    editor = Editor(case.clone(), "cut")
    coupling = groups(case)
    cut(editor, coupling, choose(coupling, 0.5, 0))
    assert editor.graph.array("s").tolist() == [0, 0, spelling]
