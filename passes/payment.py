"""Pay for operators that were added with the units that are missed least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.analysis.coupling.products import evaluate, macs_polynomial
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.coupled import whole
from surgery_ir.passes.prune.units import PruneUnits

__all__ = ["macs_of", "pay_macs"]

ALIGNED = 4
"""Widths stay multiples of this, where they can: others cost time that no count of multiplications shows."""


@dataclass(frozen=True)
class _Payment(PruneUnits):
    """Cuts units of whatever kind."""

    name: ClassVar[str] = "payment"

    def owns(self, graph: Graph, group: Group) -> bool:
        """Take every group."""
        return True


def macs_of(graph: Graph, ctx: PassContext) -> float:
    """Multiply-accumulates of a graph for a batch, as far as they are known."""
    return evaluate(macs_polynomial(graph, whole(graph, ctx)), ())


def pay_macs(editor: Editor, ctx: PassContext, limit: float) -> Sequence[Refusal]:
    """Cut units until the graph has no more than ``limit`` multiply-accumulates; weights are not re-solved.

    Raises
    ------
    PassError
        There are not enough units to cut.
    """
    if macs_of(editor.graph, ctx) <= limit:
        return []
    share = limit / macs_of(ctx.reference, ctx)
    return _Payment(macs=share, multiple=ALIGNED, compensate=False).apply(editor, ctx)
