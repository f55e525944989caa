"""How strong a pass is: the one option that says how much it removes, as a gene.

That option is ``ratio``, the share that goes, or one that is called after a quantity (``macs``, ``params``,
``latency``), the share of the dense model's that stays. Either way the gene is logarithmic in what is kept: from 90 to
95 % of zeros is as far as from 80 to 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Option, Range, options_of
from surgery_ir.passes.spec import plain_options
from surgery_ir.search.genes import Gene, OptionGene, numeric_gene, numeric_grid
from surgery_ir.search.goal import Quantity

__all__ = ["BUDGETS", "DIGITS", "RATIO", "RATIOS", "Strength", "strength_of"]

RATIO, RATIOS = "ratio", "ratios"

BUDGETS = frozenset(get_args(Quantity))
"""Names of options that are the share of a quantity that stays."""

DIGITS = 4

START = {True: 0.3, False: 0.5}
"""Strength that a search starts at, by whether the option is the share that stays: units are harder to spare."""

EARLY = 0.7
"""Share that the rounds before the last one keep until the search knows better."""


@dataclass(frozen=True)
class Strength:
    """Translates between a gene and the option of a pass that says how strong it is.

    Gene 0 is the end of the search range where most is kept, gene 1 the other one.

    Parameters
    ----------
    option
        The option.
    keeps
        Whether it is the share that stays, rather than the one that goes.
    """

    option: Option
    keeps: bool

    @property
    def name(self) -> str:
        """Name of the option."""
        return self.option.name

    @property
    def span(self) -> Range:
        """Valid values, and the part of them that is searched."""
        assert self.option.range is not None
        return self.option.range

    @property
    def start(self) -> float:
        """Gene that a search starts at."""
        return START[self.keeps]

    def value(self, gene: float) -> float:
        """Value of the option for a gene."""
        most, least = self._ends()
        return round(float(self._share(most * (least / most) ** gene)), DIGITS)

    def gene(self, value: float) -> float:
        """Gene for a value, clipped to the range that is searched."""
        most, least = self._ends()
        return float(np.clip(math.log(max(self._share(value), 1e-9) / most) / math.log(least / most), 0.0, 1.0))

    def early(self, value: float, goal: float) -> float:
        """Value of a round before the last: ``value`` as one of the coarse steps, never beyond ``goal``."""
        least = max(self._share(value), self._share(goal))
        steps = [step for step in numeric_grid(self.span, whole=False) if self._share(step) >= least]
        return min(steps, key=self._share, default=goal)

    def early_gene(self, prefix: str) -> OptionGene:
        """Make the gene that sets the option in a round before the last."""
        default = self._share(EARLY) if self.option.default is None else self.option.default
        return numeric_gene(self.option, f"{prefix}.{self.name}", default)

    def strength_gene(self, prefix: str) -> Gene:
        """Make the gene of the last round, which all rounds follow."""
        return Gene(f"{prefix}/strength", self.start, 0.1)

    def _share(self, value: float) -> float:
        """Share that is kept at a value, or the value at which a share is kept."""
        return value if self.keeps else 1.0 - value

    def _ends(self) -> tuple[float, float]:
        assert self.span.search is not None
        least, most = sorted(map(self._share, self.span.search))
        return most, max(least, 1e-3)


def strength_of(template: Pass, prefer: Sequence[str] = ()) -> Strength | None:
    """Give the option that a search turns to make a pass stronger.

    Parameters
    ----------
    template
        The pass. Where an option that is not at its default says how strong it is, nothing is left to turn.
    prefer
        Options to be taken first, of those that the pass has; then comes ``ratio``, then any other.
    """
    fixed = plain_options(template).keys()
    options = {option.name: option for option in options_of(type(template)) if _ranges(option)}
    shares = [name for name in options if name in BUDGETS]
    if fixed & {RATIO, *shares}:
        return None
    ordered = [*(name for name in prefer if name in shares), RATIO, *shares]
    chosen = next((name for name in ordered if name in options), None)
    if chosen is None or (chosen == RATIO and RATIOS in fixed):
        return None
    return Strength(options[chosen], keeps=chosen != RATIO)


def _ranges(option: Option) -> bool:
    """Whether an option is a number with a range that is searched."""
    return option.kind == "float" and option.range is not None and option.range.search is not None
