"""Drop residual branches: depth pruning without training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from surgery_ir.analysis.cost import layer_costs
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.rows import CHECK_EVERY
from surgery_ir.analysis.samples import require
from surgery_ir.analysis.shapes import Shape, infer_shapes
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.prune.branches import Branch, find_branches, runs
from surgery_ir.passes.prune.replacements import Replacement, replacements
from surgery_ir.passes.prune.splicing import replace_branch
from surgery_ir.passes.prune.standins import Case, Fitted, fit

__all__ = ["DropLayers"]


@dataclass(frozen=True)
class DropLayers(Pass):
    """Replace residual branches, or runs of them, by linear maps.

    The map is the least-squares one (ReplaceMe, Shopkhoev et al., 2025), pulled towards the identity. It is merged
    into the layers around the branch where that is exact, left out where the identity is as good, and an operator of
    its own otherwise. Which branch goes next is what leaves the least relative error per multiply-accumulate saved
    on held-out samples (cf. ShortGPT, Men et al., 2024), measured on the network that the ones before have left.
    ``repair`` afterwards re-solves what stays: the sums keep their names.
    """

    name: ClassVar[str] = "drop-layers"
    serves: ClassVar[frozenset[str]] = frozenset({"macs", "latency", "params", "size"})
    needs_samples: ClassVar[bool] = True

    ratio: Annotated[
        float, Range(0.0, 1.0, search=(0.0, 0.6)), Help("share of the residual branches to drop, rounded")
    ] = 0.25
    count: Annotated[int | None, Range(1, 10_000), Help("number of branches to drop, instead of a share")] = None
    span: Annotated[int, Range(1, 8), Help("branches in a row that one map may replace")] = 1
    ridge: Annotated[float, Range(0.0, 10.0), Help("pull towards the identity, relative to the inputs")] = 0.01
    most: Annotated[
        float,
        Range(0.0, 10.0),
        Help("largest squared error that a map may leave, relative to its target"),
    ] = 0.5

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Drop one branch, or run of branches, after the other."""
        assert ctx.samples is not None
        dense = editor.graph.clone()
        branches, refusals = find_branches(dense)
        if not branches:
            return refusals or [Refusal("there is no residual branch")]
        require(ctx.samples, CHECK_EVERY, self.name)
        count = self.count if self.count is not None else round(self.ratio * len(branches))
        if count == 0:
            return [Refusal(f"a share of {self.ratio:g} of {len(branches)} residual branches is none")]
        done = 0
        left: list[Refusal] = []
        while done < count:
            best, left = self._best(editor.graph, dense, count - done, ctx)
            if best is None:
                break
            replace_branch(editor, best.branch, best.way, best.map, best.dtype)
            left = [item for item in left if best.branch.removed.isdisjoint(item.nodes)]
            done += best.branch.length
            what = f"dropped {best.branch.node}, relative error {best.error:.3g} on held-out samples"
            ctx.progress(what, done, count)
        return [*refusals, *left]

    def _best(self, graph: Graph, dense: Graph, count: int, ctx: PassContext) -> tuple[Fitted | None, list[Refusal]]:
        """Choose what to drop next, at most ``count`` branches, and say which cannot be dropped."""
        assert ctx.samples is not None
        branches, _ = find_branches(graph)
        sizes, shapes = _shapes(graph, branches, ctx)
        costs = {item.name: float(item.macs or item.params) for item in layer_costs(graph, sizes)}
        layers = tuple(find_layers(graph))
        reasons: dict[str, str] = {}
        cases = []
        for branch in (*branches, *runs(graph, branches, min(self.span, count))):
            ways = replacements(graph, branch, layers, shapes)
            if not isinstance(ways, str):
                saving = tuple(way for way in ways if _saved(branch, way, costs, shapes) > 0)
                cases.extend([Case(branch, saving)] if saving else [])
                ways = "a linear map costs as much as it does"
            reasons.setdefault(branch.node, ways)
        found = fit(graph, dense, cases, shapes, ctx.samples, ctx.runtime, ridge=self.ridge, seed=ctx.seed)
        best: tuple[float, Fitted] | None = None
        least: dict[str, float] = {}
        for item in found:
            node = item.branch.node
            least[node] = min(item.error, least.get(node, item.error))
            score = item.error / _saved(item.branch, item.way, costs, shapes)
            if item.error <= self.most and (best is None or score < best[0]):
                best = score, item
        for node, error in least.items():
            reasons[node] = f"its linear map leaves a relative error of {error:.3g} on held-out samples"
        left = [Refusal(text, (node,)) for node, text in reasons.items() if least.get(node, math.inf) > self.most]
        return (None if best is None else best[1]), left


def _shapes(
    graph: Graph, branches: Sequence[Branch], ctx: PassContext
) -> tuple[dict[str, tuple[int, ...]], dict[str, Shape]]:
    """Shapes for one sample: those that the cost needs, and those of all values; a run tells what inference cannot."""
    assert ctx.samples is not None
    feeds = next(ctx.samples.take(1).batches(graph, 1)).feeds
    sizes = sample_shapes(graph, ctx.runtime, feeds)
    shapes = infer_shapes(graph, sizes)
    values = dict.fromkeys(value for branch in branches for value in (branch.total, branch.kept))
    open_values = [name for name in values if None in shapes.get(name, (None,))]
    if open_values:
        found = ctx.runtime.load(with_outputs(graph, open_values)).run(feeds)
        shapes = infer_shapes(graph, sizes | {name: array.shape for name, array in found.items()})
    return sizes, shapes


def _saved(branch: Branch, way: Replacement, costs: Mapping[str, float], shapes: Mapping[str, Shape]) -> float:
    """Multiply-accumulates that one sample needs less; parameters stand for those of unknown number."""
    saved = sum(costs.get(name, 0.0) for name in branch.removed)
    if way.kind == "own":
        shape = [size or 1 for size in shapes[branch.total]]
        saved -= math.prod(shape) * shape[way.axis]
    return saved
