"""What the rule table holds for one operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from surgery_ir.analysis.coupling.relations import Relation
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["OperatorRule"]


def unchanged(site: Site, kept: Kept) -> Change:
    """Say that a cut changes nothing but the values that the operator reads and writes."""
    return Change()


@dataclass(frozen=True, slots=True)
class OperatorRule:
    """How one operator is cut.

    Parameters
    ----------
    couple
        Yields what must be cut together. Axes that are not mentioned are frozen. It may raise
        :class:`~surgery_ir.analysis.coupling.site.NotKnown`.
    resize
        Gives attributes and size operands that a cut changes; values that carry a cut axis are sliced without it.
    """

    couple: Callable[[Site], Iterable[Relation]]
    resize: Callable[[Site, Kept], Change] = unchanged
