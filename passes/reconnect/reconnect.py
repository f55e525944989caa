"""Run a reconnection policy: prune and reconnect as one solve, accepted on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.reconnect.bundles import Bundles
from surgery_ir.passes.reconnect.coarse import bundled
from surgery_ir.passes.reconnect.exchange import Rules
from surgery_ir.passes.reconnect.policy import ReconnectionPolicy
from surgery_ir.passes.reconnect.shift import shifted
from surgery_ir.passes.sequential import Fit

__all__ = ["Reconnect"]

DIVERGED = 0.01
"""Divergence of features from which a layer may get a bundle, where the policy goes by that."""


@dataclass(frozen=True)
class Reconnect(ReconnectionPolicy, Pass):
    """Reconnect what was pruned, by a policy, at the same number of nonzeros or MACs.

    Every layer chooses among the weights it has, those it lost, and channels of earlier layers within the radius, all
    columns of one equation, and swaps until no swap lowers its error. Counts of nonzeros move between layers first.
    What does not bring the outputs nearer to the dense model's on selection data is undone: layer by layer, and as a
    whole against repair alone.
    """

    name: ClassVar[str] = "reconnect"
    serves: ClassVar[frozenset[str]] = frozenset({"metric"})
    needs_samples: ClassVar[bool] = True

    donors: Annotated[int, Range(1, 16), Help("earlier values that one layer may newly read")] = 2
    channels: Annotated[int, Range(1, 64), Help("channels: most that a layer may newly read")] = 8
    rank: Annotated[int, Range(1, 64), Help("layers: largest rank of a skip")] = 4
    rounds: Annotated[int, Range(1, 100), Help("rounds of swaps")] = 5
    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16
    checks: Annotated[int, Range(1, 100_000), Help("selection samples that judge")] = 256

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Follow the policy."""
        criteria = self.criteria.split("+")
        rules = Rules(
            own="gradient" in criteria,
            radius=self.radius if "correlation" in criteria else 0,
            donors=self.donors, budget=self.budget, per=self.per, accept=self.accept, rounds=self.rounds,
            fit=Fit(self.ridge), positions=self.positions, checks=self.checks,
        )  # fmt: skip
        drift = DIVERGED if "divergence" in criteria else 0.0
        if self.granularity == "weight":
            refusals = shifted(editor, ctx, rules, self.shift, "reconnecting")
            if drift == 0.0:
                return refusals
            skips = Bundles("rank", self.rank, drift)
            return [*refusals, *bundled(editor, ctx, skips, replace(rules, radius=self.radius), "adding skips")]
        if self.granularity == "channel":
            bundles = Bundles("channels", self.channels, drift)
        else:
            bundles = Bundles("rank", self.rank, drift)
        return bundled(editor, ctx, bundles, replace(rules, radius=self.radius), "reconnecting")
