"""Slice: positions that a cut numbers anew, and Gather where they are no progression any more."""

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

FAR = 2**63 - 1


def sliced(starts: str, ends: str, axes: str | None, steps: str | None = None, columns: int = 6) -> Graph:
    """Read a part of 12 units, positions as operands."""
    operands = {"s": starts, "e": ends, "n": axes, "d": steps}
    given = {name: text for name, text in operands.items() if text is not None}
    inputs = ", ".join(name if text is not None else '""' for name, text in operands.items()).removesuffix(', ""')
    weights = ", ".join(f"int64[{text.count(',') + 1}] {name} = {{{text}}}" for name, text in given.items())
    body = f"h = MatMul(x, a) t = Slice(h, {inputs}) y = MatMul(t, b)"
    return graph(f"g (float[N,3,4] x) => (float[] y) <float[4,12] a, float[{columns},2] b, {weights}> {{ {body} }}")


HALF = ["6 a.1 -> b.0", "6 a.1 -> "]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (sliced("0", "6", "2"), HALF),
        (sliced("6", "12", "-1", "1"), HALF),
        (sliced("-6", f"{FAR}", "2"), HALF),
        (sliced("3", "-3", "-1"), HALF),
        (sliced("0, 0, 3", f"{FAR}, {FAR}, 9", None), HALF),
        (sliced("0, 3", "3, 9", "1, 2", "1, 1"), HALF),
        (sliced("0", f"{FAR}", "2", "2"), HALF),
        (sliced("1", "12", "2", "2"), HALF),
        (sliced("5", f"{-FAR}", "2", "-1"), HALF),
        (sliced("-1", "-7", "2", "-1"), HALF),
        (sliced(f"{FAR}", f"{-FAR}", "2", "-2"), HALF),
        (sliced("10", "-13", "-1", "-2"), HALF),
        (sliced(f"{FAR}", f"{-FAR}", "2", "-1", 12), ["12 a.1 -> b.0"]),
        (sliced("0", "12", "2", columns=12), ["12 a.1 -> b.0"]),
        (sliced("-12", "40", "2", columns=12), ["12 a.1 -> b.0"]),
        (sliced("0", "12", "2", "5", 3), ["3 a.1 -> b.0", "9 a.1 -> "]),
    ],
)
def test_positions_are_numbered_anew(case: Graph, expected: Sequence[str]) -> None:
    for seed in range(4):
        coupling = assert_cut_is_exact(case, 0.3 + 0.1 * seed, seed)
        assert sorted(described(coupling)) == sorted(expected)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("axes = [2], starts = [2], ends = [8]", HALF),
        ("axes = [-1], starts = [-6], ends = [1000]", HALF),
        ("starts = [0, 0, 0], ends = [9, 3, 6]", HALF),
    ],
)
@pytest.mark.parametrize("opset", [1, 9])
def test_positions_as_attributes(attributes: str, expected: Sequence[str], opset: int) -> None:
    head = f'<ir_version: 10, opset_import: ["" : {max(opset, 7)}]>'
    body = f"h = MatMul(x, a) t = Slice<{attributes}>(h) y = MatMul(t, b)"
    case = graph(f"{head} g (float[N,3,4] x) => (float[] y) <float[4,12] a, float[6,2] b> {{ {body} }}")
    for seed in range(3):
        assert sorted(described(assert_cut_is_exact(case, seed=seed))) == sorted(expected)


@pytest.mark.parametrize(
    ("steps", "gone", "operator"),
    [
        ("2", [1, 3, 5, 7, 9, 11], "Slice"),  # every one that was not read
        ("2", [0, 1], "Slice"),
        ("2", [3], "Gather"),
        ("2", [4], "Gather"),
    ],
)
def test_what_is_no_progression_is_gathered(steps: str, gone: list[int], operator: str) -> None:
    case = sliced("0", "12", "2", steps)
    coupling = groups(case)
    removed = {group.name: np.flatnonzero(np.isin(group.written[0].indices[:, 0], gone)) for group in coupling.groups}
    removed = {name: units[: coupling[name].units - 1] for name, units in removed.items()}
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, removed)
    assert operator in {node.op_type for node in editor.graph.model.graph}
    assert_cut_is_exact(case, removed=removed)


def test_the_other_axes_pass() -> None:
    case = between_matmuls("t = Slice(h, s, e, n)", "int64[1] s = {1}, int64[1] e = {3}, int64[1] n = {1}")
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]


HALVES = (
    "n = Shape(h) g = Gather<axis = 0>(n, k) m = Add(g, one) f = Div(m, two) e = Mul(f, one) z = Mul(f, two) "
    "p = Slice(h, nil, e, k) q = Slice(h, e, z, k) t = Concat<axis = 2>(q, p)"
)
"""A chunk in halves as the torch exporter traces it where it takes the size for open."""

CONSTANTS = "int64[1] k = {2}, int64[1] one = {1}, int64[1] two = {2}, int64[1] nil = {0}"


def test_positions_made_of_the_size_of_the_axis() -> None:
    for seed in range(3):
        coupling = assert_cut_is_exact(between_matmuls(HALVES, CONSTANTS), seed=seed)
        assert described(coupling) == ["8 a.1 -> b.0"]


@pytest.mark.parametrize(
    ("nodes", "weights", "middle", "reason"),
    [
        (  # 3 or any other size of another axis
            "n = Shape<start = 1, end = 2>(x) p = Slice(h, z, n, k) q = Slice(h, n, f, k) t = Concat<axis = 2>(q, p)",
            f"int64[1] z = {{0}}, int64[1] k = {{2}}, int64[1] f = {{{FAR}}}",
            "T,",
            "slices it at positions that are computed",
        ),
        (  # from end to end for this sample
            "n = Shape<start = 1, end = 2>(x) m = Add(n, c) t = Slice(h, z, m, k)",
            "int64[1] z = {0}, int64[1] k = {2}, int64[1] c = {3}",
            "T,",
            "slices it at positions that are computed",
        ),
        (  # all but as many as another axis has
            "n = Shape<start = 1, end = 2>(x) f = Shape<start = 2>(h) m = Sub(f, n) p = Slice(h, z, m, k) "
            "q = Slice(h, m, f, k) t = Concat<axis = 2>(q, p)",
            "int64[1] z = {0}, int64[1] k = {2}",
            "T,",
            "slices it at positions that are computed",
        ),
        (  # a number that the data give
            "m = ReduceMax<keepdims = 0>(x) c = Cast<to = 7>(m) o = Clip(c, eight, eight) n = Unsqueeze(o, z) "
            "t = Slice(h, z, n, k)",
            "int64 eight = {8}, int64[1] z = {0}, int64[1] k = {2}",
            "3,",
            "the value of its operand 'n' is not known",
        ),
        (  # a size that went through an operator that is not followed
            "n = Shape<start = 1, end = 2>(x) m = Abs(n) p = Slice(h, z, m, k) q = Slice(h, m, f, k) "
            "t = Concat<axis = 2>(q, p)",
            f"int64[1] z = {{0}}, int64[1] k = {{2}}, int64[1] f = {{{FAR}}}",
            "T,",
            "slices it at positions that are computed",
        ),
        (  # the number of elements that are no zeros
            "r = NonZero(x) n = Shape<start = 1, end = 2>(r) t = Slice(h, z, n, k)",
            "int64[1] z = {0}, int64[1] k = {2}",
            "3,",
            "slices it at positions that are computed",
        ),
        (
            "o = Slice(h, s, e, n, d) t = Concat<axis = 2>(o, o)",
            "int64[2] s = {0, 0}, int64[2] e = {2, 8}, int64[2] n = {1, 2}, int64[2] d = {1, 2}",
            "3,",
            "takes every so many of it and slices other axes too",
        ),
        (
            "m = Shape<start = 2, end = 3>(h) d = Div(m, m) t = Slice(h, s, e, n, d)",
            "int64[1] s = {0}, int64[1] e = {8}, int64[1] n = {2}",
            "3,",
            "cannot be looked into: its steps are computed",
        ),
    ],
)
def test_what_varies_is_left_alone(nodes: str, weights: str, middle: str, reason: str) -> None:
    assert reason_against(between_matmuls(nodes, weights, middle=middle)).endswith(reason)
