"""Cut attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.kinds import is_heads
from surgery_ir.passes.prune.units import PruneUnits

__all__ = ["PruneHeads"]


@dataclass(frozen=True)
class PruneHeads(PruneUnits):
    """Remove attention heads with all that belongs to them, and nothing else.

    A head takes its rows of the query, key and value weights and its columns of the output weights along; heads that
    share keys and values go together. Options as of ``prune-channels``.
    """

    name: ClassVar[str] = "prune-heads"

    def owns(self, graph: Graph, group: Group) -> bool:
        return is_heads(graph, group)
