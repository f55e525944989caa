"""Cuts that have been proven, group by group where it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.prune.merging import merge
from surgery_ir.passes.prune.proof import reason_against_cut

__all__ = ["UnitCut", "make", "proven"]


@dataclass(frozen=True, slots=True, eq=False)
class UnitCut:
    """Units of one group that go.

    Parameters
    ----------
    removed
        The units.
    labels : (units,) int, optional
        Cluster of every unit, where those that go are merged into the first of their cluster.
    """

    removed: Indices
    labels: Indices | None = None


def make(editor: Editor, coupling: Coupling, cuts: Mapping[str, UnitCut]) -> Graph | None:
    """Merge and cut; give the graph between the two where anything was merged."""
    merged = False
    for name, item in cuts.items():
        if item.labels is not None:
            merge(editor, coupling, coupling[name], item.labels)
            merged = True
    between = editor.graph.clone() if merged else None
    cut(editor, coupling, {name: item.removed for name, item in cuts.items()})
    return between


def proven(
    graph: Graph, coupling: Coupling, cuts: Mapping[str, UnitCut], ctx: PassContext
) -> tuple[dict[str, UnitCut], list[Refusal]]:
    """Leave out groups whose cut does not equal the masked graph.

    All groups are tried at once; only where that fails, one by one. Without ``ctx.prove`` nothing is tried.
    """

    def reason(part: Mapping[str, UnitCut]) -> str | None:
        trial = Editor(graph.clone(), "proof")
        merged = make(trial, coupling, part)
        removed = {name: item.removed for name, item in part.items()}
        return reason_against_cut(merged or graph, trial.graph, coupling, removed, ctx)

    if not ctx.prove or not cuts or reason(cuts) is None:
        return dict(cuts), []
    kept: dict[str, UnitCut] = {}
    refusals: list[Refusal] = []
    for name, item in cuts.items():
        found = reason({name: item})
        if found is None:
            kept[name] = item
        else:
            refusals.append(Refusal(f"cutting it cannot be proven: {found}", (coupling[name].node,)))
    found = reason(kept) if kept else None
    if found is not None:
        nodes = tuple(coupling[name].node for name in kept)
        return {}, [*refusals, Refusal(f"cutting them together cannot be proven: {found}", nodes)]
    return kept, refusals
