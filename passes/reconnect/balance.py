"""What nonzeros are worth in each layer, and where they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.judge import Judge
from surgery_ir.analysis.sensitivity import sensitivity
from surgery_ir.analysis.targets import Target
from surgery_ir.analysis.walk import Walk
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.reconnect.acceptance import judge_of
from surgery_ir.passes.reconnect.exchange import Rules
from surgery_ir.passes.repair.refit import refit
from surgery_ir.passes.sequential import Affine, Equation, Sequential
from surgery_ir.solvers.budget import shifted
from surgery_ir.solvers.patterns import kept_pattern
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.regrowth import regrow
from surgery_ir.solvers.ridge import solve

__all__ = ["Balance", "repaired"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEVELS = (0.5, 0.7, 0.85, 1.0, 1.25, 1.6, 2.2)
"""Shares of its present nonzeros at which the error of a layer is looked at."""

ROWS = 32
"""Outputs of a layer that stand for all of them, where it has more."""

NOISE = 0.01
"""Variance of the noise that tells what an error costs, relative to the signal."""


@dataclass
class Balance:
    """What nonzeros are worth, layer by layer.

    ``curves`` hold the squared error of a layer that more of its weights could avoid: entry k is with k + 1 weights.
    ``prices`` are what a unit of it costs at the outputs of the network.
    """

    curves: dict[str, Array] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def moved(self, strength: float) -> Mapping[str, int]:
        """Give counts of nonzeros, the same in total, ``strength`` of the way to where costs are even."""
        names = list(self.counts)
        curves = [self.curves[name] for name in names]
        prices = [self.prices[name] for name in names]
        counts = shifted(curves, prices, [self.counts[name] for name in names], strength)
        return dict(zip(names, counts, strict=True))


def repaired(editor: Editor, ctx: PassContext, rules: Rules) -> tuple[Balance, Sequence[Refusal]]:
    """Repair the graph layer by layer and note on the way what nonzeros are worth; give that, and repair's refusals."""
    walk = Sequential(
        editor, ctx, rules.fit, "pricing layers", residual=rules.residual, positions=rules.positions
    )  # fmt: skip
    costs = _costs(ctx, judge_of(ctx, rules.checks), [item for item in walk.targets if _can_be_priced(editor, item)])
    balance = Balance()
    for equation in walk:
        equation.gather()
        name, before = equation.layer.name, equation.before
        present = before.weights != 0
        partial = present.any() and not present.all()
        if name in costs and partial and kept_pattern(present.reshape(-1, present.shape[2])) is None:
            plain = equation.solve("fit", before.weights, present)
            balance.curves[name] = _curve(equation, plain, present)
            balance.prices[name] = costs[name] / _energy(equation)
            balance.counts[name] = int(np.count_nonzero(present))
        reason = refit(walk, equation)
        if reason is not None:
            walk.refuse(equation.target, reason)
    return balance, walk.refusals


def _can_be_priced(editor: Editor, target: Target) -> bool:
    return not editor.graph.cuts.get(target.wanted) and bool(np.any(editor.graph.array(target.layer.weight) == 0))


def _costs(ctx: PassContext, judge: Judge, targets: Sequence[Target]) -> Mapping[str, float]:
    """Divergence at the outputs per unit of each layer's relative error in the dense model; measured once."""

    def measure() -> dict[str, float]:
        walk = Walk(ctx.reference, judge.samples, ctx.runtime, keep=[target.wanted for target in targets])
        found = {}
        for index, target in enumerate(targets):
            ctx.progress("pricing errors", index, len(targets))
            walk.compute([target.wanted])
            values = walk.values(target.wanted)
            cost = sensitivity(judge, target.wanted, target.layer.channel_axis, NOISE, values, ctx.seed)
            if np.isfinite(cost):  # else the dense model itself overflows on these samples
                found[target.layer.name] = cost
            walk.forget([target.wanted])
        return found

    # What is kept holds the judge, so that its identity stays its own.
    key = ("costs", id(judge), tuple((target.layer.name, target.wanted) for target in targets), ctx.seed)
    costs, _ = ctx.cache.get(key, lambda: (measure(), judge))
    return costs


def _energy(equation: Equation) -> float:
    """Mean square of what the layer is to reproduce, over all outputs."""
    total, rows = 0.0, 0
    for batch in equation.rows.batches("check"):
        total += float(np.square(batch.total, dtype=np.float64).sum())
        rows += batch.total.shape[1]
    return max(total / max(rows, 1), np.finfo(np.float64).tiny)


def _curve(equation: Equation, plain: Affine, present: Mask) -> Array:
    """Squared error of the layer with 1, 2, … of its weights, less that with all of them."""
    held = int(np.count_nonzero(present))
    levels = dict.fromkeys([0.0, *LEVELS, np.inf], 0.0)
    size = 0
    for group, problem in enumerate(equation.quadratics("fit", plain)):
        rows = np.unique(np.linspace(0, problem.outputs - 1, min(problem.outputs, ROWS)).astype(np.intp))
        part = Quadratic(problem.h, problem.r[:, rows], problem.yy[rows])
        mask, stored = present[group, rows], equation.before.weights[group, rows]
        size += problem.outputs * int(np.count_nonzero(np.diagonal(problem.h) > 0))
        for level, error in _errors(part, mask, stored, equation.fit.ridge).items():
            levels[level] += error * problem.outputs / len(rows)
    size = max(size, held)
    counts = [min(level * held, size) for level in levels]
    errors = np.minimum.accumulate(list(levels.values()))
    curve: Array = np.interp(np.arange(1, size + 1), counts, errors) - errors[-1]
    return curve


def _errors(problem: Quadratic, mask: Mask, stored: Array, ridge: float) -> dict[float, float]:
    """Squared error with each of ``LEVELS`` times the weights of ``mask``, with none, and with all."""
    held, live = int(np.count_nonzero(mask)), mask | (np.diagonal(problem.h) > 0)
    errors = {0.0: float(problem.yy.sum())}
    for side in ([level for level in LEVELS if level <= 1][::-1], [level for level in LEVELS if level > 1]):
        support, weights = mask, stored
        for level in side:
            count = min(round(level * held), int(np.count_nonzero(live)))
            found = regrow(problem, weights, support, ridge, count=count, rounds=0)
            support, weights = found.mask, found.weights
            errors[level] = float(problem.error(weights).sum())
    errors[np.inf] = float(problem.error(solve(problem, stored, ridge, live).weights).sum())
    return errors
