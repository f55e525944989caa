"""Operators that hold weights and are no layers: each is named, with a reason."""

from __future__ import annotations

import pytest

from surgery_ir.analysis.layers import find_layers
from tests.harness import graph, small_graph

REASONS = {
    "operator acme.Dense has no rule": [
        "float[N,6] x | float[6,5] w | y = acme.Dense(x, w)",
    ],
    "operator ConvTranspose has no rule": [
        "float[N,6,8] x | float[6,5,3] w | y = ConvTranspose(x, w)",
    ],
    "operator LSTM has no rule": [
        "float[7,N,3] x | float[1,20,3] w, float[1,20,5] r | y = LSTM<hidden_size=5>(x, w, r)",
    ],
    "operator ConvInteger has no rule": [
        "uint8[N,3,8] x | uint8[4,3,1] w | y = ConvInteger(x, w)",
    ],
    "its weights are quantised": [
        "float[N,6] x | int8[6,5] w, float s, int8 z | d = DequantizeLinear(w, s, z) y = MatMul(x, d)",
        "float[N,6] x | int8[5,6] w, float s, int8 z | d = DequantizeLinear(w, s, z) t = Transpose(d) y = MatMul(x, t)",
    ],
    "its weights are computed from constants: run canonicalize first": [
        "float[N,6] x | float[5,6] w | t = Transpose(w) y = MatMul(x, t)",
    ],
    "both operands are constant: run canonicalize first": [
        "float[5] x | float[2,3] v, float[3,5] w | m = MatMul(v, w) y = Add(m, x)",
    ],
    "its weights are computed by other operators": [
        "float[N,3,8] x, float[4,3,1] k | float b | y = Conv(x, k)",
        "float[4,3,1] k | float[1,3,8] w | y = Conv(w, k)",
    ],
    "its bias is not a constant of its own": [
        "float[N,3,8] x, float[4] z | float[4,3,1] w | y = Conv(x, w, z)",
    ],
    "its third input is not a bias of its own": [
        "float[N,6] x, float[5] z | float[6,5] w | y = Gemm(x, w, z)",
        "float[2,6] x | float[6,5] w, float[2,5] b | y = Gemm(x, w, b)",
    ],
    "a Gemm with its weights on the left or a transposed input has no rule": [
        "float[6,N] x | float[5,6] w | y = Gemm(w, x)",
        "float[6,N] x | float[6,5] w | y = Gemm<transA=1>(x, w)",
    ],
    "its alpha is 0: its weights have no effect": [
        "float[N,6] x | float[6,5] w | y = Gemm<alpha=0.0>(x, w)",
    ],
    "its beta is 0: its bias has no effect": [
        "float[N,6] x | float[6,5] w, float[5] b | y = Gemm<beta=0.0>(x, w, b)",
    ],
    "its weights have 3 axes; only matrices have a rule": [
        "float[N,2,7,6] x | float[2,6,5] w | y = MatMul(x, w)",
    ],
    "its weights have 1 axes; only matrices have a rule": [
        "float[N,7,6] x | float[6] w | y = MatMul(x, w)",
    ],
    "its weights are INT32, not floating point": [
        "int32[N,6] x | int32[6,5] w | y = MatMul(x, w)",
    ],
    "its weights are also read by Mul 'Mul_1'": [
        "float[N,6] x | float[6,6] w | m = MatMul(x, w) y = Mul(m, w)",
    ],
    "its weights are also read by MatMul 'MatMul_1'": [
        "float[6,6] x | float[6,6] w | m = MatMul(x, w) y = MatMul(w, m)",
    ],
}


@pytest.mark.parametrize(("reason", "case"), [(reason, case) for reason, cases in REASONS.items() for case in cases])
def test_operators_with_weights_that_are_no_layers_say_why(reason: str, case: str) -> None:
    found = find_layers(small_graph(case))
    assert len(found) == 0
    assert found.skipped[0].reason == reason


def test_weights_that_are_an_output() -> None:
    found = find_layers(graph("g (float[N,6] x) => (float[N,5] y, float[6,5] w) <float[6,5] w> { y = MatMul(x, w) }"))
    assert [item.reason for item in found.skipped] == ["its weights are an output of the graph"]


def test_weights_that_a_caller_may_override_are_no_constants() -> None:
    text = "g (float[N,6] x, float[6,5] w) => (float[N,5] y) <float[6,5] w> { y = MatMul(x, w) }"
    assert len(find_layers(graph(text))) == 0
    assert len(find_layers(graph(f'<ir_version: 3, opset_import: ["" : 11]> {text}'))) == 1


@pytest.mark.parametrize("shared", ["y = Conv(a, v, b)", "y = Mul(a, b)"])
def test_a_bias_that_others_read_is_not_touched(shared: str) -> None:
    found = find_layers(
        graph(f"""
        g (float[1,4,4] x) => (float[1,4,4] y) <float[4,4,1] w, float[4,4,1] v, float[4] b> {{
            a = Conv(x, w, b)
            {shared}
        }}
    """)
    )
    assert {item.reason for item in found.skipped} == {"its bias is not a constant of its own"}
    assert len(found) == 0


def test_subgraphs_are_left_alone() -> None:
    found = find_layers(
        graph("""
        g (float[N,6] x, bool c) => (float[N,6] y) <float[6,6] w, float[6,6] v> {
            y = If(c) <
                then_branch = t () => (float[N,6] p) { a = MatMul(x, w) p = MatMul(a, v) },
                else_branch = e () => (float[N,6] q) { q = MatMul(x, v) }
            >
        }
    """)
    )
    assert len(found) == 0
    (skipped,) = found.skipped
    assert (skipped.name, skipped.op_type) == ("If_0", "If")
    assert skipped.reason == "its subgraph holds 3 operators with weights; subgraphs are left alone"


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }",
        "g (float[N,6,7] x, float[N,7,5] z) => (float[N,6,5] y) { y = MatMul(x, z) }",
        "g (float[N,6] x) => (float[N,6] y) <float[6] s> { y = Mul(x, s) }",
        """
        g (float[N,6] x, bool c) => (float[N,6] y) {
            y = If(c) <
                then_branch = t () => (float[N,6] p) { p = Exp(x) },
                else_branch = e () => (float[N,6] q) { q = Neg(x) }
            >
        }
        """,
    ],
)
def test_operators_without_weights_are_not_mentioned(text: str) -> None:
    found = find_layers(graph(text))
    assert (found.layers, found.skipped) == ((), ())
