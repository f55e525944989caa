"""Graphs with operators at test between two layers, and what the solver says of the units between them."""

from __future__ import annotations

from collections.abc import Iterable

from surgery_ir.analysis.coupling.groups import Coupling, Span
from surgery_ir.graph.model import Graph
from tests.coupling import frozen, groups
from tests.harness import graph

__all__ = ["between_convs", "between_matmuls", "described", "reason_against"]

OPSET = 21


def between_convs(nodes: str, weights: str = "", opset: int = OPSET, *, batch: str = "N", read: int = 8) -> Graph:
    """Put ``nodes`` between two Conv: they read ``h`` (batch, 8, 6, 6) and write ``t`` of ``read`` channels.

    ``weights`` declares further initializers.
    """
    layers = f"float[8,2,1,1] a, float[3,{read},1,1] b"
    return _graph(f"float[{batch},2,6,6] x", layers, weights, f"h = Conv(x, a) {nodes} y = Conv(t, b)", opset)


def between_matmuls(nodes: str, weights: str = "", opset: int = OPSET, *, middle: str = "3,4,") -> Graph:
    """Put ``nodes`` between two MatMul: they read ``h`` (batch, ``middle``, 8) and write ``t`` of 8 columns."""
    layers = "float[5,8] a, float[8,2] b"
    return _graph(f"float[N,{middle}5] x", layers, weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)", opset)


def _graph(inputs: str, layers: str, weights: str, nodes: str, opset: int) -> Graph:
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    initializers = f"{layers}, {weights}" if weights else layers
    return graph(f"{head} g ({inputs}) => (float[] y) <{initializers}> {{ {nodes} }}")


def described(coupling: Coupling) -> list[str]:
    """Every group as ``units written -> read``, axes as ``weight.axis``."""
    return [f"{group.units} {_axes(group.written)} -> {_axes(group.read)}" for group in coupling.groups]


def _axes(spans: Iterable[Span]) -> str:
    return " ".join(f"{span.axis.value}.{span.axis.axis}" for span in spans)


def reason_against(case: Graph) -> str:
    """Reason against cutting what the first layer writes."""
    coupling = groups(case)
    written = [span.axis.value for group in coupling.groups for span in group.written]
    assert "a" not in written, f"can be cut: {described(coupling)}"
    reasons = frozen(coupling)
    return next(reasons[name] for name in ("Conv_0", "MatMul_0") if name in reasons)
