"""Prune single weights, blocks, or N of every M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.statistics import input_moments
from surgery_ir.errors import SpecError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.prune.selection import select_jointly
from surgery_ir.solvers.obs import elimination_scores
from surgery_ir.solvers.patterns import NM, Block, Pattern, parse_pattern
from surgery_ir.solvers.quadratic import Moments, Quadratic
from surgery_ir.solvers.ridge import solve

__all__ = ["PruneWeights"]

POSITIONS = 16
RIDGE = 0.01

Scores = NDArray[np.float32]
"""One number for each weight of a layer, (groups, outputs, inputs); the lowest go first."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the weights that matter least to zero, one by one or in a pattern.

    ``ratio`` is the share of zeros that a layer ends with. Criteria: ``magnitude`` is |w| and needs no data;
    ``wanda`` is |w|·‖x‖ (Sun et al., 2024); ``obs`` eliminates by the error that is left after compensation (optimal
    brain surgeon; ExactOBS, Frantar & Alistarh, 2022) and re-solves the weights that stay. Elimination orders are
    kept in the context, so another ratio costs only the selection.
    """

    name: ClassVar[str] = "prune-weights"
    serves: ClassVar[frozenset[str]] = frozenset({"nonzeros", "size"})

    ratio: Annotated[float, Range(0.0, 0.99, search=(0.3, 0.95)), Help("share of zeros that a layer ends with")] = 0.5
    criterion: Annotated[Literal["obs", "wanda", "magnitude"], Help("what makes a weight matter")] = "obs"
    pattern: Annotated[
        str, Help("unstructured, blocks of outputs x inputs such as 4x1, or N:M such as 2:4, which sets the ratio")
    ] = "unstructured"
    allocation: Annotated[
        Literal["uniform", "global"], Help("the same ratio everywhere, or one threshold over all layers")
    ] = "uniform"
    ratios: Annotated[Mapping[str, float], Range(0.0, 0.99), Help("ratios of single layers, over everything else")] = (
        field(default_factory=lambda: MappingProxyType({}))
    )
    ends: Annotated[bool, Help("prune the first and the last layers too")] = False
    compensate: Annotated[bool, Help("obs: re-solve the weights that stay; not needed ahead of repair")] = True

    def __post_init__(self) -> None:
        """Check the options together."""
        super().__post_init__()
        pattern = self._pattern()
        if isinstance(pattern, NM) and (self.allocation == "global" or self.ratios):
            raise SpecError(
                f"{self.name}: pattern {self.pattern} fixes the ratio of every layer; drop allocation and ratios"
            )

    def check(self, graph: Graph, ctx: PassContext) -> Refusal | None:
        """Refuse criteria that need data where there are none, and ratios for layers that do not exist."""
        if self.criterion != "magnitude" and ctx.samples is None:
            return Refusal(f"criterion {self.criterion} needs sample inputs: pass --data, or use criterion=magnitude")
        known = {layer.name for layer in find_layers(graph)}
        unknown = [name for name in self.ratios if name not in known]
        if unknown:
            return Refusal("ratios names layers that the model does not have", tuple(unknown))
        return None

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Choose masks layer by layer, then write the weights that stay."""
        layers, refusals = self._choose_layers(editor.graph)
        if not layers:
            return refusals or [Refusal("there is no layer with constant weights")]
        masks = self._masks(layers, self._scores(editor.graph, layers, ctx))
        pruned = []
        for layer in layers:
            present = layer.matrix(editor.graph.array(layer.weight)) != 0
            if np.any(present & ~masks[layer.name]):
                masks[layer.name] &= present  # what is pruned already stays so
                pruned.append(layer)
            else:
                refusals.append(Refusal("it has as many zeros already as are asked for", (layer.name,)))
        if self.criterion == "obs" and self.compensate:
            self._compensate(editor, ctx, pruned, masks)
        else:
            for layer in pruned:
                matrix = layer.matrix(editor.graph.array(layer.weight))
                editor.set_weights(layer.weight, layer.array(np.where(masks[layer.name], matrix, 0)))
        return refusals

    def _compensate(self, editor: Editor, ctx: PassContext, layers: Sequence[Layer], masks: Mapping[str, Mask]) -> None:
        """Re-solve the weights that stay for the outputs that the layer has now; a bias takes up the change of mean."""
        for layer, moments in self._moments(editor.graph.clone(), layers, ctx):
            matrix = layer.matrix(editor.graph.array(layer.weight)).astype(np.float64)
            solved = np.empty_like(matrix)
            bias = layer_bias(editor.graph, layer)
            for group, part in enumerate(moments):
                rows = matrix[group]
                problem = Quadratic.from_inputs(part.second_moment(layer.takes_bias), rows)
                solved[group] = solve(problem, rows, RIDGE, masks[layer.name][group]).weights
                bias[group] += (rows - solved[group]) @ part.x_mean
            editor.set_weights(layer.weight, layer.array(solved))
            if layer.takes_bias:
                set_layer_bias(editor, layer, bias)

    def _pattern(self) -> Pattern:
        try:
            return parse_pattern(self.pattern)
        except ValueError as error:
            raise SpecError(f"{self.name}: option 'pattern': {error}") from None

    def _choose_layers(self, graph: Graph) -> tuple[list[Layer], list[Refusal]]:
        """Layers to prune, and why the others are not."""
        found = find_layers(graph)
        refusals = [Refusal(item.reason, (item.name,)) for item in found.skipped]
        ends = frozenset() if self.ends else found.first | found.last
        layers: list[Layer] = []
        for layer in found:
            reason = self._reason_against(layer, ends)
            if reason is None and any(item.weight == layer.weight for item in layers):
                reason = f"its weights are those of {', '.join(layer.sharers)}, which are pruned"
            if reason is None:
                layers.append(layer)
            else:
                refusals.append(Refusal(reason, (layer.name,)))
        return layers, refusals

    def _reason_against(self, layer: Layer, ends: frozenset[str]) -> str | None:
        pattern = self._pattern()
        if ends.intersection((layer.name, *layer.sharers)) and layer.name not in self.ratios:
            return "first and last layers are left dense (ends=true prunes them)"
        if layer.sharers and self.criterion != "magnitude":
            return f"its weights are shared with {', '.join(layer.sharers)}; criterion=magnitude prunes them"
        if isinstance(pattern, NM) and layer.channels % pattern.m:
            return f"its {layer.channels} input channels are no multiple of {pattern.m}"
        if isinstance(pattern, Block) and (layer.outputs % pattern.rows or layer.channels % pattern.cols):
            return f"{layer.outputs} outputs and {layer.channels} input channels do not divide into {self.pattern}"
        return None

    def _masks(self, layers: Sequence[Layer], scores: Mapping[str, Scores]) -> dict[str, Mask]:
        """Weights that stay, for every layer: what ``ratios`` says of it, else by the allocation."""
        pattern = self._pattern()
        names = [layer.name for layer in layers]
        if isinstance(pattern, NM):
            return {name: np.stack([pattern.select(part) for part in scores[name]]) for name in names}
        rivals = [name for name in names if self.allocation == "global" and name not in self.ratios]
        fields = [(rivals, self.ratio)] if rivals else []
        fields += [([name], self.ratios.get(name, self.ratio)) for name in names if name not in rivals]
        masks: dict[str, Mask] = {}
        for field_, ratio in fields:
            selected = select_jointly(pattern, [scores[name] for name in field_], ratio)
            masks.update(zip(field_, selected, strict=True))
        return masks

    def _scores(self, graph: Graph, layers: Sequence[Layer], ctx: PassContext) -> Mapping[str, Scores]:
        if self.criterion == "magnitude":
            return {layer.name: np.abs(layer.matrix(graph.array(layer.weight))).astype(np.float32) for layer in layers}
        names = tuple(layer.name for layer in layers)
        pattern = self.pattern if self.criterion == "obs" else ""
        key = (self.name, self.criterion, pattern, graph.fingerprint(), names, _samples(ctx), ctx.seed)
        return ctx.cache.get(key, lambda: self._measured_scores(graph, layers, ctx))

    def _measured_scores(self, graph: Graph, layers: Sequence[Layer], ctx: PassContext) -> Mapping[str, Scores]:
        scores: dict[str, Scores] = {}
        for layer, moments in self._moments(graph, layers, ctx):
            matrix = layer.matrix(graph.array(layer.weight)).astype(np.float64)
            ctx.progress("ordering weights", len(scores), len(layers))
            if self.criterion == "wanda":
                norms = np.stack([np.sqrt(np.diag(part.second_moment(False))) for part in moments])
                found = np.abs(matrix) * norms[:, None]
            else:
                found = self._elimination_scores(layer, moments, matrix)
            scores[layer.name] = found.astype(np.float32)
        return MappingProxyType(scores)

    def _elimination_scores(
        self, layer: Layer, moments: Sequence[Moments], matrix: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Rise of the layer's error, relative to its outputs' energy, by the time that a weight has to go."""
        scores = np.empty_like(matrix)
        energy = np.empty(layer.groups)
        for group, part in enumerate(moments):
            problem = Quadratic.from_inputs(part.second_moment(layer.takes_bias), matrix[group])
            allowed = None if isinstance(self._pattern(), Block) else matrix[group] != 0
            scores[group] = elimination_scores(problem, matrix[group], self._pattern(), RIDGE, allowed=allowed)
            energy[group] = problem.yy.sum()
        # Each group's scores are relative to its own outputs: bring them to one scale, so that groups can compete.
        scores *= (energy / max(energy.sum(), np.finfo(np.float64).tiny))[:, None, None]
        return scores

    def _moments(
        self, graph: Graph, layers: Sequence[Layer], ctx: PassContext
    ) -> Iterator[tuple[Layer, tuple[Moments, ...]]]:
        return input_moments(
            graph, layers, _samples(ctx), ctx.runtime, positions=POSITIONS, seed=ctx.seed, progress=ctx.progress
        )


def _samples(ctx: PassContext) -> Samples:
    assert ctx.samples is not None
    return ctx.samples
