"""The edit log: what was done to a graph, counted in connections.

A *connection* is one scalar weight on an edge between two units. Pruning a weight removes one; regrowing it
creates one; slicing a channel removes every weight that read or wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["Connections", "Edit", "connections", "plasticity", "tally"]


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

    pruned: int = 0
    created: int = 0

    def __add__(self, other: Connections) -> Connections:
        """Add up two totals."""
        return Connections(self.pruned + other.pruned, self.created + other.created)

    def __sub__(self, other: Connections) -> Connections:
        """Give what is left of a total without a part of it."""
        return Connections(self.pruned - other.pruned, self.created - other.created)

    def share(self, created: int) -> float:
        """Give the part of the plasticity that is due to ``created`` of the connections; all parts add up to it."""
        return created / self.pruned if self.pruned else 0.0


def connections(edits: Iterable[Edit]) -> Connections:
    """Add up the connections that ``edits`` removed and created."""
    pruned = created = 0
    for edit in edits:
        pruned += edit.pruned
        created += edit.created
    return Connections(pruned, created)


def tally(edits: Iterable[Edit], key: Callable[[Edit], str]) -> dict[str, Connections]:
    """Add up connections by what ``key`` says of an edit, such as its pass, in the order of first appearance."""
    totals: dict[str, Connections] = {}
    for edit in edits:
        name = key(edit)
        totals[name] = totals.get(name, Connections()) + Connections(edit.pruned, edit.created)
    return totals


def plasticity(edits: Iterable[Edit]) -> float:
    """Network plasticity: connections created / connections pruned, 0 where nothing was pruned."""
    total = connections(edits)
    return total.share(total.created)
