"""What all passes that cut whole units have in common: choose, cut, prove, re-solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

import numpy as np

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.products import evaluate, macs_polynomial, params_polynomial
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.coupled import find_coupling, whole
from surgery_ir.passes.options import Help, Range, Searched
from surgery_ir.passes.prune.folding import fold_labels
from surgery_ir.passes.prune.merging import reason_against_merge
from surgery_ir.passes.prune.pace import Pace
from surgery_ir.passes.prune.proven import UnitCut, make, proven
from surgery_ir.passes.prune.ranking import needs_samples, rank
from surgery_ir.passes.prune.sizes import Budget, allocated_sizes, levels, nearest_size, tables
from surgery_ir.passes.repair.refit import Repair

__all__ = ["PruneUnits"]


DIGITS = 6
"""Of a share that is spelled out: enough for a million units."""


RELU = 3
"""Rounds of majorisation: after a cut they are worth a tenth of a point."""

FLOOR = 0.72
"""Share of the MACs asked for below which none are given up for the sake of time."""

UNTIMED = 0.02
"""Share of the time that goes into what no table holds and no cut is taken to save."""

NOISE = 0.08
"""Share by which time may exceed that of the MACs without anything being done about it: what measuring cannot tell."""

SLACKS = (1.0, 1.03, 1.06, 1.1, 1.15, 1.2, 1.3, 1.5)
"""How much more than its share the time may take, where it would otherwise cost too many MACs."""


@dataclass(frozen=True)
class PruneUnits(Pass):
    """Base of the passes that cut units; a subclass says which groups are its own.

    Where a share of the model is asked for, units go where that costs least. Masked and cut graph are compared before
    anything is re-solved, and a group whose cut cannot be proven stays whole.
    """

    proves: ClassVar[bool] = True

    ratio: Annotated[float, Range(0.0, 0.95, search=(0.1, 0.8)), Help("share of the units that every group loses")] = (
        0.3
    )
    macs: Annotated[
        float | None,
        Range(0.01, 1.0, search=(0.1, 0.95)),
        Help("share of the dense model's MACs to keep, instead of ratio"),
    ] = None
    params: Annotated[
        float | None,
        Range(0.01, 1.0, search=(0.1, 0.95)),
        Help("share of the dense model's parameters to keep, instead of ratio"),
    ] = None
    criterion: Annotated[
        Literal["obs", "wanda", "magnitude", "random", "fold"],
        Searched(("obs", "fold")),
        Help("what makes a unit matter; fold merges those that are alike"),
    ] = "obs"
    latency: Annotated[
        float | None,
        Range(0.01, 1.0, search=(0.1, 0.95)),
        Help("share of the measured time of the dense model's layers to keep"),
    ] = None
    multiple: Annotated[
        int | None,
        Range(1, 64),
        Help("widths are rounded to multiples of it; measured where it is not given, and time kept within macs too"),
    ] = None
    ratios: Annotated[Mapping[str, float], Range(0.0, 0.999), Help("ratios of single groups, over everything else")] = (
        field(default_factory=lambda: MappingProxyType({}))
    )
    compensate: Annotated[bool, Help("re-solve all layers afterwards, as repair does; not needed ahead of it")] = True

    def owns(self, graph: Graph, group: Group) -> bool:
        """Whether this pass cuts ``group``."""
        raise NotImplementedError

    def check(self, graph: Graph, ctx: PassContext) -> Refusal | None:
        """Refuse criteria that need data where there are none."""
        if needs_samples(self.criterion) and ctx.samples is None:
            return Refusal(f"criterion {self.criterion} needs sample inputs: pass --data, or use criterion=magnitude")
        return None

    def settle(self, graph: Graph, ctx: PassContext) -> Self:
        """Spell out the share that every group loses, where it was measured or allocated."""
        if self.multiple is not None and not any(self._budgets().values()):
            return self
        coupling = find_coupling(graph, ctx)
        groups = self._groups(graph, coupling)
        if not groups or self._unknown(groups):
            return self
        kept = self._sizes(graph, coupling, groups, ctx)
        shares = {group.name: round(1 - kept[group.name] / group.units, DIGITS) for group in groups}
        ratios = {name: share for name, share in shares.items() if share}
        return replace(self, ratio=0.0, macs=None, params=None, latency=None, multiple=1, ratios=ratios)

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Choose units, cut them, and re-solve the layers."""
        coupling = find_coupling(editor.graph, ctx)
        groups = self._groups(editor.graph, coupling)
        refusals = [Refusal(str(item.frost), (item.name,)) for item in coupling.frozen]
        unknown = self._unknown(groups)
        if unknown:
            return [*refusals, Refusal(f"ratios names groups that the model does not have: {', '.join(unknown)}")]
        if not groups:
            return [*refusals, Refusal("it has no group of units that this pass could cut")]
        kept = self._sizes(editor.graph, coupling, groups, ctx)
        smaller = [group for group in groups if kept[group.name] < group.units]
        refusals += [Refusal("its width stays as it is", (item.node,)) for item in groups if item not in smaller]
        if self.criterion == "fold":
            cuts, against = self._folded(editor.graph, coupling, smaller, kept, ctx)
        else:
            rankings = rank(editor.graph, coupling, groups, self.criterion, ctx)
            orders = {group.name: rankings[group.name].order[: group.units - kept[group.name]] for group in smaller}
            cuts, against = {name: UnitCut(np.sort(order)) for name, order in orders.items()}, []
        cuts, unproven = proven(editor.graph, coupling, cuts, ctx)
        if cuts:
            make(editor, coupling, cuts)
            if self.compensate and ctx.samples is not None:
                Repair(relu=RELU).apply(editor, ctx)
        return [*refusals, *against, *unproven]

    def _folded(
        self, graph: Graph, coupling: Coupling, groups: Sequence[Group], kept: Mapping[str, int], ctx: PassContext
    ) -> tuple[dict[str, UnitCut], list[Refusal]]:
        """Clusters of units that become one each."""
        cuts: dict[str, UnitCut] = {}
        refusals = []
        for group in groups:
            labels = fold_labels(graph, coupling, group, kept[group.name], ctx.seed)
            reason = reason_against_merge(graph, coupling, group, labels)
            if reason is None:
                first = np.unique(labels, return_index=True)[1]
                cuts[group.name] = UnitCut(np.setdiff1d(np.arange(group.units), first), labels)
            else:
                refusals.append(Refusal(f"its units cannot be folded: {reason}", (group.node,)))
        return cuts, refusals

    def _groups(self, graph: Graph, coupling: Coupling) -> list[Group]:
        return [group for group in coupling.groups if self.owns(graph, group)]

    def _unknown(self, groups: Sequence[Group]) -> list[str]:
        names = {group.name for group in groups}
        return [name for name in self.ratios if name not in names]

    def _budgets(self) -> dict[str, float | None]:
        return {"macs": self.macs, "params": self.params, "latency": self.latency}

    def _sizes(self, graph: Graph, coupling: Coupling, groups: Sequence[Group], ctx: PassContext) -> dict[str, int]:
        """Units that every group keeps.

        Raises
        ------
        PassError
            The budgets cannot be kept.
        """
        pace = Pace(graph, coupling, ctx) if self.multiple is None or self.latency is not None else None
        sizes: dict[str, Indices] = {}
        for done, group in enumerate(groups):
            multiple = self.multiple
            if multiple is None and pace is not None:
                ctx.progress("timing layers", done, len(groups))
                multiple = pace.multiple(group)
            multiple = _unit_multiple(group, multiple or 1)
            if any(self._budgets().values()) and group.name not in self.ratios:
                sizes[group.name] = levels(group.units, multiple)
            else:
                share = 1 - self.ratios.get(group.name, self.ratio)
                sizes[group.name] = np.array([nearest_size(group.units, share, multiple)])
        if any(self._budgets().values()):
            return self._allocate(graph, coupling, groups, sizes, pace, ctx)
        return {name: int(item[0]) for name, item in sizes.items()}

    def _allocate(
        self,
        graph: Graph,
        coupling: Coupling,
        groups: Sequence[Group],
        allowed: Mapping[str, Indices],
        pace: Pace | None,
        ctx: PassContext,
    ) -> dict[str, int]:
        """Sizes, of those that are allowed, that keep within the shares of what the dense model costs."""
        rankings = rank(graph, coupling, groups, self.criterion, ctx)
        sizes = [allowed.get(group.name, np.array([group.units])) for group in coupling.groups]
        dense = whole(ctx.reference, ctx)
        budgets = []
        for what, share, polynomial in (
            ("MACs", self.macs, macs_polynomial),
            ("parameters", self.params, params_polynomial),
        ):
            if share is not None:
                total = evaluate(polynomial(ctx.reference, dense), ())
                budgets.append(Budget(what, tables(polynomial(graph, coupling), sizes), share * total, total))
        if pace is None or (self.latency is None and self.macs is None):
            return allocated_sizes(coupling.groups, sizes, rankings, budgets)
        terms = pace.terms(sizes)
        whole_graph = Budget("time", terms, np.inf, np.inf).cost([0] * len(sizes))
        # The tables and the single layers are measured apart: only their ratios are comparable.
        total = whole_graph * Pace(ctx.reference, dense, ctx).seconds() / pace.seconds()

        def allocate(share: float) -> dict[str, int]:
            return allocated_sizes(coupling.groups, sizes, rankings, [*budgets, timed(share)])

        def timed(share: float) -> Budget:
            return Budget("time", terms, share * total, total)

        if self.latency is not None:
            return allocate(self.latency)
        assert self.macs is not None
        plain = allocated_sizes(coupling.groups, sizes, rankings, budgets)
        kept = [plain[group.name] for group in coupling.groups]
        levels_of_plain = [int(np.flatnonzero(item == size)[0]) for item, size in zip(sizes, kept, strict=True)]
        if timed((1 + NOISE) * self.macs).holds(levels_of_plain):
            return plain
        macs = macs_polynomial(graph, coupling)
        for slack in SLACKS:
            with suppress(PassError):
                found = allocate(slack * self.macs - UNTIMED)
                if evaluate(macs, [found[group.name] for group in coupling.groups]) >= FLOOR * budgets[0].limit:
                    return found
        return plain


def _unit_multiple(group: Group, multiple: int) -> int:
    """Multiple of units that makes the width on the first weight a multiple of ``multiple``."""
    spans = group.written or group.read
    width = spans[0].indices.shape[1]
    return int(multiple // np.gcd(multiple, width))
