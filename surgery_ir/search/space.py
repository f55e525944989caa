"""The space of compression profiles: a flat genome in [0, 1] and the passes it stands for.

Passes from a pool may be applied in several *rounds* (prune, repair, prune, repair). Every pass of every round is a
slot with a gene for whether it runs, one for its place in the order, and one for each option worth searching. A pass
that has a ``ratio`` and a map ``ratios`` has a *strength* besides: one gene for how much it removes in the end, and
one for each unit's deviation from that (:mod:`surgery_ir.search.allocation`); a choice ``allocation`` of such a pass
says how it spreads the ratio by itself. Rounds before the last go part of the
way, in coarse steps, so that candidates share them.

The space knows passes only by the options they declare, so a new pass needs no word here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import options_of
from surgery_ir.passes.spec import format_pass, plain_options
from surgery_ir.search.allocation import Allocation
from surgery_ir.search.genes import Gene, OptionGene, bin_centre, bin_of, numeric_grid, option_genes

__all__ = ["Genome", "Space", "Units"]

Genome = NDArray[np.float64]
"""One number in [0, 1] for each gene of a space."""

Units = Callable[[Pass], Mapping[str, int]]
"""Tells what the ``ratios`` of a pass may name, and how many weights each holds."""

RATIO, RATIOS, ALLOCATION = "ratio", "ratios", "allocation"
SWAP = 0.3
"""Spread of an order gene in units of the distance between neighbours: they swap about once in 100 draws."""


@dataclass(frozen=True)
class Entry:
    """A pass of the pool: its options as given are fixed, the others are searched."""

    key: str
    template: Pass
    fixed: Mapping[str, object]
    allocation: Allocation | None


@dataclass(frozen=True)
class Slot:
    """A pass of one round; round 1 is the last one."""

    entry: Entry
    round: int
    name: str
    options: tuple[OptionGene, ...]


class Space:
    """Decodes genomes to passes and encodes passes as genomes.

    Parameters
    ----------
    pool
        Passes in their natural order. Options that are not at their default are kept as they are.
    prologue
        Passes that always come first, and are not searched.
    units
        Units of a pass that has ``ratios``.
    rounds
        How often a pass may be applied.
    """

    def __init__(
        self,
        pool: Sequence[Pass],
        prologue: Sequence[Pass] = (),
        units: Units = lambda _: {},
        rounds: int = 2,
    ) -> None:
        self.prologue = tuple(prologue)
        self.entries = tuple(_entries(pool, units))
        self.slots = tuple(
            Slot(entry, number, f"{entry.key}#{number}", _slot_options(entry, number))
            for number in range(rounds, 0, -1)
            for entry in self.entries
        )
        self.genes = tuple(self._genes())
        self.index = {gene.name: index for index, gene in enumerate(self.genes)}

    def __len__(self) -> int:
        return len(self.genes)

    def _genes(self) -> Iterator[Gene]:
        for place, slot in enumerate(self.slots):
            yield Gene.discrete(f"{slot.name}/on", int(slot.round == 1), 2)
            yield Gene(f"{slot.name}/order", (place + 0.5) / len(self.slots), SWAP / len(self.slots))
            for item in slot.options:
                yield item.gene
        for entry in self.entries:
            if entry.allocation is not None:
                yield Gene(f"{entry.key}/strength", 0.5, 0.1)
                for unit in entry.allocation.units:
                    yield Gene(f"{entry.key}/deviation[{unit}]", 0.5, 0.06)

    @cached_property
    def default(self) -> Genome:
        """Where a search starts: one round, in natural order, options at their defaults, strength in the middle."""
        return np.array([gene.default for gene in self.genes], dtype=np.float64)

    @cached_property
    def continuous(self) -> NDArray[np.bool_]:
        """Which genes are worth a gradient: deviations. Strength is set by the edge of feasibility."""
        return np.array(["/deviation[" in gene.name for gene in self.genes], dtype=np.bool_)

    def strengths(self, genome: Genome) -> NDArray[np.intp]:
        """Indices of the strength genes that matter: those of passes that run."""
        keys = {slot.entry.key for slot in self.slots if self._runs(slot, genome)}
        names = (f"{entry.key}/strength" for entry in self.entries if entry.allocation and entry.key in keys)
        return np.array([self.index[name] for name in names], dtype=np.intp)

    def shifted(self, genome: Genome, shift: float) -> Genome:
        """Make a genome stronger (or weaker, where ``shift`` is negative) in every pass that has a strength."""
        moved = genome.copy()
        which = self.strengths(genome)
        moved[which] = np.clip(moved[which] + shift, 0.0, 1.0)
        return moved

    def structure(self, genome: Genome) -> str:
        """Which passes a genome runs, in which order and with which choices: all but its numbers, as a key."""
        parts = []
        for slot in self._active(genome):
            discrete = [item for item in slot.options if item.gene.bins]
            choices = [item.decode(float(genome[self.index[item.gene.name]])) for item in discrete]
            parts.append(f"{slot.name}{choices}")
        return ",".join(parts)

    def decode(self, genome: Genome) -> tuple[Pass, ...]:
        """Give the passes that a genome stands for. Every genome stands for some; what is not finite counts as 0.5."""
        genome = np.clip(np.nan_to_num(genome, nan=0.5, posinf=1.0, neginf=0.0), 0.0, 1.0)
        active = self._active(genome)
        last = {slot.entry.key: place for place, slot in enumerate(active)}
        passes = [self._decode(slot, genome, final=last[slot.entry.key] == place) for place, slot in enumerate(active)]
        return (*self.prologue, *passes)

    def encode(self, passes: Sequence[Pass]) -> Genome:
        """Give the genome that is nearest to ``passes``; what a genome was decoded to comes back unchanged.

        Passes that are not in the pool, and applications beyond the rounds, have no place and are left out. Where a
        pass fits two entries of the pool, the one that fixes more options has it.
        """
        genome = self.default.copy()
        placed = list(self._place(passes[len(self.prologue) :] if self._starts(passes) else passes))
        for slot in self.slots:
            genome[self.index[f"{slot.name}/on"]] = bin_centre(0, 2)
        for place, (slot, pass_) in enumerate(placed):
            genome[self.index[f"{slot.name}/on"]] = bin_centre(1, 2)
            genome[self.index[f"{slot.name}/order"]] = (place + 0.5) / len(placed)
            for item in slot.options:
                genome[self.index[item.gene.name]] = item.encode(getattr(pass_, item.option.name))
        for slot, pass_ in placed:  # the last application of a pass says what its strength is
            if slot.entry.allocation is not None:
                self._set_allocation(genome, slot.entry, getattr(pass_, RATIO), getattr(pass_, RATIOS))
        return genome

    def allocations(self, genome: Genome) -> Iterator[Genome]:
        """Yield other ways to start: small units keep more than big ones, or passes spread the ratio by themselves."""
        graded = genome.copy()
        for entry in self.entries:
            if entry.allocation is not None and entry.allocation.units:
                start = self.index[f"{entry.key}/strength"] + 1
                graded[start : start + len(entry.allocation.units)] = entry.allocation.graded()
        yield graded
        yield from self._choices(genome, lambda slot, name: slot.entry.allocation is not None and name == ALLOCATION)

    def reallocated(self, genome: Genome, ratios: Mapping[str, float]) -> Genome:
        """Give every pass that has a strength the ratios of units that were found, e.g. by a global threshold."""
        changed = genome.copy()
        for entry in self.entries:
            if entry.allocation is not None and entry.allocation.units.keys() <= ratios.keys():
                self._set_allocation(changed, entry, entry.allocation.mean_ratio(ratios), ratios)
        return changed

    def variations(self, genome: Genome) -> Iterator[Genome]:
        """Yield a genome for every choice of every pass that runs, and one that runs all rounds."""
        yield from self._choices(genome, lambda slot, name: slot.entry.allocation is None or name != ALLOCATION)
        if len(self._active(genome)) < len(self.slots):
            changed = genome.copy()
            for slot in self.slots:
                changed[self.index[f"{slot.name}/on"]] = bin_centre(1, 2)
            yield changed

    def _choices(self, genome: Genome, wanted: Callable[[Slot, str], bool]) -> Iterator[Genome]:
        for slot in self._active(genome):
            for item in slot.options:
                index = self.index[item.gene.name]
                if item.option.kind == "choice" and wanted(slot, item.option.name):
                    for choice in range(len(item.values)):
                        if choice != bin_of(float(genome[index]), item.gene.bins):
                            changed = genome.copy()
                            changed[index] = bin_centre(choice, item.gene.bins)
                            yield changed

    def _runs(self, slot: Slot, genome: Genome) -> bool:
        return bin_of(float(genome[self.index[f"{slot.name}/on"]]), 2) == 1

    def _active(self, genome: Genome) -> list[Slot]:
        """Slots that run, in their order; equal order genes fall back to the natural order."""
        active = [slot for slot in self.slots if self._runs(slot, genome)]
        return sorted(active, key=lambda slot: float(genome[self.index[f"{slot.name}/order"]]))

    def _options(self, slot: Slot, genome: Genome) -> dict[str, Any]:
        return {item.option.name: item.decode(float(genome[self.index[item.gene.name]])) for item in slot.options}

    def _decode(self, slot: Slot, genome: Genome, final: bool) -> Pass:
        entry = slot.entry
        options: dict[str, Any] = {**entry.fixed, **self._options(slot, genome)}
        ratios: dict[str, float] = {}
        if entry.allocation is not None:
            goal, wanted = self._allocation(entry, genome)
            options[RATIO] = goal if final else _part(entry.allocation, options.get(RATIO, goal), goal)
            ratios = wanted if final else {name: item for name, item in wanted.items() if item < options[RATIO]}
        for attempt in ({**options, RATIOS: ratios}, options, dict(entry.fixed)):
            if attempt.get(RATIOS) == {}:
                del attempt[RATIOS]
            try:
                return type(entry.template)(**attempt)
            except SpecError:  # options that contradict each other: leave out what was searched
                continue
        return entry.template

    def _allocation(self, entry: Entry, genome: Genome) -> tuple[float, dict[str, float]]:
        assert entry.allocation is not None
        start = self.index[f"{entry.key}/strength"]
        ratio = entry.allocation.ratio(float(genome[start]))
        return ratio, entry.allocation.ratios(ratio, genome[start + 1 : start + 1 + len(entry.allocation.units)])

    def _set_allocation(self, genome: Genome, entry: Entry, ratio: float, ratios: Mapping[str, float]) -> None:
        assert entry.allocation is not None
        start = self.index[f"{entry.key}/strength"]
        genome[start] = entry.allocation.strength(ratio)
        genome[start + 1 : start + 1 + len(entry.allocation.units)] = entry.allocation.deviations(ratio, ratios)

    def _starts(self, passes: Sequence[Pass]) -> bool:
        return tuple(passes[: len(self.prologue)]) == self.prologue

    def _place(self, passes: Sequence[Pass]) -> Iterator[tuple[Slot, Pass]]:
        """Assign passes to slots: the last application of an entry is round 1."""
        free = {entry.key: [slot for slot in self.slots if slot.entry is entry] for entry in self.entries}
        placed: list[tuple[Slot, Pass]] = []
        for pass_ in reversed(passes):
            fitting = [item for item in self.entries if free[item.key] and _belongs(pass_, item)]
            if fitting:
                placed.append((free[max(fitting, key=lambda item: len(item.fixed)).key].pop(), pass_))
        yield from reversed(placed)


def _entries(pool: Sequence[Pass], units: Units) -> Iterator[Entry]:
    count: dict[str, int] = {}
    for template in {format_pass(item): item for item in pool}.values():
        number = count[template.name] = count.get(template.name, 0) + 1
        key = template.name if number == 1 else f"{template.name}.{number}"
        fixed = plain_options(template)
        options = {option.name: option for option in options_of(type(template))}
        ratio, ratios = options.get(RATIO), options.get(RATIOS)
        allocation = None
        span = ratio.range if ratio is not None and not {RATIO, RATIOS} & fixed.keys() else None
        if span is not None and span.search is not None and ratios is not None and ratios.kind == "map":
            allocation = Allocation(span, dict(units(template)))
        yield Entry(key, template, fixed, allocation)


def _slot_options(entry: Entry, number: int) -> tuple[OptionGene, ...]:
    """Genes of a slot's options. The last round's ratio is the strength, which all rounds share."""
    fixed = [*entry.fixed, *([RATIO] if entry.allocation is not None and number == 1 else [])]
    return option_genes(type(entry.template), f"{entry.key}#{number}", fixed)


def _part(allocation: Allocation, ratio: float, goal: float) -> float:
    """Ratio of an early round: one of the coarse steps, and never beyond where the last round ends."""
    steps = [step for step in numeric_grid(allocation.span, whole=False) if step <= min(ratio, goal)]
    return max(steps, default=goal)


def _belongs(pass_: Pass, entry: Entry) -> bool:
    return type(pass_) is type(entry.template) and all(
        getattr(pass_, name) == getattr(entry.template, name) for name in entry.fixed
    )
