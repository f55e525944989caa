"""Matrix products: what they sum over, and what they hand on."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.sandwich import described
from tests.coupling import assert_cut_is_exact, frozen, groups
from tests.harness import small_graph

CUT = {
    "Gemm": (
        "float[N,3] x | float[3,8] a, float[8] p, float[8,2] b | h = Gemm(x, a, p) y = Gemm(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "Gemm, weights stored transposed": (
        "float[N,3] x | float[8,3] a, float[8] p, float[2,8] b | "
        "h = Gemm<transB = 1>(x, a, p) y = Gemm<transB = 1, alpha = 0.3, beta = 2.0>(h, b)",
        ["8 a.0 -> b.1"],
    ),
    "Gemm, activations stored transposed": (
        "float[N,3] x | float[3,8] a, float[8,2] b | h = Gemm(x, a) t = Transpose(h) y = Gemm<transA = 1>(t, b)",
        ["8 a.1 -> b.0"],
    ),
    "Gemm, both stored transposed": (
        "float[N,3] x | float[3,8] a, float[2,8] b | "
        "h = Gemm(x, a) t = Transpose(h) y = Gemm<transA = 1, transB = 1>(t, b)",
        ["8 a.1 -> b.1"],
    ),
    "Gemm, weights on the left": (
        "float[N,3] x | float[8,3] a, float[2,8] b | h = Gemm<transB = 1>(a, x) y = Gemm(b, h)",
        ["8 a.0 -> b.1"],
    ),
    "Gemm, a matrix of one row is added": (
        "float[N,3] x | float[3,8] a, float[1,8] p, float[8,2] b | h = Gemm<alpha = 0.5>(x, a, p) y = Gemm(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "Gemm, a number is added": (
        "float[N,3] x | float[3,8] a, float p, float[8,2] b | h = Gemm<beta = 0.5>(x, a, p) y = Gemm(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "Gemm, an activation is added": (
        "float[N,3] x | float[3,8] a, float[3,8] c, float[8,2] b | g = Gemm(x, c) h = Gemm(x, a, g) y = Gemm(h, b)",
        ["8 c.1 a.1 -> b.0"],
    ),
    "MatMul": (
        "float[N,4,3] x | float[3,8] a, float[8,2] b | h = MatMul(x, a) y = MatMul(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "MatMul, weights on the left": (
        "float[N,3,4] x | float[8,3] a, float[2,8] b | h = MatMul(a, x) y = MatMul(b, h)",
        ["8 a.0 -> b.1"],
    ),
    "MatMul, weights with an axis of size 1": (
        "float[N,4,3] x | float[1,3,8] a, float[1,8,2] b | h = MatMul(x, a) y = MatMul(h, b)",
        ["8 a.2 -> b.1"],
    ),
    "MatMul, weights for every head": (
        "float[N,5,4,3] x | float[5,3,8] a, float[5,8,2] b | h = MatMul(x, a) y = MatMul(h, b)",
        ["8 a.2 -> b.1"],
    ),
    "MatMul, heads that are summed": (
        "float[N,1,4,3] x | float[5,3,8] a, float[5,8,2] b, int64[1] k = {1} | "
        "h = MatMul(x, a) g = MatMul(h, b) y = ReduceSum(g, k)",
        ["8 a.2 -> b.1"],
    ),
    "MatMul, a vector on the right": (
        "float[N,4,3] x | float[3,8] a, float[8] b | h = MatMul(x, a) y = MatMul(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "MatMul, a vector on the left": (
        "float[3] x | float[3,8] a, float[8,2] b | h = MatMul(x, a) y = MatMul(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "MatMul, a vector on the left of heads": (
        "float[N,8,3] x | float[6,8] a, float[6] b | h = MatMul(a, x) y = MatMul(b, h)",
        ["6 a.0 -> b.0"],
    ),
    "MatMul, activations with each other": (
        "float[N,4,3] x | float[3,8] a, float[3,8] b, float[3,6] c, float[6,2] d | "
        "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) t = Transpose<perm = [0, 2, 1]>(k) "
        "s = MatMul(q, t) m = MatMul(s, v) y = MatMul(m, d)",
        ["8 a.1 b.1 -> ", "6 c.1 -> d.0"],
    ),
    "MatMul, an activation with itself": (
        "float[N,4,3] x | float[3,8] a | h = MatMul(x, a) t = Transpose<perm = [0, 2, 1]>(h) y = MatMul(h, t)",
        ["8 a.1 -> "],
    ),
    "tied weights": (
        "float[N,4,8] x, float[N,4,8] z | float[8,6] a, float[6,2] b, float[6,3] c | "
        "h = MatMul(x, a) g = MatMul(z, a) f = MatMul(h, b) e = MatMul(g, c) y = Concat<axis = 2>(f, e)",
        ["6 a.1 -> b.0 c.0"],
    ),
    "tied weights, the second time transposed": (
        "float[N,4,8] x | float[8,6] a | h = MatMul(x, a) t = Transpose(a) y = MatMul(h, t)",
        ["6 a.1 -> "],
    ),
}


@pytest.mark.parametrize(("case", "wanted"), CUT.values(), ids=CUT)
def test_what_is_summed_over_is_found_and_cut_exactly(case: str, wanted: list[str]) -> None:
    assert described(assert_cut_is_exact(small_graph(case))) == wanted


KEPT = {
    "an output": (
        "float[N,4,3] x | float[3,8] a | y = MatMul(x, a)",
        "MatMul_0",
        "'y' is an output of the model",
    ),
    "heads that are broadcast": (
        "float[N,1,4,3] x | float[5,3,3] a, float[5,3,2] b, int64[1] k = {1} | "
        "h = MatMul(x, a) s = Softmax(h) g = MatMul(s, b) y = ReduceSum(g, k)",
        "MatMul_0",
        "Softmax 'Softmax_1' takes the softmax over it",
    ),
    "weights that multiply themselves": (
        "float[N,8,8] x | float[8,8] a | h = MatMul(x, a) y = MatMul(h, a)",
        "MatMul_0",
        "'x' is an input of the model",
    ),
}


@pytest.mark.parametrize(("case", "layer", "reason"), KEPT.values(), ids=KEPT)
def test_what_stays_has_a_reason(case: str, layer: str, reason: str) -> None:
    assert frozen(groups(small_graph(case)))[layer] == reason
