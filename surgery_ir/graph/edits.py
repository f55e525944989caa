"""The edit log: what was done to a graph, counted in connections.

A *connection* is one scalar weight on an edge between two units. Pruning a weight removes one; regrowing it
creates one; slicing a channel removes every weight that read or wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Connections", "Edit", "connections", "plasticity"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One mutation of a graph.

    Parameters
    ----------
    kind
        What was done: ``set-weights``, ``fold``, ``remove-node`` …
    pass_name
        The pass that did it.
    where
        Name of the initializer or node concerned.
    pruned, created
        Connections removed and created by this edit.
    """

    kind: str
    pass_name: str
    where: str
    pruned: int = 0
    created: int = 0


@dataclass(frozen=True, slots=True)
class Connections:
    """Totals over an edit log."""

    pruned: int
    created: int


def connections(edits: Iterable[Edit]) -> Connections:
    """Add up the connections that ``edits`` removed and created."""
    pruned = created = 0
    for edit in edits:
        pruned += edit.pruned
        created += edit.created
    return Connections(pruned, created)


def plasticity(edits: Iterable[Edit]) -> float:
    """Network plasticity: connections created / connections pruned, 0 where nothing was pruned."""
    total = connections(edits)
    return total.created / total.pruned if total.pruned else 0.0
