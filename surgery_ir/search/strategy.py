"""Which profiles a search tries: a few that are sure to teach something, then what policy and optimiser propose.

The *opening* tries the dense model, then the best profiles that the policy knows, or else a plain one with the same
ratio everywhere and some that spread it otherwise, or that reconnect instead of only repairing; the best of them is led
towards the edge of feasibility.
What follows comes in rounds of four: one more step of the best profile towards its own edge (or another proposal of
the policy, where that promises nothing), two proposals of the policy, which models what was seen so far, and one that
the model would not lead to, by turns a choice that was not tried yet and a proposal of the optimiser. All of them
stand at the strength where the best profile has its edge. Rounds are as long whatever the number of workers, so that
it does not change the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import SpecError
from surgery_ir.passes.spec import format_pipeline, parse_pipeline
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.edge import TOLERANCE, Edge, Track
from surgery_ir.search.goal import Goal
from surgery_ir.search.policy import Elite, Observation, SearchPolicy
from surgery_ir.search.schedules import substitutions
from surgery_ir.search.searcher import Optimizer
from surgery_ir.search.space import Genome, Space

__all__ = ["Plan", "Strategy"]

Plan = Generator[list[Genome], list[Candidate], None]
"""Yields genomes to try, and is sent their candidates: as many as were tried, from the first on."""

OPENING_STEPS = 3
OPENING_TOLERANCE = 0.03
"""Width of the bracket at which the opening leaves the edge: what follows moves it."""

PROPOSALS = 2
TRIED = 2
WIDER = (0.0, *4 * (2.0,), *4 * (4.0,), *8 * (6.0,))
"""How wide draws are, until one is of a profile that was not tried."""

WORSE = 1.25
"""Loss, relative to the best, from which passes that cut are not proposed together any more."""

REMEMBERED = 2
SPELT = 0.02
"""Difference of a deviation gene from which ratios that came out are others than those that were asked for."""


class Strategy:
    """Proposes genomes, remembers what became of them, and lets the policy learn from it.

    Parameters
    ----------
    space
        The space of profiles.
    goal
        What is searched for.
    policy
        What is known already.
    seed
        Seed of every draw.
    budget
        Candidates that will be tried at most, if that is known.
    """

    def __init__(
        self, space: Space, goal: Goal, policy: SearchPolicy, seed: int = 0, budget: int | None = None
    ) -> None:
        self.space = space
        self.goal = goal
        self.policy = policy
        self.budget = budget
        self.edge = Edge(goal)
        self.candidates: list[Candidate] = []
        self._genomes: list[Genome] = []
        self._tracks: dict[bytes, Track] = {}
        self._forms: set[str] = set()
        self._rng = np.random.default_rng([seed, policy.evaluations])
        self._seed = seed

    def plan(self) -> Plan:
        """Give the plan of this search."""
        yield [self._dense_genome()]
        yield from self._opening()
        if not self._changed():
            return
        yield from self._rounds()

    def update(self, policy: SearchPolicy, genomes: Sequence[Genome], candidates: Sequence[Candidate]) -> SearchPolicy:
        """Remember what became of ``genomes``, and give the policy that has learnt from it."""
        for genome, candidate in zip(genomes, candidates, strict=False):
            self._genomes.append(genome)
            self._forms.add(self._form(genome))
            self.candidates.append(candidate)
            strengths = self.space.strengths(genome)
            if strengths.size:
                track = self._tracks.setdefault(self._key(genome), Track())
                track.trials[float(genome[strengths[0]])] = candidate
        self.edge.learn(list(self._tracks.values()), self.candidates)
        self.policy = policy.updated(self.space, self._observations(), len(candidates))
        return self.policy

    def _changed(self) -> bool:
        return any(item.changed for item in self.candidates)

    def _observations(self) -> list[Observation]:
        return [
            Observation(genome, self._elite(item))
            for genome, item in zip(self._genomes, self.candidates, strict=True)
            if item.changed and not item.failure
        ]

    def _elite(self, item: Candidate) -> Elite:
        loss = self.edge.loss(item)
        log = math.log(loss) if 0.0 < loss < math.inf else loss
        return Elite(
            item.profile, log, item.cost(self.goal), item.drop, item.plasticity, feasible=item.feasible(self.goal)
        )

    def _dense_genome(self) -> Genome:
        genome = self.space.default.copy()
        for slot in self.space.slots:
            genome[self.space.index[f"{slot.name}/on"]] = 0.0
        return genome

    def _starts(self) -> list[Genome]:
        """The best profiles that the policy remembers and this space has, else the policy's mean."""
        known = []
        for elite in self.policy.elites:
            try:
                passes = parse_pipeline(elite.profile)
            except SpecError:  # of a plug-in that is not installed here
                continue
            genome = self.space.encode(passes)
            if self.space.decode(genome) == tuple(passes):
                known.append(genome)
        return known[:REMEMBERED] or [self.policy.belief(self.space)[0]]

    def _opening(self) -> Plan:
        fresh = self.policy.searches == 0
        starts = self._starts()
        yield starts
        if not self._changed() and self.space.strengths(starts[0]).size:
            yield [self.space.shifted(starts[0], -1.0)]
        if not self._changed():
            yield list(self.space.variations(starts[0]))
        elif fresh:
            yield from _round(self._at_edge(item) for item in self.space.allocations(starts[0]))
            yield from self._spell_out()
            yield from self._substitute()
        for _ in range(OPENING_STEPS):
            step = self._towards_edge(OPENING_TOLERANCE)
            if step is None:
                return
            yield [step]

    def _spell_out(self) -> Plan:
        """If the best profile leaves the ratios of layers to its passes, try it with the ratios that came out."""
        index = self._best_index()
        if index is None:
            return
        ratios = {name: 1.0 - item for name, item in self.candidates[index].density.items()}
        spelt = self.space.reallocated(self._genomes[index], ratios)
        if np.abs(spelt - self._genomes[index])[self.space.continuous].max(initial=0.0) > SPELT:
            yield [self._at_edge(spelt)]

    def _substitute(self) -> Plan:
        """Try passes that cover others in their place, in the best profile."""
        best = self._best()
        yield from _round(self._at_edge(item) for item in (() if best is None else substitutions(self.space, best)))

    def _towards_edge(self, tolerance: float) -> Genome | None:
        """The best profile, one step nearer to its edge; ``None`` where that is known, or no strength leads there."""
        index = self._best_index()
        if index is None:
            return None
        genome = self._genomes[index]
        strengths = self.space.strengths(genome)
        if not strengths.size:
            return None
        at = self.edge.next(self._tracks[self._key(genome)], tolerance)
        return None if at is None else self.space.shifted(genome, at - float(genome[strengths[0]]))

    def _rounds(self) -> Plan:
        searched = self._searched()
        spread = np.array([gene.spread for gene in self.space.genes])
        optimizer: Optimizer | None = None
        told = 0
        for number in itertools.count():
            best = self._best()
            if best is None:
                return
            genomes = [self._polish()]
            genomes += [self._proposal() for _ in range(PROPOSALS)]
            untried = self._untried(best) if number % 2 == 1 else None
            if untried is None:
                optimizer = optimizer or Optimizer(best[searched], spread[searched], self._seed, self.budget)
                for genome, item in zip(self._genomes[told:], self.candidates[told:], strict=True):
                    optimizer.tell(genome[searched], self.edge.loss(item), item.excesses(self.goal)[1:])
                told = len(self._genomes)
                untried = best.copy()
                untried[searched] = optimizer.ask()
            yield [*genomes, self._at_edge(untried)]

    def _searched(self) -> NDArray[np.bool_]:
        """Genes that the optimizer sets: strengths only where there are several, for how they relate to each other."""
        strengths = np.array([gene.name.endswith("/strength") for gene in self.space.genes], dtype=np.bool_)
        return ~strengths if strengths.sum() < 2 else np.ones_like(strengths)

    def _untried(self, best: Genome) -> Genome | None:
        """A variation of the best profile by a choice that nothing has been tried with."""
        tried = {self.space.structure(genome) for genome in self._genomes}
        return next((item for item in self.space.variations(best) if self.space.structure(item) not in tried), None)

    def _polish(self) -> Genome:
        """One more step of the best profile towards its edge, if that promises a gain; else a policy's proposal."""
        index = self._best_index()
        if index is not None:
            costs = [item.cost(self.goal) for item in self.candidates if item.feasible(self.goal)]
            if self.edge.promises(self.candidates[index], min(costs, default=math.inf)):
                step = self._towards_edge(TOLERANCE)
                if step is not None:
                    return step
        return self._proposal()

    def _proposal(self) -> Genome:
        """Draw from the policy what has not been tried, however strong; from further away until there is such a one."""
        for wider in WIDER:
            drawn = self.policy.propose(self.space, self._rng, wider)
            form = self._form(drawn)
            if form not in self._forms and self._promises(drawn):
                break
        self._forms.add(form)
        return self._at_edge(drawn)

    def _promises(self, genome: Genome) -> bool:
        """Whether the passes of a genome that cut have done well together, or have hardly been tried."""
        index, which = self._best_index(), self.space.strengths(genome)
        if index is None or not which.size:
            return index is None
        akin = [
            self.edge.loss(item)
            for other, item in zip(self._genomes, self.candidates, strict=True)
            if np.array_equal(self.space.strengths(other), which) and not item.refused
        ]
        return len(akin) < TRIED or min(akin) < WORSE * self.edge.loss(self.candidates[index])

    def _form(self, genome: Genome) -> str:
        """What a profile is besides how strong it is, as a text."""
        level = genome.copy()
        which = self.space.strengths(genome)
        level[which] += 0.5 - level[which].mean() if which.size else 0.0
        return format_pipeline(self.space.decode(level))

    def _at_edge(self, genome: Genome) -> Genome:
        """Give a genome the strength at which the best profile is predicted to have its edge.

        Several strengths are moved together: to the best profile's mean over those that both have.
        """
        index = self._best_index()
        if index is None:
            return genome
        best = self._genomes[index]
        own, shared = self.space.strengths(genome), self.space.strengths(best)
        common = np.intersect1d(own, shared)
        shift = self._step(index) + (float(np.mean(best[common] - genome[common])) if common.size else 0.0)
        moved = genome.copy()
        idle = np.setdiff1d(shared, own)
        moved[idle] = best[idle]
        moved[own] = np.clip(genome[own] + shift, 0.0, 1.0)
        return moved

    def _step(self, index: int) -> float:
        """Predict how much strength takes a profile to its edge; only part of the way to where it has failed."""
        genome = self._genomes[index]
        step = self.edge.step(self.candidates[index])
        strengths = self.space.strengths(genome)
        if not strengths.size:
            return step
        at = float(genome[strengths[0]])
        failed = [other - at for other, item in self._tracks[self._key(genome)].trials.items() if item.failure]
        return min([step, *(0.5 * way for way in failed if way > 0)])

    def _best_index(self) -> int | None:
        known = [
            (self.edge.loss(item), -item.plasticity, index)
            for index, item in enumerate(self.candidates)
            if item.changed and not item.failure
        ]
        return min(known)[2] if known else None

    def _best(self) -> Genome | None:
        index = self._best_index()
        return None if index is None else self._genomes[index]

    def _key(self, genome: Genome) -> bytes:
        """What a profile is besides how strong it is: all genes, with strengths relative to the first."""
        key = genome.copy()
        which = self.space.strengths(genome)
        key[which] -= key[which[0]] if which.size else 0.0
        return np.round(key, 9).tobytes()


def _round(genomes: Iterable[Genome]) -> Plan:
    """Yield genomes as one round, unless there are none."""
    together = list(genomes)
    if together:
        yield together
