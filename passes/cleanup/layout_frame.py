"""Orders of axes: how the axes of an operator's inputs and outputs belong together, and what reordering them does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from surgery_ir.graph.editor import Editor

__all__ = ["Frame", "Operand", "Order", "Rewrite", "compose", "identity", "inverse", "plain"]

Order = tuple[int, ...]
"""Axes in a new order: position ``i`` holds what was axis ``order[i]``, as in ``perm`` of a Transpose."""

Operand = tuple[str, int]
"""``("in", index)`` or ``("out", index)``."""

Run = tuple[int, ...]

Rewrite = Callable[[Editor, ir.Node, Order], None]


def identity(rank: int) -> Order:
    """Order that changes nothing."""
    return tuple(range(rank))


def compose(first: Order, second: Sequence[int]) -> Order:
    """Order that two Transposes in a row amount to."""
    return tuple(first[axis] for axis in second)


def inverse(order: Order) -> Order:
    """Order that undoes ``order``."""
    places = {axis: place for place, axis in enumerate(order)}
    return tuple(places[axis] for axis in range(len(order)))


def plain(axes: Sequence[int]) -> tuple[Run, ...]:
    """Give runs of one axis each."""
    return tuple((axis,) for axis in axes)


def _keep(editor: Editor, node: ir.Node, order: Order) -> None:
    """Nothing about an operator that works element by element says where its axes are."""


@dataclass(frozen=True)
class Frame:
    """Axes of an operator, numbered in an order in which they may lie, and its operands written in them.

    An operator that computes the same when its operands are transposed alike is free to change the order of its axes.
    Where it merges or splits axes (Reshape), the finest are numbered, and an axis of an operand is a run of those.

    Parameters
    ----------
    rank
        Number of axes.
    operands
        Runs of axes that each operand has, in its order. An input that is not listed does not take part: a constant
        that ``rewrite`` adapts, or one that stays as it is.
    pinned
        Axes that must keep their places.
    rewrite
        Adapts the operator's attributes and constants to a new order.
    """

    rank: int
    operands: Mapping[Operand, tuple[Run, ...]]
    pinned: frozenset[int] = frozenset()
    rewrite: Rewrite = field(default=_keep)

    def admits(self, order: Order) -> bool:
        """Whether the axes may lie in ``order``: pinned ones in their places, runs together."""
        if any(order[axis] != axis for axis in self.pinned):
            return False
        place = inverse(order)
        return all(
            place[after] == place[before] + 1
            for runs in self.operands.values()
            for run in runs
            for before, after in itertools.pairwise(run)
        )

    def project(self, operand: Operand, order: Order) -> Order:
        """Give the order in which the axes of ``operand`` lie where those of the operator lie in ``order``."""
        runs = self.operands[operand]
        place = inverse(order)
        return tuple(sorted(range(len(runs)), key=lambda index: place[runs[index][0]]))

    def lift(self, operand: Operand, order: Order) -> Order | None:
        """Give an admissible order of all axes in which those of ``operand`` lie in ``order``, or ``None``.

        Axes that the operand lacks stay in their places.
        """
        runs = self.operands[operand]
        axes = [axis for index in order for axis in runs[index]]
        lifted = list(range(self.rank))
        for place, axis in zip(sorted(axes), axes, strict=True):
            lifted[place] = axis
        found = tuple(lifted)
        return found if self.admits(found) and self.project(operand, found) == order else None
