"""Prune and reconnect as one solve: at a number of nonzeros, a layer chooses among all the columns it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.taps import Tap, find_taps
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.coupled import BATCH, feeds
from surgery_ir.passes.reconnect.acceptance import Gain, Trial, judge_of
from surgery_ir.passes.reconnect.donors import best_donors
from surgery_ir.passes.reconnect.visit import Proposal, Visit, padded
from surgery_ir.passes.sequential import Affine, Equation, Fit, Sequential
from surgery_ir.solvers.patterns import kept_pattern
from surgery_ir.solvers.regrowth import regrow

__all__ = ["Exchanged", "Rules", "exchange", "reachable_taps"]

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Rules:
    """What layers may exchange, and how they are solved.

    Parameters
    ----------
    own
        Whether pruned weights of the layer itself may return.
    radius
        Layers that a tap may jump over; 0 allows none.
    donors
        Earlier values that one layer may newly read.
    budget, per
        Most connections created in a layer, as a share of its ``pruned`` weights, its ``nonzeros``, or the ``macs`` of
        one position, to which every weight adds one; 1 sets no limit.
    extra
        Share by which the nonzeros of a layer may grow.
    accept
        Share by which divergence on selection data has to fall.
    rounds
        Rounds of swaps; 0 only brings layers to their counts.
    counts
        Nonzeros that layers are to have, where they are not to keep theirs.
    importance
        What a task loses with each weight that is not there, by layer, (groups, outputs, inputs); ranks what returns.
    fit, residual, positions
        As for repair.
    checks
        Selection samples that judge; 0 leaves it to held-out rows.
    """

    own: bool = True
    radius: int = 0
    donors: int = 2
    budget: float = 1.0
    per: str = "pruned"
    extra: float = 0.0
    accept: float = 0.0
    rounds: int = 12
    counts: Mapping[str, int] = field(default_factory=dict)
    importance: Mapping[str, Array] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    residual: bool = True
    positions: int = 16
    checks: int = 256

    def allowed(self, present: Mask) -> int | None:
        """Most connections that a layer with these weights, or a group of one, may get; ``None``: any number."""
        if self.budget >= 1.0:
            return None
        nonzeros = int(np.count_nonzero(present))
        whole = {"pruned": present.size - nonzeros, "nonzeros": nonzeros, "macs": present.size}[self.per]
        return round(self.budget * whole)

    def with_counts(self, counts: Mapping[str, int]) -> Rules:
        """Give the same rules for layers that are to have ``counts`` nonzeros."""
        return replace(self, counts=counts)


@dataclass(frozen=True)
class Exchanged:
    """What a walk left alone and why, and what new connections were tried."""

    refusals: tuple[Refusal, ...]
    gains: tuple[Gain, ...]


def reachable_taps(
    graph: Graph, ctx: PassContext, radius: int
) -> tuple[Mapping[str, Sequence[Tap]], Mapping[str, str]]:
    """Give the taps of every layer, and why a layer has none."""
    if radius == 0:
        return {}, {}
    layers = find_layers(graph)
    if not layers.layers:
        return {}, {}
    names = dict.fromkeys(name for layer in layers for name in (layer.input, layer.output))
    shapes = observe_shapes(graph, ctx.runtime, feeds(graph, ctx, BATCH), names)
    found = find_taps(graph, layers, shapes, radius)
    return found.by_layer, found.reasons


def exchange(editor: Editor, ctx: PassContext, rules: Rules, what: str = "reconnecting layers") -> Exchanged:
    """Visit layer after layer: solve what it has, try what it could have, keep what helps."""
    judge = judge_of(ctx, rules.checks) if rules.checks else None
    taps, unreachable = reachable_taps(editor.graph, ctx, rules.radius)
    walk = Sequential(
        editor, ctx, rules.fit, what, residual=rules.residual, positions=rules.positions, taps=taps,
        trial=None if judge is None else judge.samples,
    )  # fmt: skip
    trial = None if judge is None else Trial(walk, judge)
    gains: list[Gain] = []
    for equation in walk:
        visit = Visit(walk, equation, trial, rules.accept)
        search = _Search(walk, equation, rules, taps.get(equation.layer.name, ()), unreachable.get(equation.layer.name))
        reason = visit.decide(search.start, search.propose)
        gains += visit.gains
        moved = not np.array_equal(search.start, search.present)
        if reason is not None and not (moved and rules.rounds == 0):
            walk.refuse(equation.target, reason)
    return Exchanged(tuple(walk.refusals), tuple(gains))


class _Search:
    """Looks for the support of one layer."""

    def __init__(
        self, walk: Sequential, equation: Equation, rules: Rules, taps: Sequence[Tap], unreachable: str | None
    ) -> None:
        self.walk = walk
        self.equation = equation
        self.rules = rules
        self.taps = taps
        self.unreachable = unreachable
        self.present: Mask = equation.before.weights != 0
        self.start = self._start()

    def propose(self, plain: Affine) -> Proposal | str:
        """Search the support among all columns, starting from the layer solved on what it has."""
        reason = self._reason_against()
        if reason is not None:
            return reason
        if self.rules.rounds == 0:
            return "its number of nonzeros stays as it is"
        chosen = best_donors(self.walk, self.equation, plain, self.taps, self.rules.donors)
        wide = self.walk.equation(self.equation.target, chosen) if chosen else self.equation
        start = padded(self.start, wide)
        around = Affine(padded(plain.weights, wide), plain.biases)
        count = round(np.count_nonzero(start) * (1.0 + self.rules.extra))
        mask = self._regrow(wide, start, around, own=self.rules.own, rounds=self.rules.rounds, count=count)
        created = int(np.count_nonzero(mask & ~start))
        if not created:
            return "no connection lowers its error more than the one that would pay for it"
        prior = np.where(mask, wide.before.weights, 0.0)
        return Proposal(
            wide, chosen, created,
            solve=lambda part: wide.solve(part, prior, mask),
            write=lambda solution: self.walk.write(wide, solution, chosen),
        )  # fmt: skip

    def _start(self) -> Mask:
        """Bring the layer to the number of nonzeros that it is to have."""
        wanted = self.rules.counts.get(self.equation.layer.name)
        if wanted is None or wanted == np.count_nonzero(self.present):
            return self.present
        return self._regrow(self.equation, self.present, self.equation.before, own=True, rounds=0, count=wanted)

    def _regrow(self, equation: Equation, start: Mask, around: Affine, *, own: bool, rounds: int, count: int) -> Mask:
        """Search the support of every group, each at its share of ``count``."""
        layer = equation.layer
        own_columns = self.equation.rows.columns
        growable = np.ones_like(start)
        if not own:
            growable[:, :, :own_columns] = False
        importance = self.rules.importance.get(layer.name)
        problems = equation.quadratics("fit", around)
        live = np.stack([np.diagonal(problem.h) > 0 for problem in problems])[:, None]
        counts = _shares(np.count_nonzero(start, (1, 2)), np.count_nonzero(start | growable & live, (1, 2)), count)
        mask = np.empty_like(start)
        for group, problem in enumerate(problems):
            prior = np.where(start[group], equation.before.weights[group], 0.0)
            mask[group] = regrow(
                problem, prior, start[group], equation.fit.ridge, growable=growable[group], count=int(counts[group]),
                rounds=rounds, limit=self.rules.allowed(start[group, :, :own_columns]) if rounds else None,
                gains=None if importance is None else _widened(importance[group], problem.inputs),
            ).mask  # fmt: skip
        return mask

    def _reason_against(self) -> str | None:
        """Why the layer cannot get new connections, or ``None``."""
        if self.present.all():
            return "none of its weights is pruned: it has nothing to trade"
        pattern = kept_pattern(self.present.reshape(-1, self.present.shape[2]))
        if pattern is not None:
            return f"its zeros follow the pattern {pattern}, which single connections would break"
        if not self.rules.own and not self.taps:
            return self.unreachable or "no earlier value is within the radius"
        return None


def _widened(importance: Array, columns: int) -> Array:
    found = np.zeros((len(importance), columns))
    found[:, : importance.shape[1]] = importance
    return found


def _shares(held: Indices, room: Indices, count: int) -> Indices:
    """Split ``count`` in proportion to ``held``; what is more than a group has room for goes to those that have."""
    shares = _proportional(held, count)
    surplus = int((shares - room).clip(min=0).sum())
    shares = np.minimum(shares, room)
    return shares + _proportional(room - shares, min(surplus, int((room - shares).sum())))


def _proportional(weights: Indices, count: int) -> Indices:
    return np.diff(np.round(np.cumsum([0, *weights]) * (count / max(int(weights.sum()), 1)))).astype(np.intp)
