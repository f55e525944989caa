"""Models that a pass cannot work on come through untouched, with a list of reasons."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.passes.base import run_pass
from surgery_ir.passes.spec import create
from tests.harness import graph
from tests.passes.catalogue import NAMES, REQUIRED, context, snapshot

pytestmark = pytest.mark.usefixtures("plugin_installed")

NOTHING = {
    "no node": "g (float[N,3] x) => (float[N,3] x) {}",
    "no weights": "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }",
    "control flow": """
        g (float[N,3] x) => (float[N,3] y) <float[3,3] w> {
            s = ReduceSum<keepdims=0>(x)
            c = IsNaN(s)
            y = If(c) <
                then_branch = t () => (float[N,3] p) { p = MatMul(x, w) },
                else_branch = e () => (float[N,3] q) { r = Relu(x) q = MatMul(r, w) }
            >
        }
    """,
    "loop": """
        g (float[2,3] x) => (float[2,3] y) <int64 n, bool c, float[3,3] w> {
            y = Loop(n, c, x) <body = b (int64 i, bool go, float[2,3] v) => (bool more, float[2,3] u) {
                more = Identity(go)
                u = MatMul(v, w)
            }>
        }
    """,
    "lstm": """
        g (float[7,N,3] x) => (float[1,N,5] y) <float[1,20,3] w, float[1,20,5] r, float[1,40] b> {
            , y = LSTM<hidden_size=5>(x, w, r, b)
        }
    """,
    "int8": """
        g (uint8[N,4,6] x) => (int32[N,3,6] y) <uint8[4,4,1] w, uint8[3,4] v> {
            a = ConvInteger(x, w)
            b = Cast<to=2>(a)
            y = MatMulInteger(v, b)
        }
    """,
    "qdq": """
        g (float[N,4] x) => (float[N,3] y) <int8[4,3] w, float s, int8 z> {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            e = DequantizeLinear(w, s, z)
            y = MatMul(d, e)
        }
    """,
    "foreign": """
        <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> { y = com.microsoft.FusedGemm(x, w, b) }
    """,
}
GIVEN = {"loop": {"n": np.array(3), "c": np.array(True)}, "qdq": {"s": np.array(0.1), "z": np.array(0)}}
WEIGHTED = {
    "control flow": "If",
    "loop": "Loop",
    "lstm": "LSTM",
    "int8": "ConvInteger",
    "qdq": "MatMul",
    "foreign": "FusedGemm",
}


ABLE = {("prune-channels", "int8")}
"""Quantised weights are sliced like others."""


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in NAMES for k in NOTHING if (n, k) not in ABLE])
def test_what_cannot_be_worked_on_comes_through_untouched_with_reasons(name: str, kind: str) -> None:
    found = graph(NOTHING[kind], GIVEN.get(kind, {}))
    before = snapshot(found)
    outcome = run_pass(create(name, REQUIRED.get(name, {})), found, context(found))
    assert outcome.edits == ()
    assert outcome.graph is found
    assert snapshot(found) == before
    assert outcome.refusals
    assert all(refusal.reason and refusal.pass_name == name for refusal in outcome.refusals)


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("name", ["prune-weights", "repair", "round-weights"])
def test_operators_whose_weights_are_left_alone_are_named(name: str, kind: str) -> None:
    found = graph(NOTHING[kind], GIVEN.get(kind, {}))
    outcome = run_pass(create(name, {}), found, context(found))
    named = {node for refusal in outcome.refusals for node in refusal.nodes}
    assert {found.node(node).op_type for node in named} >= {WEIGHTED[kind]}
