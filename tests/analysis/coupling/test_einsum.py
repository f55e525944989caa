"""Einsum: labels couple axes, and only a label that several operands share can be summed over."""

from __future__ import annotations

import pytest

from surgery_ir.analysis.coupling.groups import find_groups
from surgery_ir.analysis.coupling.site import Facts
from tests.analysis.coupling.constants import cut_constants, places
from tests.analysis.coupling.sandwich import between_matmuls, reason_against
from tests.harness import graph

THROUGH = ["8: a.1 b.0"]
WITH_S = ["8: a.1 b.0 s.0"]
PROJECTED = ["8: a.1 s.0", "8: b.0 s.1"]


@pytest.mark.parametrize(
    ("found", "equation", "operands", "weights"),
    [
        (THROUGH, "nabh->nabh", "h", ""),
        (THROUGH, "nabh,nbch->nach", "h, h", ""),
        (WITH_S, "nabh,h->nabh", "h, s", "float[8] s"),
        (WITH_S, "...h,h->...h", "h, s", "float[8] s"),
        (WITH_S, "nabh,h,n->nbah", "h, s, u", "float[8] s, float[1] u"),
        (["8: a.1 b.0 s.1"], " n a b h , b h -> n b a h ", "h, s", "float[4,8] s"),
        (["8: a.1 b.0 s.2"], "n...,...->n...", "h, s", "float[4,4,8] s"),
        (THROUGH, "n...,...->n...", "h, s", "float[4,4,1] s"),
        (THROUGH, "nabh,nabh->nabh", "h, s", "float[1,4,4,1] s"),
        (["8: a.1 b.0 s.0 u.1"], "nabh,h,bh->nh", "h, s, u", "float[8] s, float[4,8] u"),
        (PROJECTED, "nabh,hk->nabk", "h, s", "float[8,8] s"),
        (PROJECTED, "nabH,Hk->nabk", "h, s", "float[8,8] s"),
        (PROJECTED, "...h,hk->...k", "h, s", "float[8,8] s"),
        (PROJECTED, "n...h,hk->n...k", "h, s", "float[8,8] s"),
        (["8: a.1 s.1", "8: b.0 s.0"], "abch,kh", "h, s", "float[8,8] s"),
        (["8: a.1 s.1", "8: b.0 s.0"], "...h,kh", "h, s", "float[8,8] s"),
        (["8: a.1 s.0", "8: b.0 s.1"], "hk,abch", "s, h", "float[8,8] s"),
        (["8: a.1 s.0 u.0", "8: b.0 u.1"], "nabh,h,hk->nabk", "h, s, u", "float[8] s, float[8,8] u"),
    ],
)
def test_labels_are_axes(found: list[str], equation: str, operands: str, weights: str) -> None:
    case = between_matmuls(f't = Einsum<equation = "{equation}">({operands})', weights, middle="4,4,")
    assert cut_constants(case) == found


def test_activations_are_summed_over_too() -> None:
    """Attention: features of a head are summed over in the scores, and values handed on."""
    case = graph(
        """g (float[N,5,6] x) => (float[] y) <float[6,8] q, float[6,8] k, float[6,7] v, float[7,2] o> {
        f = MatMul(x, q) g = MatMul(x, k) h = MatMul(x, v) s = Einsum<equation = "bqd,bkd->bqk">(f, g)
        p = Softmax(s) t = Einsum<equation = "bqk,bke->bqe">(p, h) y = MatMul(t, o) }"""
    )
    assert cut_constants(case) == ["8: k.1 q.1", "7: o.0 v.1"]


@pytest.mark.parametrize(
    ("reason", "equation", "operands", "weights"),
    [
        ("sums over it", "nabh->nab", "h", ""),
        ("sums over it", "nabh,h->nab", "h, s", "float[1] s"),
        ("sums over it", "nabh,nac->nab", "h, s", "float[1,1,5] s"),
        ("takes the diagonal along it", "nahh->nah", "h", ""),
        ("takes the diagonal along it", "nabh,hh->nab", "h, s", "float[8,8] s"),
        ("takes the diagonal along it", "nabh,hh->nabh", "h, s", "float[8,8] s"),
    ],
)
def test_what_one_operand_alone_sums_over_stays(reason: str, equation: str, operands: str, weights: str) -> None:
    nodes = f't0 = Einsum<equation = "{equation}">({operands}) t1 = ReduceSum<keepdims = 0>(t0) t = Add(h, t1)'
    found = reason_against(between_matmuls(nodes, weights, middle="4,8,"))
    assert found == f"Einsum 'Einsum_1' {reason}"


@pytest.mark.parametrize(
    ("found", "equation", "weights"),
    [(["8: a.1 b.0 s.1"], "n...,...->n...", "float[4,8] s"), ([], "nbh,bh->nbh", "float[4,8] s")],
)
def test_what_onnx_runtime_does_not_run(found: list[str], equation: str, weights: str) -> None:
    """It wants an ellipsis to stand for equally many axes everywhere; a term that does not fit its operand freezes."""
    nodes = f'h = MatMul(x, a) t = Einsum<equation = "{equation}">(h, s) y = MatMul(t, b)'
    case = graph(f"g (float[1,3,4,5] x) => (float[] y) <float[5,8] a, float[8,2] b, {weights}> {{ {nodes} }}")
    shapes = {"x": (1, 3, 4, 5), "y": (1, 3, 4, 2), "a": (5, 8), "b": (8, 2), "s": (4, 8)}
    facts = Facts({**shapes, "h": (1, 3, 4, 8), "t": (1, 3, 4, 8)}, {})
    assert places(find_groups(case, facts), case) == found
