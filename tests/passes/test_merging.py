from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.prune.merging import constants_along, merge, reason_against_merge
from tests.coupling import groups
from tests.harness import assert_equivalent
from tests.passes.helpers import build

LEFT_ALONE = {
    "a product of computed values": (
        """net (float[N,3,8] x) => (float[N,3,3] y) <float[8,6] q, float[8,6] k> {
            a = MatMul(x, q) b = MatMul(x, k) c = Transpose<perm = [0, 2, 1]>(b) [scores] y = MatMul(a, c)
        }""",
        "MatMul 'scores' sums over products of computed values",
    ),
    "weights behind an operator": (
        """net (float[N,8] x) => (float[N,3] y) <float[8,6] u, float[3,6] v> {
            a = MatMul(x, u) t = Transpose<perm = [1, 0]>(v) [reader] y = MatMul(a, t)
        }""",
        "MatMul 'reader' sums over products of computed values",
    ),
    "several constant factors": (
        """net (float[N,8] x) => (float[N,3] y) <float[8,6] u, float[6] v, float[6,3] w> {
            a = MatMul(x, u) [reader] y = Einsum<equation = "nc,c,co->no">(a, v, w)
        }""",
        "Einsum 'reader' multiplies them with several constants",
    ),
    "a table of embeddings that is read twice": (
        """net (int64[N,4] x) => (float[N,4,9] y) <float[9,6] e, float[9] c> {
            a = Gather(e, x) b = Relu(a) f = Reshape(b, flat) d = Gemm<transB = 1>(f, e, c) y = Reshape(d, out)
        }""",
        "'e' is read with and without a sum over them",
    ),
    "whole numbers": (
        """net (float[N,8] x) => (float[N,3] y) <float[8,6] u, bool[6] mask, float[6,3] w> {
            a = MatMul(x, u) b = Neg(a) c = Where(mask, a, b) y = MatMul(c, w)
        }""",
        "'mask' holds whole numbers that differ between them",
    ),
    "a constant that others hold too": (
        """net (float[N,8] x) => (float[N,3] y) <float[8,6] u, float[6] s, float[6,6] v, float[6,3] w> {
            a = MatMul(x, u) b = Mul(a, s) c = MatMul(b, v) d = Mul(c, s) y = MatMul(d, w)
        }""",
        "'s', which differs between them, is shared by operators outside the group",
    ),
}

NUMBERS = {
    "flat": np.array([-1, 6]), "out": np.array([-1, 4, 9]), "mask": np.array([1, 0, 1, 0, 1, 0], bool),
}  # fmt: skip


def declared(text: str, **more: NDArray[np.generic]) -> Graph:
    """Build a graph; the vectors of :data:`NUMBERS` that it reads are its initializers."""
    head, rest = text.split("<", 1)
    added = [name for name in ("flat", "out") if f", {name})" in text]
    types = "".join(f"int64[{len(NUMBERS[name])}] {name}, " for name in added)
    given = {name: NUMBERS[name] for name in (*added, *(["mask"] if "mask" in text else []))}
    return build(f"{head}<{types}{rest}", **{**given, **more})


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, reason = LEFT_ALONE[case]
    graph = declared(text)
    coupling = groups(graph)
    assert coupling.groups
    assert reason_against_merge(graph, coupling, coupling.groups[0]) == reason


def test_a_shared_or_whole_constant_does_not_matter_where_it_is_equal() -> None:
    text, _ = LEFT_ALONE["a constant that others hold too"]
    graph = declared(text, s=np.array([1.0, 2.0, 1.0, 3.0, 3.0, 3.0]))
    coupling = groups(graph)
    group = coupling.groups[0]
    assert reason_against_merge(graph, coupling, group, np.array([0, 1, 0, 3, 3, 3])) is None
    assert reason_against_merge(graph, coupling, group, np.array([0, 0, 2, 3, 3, 3])) is not None
    text, _ = LEFT_ALONE["whole numbers"]
    graph = declared(text)
    coupling = groups(graph)
    assert reason_against_merge(graph, coupling, coupling.groups[0], np.array([0, 1, 0, 1, 4, 5])) is None


BEFORE_AFTER = {
    "Conv and BatchNormalization": """net (float[N,3,6,6] x) => (float[N,4] y)
        <float[6,3,3,3] w1, float[6] c1, float[6] s, float[6] o, float[6] m, float[6] v1,
         float[5,6,3,3] w2, float[5,4] w3> {
            a = Conv(x, w1, c1) b = BatchNormalization(a, s, o, m, v1) d = Sigmoid(b)
            e = Conv<pads = [1, 1, 1, 1]>(d, w2) f = GlobalAveragePool(e) g = Flatten(f) y = Gemm(g, w3)
    }""",
    "a residual stage": """net (float[N,3,5,5] x) => (float[N,4,5,5] y)
        <float[6,3,1,1] w1, float[6,6,3,3] w2, float[6] c2, float[4,6,1,1] w3> {
            a = Conv(x, w1) b = Relu(a) d = Conv<pads = [1, 1, 1, 1]>(b, w2, c2) e = Add(b, d) f = Tanh(e)
            y = Conv(f, w3)
    }""",
    "depthwise": """net (float[N,3,5,5] x) => (float[N,4,5,5] y)
        <float[6,3,1,1] w1, float[6,1,3,3] w2, float[6] c2, float[4,6,1,1] w3> {
            a = Conv(x, w1) b = Relu(a) d = Conv<pads = [1, 1, 1, 1], group = 6>(b, w2, c2) y = Conv(d, w3)
    }""",
    "positions within groups": """net (float[N,3,5,5] x) => (float[N,4,5,5] y)
        <float[12,3,1,1] w1, float[8,6,3,3] w2, float[4,8,1,1] w3> {
            a = Conv(x, w1) b = Relu(a) d = Conv<pads = [1, 1, 1, 1], group = 2>(b, w2) e = Relu(d) y = Conv(e, w3)
    }""",
    "a gate": """net (float[N,7] x) => (float[N,4] y) <float[7,12] w, float[12] c, float[6,4] v> {
            a = Gemm(x, w, c) b, d = Split<axis = 1, num_outputs = 2>(a) e = Sigmoid(b) f = Mul(e, d) y = MatMul(f, v)
    }""",
    "two readers of a Concat": """net (float[N,7] x) => (float[N,4] y, float[N,2] z)
        <float[7,6] w, float[7,5] u, float[11,4] v, float[6,2] t> {
            a = MatMul(x, w) b = Relu(a) d = MatMul(x, u) e = Concat<axis = 1>(d, b) y = MatMul(e, v) z = MatMul(b, t)
    }""",
    "LSTM": """net (float[4,N,3] x) => (float[4,N,2] y)
        <float[1,24,3] w, float[1,24,6] r, float[1,48] b, float[6,2] v, int64[1] axes = {1}> {
            a = LSTM<hidden_size = 6>(x, w, r, b) d = Squeeze(a, axes) y = MatMul(d, v)
    }""",
    "a scaled Gemm from the left of its weights": """net (float[N,7] x) => (float[N,4] y)
        <float[6,7] w, float[6] c, float[4,6] v, float[4] d> {
            a = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c) b = Erf(a) y = Gemm<transB = 1, alpha = 3.0>(b, v, d)
    }""",
}  # fmt: skip


def with_equal_units(graph: Graph, coupling: Coupling, labels: NDArray[np.intp]) -> Graph:
    """A copy in which units of every group that share a label are equal."""
    editor = Editor(graph.clone(), "test")
    for group in coupling.groups:
        for span in constants_along(graph, coupling, group):
            array = editor.graph.array(span.axis.value).copy()
            rows = np.moveaxis(array, span.axis.axis, 0)
            rows[span.indices] = rows[span.indices[labels[: group.units]]]
            editor.set_weights(span.axis.value, array)
    return editor.graph


@pytest.mark.parametrize("labels", [[0, 1, 0, 3, 4, 5], [0, 1, 1, 0, 0, 5]])
@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str, labels: list[int]) -> None:
    """Equal units are merged in all groups at once, and the model computes the same."""
    graph = build(BEFORE_AFTER[case])
    coupling = groups(graph)
    graph = with_equal_units(graph, coupling, np.array(labels))
    editor = Editor(graph.clone(), "test")
    removed = {}
    for group in coupling.groups:
        assert reason_against_merge(graph, coupling, group) is None
        chosen = np.array(labels[: group.units])
        removed[group.name] = merge(editor, coupling, group, chosen)
        assert removed[group.name].tolist() == [unit for unit, label in enumerate(chosen) if label != unit]
    cut(editor, coupling, removed)
    verify(editor.graph)
    assert_equivalent(editor.graph, graph, tolerance=1e-5)
    sizes = {group.name: group.units for group in groups(editor.graph).groups}
    assert sizes == {group.name: group.units - len(removed[group.name]) for group in coupling.groups}


def test_reading_the_shape_of_a_weight_is_not_reading_it() -> None:
    graph = build("""net (float[N,8] x) => (float[N,3] y) <float[8,6] u, float[6,3] v> {
        a = MatMul(x, u) y = MatMul(a, v) unread = Shape(v)
    }""")
    coupling = groups(graph)
    assert reason_against_merge(graph, coupling, coupling.groups[0]) is None


def test_what_writes_is_averaged_and_what_reads_is_added_up() -> None:
    text = """net (float[N,2] x) => (float[N,1] y) <float[2,4] w, float[4] c, float[4] s, float[4,1] v> {
        a = Gemm(x, w, c) b = Mul(a, s) y = MatMul(b, v)
    }"""
    weights = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 6.0, 0.0, 8.0]])
    graph = build(text, w=weights, c=np.array([1.0, 2.0, 5.0, 7.0]), s=np.array([2.0, 1.0, 4.0, 1.0]),
                  v=np.array([[1.0], [10.0], [100.0], [1000.0]]))  # fmt: skip
    coupling = groups(graph)
    (group,) = coupling.groups
    editor = Editor(graph.clone(), "test")
    removed = merge(editor, coupling, group, np.array([5, 2, 5, 5]))
    assert removed.tolist() == [2, 3]
    cut(editor, coupling, {group.name: removed})
    found = {name: editor.graph.array(name) for name in ("w", "c", "s", "v")}
    assert found["w"] == pytest.approx(np.array([[8 / 3, 2.0], [8 / 3, 6.0]]))
    assert found["c"] == pytest.approx(np.array([13 / 3, 2.0]))
    assert found["s"] == pytest.approx(np.array([7 / 3, 1.0]))
    assert found["v"].tolist() == [[1101.0], [10.0]]


def test_units_that_stay_alone_keep_every_bit() -> None:
    graph = build(BEFORE_AFTER["a residual stage"])
    coupling = groups(graph)
    editor = Editor(graph.clone(), "test")
    for group in coupling.groups:
        assert merge(editor, coupling, group, np.arange(group.units)).size == 0
    assert not editor.edits
