"""Cut channels, heads and neurons: whatever units the model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.units import PruneUnits

__all__ = ["PruneChannels"]


@dataclass(frozen=True)
class PruneChannels(PruneUnits):
    """Remove whole units from every group of coupled axes: channels, attention heads, hidden neurons.

    ``ratio`` is the share that every group loses. ``macs`` or ``params`` is the share of the dense model that stays,
    allocated over the groups where it costs least. The criterion ``obs`` is the error of all layers that read a unit
    after compensation. Every cut is proven against the masked model before the layers are re-solved.
    """

    name: ClassVar[str] = "prune-channels"
    serves: ClassVar[frozenset[str]] = frozenset({"macs", "latency", "params", "size"})

    def owns(self, graph: Graph, group: Group) -> bool:
        return True
