"""Prune single weights, blocks, or N of every M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer, find_ends, find_layers
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.statistics import input_moments
from surgery_ir.errors import SpecError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.prune.recurrent import RecurrentMatrix, recurrent_matrices
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

Weights: TypeAlias = Layer | RecurrentMatrix
"""What is pruned by itself; scores and masks go by the name of its initializer."""


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the weights that matter least to zero, one by one or in a pattern.

    ``ratio`` is the share of zeros that a layer ends with. Criteria: ``magnitude`` is |w| and needs no data;
    ``wanda`` is |w|·‖x‖ (Sun et al., 2024); ``obs`` eliminates by the error that is left after compensation (optimal
    brain surgeon; ExactOBS, Frantar & Alistarh, 2022) and re-solves the weights that stay. Elimination orders are
    kept in the context, so another ratio costs only the selection.

    W and R of LSTM, GRU and RNN are pruned by ``magnitude`` only, which counts such an operator as a layer. Each takes
    the ratio by itself, as their inputs differ in scale.
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
        known = {layer.name for layer in find_layers(graph)} | recurrent_matrices(graph).keys()
        unknown = [name for name in self.ratios if name not in known]
        if unknown:
            return Refusal("ratios names layers that the model does not have", tuple(unknown))
        return None

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Choose masks layer by layer, then write the weights that stay."""
        chosen, refusals = self._choose(editor.graph)
        if not chosen:
            return refusals or [Refusal("there is no layer with constant weights")]
        masks = self._masks(chosen, self._scores(editor.graph, chosen, ctx))
        pruned = []
        for item in chosen:
            present = item.matrix(editor.graph.array(item.weight)) != 0
            if np.any(present & ~masks[item.weight]):
                masks[item.weight] &= present  # what is pruned already stays so
                pruned.append(item)
            else:
                refusals.append(Refusal(f"{_role(item)}it has as many zeros already as are asked for", (item.name,)))
        if self.criterion == "obs" and self.compensate:
            self._compensate(editor, ctx, _layers(pruned), masks)
        else:
            for item in pruned:
                matrix = item.matrix(editor.graph.array(item.weight))
                editor.set_weights(item.weight, item.array(np.where(masks[item.weight], matrix, 0)))
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
                solved[group] = solve(problem, rows, RIDGE, masks[layer.weight][group]).weights
                bias[group] += (rows - solved[group]) @ part.x_mean
            editor.set_weights(layer.weight, layer.array(solved))
            if layer.takes_bias:
                set_layer_bias(editor, layer, bias)

    def _pattern(self) -> Pattern:
        try:
            return parse_pattern(self.pattern)
        except ValueError as error:
            raise SpecError(f"{self.name}: option 'pattern': {error}") from None

    def _choose(self, graph: Graph) -> tuple[list[Weights], list[Refusal]]:
        """Weights to prune, and why the others are not."""
        candidates, refusals = self._candidates(graph)
        ends: frozenset[str] = frozenset()
        if not self.ends:
            ends = ends.union(*find_ends(graph, frozenset(item.name for item in candidates)))
        chosen: list[Weights] = []
        for item in candidates:
            reason = self._reason_against(item, ends)
            if reason is None and any(other.weight == item.weight for other in chosen):
                reason = f"its weights are those of {', '.join(item.sharers)}, which are pruned"
            if reason is None:
                chosen.append(item)
            else:
                refusals.append(Refusal(reason, (item.name,)))
        return chosen, list(dict.fromkeys(refusals))

    def _candidates(self, graph: Graph) -> tuple[list[Weights], list[Refusal]]:
        """Weights that the criterion can judge, and why it cannot judge the others."""
        found, recurrent = find_layers(graph), recurrent_matrices(graph)
        candidates: list[Weights] = list(found)
        refusals: list[Refusal] = []
        for item in found.skipped:
            read = recurrent.get(item.name, item.reason)
            if isinstance(read, str):
                refusals.append(Refusal(read, (item.name,)))
            elif self.criterion == "magnitude":
                candidates += read
            else:
                reason = f"{item.reason} for criterion {self.criterion}; criterion=magnitude prunes it"
                refusals.append(Refusal(reason, (item.name,)))
        return candidates, refusals

    def _reason_against(self, layer: Weights, ends: frozenset[str]) -> str | None:
        pattern = self._pattern()
        if ends.intersection((layer.name, *layer.sharers)) and layer.name not in self.ratios:
            return "first and last layers are left dense (ends=true prunes them)"
        if layer.sharers and self.criterion != "magnitude":
            return f"its weights are shared with {', '.join(layer.sharers)}; criterion=magnitude prunes them"
        if isinstance(pattern, NM) and layer.channels % pattern.m:
            return f"{_role(layer)}its {layer.channels} input channels are no multiple of {pattern.m}"
        if isinstance(pattern, Block) and (layer.outputs % pattern.rows or layer.channels % pattern.cols):
            sizes = f"{layer.outputs} outputs and {layer.channels} input channels"
            return f"{_role(layer)}{sizes} do not divide into {self.pattern}"
        return None

    def _masks(self, chosen: Sequence[Weights], scores: Mapping[str, Scores]) -> dict[str, Mask]:
        """Weights that stay: what ``ratios`` says of their layer, else by the allocation."""
        pattern = self._pattern()
        if isinstance(pattern, NM):
            return {name: np.stack([pattern.select(part) for part in found]) for name, found in scores.items()}
        rivals = [item.weight for item in chosen if self.allocation == "global" and item.name not in self.ratios]
        fields = [(rivals, self.ratio)] if rivals else []
        fields += [
            ([item.weight], self.ratios.get(item.name, self.ratio)) for item in chosen if item.weight not in rivals
        ]
        masks: dict[str, Mask] = {}
        for field_, ratio in fields:
            selected = select_jointly(pattern, [scores[name] for name in field_], ratio)
            masks.update(zip(field_, selected, strict=True))
        return masks

    def _scores(self, graph: Graph, chosen: Sequence[Weights], ctx: PassContext) -> Mapping[str, Scores]:
        if self.criterion == "magnitude":
            return {item.weight: np.abs(item.matrix(graph.array(item.weight))).astype(np.float32) for item in chosen}
        layers = _layers(chosen)
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
            scores[layer.weight] = found.astype(np.float32)
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


def _layers(chosen: Sequence[Weights]) -> list[Layer]:
    return [item for item in chosen if isinstance(item, Layer)]


def _role(item: Weights) -> str:
    """Say which matrix of its operator a reason is about, where there are two."""
    return f"{item.role}: " if isinstance(item, RecurrentMatrix) else ""
