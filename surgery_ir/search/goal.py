"""What a search is asked for: what to minimise, how much the metric may drop, and hard targets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from surgery_ir.errors import SpecError

__all__ = ["Goal", "Minimize", "Quantity", "Target"]

Minimize = Literal["latency", "macs", "size", "nonzeros"]
"""What a search can minimise. ``size`` is bytes on disk."""

Quantity = Literal["latency", "macs", "size", "nonzeros", "params", "plasticity"]
"""What a target can bound. All but ``plasticity`` are shares of the baseline's value."""

Relation = Literal["<=", ">="]

SYNTAX = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\w]+)\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class Target:
    """A hard bound on one quantity of the compressed model.

    Parameters
    ----------
    quantity
        What is bounded.
    relation
        ``<=`` or ``>=``.
    value
        The bound: a share of the baseline's value, or, for ``plasticity``, the value itself.

    Raises
    ------
    SpecError
        There is no such quantity or relation, or the bound is negative or no number.
    """

    quantity: Quantity
    relation: Relation
    value: float

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            known = ", ".join(get_args(Quantity))
            raise SpecError(f"target {str(self)!r}: there is no quantity {self.quantity!r} (quantities: {known})")
        if self.relation not in get_args(Relation):
            raise SpecError(f"target {str(self)!r}: the relation must be <= or >=")
        if not math.isfinite(self.value) or self.value < 0:
            raise SpecError(f"target {str(self)!r}: the bound must be a number from 0")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target such as ``macs<=0.5``, ``size<=40%`` or ``plasticity>=0.05``.

        Raises
        ------
        SpecError
            The text is no target.
        """
        found = SYNTAX.fullmatch(text)
        if found is None:
            raise SpecError(f"target {text!r}: write it as quantity<=share, e.g. 'macs<=0.5'")
        quantity, relation, number, percent = found.groups()
        try:
            value = float(number)
        except ValueError:
            raise SpecError(f"target {text!r}: {number!r} is not a number") from None
        return cls(quantity, relation, value / 100 if percent else value)  # type: ignore[arg-type] # checked above

    @property
    def relative(self) -> bool:
        """Whether the bound is a share of the baseline's value."""
        return self.quantity != "plasticity"

    def excess(self, value: float) -> float:
        """How far ``value`` is beyond the bound, relative to it; 0 where the target is met."""
        beyond = value - self.value if self.relation == "<=" else self.value - value
        if math.isnan(beyond):
            return math.inf
        return max(beyond, 0.0) / max(abs(self.value), 1e-9)

    def __str__(self) -> str:
        return f"{self.quantity}{self.relation}{self.value:g}"


@dataclass(frozen=True)
class Goal:
    """What a search minimises, and under which constraints.

    Parameters
    ----------
    minimize
        The quantity to minimise.
    max_drop
        How much the metric may drop below the baseline's, in the metric's own unit (0.01 = one point of accuracy).
    targets
        Hard bounds; those in text form are read. One on ``plasticity`` makes it an objective of the Pareto front too;
        everywhere else it tells apart candidates that are equal.

    Raises
    ------
    SpecError
        A value is not valid.

    Notes
    -----
    The drop is measured on selection data, on which the candidates are chosen, while the promise is about data that
    nobody has seen. A candidate therefore counts as feasible only where its drop *plus one standard error* of the
    paired difference between candidate and baseline (:func:`surgery_ir.backends.evaluate.difference`) is at most
    ``max_drop``. A candidate whose true drop is just ``max_drop`` passes by luck one time in six; so few samples mean
    a wide margin and a cautious result, not a broken promise.
    """

    minimize: Minimize = "nonzeros"
    max_drop: float = 0.01
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        if self.minimize not in get_args(Minimize):
            known = ", ".join(get_args(Minimize))
            raise SpecError(f"cannot minimise {self.minimize!r} (choose from {known})")
        if not math.isfinite(self.max_drop) or self.max_drop < 0:
            raise SpecError(f"max_drop must be a number from 0, not {self.max_drop!r}")
        given: object = self.targets
        items: Iterable[object] = given if isinstance(given, list | tuple) else (given,)
        parsed = tuple(item if isinstance(item, Target) else Target.parse(str(item)) for item in items)
        object.__setattr__(self, "targets", parsed)

    @property
    def needs_latency(self) -> bool:
        """Whether candidates must be timed."""
        return self.minimize == "latency" or any(target.quantity == "latency" for target in self.targets)

    def excesses(self, quantities: Mapping[str, float], drop: float = 0.0) -> tuple[float, ...]:
        """How far each constraint is exceeded, the drop first; all 0 where a candidate is feasible.

        Parameters
        ----------
        quantities
            Shares of the baseline by quantity, and ``plasticity``. What is missing is not judged.
        drop
            Drop of the metric, margin included.
        """
        beyond = max(drop - self.max_drop, 0.0) / max(self.max_drop, 1e-3)
        known = [target for target in self.targets if target.quantity in quantities]
        return (beyond, *(target.excess(quantities[target.quantity]) for target in known))

    def overdone(self, quantities: Mapping[str, float], drop: float) -> bool:
        """Whether less is left than may be: the metric drops by more than it may, or a target asks to keep more.

        A target that asks to keep less is met by cutting more, so missing it says nothing here.
        """
        kept = [target for target in self.targets if target.relation == ">=" and target.quantity in quantities]
        lacking = any(target.relative and target.excess(quantities[target.quantity]) for target in kept)
        return drop > self.max_drop or lacking

    def __str__(self) -> str:
        parts = [f"minimize {self.minimize}", f"drop<={self.max_drop:g}", *map(str, self.targets)]
        return ", ".join(parts)
