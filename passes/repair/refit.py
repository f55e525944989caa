"""Re-solve every layer so that the compressed model follows the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.rows import CHECK_EVERY, Part, RowBatch, Rows
from surgery_ir.analysis.samples import require
from surgery_ir.analysis.targets import Target, plan
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.options import Help, Range
from surgery_ir.solvers.quadratic import Moments
from surgery_ir.solvers.retarget import Retargeted
from surgery_ir.solvers.ridge import solve

__all__ = ["Repair"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """Weights (groups, outputs, inputs) and biases (groups, outputs) of a layer."""

    weights: Array
    biases: Array

    def __call__(self, rows: RowBatch) -> Array:
        """Give what the layer, with its skip, puts out for ``rows``: (groups, n, outputs)."""
        out: Array = np.einsum("gnd,god->gno", rows.x, self.weights, optimize=True) + self.biases[:, None]
        return out if rows.skip is None else out + rows.skip


@dataclass(frozen=True)
class Repair(Pass):
    """Re-solve the weights that stay, layer by layer, from the compressed inputs to the dense outputs.

    Layers are solved in topological order: inputs come from the part of the model that is compressed and repaired
    already, targets from the dense model, so errors do not add up. Zeros stay zero. A layer that ends in an Add
    solves for the dense sum minus the compressed skip and so absorbs what the skip path has lost. Ahead of a Relu,
    targets below zero only ask for an output below zero (``relu`` rounds of majorisation, each re-solving for targets
    that leave rightly negative outputs where they are). A solution that does not lower the error on samples it has
    not seen is dropped.

    The layer equations of ridge regression towards the present weights; sequential targets as in SparseGPT
    (Frantar & Alistarh, 2023), applied to the final pattern.
    """

    name: ClassVar[str] = "repair"
    serves: ClassVar[frozenset[str]] = frozenset({"metric"})
    needs_samples: ClassVar[bool] = True

    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    residual: Annotated[bool, Help("layers in front of an Add absorb the error of the other summand")] = True
    relu: Annotated[int, Range(0, 20), Help("rounds that free outputs which a Relu cuts off")] = 1
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Solve layer after layer."""
        assert ctx.samples is not None
        found = find_layers(editor.graph)
        refusals = [Refusal(item.reason, (item.name,)) for item in found.skipped]
        reference = Cutter(ctx.reference)
        layers = []
        for layer in found:
            reason = _reason_against(layer, reference)
            if reason is None:
                layers.append(layer)
            else:
                refusals.append(Refusal(reason, (layer.name,)))
        if not layers:
            return refusals or [Refusal("there is no layer with constant weights")]
        require(ctx.samples, CHECK_EVERY, self.name)
        targets = [_known(item, reference) for item in plan(editor.graph, layers, self.residual)]
        wanted = [item.total or item.layer.output for item in targets]
        dense = Walk(ctx.reference, ctx.samples, ctx.runtime, keep=wanted)
        small = Walk(editor.graph, ctx.samples, ctx.runtime)
        for index, target in enumerate(targets):
            ctx.progress("repairing layers", index, len(targets))
            rows = Rows(target, small, dense, self.positions, [ctx.seed, index])
            reason = self._repair(editor, rows)
            rows.release()
            if reason is not None:
                refusals.append(Refusal(reason, (target.layer.name,)))
        ctx.progress("repairing layers", len(targets), len(targets))
        return refusals

    def _repair(self, editor: Editor, rows: Rows) -> str | None:
        """Solve one layer; say why it was left alone, or ``None``."""
        layer = rows.target.layer
        clash = rows.clash()
        if clash is not None:
            return clash
        before = _stored(editor, layer)
        fit, check = _moments(rows, "fit"), _moments(rows, "check")
        rectified = rows.target.rectified and self.relu > 0
        old = _error(rows, before, rectified)
        if old <= _rounding(editor.graph.array(layer.weight).dtype):
            return "what it puts out is what the dense model has already"
        new = _error(rows, self._solve(rows, "fit", fit, before), rectified)
        if not new < old:
            return f"re-solving it does not lower its relative error on held-out samples ({old:.3g} to {new:.3g})"
        for part, other in zip(fit, check, strict=True):
            part.merge(other)
        after = self._solve(rows, "all", fit, before)
        editor.set_weights(layer.weight, layer.array(after.weights))
        if layer.takes_bias:
            set_layer_bias(editor, layer, after.biases)
        return None

    def _solve(self, rows: Rows, part: Part, moments: list[Moments], before: Affine) -> Affine:
        """Solve on the rows of ``part``, whose moments are given; zeros of ``before`` stay zero."""
        solution = self._ridge(rows.target.layer, moments, before)
        for _ in range(self.relu if rows.target.rectified else 0):
            freed = [Retargeted(item) for item in moments]
            for batch in rows.batches(part):
                output = solution(batch)
                total = np.where(batch.total > 0, batch.total, np.minimum(output, 0))
                target = total if batch.skip is None else total - batch.skip
                for item, x, y in zip(freed, batch.x, target, strict=True):
                    item.add(x, y)
            solution = self._ridge(rows.target.layer, freed, before)
        return solution

    def _ridge(self, layer: Layer, moments: Sequence[Moments | Retargeted], before: Affine) -> Affine:
        weights, biases = np.empty_like(before.weights), np.zeros_like(before.biases)
        for group, part in enumerate(moments):
            prior = before.weights[group]
            weights[group] = solve(part.quadratic(layer.takes_bias), prior, self.ridge, prior != 0).weights
            if layer.takes_bias:
                biases[group] = part.intercept(weights[group])
        return Affine(weights, biases)


def _known(target: Target, reference: Cutter) -> Target:
    """Fall back to the layer's own output where the dense model does not have the sum that it goes into."""
    if target.total is None or target.total in reference.values:
        return target
    return replace(target, total=None, skip=None, rectified=False)


def _reason_against(layer: Layer, reference: Cutter) -> str | None:
    if layer.sharers:
        return f"its weights are shared with {', '.join(layer.sharers)}"
    if layer.output not in reference.values:
        return "the dense model has no value of the name it writes"
    return None


def _stored(editor: Editor, layer: Layer) -> Affine:
    weights = layer.matrix(editor.graph.array(layer.weight)).astype(np.float64)
    return Affine(weights, layer_bias(editor.graph, layer))


def _moments(rows: Rows, part: Part) -> list[Moments]:
    layer = rows.target.layer
    moments = [Moments(layer.inputs, layer.outputs) for _ in range(layer.groups)]
    for batch in rows.batches(part):
        for item, x, y in zip(moments, batch.x, batch.target, strict=True):
            try:
                item.add(x, y)
            except ValueError as error:
                raise PassError(f"repair: activations of {layer.name!r}: {error}") from error
    return moments


def _error(rows: Rows, layer: Affine, rectified: bool) -> float:
    """Squared error on held-out rows relative to the energy of the targets, behind the Relu if there is one."""
    error = energy = 0.0
    for batch in rows.batches("check"):
        output, wanted = layer(batch), batch.total.astype(np.float64)
        if rectified:
            output, wanted = np.maximum(output, 0), np.maximum(wanted, 0)
        error += float(((output - wanted) ** 2).sum())
        energy += float((wanted**2).sum())
    return error / energy if energy > 0 else error


def _rounding(dtype: np.dtype[Any]) -> float:
    """Relative squared error that a runtime's own rounding may cause."""
    return max(1e-10, (4 * float(np.spacing(np.ones((), dtype)))) ** 2)
