"""The space of compression profiles: a flat genome in [0, 1] and the passes it stands for.

Passes from a pool may be applied in several *rounds* (prune, repair, prune, repair). Every pass of every round is a
slot with a gene for whether it runs, one for its place in the order, and one for each option worth searching. A pass
that removes something has a *strength* besides (:mod:`surgery_ir.search.strength`): one gene for how much it removes
in the end, all rounds together. Rounds before the last go part of the way, in coarse steps, so that candidates share
them. Where the strength is a ``ratio`` and there is a map ``ratios``, every unit has a gene for its deviation
(:mod:`surgery_ir.search.allocation`), and a choice ``allocation`` says how the pass spreads the ratio by itself. A
strength that is a budget, such as ``macs``, is spread by the pass.

A pass that covers another one, as ``reconnect`` does ``repair``, is tried in its place. Rounds that follow each other
make a *schedule*, such as prune, reconnect, prune, reconnect, which is proposed as a whole
(:mod:`surgery_ir.search.schedules`).

The space knows passes only by the options they declare and what they serve, so a new pass needs no word here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from surgery_ir.search.genes import NO_TEXTS, Gene, OptionGene, bin_centre, bin_of, option_genes
from surgery_ir.search.pool import COVERS
from surgery_ir.search.schedules import schedules, substitutions
from surgery_ir.search.strength import BUDGETS, RATIO, RATIOS, Strength, strength_of

__all__ = ["Budgets", "Genome", "Slot", "Space", "Units"]

Genome = NDArray[np.float64]
"""One number in [0, 1] for each gene of a space."""

Units = Callable[[Pass], Mapping[str, int]]
"""Tells what the ``ratios`` of a pass may name, and how many weights each holds."""

Budgets = Callable[[Pass], Sequence[str]]
"""Tells which options should be the strength of a pass, the best first; those that it does not have are ignored."""

ALLOCATION = "allocation"

WEAK = 0.1
"""Strength of a pass that is tried beside others which stand at their edge."""

SWAP = 0.3
"""Spread of an order gene in units of the distance between neighbours: they swap about once in 100 draws."""


@dataclass(frozen=True)
class Entry:
    """A pass of the pool: its options as given are fixed, the others are searched."""

    key: str
    template: Pass
    fixed: Mapping[str, object]
    strength: Strength | None
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
        How often a pass may be applied; more often where the pool names one more often.
    budgets
        Which options should be the strength of a pass; its ``ratio``, where they say nothing of it.
    covers
        Which passes do the work of others as well, by name.
    texts
        What to try for options that are texts, by name, besides their default. All rounds of a pass share it: weights
        that went by a pattern and others that went by another one follow none.
    """

    def __init__(
        self,
        pool: Sequence[Pass],
        prologue: Sequence[Pass] = (),
        units: Units = lambda _: {},
        rounds: int = 2,
        budgets: Budgets = lambda _: (),
        covers: Mapping[str, Collection[str]] = COVERS,
        texts: Mapping[str, Sequence[str]] = NO_TEXTS,
    ) -> None:
        self.prologue = tuple(prologue)
        self.entries = tuple(_entries(pool, units, budgets))
        rounds = max([rounds, *Counter(map(format_pass, pool)).values()])
        self.rounds = rounds
        self.substitutes = {entry.key: covered for entry in self.entries if (covered := self._covered(entry, covers))}
        self.slots = tuple(
            Slot(entry, number, f"{entry.key}#{number}", _slot_options(entry, number, texts))
            for number in range(rounds, 0, -1)
            for entry in self.entries
        )
        self.genes = tuple(self._genes())
        self.index = {gene.name: index for index, gene in enumerate(self.genes)}
        self._shared = {
            slot.entry.key: [item for item in slot.options if item.option.kind == "str"]
            for slot in self.slots
            if slot.round == 1
        }

    def __len__(self) -> int:
        return len(self.genes)

    def _genes(self) -> Iterator[Gene]:
        for place, slot in enumerate(self.slots):
            yield Gene.discrete(f"{slot.name}/on", int(slot.round == 1 and slot.entry.key not in self.substitutes), 2)
            yield Gene(f"{slot.name}/order", (place + 0.5) / len(self.slots), SWAP / len(self.slots))
            for item in slot.options:
                yield item.gene
        for entry in self.entries:
            if entry.strength is not None:
                yield entry.strength.strength_gene(entry.key)
            if entry.allocation is not None:
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
        names = (f"{entry.key}/strength" for entry in self.entries if entry.strength and entry.key in keys)
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
        for slot in self.active(genome):
            discrete = [item for item in slot.options if item.gene.bins]
            choices = [item.decode(float(genome[self.index[item.gene.name]])) for item in discrete]
            parts.append(f"{slot.name}{choices}")
        return ",".join(parts)

    def decode(self, genome: Genome) -> tuple[Pass, ...]:
        """Give the passes that a genome stands for. Every genome stands for some; what is not finite counts as 0.5."""
        genome = np.clip(np.nan_to_num(genome, nan=0.5, posinf=1.0, neginf=0.0), 0.0, 1.0)
        active = self.active(genome)
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
            strength = slot.entry.strength
            if strength is not None and getattr(pass_, strength.name) is not None:
                self._set_strength(genome, slot.entry, getattr(pass_, strength.name), getattr(pass_, RATIOS, {}))
        return genome

    def allocations(self, genome: Genome) -> Iterator[Genome]:
        """Yield other ways to share out what goes.

        One pass does it alone, where several run; small units keep more than big ones; or passes spread the ratio by
        themselves.
        """
        yield from self._alone(genome)
        graded = genome.copy()
        for entry in self.entries:
            if entry.allocation is not None and entry.allocation.units:
                start = self.index[f"{entry.key}/strength"] + 1
                graded[start : start + len(entry.allocation.units)] = entry.allocation.graded()
        if not np.array_equal(graded, genome):
            yield graded
        yield from self._choices(genome, lambda slot, name: slot.entry.allocation is not None and name == ALLOCATION)

    def reallocated(self, genome: Genome, ratios: Mapping[str, float]) -> Genome:
        """Give every pass that has a strength the ratios of units that were found, e.g. by a global threshold."""
        changed = genome.copy()
        for entry in self.entries:
            if entry.allocation is not None and entry.allocation.units.keys() <= ratios.keys():
                self._set_strength(changed, entry, entry.allocation.mean_ratio(ratios), ratios)
        return changed

    def variations(self, genome: Genome) -> Iterator[Genome]:
        """Yield genomes that differ from one in a single respect.

        That is another pass in the place of one that it covers, and schedules of both; every choice of every pass
        that runs; each pass that could cut as well, weakly; and all that run already in several rounds.
        """
        swapped = list(substitutions(self, genome))
        yield from swapped
        for item in (genome, *swapped):
            if self._substituted(item):
                yield from schedules(self, item)
        yield from self._choices(genome, lambda slot, name: slot.entry.allocation is None or name != ALLOCATION)
        keys = {slot.entry.key for slot in self.active(genome)}
        for slot in self.slots:
            if slot.round == 1 and slot.entry.strength is not None and slot.entry.key not in keys:
                changed = self.switched(genome, {slot.name: True})
                changed[self.index[f"{slot.entry.key}/strength"]] = WEAK
                yield changed
        if not self._substituted(genome):
            yield from schedules(self, genome)

    def _substituted(self, genome: Genome) -> bool:
        """Whether a pass runs that covers another one."""
        return any(slot.entry.key in self.substitutes for slot in self.active(genome))

    def switched(self, genome: Genome, on: Mapping[str, bool]) -> Genome:
        """Give a genome in which some slots are on or off, as ``on`` says."""
        changed = genome.copy()
        for name, state in on.items():
            changed[self.index[f"{name}/on"]] = bin_centre(int(state), 2)
        return changed

    def _covered(self, entry: Entry, covers: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        names = covers.get(entry.template.name, ())
        return tuple(other.key for other in self.entries if other.template.name in names)

    def _alone(self, genome: Genome) -> Iterator[Genome]:
        """Yield a genome for every pass that has a strength and runs, without the others that have one."""
        strong = [slot for slot in self.active(genome) if slot.entry.strength is not None]
        keys = dict.fromkeys(slot.entry.key for slot in strong)
        for key in keys if len(keys) > 1 else ():
            yield self.switched(genome, {slot.name: False for slot in strong if slot.entry.key != key})

    def _choices(self, genome: Genome, wanted: Callable[[Slot, str], bool]) -> Iterator[Genome]:
        for slot in self.active(genome):
            for item in slot.options:
                index = self.index[item.gene.name]
                if item.option.kind in ("choice", "str") and wanted(slot, item.option.name):
                    for choice in range(len(item.values)):
                        if choice != bin_of(float(genome[index]), item.gene.bins):
                            changed = genome.copy()
                            changed[index] = bin_centre(choice, item.gene.bins)
                            yield changed

    def _runs(self, slot: Slot, genome: Genome) -> bool:
        return bin_of(float(genome[self.index[f"{slot.name}/on"]]), 2) == 1

    def active(self, genome: Genome) -> list[Slot]:
        """Slots that run, in their order; equal order genes fall back to the natural order."""
        active = [slot for slot in self.slots if self._runs(slot, genome)]
        return sorted(active, key=lambda slot: float(genome[self.index[f"{slot.name}/order"]]))

    def _options(self, slot: Slot, genome: Genome) -> dict[str, Any]:
        genes = (*slot.options, *(self._shared[slot.entry.key] if slot.round > 1 else ()))
        return {item.option.name: item.decode(float(genome[self.index[item.gene.name]])) for item in genes}

    def _decode(self, slot: Slot, genome: Genome, final: bool) -> Pass:
        entry = slot.entry
        options: dict[str, Any] = {**entry.fixed, **self._options(slot, genome)}
        attempts = [options, dict(entry.fixed)]
        if entry.strength is not None:
            goal, wanted = self._strength(entry, genome)
            name = entry.strength.name
            options[name] = goal if final else entry.strength.early(options.get(name, goal), goal)
            ratios = wanted if final else {unit: item for unit, item in wanted.items() if item < options[name]}
            attempts = [{**options, RATIOS: ratios}, *attempts] if ratios else attempts
        for attempt in attempts:
            try:
                return type(entry.template)(**attempt)
            except SpecError:  # options that contradict each other: leave out what was searched
                continue
        return entry.template

    def _strength(self, entry: Entry, genome: Genome) -> tuple[float, dict[str, float]]:
        assert entry.strength is not None
        start = self.index[f"{entry.key}/strength"]
        value = entry.strength.value(float(genome[start]))
        if entry.allocation is None:
            return value, {}
        return value, entry.allocation.ratios(value, genome[start + 1 : start + 1 + len(entry.allocation.units)])

    def _set_strength(self, genome: Genome, entry: Entry, value: float, ratios: Mapping[str, float]) -> None:
        assert entry.strength is not None
        start = self.index[f"{entry.key}/strength"]
        genome[start] = entry.strength.gene(value)
        if entry.allocation is not None:
            units = len(entry.allocation.units)
            genome[start + 1 : start + 1 + units] = entry.allocation.deviations(value, ratios)

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


def _entries(pool: Sequence[Pass], units: Units, budgets: Budgets) -> Iterator[Entry]:
    count: dict[str, int] = {}
    for template in {format_pass(item): item for item in pool}.values():
        number = count[template.name] = count.get(template.name, 0) + 1
        key = template.name if number == 1 else f"{template.name}.{number}"
        strength = strength_of(template, budgets(template))
        kinds = {option.name: option.kind for option in options_of(type(template))}
        allocation = None
        if strength is not None and not strength.keeps and kinds.get(RATIOS) == "map":
            allocation = Allocation(strength.span, dict(units(template)))
        yield Entry(key, template, plain_options(template), strength, allocation)


def _slot_options(entry: Entry, number: int, texts: Mapping[str, Sequence[str]]) -> tuple[OptionGene, ...]:
    """Genes of a slot's options. The last round's strength is one gene, which all rounds share, and so are texts."""
    prefix = f"{entry.key}#{number}"
    settled = {*entry.fixed}
    early = []
    if entry.strength is not None:
        settled |= {RATIO, entry.strength.name}
        early = [entry.strength.early_gene(prefix)] if number > 1 else []
    elif BUDGETS & settled:
        settled.add(RATIO)
    return (*early, *option_genes(type(entry.template), prefix, settled, NO_TEXTS if number > 1 else texts))


def _belongs(pass_: Pass, entry: Entry) -> bool:
    return type(pass_) is type(entry.template) and all(
        getattr(pass_, name) == getattr(entry.template, name) for name in entry.fixed
    )
