"""What a rule says about the axes of one operator.

An index of an axis that two relations connect, directly or through others, is cut everywhere or nowhere. An axis that
its operator's rule does not mention cannot be cut at all, so a rule that forgets something is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Choice", "Free", "Frozen", "Indices", "Mapped", "Relation", "Same"]

Indices = NDArray[np.intp]


class Axis(NamedTuple):
    """One axis of one value.

    ``use`` is empty, or names the operator and input for which a small constant that several operators read counts
    as a copy of its own.
    """

    value: str
    axis: int
    use: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Same:
    """Index i of ``one`` is index i of ``other``; ``contracted`` where the operator sums the products over it."""

    one: Axis
    other: Axis
    contracted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """Index ``one_index[k]`` of ``one`` belongs to index ``other_index[k]`` of ``other``, for every k."""

    one: Axis
    one_index: Indices
    other: Axis
    other_index: Indices
    contracted: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """``axis`` may be cut as far as this operator is concerned."""

    axis: Axis


@dataclass(frozen=True, slots=True)
class Frozen:
    """``axis`` cannot be cut; ``reason`` is a clause that says what the operator does along it."""

    axis: Axis
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Ways in which the operator can be cut, of which one must be taken; best first.

    Axes that the chosen alternative does not mention are frozen for ``reason``. Choices of the same ``signature``
    that touch each other are decided alike.
    """

    alternatives: tuple[tuple[Same | Mapped | Free, ...], ...]
    signature: str
    reason: str


Relation = Same | Mapped | Free | Frozen | Choice
