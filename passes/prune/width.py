"""Cut the hidden width of feed-forward blocks and recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.kinds import is_width
from surgery_ir.passes.prune.units import PruneUnits

__all__ = ["PruneWidth"]


@dataclass(frozen=True)
class PruneWidth(PruneUnits):
    """Remove hidden neurons between matrix products, and hidden units of LSTM, GRU and RNN, and nothing else.

    Options as of ``prune-channels``.
    """

    name: ClassVar[str] = "prune-width"

    def owns(self, graph: Graph, group: Group) -> bool:
        return is_width(graph, group)
