"""Shift capacity between layers: nonzeros to where an error costs most, or scales to where they do no harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.reconnect.acceptance import judge_of
from surgery_ir.passes.reconnect.attempts import attempt, keep_best
from surgery_ir.passes.reconnect.balance import Balance, repaired
from surgery_ir.passes.reconnect.equalise import equalise
from surgery_ir.passes.reconnect.exchange import Rules, exchange
from surgery_ir.passes.repair.refit import Repair
from surgery_ir.passes.sequential import Fit, Sequential

__all__ = ["Shift"]

CLEAR = 0.75
"""Share of the divergence of repair alone below which nothing else is tried: another way costs as much again."""


@dataclass(frozen=True)
class Shift(Pass):
    """Move nonzeros from layers with a low marginal error to layers with a high one, the total staying the same.

    On the way through the layers, each being repaired, the pass notes how the error of a layer depends on its number
    of nonzeros and what that error costs at the outputs of the network. Counts then move ``strength`` of the way to
    where the sum of costs is least: some layers lose their least useful weights, in others pruned weights return. The
    result is undone where repair alone comes nearer to the dense model on selection data.

    ``move=scale`` instead equalises the scales of channels between layers that only a positively homogeneous function
    separates, which changes no output (Nagel et al., ICCV 2019) and prepares for quantisation.
    """

    name: ClassVar[str] = "shift"
    needs_samples: ClassVar[bool] = True

    move: Annotated[Literal["budget", "scale"], Help("what is moved between layers")] = "budget"
    strength: Annotated[
        float, Range(0.0, 1.0, search=(0.1, 1.0)), Help("how far to go to the counts of least predicted cost")
    ] = 0.5
    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16
    checks: Annotated[int, Range(1, 100_000), Help("selection samples that judge")] = 256

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Price the layers, move their counts, and keep that if it helps."""
        if self.move == "scale":
            return equalise(editor, ctx)
        rules = Rules(fit=Fit(self.ridge), positions=self.positions, checks=self.checks, rounds=0)
        return shifted(editor, ctx, rules, self.strength, "shifting nonzeros")


def shifted(editor: Editor, ctx: PassContext, rules: Rules, strength: float, what: str) -> list[Refusal]:
    """Let ``rules`` work with counts that moved; also with the present ones, unless that clearly beats repair."""
    if not find_layers(editor.graph).layers:
        return Sequential(editor, ctx, rules.fit, what).refusals
    judge = judge_of(ctx, rules.checks)
    balances: list[Balance] = []

    def repair(copy: Editor) -> Sequence[Refusal]:
        if strength == 0:
            return Repair(ridge=rules.fit.ridge, positions=rules.positions).apply(copy, ctx)
        balance, refusals = repaired(copy, ctx, rules)
        balances.append(balance)
        return refusals

    def reconnect(counts: Mapping[str, int], copy: Editor) -> Sequence[Refusal]:
        return exchange(copy, ctx, rules.with_counts(counts), what).refusals

    attempts = [attempt(editor, judge, "repair alone", repair)]
    moves: list[Mapping[str, int]] = [counts for item in balances if (counts := item.moved(strength)) != item.counts]
    if rules.rounds:
        moves.append({})
    for moved in moves:
        title = f"{what} with counts moved" if moved and rules.rounds else what
        attempts.append(attempt(editor, judge, title, partial(reconnect, moved)))
        if attempts[-1].divergence < CLEAR * attempts[0].divergence:
            break
    refusals = keep_best(editor, attempts)
    if not moves:
        refusals.append(Refusal("no two layers have nonzeros that they could trade"))
    return refusals
