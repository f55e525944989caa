"""Genes: numbers in [0, 1], and what options of passes become of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from surgery_ir.passes.options import Option, Range, Value, options_of

__all__ = ["GRID", "Gene", "OptionGene", "bin_centre", "bin_of", "numeric_gene", "numeric_grid", "option_genes"]

GRID = 8
"""Steps of a numeric option. Coarse, so that candidates share prefixes; none of them is worth finer ones."""

LOG_FROM = 20.0
"""Ranges whose ends differ by this factor are searched on a logarithmic scale."""

NO_TEXTS: Mapping[str, Sequence[str]] = MappingProxyType({})

OFF_CENTRE = 2.6
"""A discrete gene's spread is its bin's half width over this: it leaves the bin about once in 100 draws."""


@dataclass(frozen=True, slots=True)
class Gene:
    """One coordinate of a genome.

    Parameters
    ----------
    name
        Stable name, under which a policy remembers it: ``prune-weights/strength``.
    default
        Where a search starts, in [0, 1].
    spread
        Standard deviation of the first proposals.
    bins
        Number of equal bins of a discrete gene; 0 where it is continuous.
    """

    name: str
    default: float
    spread: float
    bins: int = 0

    @classmethod
    def discrete(cls, name: str, index: int, bins: int) -> Gene:
        """Make a gene with ``bins`` values that starts at value ``index``."""
        return cls(name, bin_centre(index, bins), 0.5 / bins / OFF_CENTRE, bins)


def bin_of(gene: float, bins: int) -> int:
    """Give the bin, from 0, that a gene lies in."""
    return min(int(gene * bins), bins - 1)


def bin_centre(index: int, bins: int) -> float:
    """Give the middle of a bin."""
    return (index + 0.5) / bins


@dataclass(frozen=True, slots=True)
class OptionGene:
    """A gene that sets one option of a pass."""

    gene: Gene
    option: Option
    values: tuple[Value | None, ...]

    def decode(self, gene: float) -> Value | None:
        """Give the option's value."""
        if self.gene.bins:
            return self.values[bin_of(gene, self.gene.bins)]
        return self.values[round(gene * GRID)]

    def encode(self, value: object) -> float:
        """Give the gene whose value is nearest to ``value``."""
        if self.gene.bins:
            return bin_centre(_index(self.values, value), self.gene.bins)
        return _nearest(self.values, value) / GRID


def option_genes(
    cls: type, prefix: str, fixed: Collection[str] = (), texts: Mapping[str, Sequence[str]] = NO_TEXTS
) -> tuple[OptionGene, ...]:
    """Make genes for the options of a pass that are worth searching.

    These are choices, flags, numbers with a search range, and texts that values are given for. Maps, and numbers
    without a range or a default keep their value, and so do choices that a search does not try.

    Parameters
    ----------
    cls
        Class of the pass.
    prefix
        Ahead of the option in the gene's name.
    fixed
        Options that are not searched.
    texts
        What to try for options that are texts, by name, besides their default.
    """
    return tuple(
        made
        for option in options_of(cls)
        if option.name not in fixed and (made := _gene(option, f"{prefix}.{option.name}", texts)) is not None
    )


def _gene(option: Option, name: str, texts: Mapping[str, Sequence[str]]) -> OptionGene | None:
    if option.kind == "str" and option.name in texts and option.default is not None:
        tried = tuple(dict.fromkeys((option.default, *texts[option.name])))
        return OptionGene(Gene.discrete(name, 0, len(tried)), option, tried) if len(tried) > 1 else None
    if option.kind in ("bool", "choice"):
        values: tuple[Value | None, ...] = (False, True) if option.kind == "bool" else option.searched
        values = (None, *values) if option.optional else values
        return OptionGene(Gene.discrete(name, _index(values, option.default), len(values)), option, values)
    searched = option.kind in ("int", "float") and option.range is not None and option.range.search is not None
    return numeric_gene(option, name, option.default) if searched and option.default is not None else None


def numeric_gene(option: Option, name: str, default: Value) -> OptionGene:
    """Make a gene for a number with a search range, which starts at the value nearest to ``default``."""
    assert option.range is not None
    grid = numeric_grid(option.range, whole=option.kind == "int")
    return OptionGene(Gene(name, _nearest(grid, default) / GRID, 0.5 / GRID / OFF_CENTRE), option, grid)


def numeric_grid(span: Range, whole: bool) -> tuple[float, ...]:
    """Values of a numeric option: ``GRID + 1`` of them over its search range, rounded to three digits."""
    assert span.search is not None
    low, high = span.search
    steps = [index / GRID for index in range(GRID + 1)]
    if low > 0 and high / low >= LOG_FROM:
        values = [low * (high / low) ** step for step in steps]
    else:
        values = [low + (high - low) * step for step in steps]
    if whole:
        return tuple(round(value) for value in values)
    return tuple(min(max(_three_digits(value), span.low), span.high) for value in values)


def _three_digits(value: float) -> float:
    return round(value, 2 - math.floor(math.log10(abs(value)))) if value else 0.0


def _index(values: Sequence[Value | None], value: object) -> int:
    return next((index for index, item in enumerate(values) if item == value), 0)


def _nearest(grid: Sequence[Value | None], value: object) -> int:
    number = float(value) if isinstance(value, int | float) else 0.0
    distances = [abs(float(item) - number) for item in grid if isinstance(item, int | float)]
    return distances.index(min(distances))
