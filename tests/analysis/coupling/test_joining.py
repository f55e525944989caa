"""Concat and Split: runs of indices, and sizes that a cut lists anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.sandwich import between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, groups
from tests.harness import graph


def joined(nodes: str, columns: int, weights: str = "") -> Graph:
    """Bring two layers ``p`` (6 units) and ``q`` (5 units) to ``t``, of which a third layer reads ``columns``."""
    layers = f"float[4,6] a, float[4,5] b, float[{columns},2] w" + (f", {weights}" if weights else "")
    body = f"p = MatMul(x, a) q = MatMul(x, b) {nodes} y = MatMul(t, w)"
    return graph(f"g (float[N,3,4] x) => (float[] y) <{layers}> {{ {body} }}")


BOTH = ["6 a.1 -> w.0", "5 b.1 -> w.0"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (joined("t = Concat<axis = 2>(p, q)", 11), BOTH),
        (joined("t = Concat<axis = -1>(q, p)", 11), BOTH),
        (joined("t = Concat<axis = -1>(p)", 6), ["6 a.1 -> w.0", "5 b.1 -> "]),
        (joined("t = Concat<axis = 2>(q, p, q)", 16), BOTH),
        (joined("s = Mul(q, c) t = Concat<axis = -1>(p, q, s)", 16, "float[5] c"), BOTH),
        (joined("r = Relu(p) t = Concat<axis = 1>(p, r)", 6), ["6 a.1 -> w.0", "5 b.1 -> "]),
        (joined("r = Relu(p) t = Concat<axis = -2>(p, r, p)", 6), ["6 a.1 -> w.0", "5 b.1 -> "]),
    ],
)
def test_joined_units_are_cut_where_they_come_to_lie(case: Graph, expected: Sequence[str]) -> None:
    for seed in range(3):
        assert described(assert_cut_is_exact(case, seed=seed)) == expected


@pytest.mark.parametrize(("opset", "axis"), [(4, 1), (13, -1)])
def test_a_constant_is_joined(opset: int, axis: int) -> None:
    """Units of a constant are cut with what reads them; here they are rows of ``b`` that no layer writes."""
    layers = "float[4,6] a, float[1,2] c, float[8,2] b"
    body = f"p = MatMul(x, a) t = Concat<axis = {axis}>(c, p) y = MatMul(t, b)"
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    case = graph(f"{head} g (float[1,4] x) => (float[] y) <{layers}> {{ {body} }}")
    assert sorted(described(assert_cut_is_exact(case))) == ["2  -> b.0", "6 a.1 -> b.0"]


def test_a_learnt_token_passes_along_its_units() -> None:
    body = "p = MatMul(x, a) t = Concat<axis = 1>(c, p) y = MatMul(t, b)"
    case = graph(f"g (float[1,3,4] x) => (float[] y) <float[4,6] a, float[1,1,6] c, float[6,2] b> {{ {body} }}")
    assert described(assert_cut_is_exact(case)) == ["6 a.1 -> b.0"]


def split(node: str, sizes: Sequence[int], opset: int, weights: str = "") -> Graph:
    """One layer of units that ``node`` splits from ``h`` into ``t0``, ``t1`` …, each read by a layer of its own."""
    count = len(sizes)
    layers = [f"float[4,{sum(sizes)}] a", *(f"float[{size},2] w{index}" for index, size in enumerate(sizes))]
    reads = " ".join(f"m{index} = MatMul(t{index}, w{index})" for index in range(count))
    total = ", ".join(f"m{index}" for index in range(count))
    initializers = ", ".join([*layers, weights] if weights else layers)
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    body = f"h = MatMul(x, a) {node} {reads} y = Sum({total})"
    return graph(f"{head} g (float[N,3,4] x) => (float[] y) <{initializers}> {{ {body} }}")


@pytest.mark.parametrize(
    ("node", "sizes", "opset", "weights"),
    [
        ("t0, t1, t2 = Split<axis = 2, split = [6, 4, 2]>(h)", (6, 4, 2), 8, ""),
        ("t0, t1, t2 = Split<axis = -1, split = [2, 4, 6]>(h)", (2, 4, 6), 11, ""),
        ("t0, t1, t2 = Split<axis = 2>(h, s)", (6, 4, 2), 13, "int64[3] s = {6, 4, 2}"),
        ("t0, t1, t2 = Split<axis = -1>(h, s)", (2, 4, 6), 21, "int64[3] s = {2, 4, 6}"),
        ("t0, t1 = Split<axis = 2>(h)", (6, 6), 11, ""),
        ("t0, t1 = Split<axis = 2>(h)", (6, 6), 13, ""),
        ("t0, t1 = Split<axis = -1, num_outputs = 2>(h)", (6, 6), 18, ""),
        ("t0, t1, t2 = Split<axis = -1, num_outputs = 3>(h)", (4, 4, 3), 21, ""),
    ],
)
def test_sizes_are_listed_anew(node: str, sizes: Sequence[int], opset: int, weights: str) -> None:
    for seed in range(3):
        coupling = assert_cut_is_exact(split(node, sizes, opset, weights), seed=seed)
        assert described(coupling) == [f"{size} a.1 -> w{index}.0" for index, size in enumerate(sizes)]


def test_a_count_of_outputs_gives_way_to_their_sizes() -> None:
    case = split("t0, t1 = Split<axis = -1, num_outputs = 2>(h)", (6, 6), 18)
    coupling = groups(case)
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, {coupling.groups[0].name: np.array([0, 5])})
    node = next(node for node in editor.graph.model.graph if node.op_type == "Split")
    assert set(node.attributes) == {"axis"}
    assert node.inputs[1] is not None
    assert editor.graph.array(node.inputs[1].name or "").tolist() == [4, 6]


def test_outputs_without_a_name_keep_their_place() -> None:
    """ONNX Runtime cannot run it."""
    node = 't0, "", t1 = Split<axis = 2>(h, s)'
    body = f"h = MatMul(x, a) {node} m0 = MatMul(t0, w0) m1 = MatMul(t1, w1) y = Add(m0, m1)"
    weights = "float[4,12] a, float[6,2] w0, float[2,2] w1, int64[3] s = {6, 4, 2}"
    case = graph(f"g (float[N,3,4] x) => (float[] y) <{weights}> {{ {body} }}")
    coupling = groups(case)
    assert sorted(described(coupling)) == ["2 a.1 -> w1.0", "4 a.1 -> ", "6 a.1 -> w0.0"]
    last = next(group for group in coupling.groups if group.units == 2)
    assert last.written[0].indices.tolist() == [[10], [11]]


@pytest.mark.parametrize(
    "nodes",
    ["p, q = Split<axis = 1>(h, s) t = Concat<axis = 1>(q, p)", "p, q = Split<axis = -2>(h, s) t = Add(p, q)"],
)
def test_the_other_axes_pass(nodes: str) -> None:
    case = between_matmuls(nodes, "int64[2] s = {2, 2}", middle="4,")
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]


def test_sizes_that_are_computed_freeze_the_axis() -> None:
    nodes = (
        "n = Shape<start = 1, end = 2>(x) m = Sub(c, n) s = Concat<axis = 0>(n, m) "
        "p, q = Split<axis = -1>(h, s) t = Concat<axis = -1>(q, p)"
    )
    case = between_matmuls(nodes, "int64[1] c = {8}", middle="T,")
    assert reason_against(case).startswith("Split")
    assert reason_against(case).endswith("splits it into sizes that are computed")


def test_a_computed_size_lets_the_other_axes_pass() -> None:
    nodes = "n = Shape<start = 2, end = 3>(h) s = Div(n, c) d = Concat<axis = 0>(s, s) p, q = Split<axis = 1>(h, d)"
    case = between_matmuls(f"{nodes} t = Sub(p, q)", "int64[1] c = {4}", middle="4,")
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]
