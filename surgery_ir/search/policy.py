"""The search policy: what a search believes about good profiles, and what it has learnt so far.

For every gene, by name, the policy holds a mean and a spread; a proposal is one normal draw for each. What it has no
belief about starts at the space's default, so a policy that was learnt on one model serves another one: genes of
passes carry over, genes of layers that do not exist there are ignored.

An update moves the policy to where the losses point (:meth:`SearchPolicy.updated`). Policies are values: an update
gives a new one, a file holds all of it, and the same policy, seed and candidates give the same next policy.

A reconnection pass declares granularity, radius, criteria and budget as options, so its part of the policy consists
of genes as well. :attr:`SearchPolicy.reconnection` reads them, and a file holds what they stand for
(:mod:`surgery_ir.search.reconnection`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from surgery_ir.errors import SpecError
from surgery_ir.passes.reconnect.policy import ReconnectionPolicy
from surgery_ir.search.documents import check_fields, read_yaml, write_yaml
from surgery_ir.search.genes import bin_centre, bin_of
from surgery_ir.search.reconnection import most_likely, moved_means, read_reconnection
from surgery_ir.search.space import Genome, Space
from surgery_ir.search.surface import descend

__all__ = ["Belief", "Elite", "Observation", "SearchPolicy"]

KIND, FORMAT = "surgery-ir policy", 1
ELITES = 5
COOLING = 0.97
"""Factor on the spreads at each update."""

NARROWEST = 0.3
"""Spreads never fall below this share of the space's own."""

WIDENED = 0.25
"""Share of the genes that a wider draw concerns: changing all of them at once leads nowhere."""

NOISE = 0.5
"""Spread around a predicted optimum, relative to the space's own."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Where the good values of a gene lie."""

    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Elite:
    """A profile worth remembering, in text form, and how it did; ``cost`` and ``drop`` as the search measured them."""

    profile: str
    loss: float
    cost: float
    drop: float
    plasticity: float
    feasible: bool


@dataclass(frozen=True)
class Observation:
    """A genome that was evaluated, and how it did."""

    genome: Genome
    elite: Elite


@dataclass(frozen=True)
class SearchPolicy:
    """Prior over compression profiles.

    Parameters
    ----------
    beliefs
        Belief by gene.
    elites
        Profiles of the latest search worth remembering: the cheapest feasible one, then those of the lowest losses.
    evaluations
        Candidates that it has learnt from, over all searches.
    searches
        Searches that it went through.
    """

    beliefs: Mapping[str, Belief] = field(default_factory=lambda: MappingProxyType({}))
    elites: tuple[Elite, ...] = ()
    evaluations: int = 0
    searches: int = 0

    @property
    def reconnection(self) -> ReconnectionPolicy:
        """The reconnection policy that is believed to be best."""
        return most_likely({name: item.mean for name, item in self.beliefs.items()})

    def reconnecting(self, **values: object) -> SearchPolicy:
        """Give a policy that believes in other fields of the reconnection policy, as near as a search tries them.

        Raises
        ------
        SpecError
            There is no such field, or a value is not valid.
        """
        means = {name: item.mean for name, item in self.beliefs.items()}
        beliefs = dict(self.beliefs)
        for gene, mean in moved_means(read_reconnection(values, "policy"), means):
            beliefs[gene.name] = Belief(mean, beliefs.get(gene.name, Belief(mean, gene.spread)).spread)
        return replace(self, beliefs=MappingProxyType(beliefs))

    def belief(self, space: Space) -> tuple[Genome, Genome]:
        """Mean and spread of every gene of ``space``."""
        known = [self.beliefs.get(gene.name, Belief(gene.default, gene.spread)) for gene in space.genes]
        return np.array([item.mean for item in known]), np.array([item.spread for item in known])

    def propose(self, space: Space, rng: np.random.Generator, wider: float = 0.0) -> Genome:
        """Draw a genome; where ``wider`` is given, a few genes get so many times the spread that they started with."""
        mean, spread = self.belief(space)
        if wider:
            start = np.array([gene.spread for gene in space.genes])
            spread = np.where(rng.random(len(space)) < WIDENED, wider * start, spread)
        drawn: Genome = np.clip(mean + spread * rng.standard_normal(len(space)), 0.0, 1.0)
        return drawn

    def updated(self, space: Space, seen: Sequence[Observation], new: int) -> SearchPolicy:
        """Learn from what was evaluated.

        Discrete genes, order and strength move to where the best genome has them. Deviations move to the optimum
        that a response surface predicts from the genomes of the best one's structure (those with other passes or
        options differ for other reasons). Every update narrows the spreads a little. Equal losses are told apart by
        plasticity.

        Parameters
        ----------
        space
            The space of the genomes.
        seen
            Everything that this search has evaluated.
        new
            How many of those this policy has not learnt from yet.
        """
        if not seen:
            return replace(self, evaluations=self.evaluations + new)
        ranked = sorted(seen, key=lambda item: (item.elite.loss, -item.elite.plasticity))
        best = ranked[0].genome
        mean, spread = best.copy(), self.belief(space)[1]
        own = np.array([gene.spread for gene in space.genes])
        for index, gene in enumerate(space.genes):
            if gene.bins:
                mean[index] = bin_centre(bin_of(float(best[index]), gene.bins), gene.bins)
        free = space.continuous
        structure = space.structure(best)
        akin = [item for item in seen if math.isfinite(item.elite.loss) and space.structure(item.genome) == structure]
        if free.any() and len(akin) > 1:
            points = np.array([item.genome[free] for item in akin])
            losses = np.array([item.elite.loss for item in akin])
            mean[free] = np.clip(descend(points, losses, own[free]), 0.0, 1.0)
            spread[free] = np.minimum(spread[free], NOISE * own[free])
        spread = np.maximum(spread * COOLING, NARROWEST * own)
        learnt = {gene.name: Belief(float(m), float(s)) for gene, m, s in zip(space.genes, mean, spread, strict=True)}
        return replace(
            self,
            beliefs=MappingProxyType({**self.beliefs, **learnt}),
            elites=_best([item.elite for item in ranked]),
            evaluations=self.evaluations + new,
        )

    def to_plain(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            KIND: FORMAT,
            "learnt": {"evaluations": self.evaluations, "searches": self.searches},
            "elites": [
                {
                    "profile": item.profile,
                    "loss": item.loss,
                    "cost": item.cost,
                    "drop": item.drop,
                    "plasticity": item.plasticity,
                    "feasible": item.feasible,
                }
                for item in self.elites
            ],
            "reconnection": asdict(self.reconnection),
            "genes": {name: [item.mean, item.spread] for name, item in sorted(self.beliefs.items())},
        }

    @classmethod
    def from_plain(cls, plain: object, where: str = "<policy>") -> SearchPolicy:
        """Read plain values. What they say of reconnection moves the beliefs that stand for something else.

        Raises
        ------
        SpecError
            They are not a policy.
        """
        fields = check_fields(plain, where, KIND, FORMAT, {"learnt", "elites", "reconnection", "genes"})
        reconnection = read_reconnection(fields.get("reconnection", {}), where)
        try:
            learnt = fields.get("learnt", {})
            beliefs = {str(name): Belief(*map(float, pair)) for name, pair in fields.get("genes", {}).items()}
            elites = tuple(
                Elite(
                    profile=str(item["profile"]),
                    **{key: float(item[key]) for key in ("loss", "cost", "drop", "plasticity")},
                    feasible=bool(item["feasible"]),
                )
                for item in fields.get("elites", [])
            )
            counts = int(learnt.get("evaluations", 0)), int(learnt.get("searches", 0))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise SpecError(f"{where}: not a policy of surgery-ir: {type(error).__name__}: {error}") from None
        for name, item in beliefs.items():
            if not (0.0 <= item.mean <= 1.0 and 0.0 <= item.spread <= 1.0):
                raise SpecError(f"{where}: gene {name!r}: mean and spread must lie in [0, 1]")
        if min(counts) < 0:
            raise SpecError(f"{where}: counts cannot be negative")
        return cls(MappingProxyType(beliefs), elites, *counts).reconnecting(**reconnection)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SearchPolicy:
        """Read a policy file.

        Raises
        ------
        SpecError
            The file is missing or no policy.
        """
        return cls.from_plain(read_yaml(path), os.fspath(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a policy file, atomically.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        write_yaml(self.to_plain(), path)


def _best(elites: Sequence[Elite]) -> tuple[Elite, ...]:
    """The cheapest feasible one, then the first few; each profile once."""
    feasible = min((item for item in elites if item.feasible), key=lambda item: item.cost, default=None)
    ordered = elites if feasible is None else [feasible, *elites]
    unique: dict[str, Elite] = {}
    for item in ordered:
        unique.setdefault(item.profile, item)
    return tuple(unique.values())[:ELITES]
