"""Bring the mean and the variance of every channel back to what they are in the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.rows import CHECK_EVERY, Rows
from surgery_ir.analysis.samples import require
from surgery_ir.analysis.targets import Target
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.sequential import Affine, rounding

__all__ = ["RepairStatistics"]

Array = NDArray[np.float64]

GONE = 1e-12
"""Share of the dense variance below which a channel has none left to scale."""

GAIN = 1e-6
"""Share of its error that a channel has to lose for a change of its weights."""


class _Moments:
    """Mean and variance of two paired signals, channel by channel, of batches as they come.

    Batches are merged as by Chan, Golub & LeVeque (1983).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def add(self, values: Array) -> None:
        """Add ``values`` of shape (signals, groups, n, outputs)."""
        count, mean = values.shape[2], values.mean(axis=2)
        squares = np.square(values - mean[:, :, None]).sum(axis=2)
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.squares = self.squares + squares + np.square(step) * (self.count * count / total)
        self.count = total


@dataclass(frozen=True)
class _Correction:
    """What a layer's output is multiplied with, and what is added: both (groups, outputs)."""

    scale: Array
    shift: Array

    def __call__(self, output: Array) -> Array:
        corrected: Array = output * self.scale[:, None] + self.shift[:, None]
        return corrected


@dataclass(frozen=True)
class RepairStatistics(Pass):
    """Give every channel of every layer the mean and the variance that it has in the dense model.

    What is cut, merged or set to zero leaves signals with less variance than the layers behind were trained for. Each
    layer's output is scaled by σ(dense) / σ(compressed) and shifted to the dense mean, in its own weights and bias;
    there need not be a BatchNorm. Layers are taken in topological order, so each sees what the corrected ones before it
    put out. Scales are shrunk towards 1 as far as their own sampling error asks for (empirical Bayes, Efron & Morris,
    1973). Of scale and shift, shift alone, and neither, a channel gets what is nearest to the dense output on samples
    that were held out. Layers without a bias are only scaled, layers with shared weights only shifted. Much cheaper
    than ``repair``, which solves for all weights.

    REPAIR (Jordan et al., ICLR 2023), without its BatchNorms.
    """

    name: ClassVar[str] = "repair-statistics"
    needs_samples: ClassVar[bool] = True

    shrink: Annotated[
        float, Range(0.0, 100.0), Help("how much sampling error pulls scales towards 1; 0: not at all")
    ] = 1.0
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Correct layer after layer."""
        assert ctx.samples is not None
        found = find_layers(editor.graph)
        refusals = [Refusal(item.reason, (item.name,)) for item in found.skipped]
        reference = Cutter(ctx.reference)
        layers: list[Layer] = []
        for layer in found:
            reason = _reason_against(layer, reference)
            if reason is None:
                layers.append(layer)
            else:
                refusals.append(Refusal(reason, (layer.name,)))
        if not layers:
            return refusals or [Refusal("there is no layer with constant weights")]
        require(ctx.samples, CHECK_EVERY, self.name)
        dense = Walk(ctx.reference, ctx.samples, ctx.runtime, keep=[layer.output for layer in layers])
        small = Walk(editor.graph, ctx.samples, ctx.runtime)
        for index, layer in enumerate(layers):
            ctx.progress("repairing statistics", index, len(layers))
            rows = Rows(Target(layer), small, dense, self.positions, [ctx.seed, index])
            reason = rows.clash() or self._repair(editor, layer, rows, len(ctx.samples))
            rows.release()
            if reason is not None:
                refusals.append(Refusal(reason, (layer.name,)))
        ctx.progress("repairing statistics", len(layers), len(layers))
        return refusals

    def _repair(self, editor: Editor, layer: Layer, rows: Rows, samples: int) -> str | None:
        """Correct one layer; say why it was left alone, or ``None``."""
        weights = layer.matrix(editor.graph.array(layer.weight)).astype(np.float64)
        before = Affine(weights, layer_bias(editor.graph, layer))
        options = self._corrections(layer, rows, before, samples)
        errors, energy = _errors(rows, before, options)
        if errors[0].sum() <= rounding(editor.graph.array(layer.weight).dtype) * energy:
            return "what it puts out is what the dense model has already"
        errors[1:][errors[1:] > (1 - GAIN) * errors[0]] = np.inf
        best = errors.argmin(axis=0)  # the first changes nothing
        if not best.any():
            return "neither a scale nor a shift brings it nearer to the dense model on held-out samples"
        scale, shift = (
            np.take_along_axis(np.stack(items), best[None], axis=0)[0]
            for items in zip(*((option.scale, option.shift) for option in options), strict=True)
        )
        if not np.array_equal(scale, np.ones_like(scale)):
            editor.set_weights(layer.weight, layer.array(before.weights * scale[:, :, None]))
        if layer.takes_bias:
            set_layer_bias(editor, layer, before.biases * scale + shift)
        return None

    def _corrections(self, layer: Layer, rows: Rows, before: Affine, samples: int) -> list[_Correction]:
        """Give what a channel may get: nothing, and what its layer allows of a shift, and of a scale with it."""
        moments = _Moments()
        for batch in rows.batches("fit"):
            signals = np.stack([before(batch), batch.total.astype(np.float64)])
            if not np.isfinite(signals).all():
                raise PassError(f"{self.name}: what {layer.name!r} puts out on the samples is not finite")
            moments.add(signals)
        centre = moments.mean if layer.takes_bias else np.zeros_like(moments.mean)
        energy = moments.squares / moments.count + np.square(moments.mean - centre)
        ones = np.ones_like(centre[0])
        options = [_Correction(ones, 0 * ones)]
        if layer.takes_bias:
            options.append(_Correction(ones, centre[1] - centre[0]))
        if not layer.sharers:
            fitted = samples - samples // CHECK_EVERY
            scale = self._scale(rows, before, centre, energy, fitted)
            options.append(_Correction(scale, centre[1] - scale * centre[0]))
        return options

    def _scale(self, rows: Rows, before: Affine, centre: Array, energy: Array, samples: int) -> Array:
        """Ratio of deviations, to the power that its evidence is worth: (groups, outputs).

        The sampling variance of the logarithm of a ratio is that of its influence function, ½ (d²/σ_d² - c²/σ_c²),
        over the number of samples; positions of one sample count as one, as if they were all alike.
        """
        alive = (energy > GONE * energy[1]).all(axis=0) & (energy[1] > 0)
        safe = np.where(alive, energy, 1.0)
        influence, count = np.zeros_like(safe[0]), 0
        for batch in rows.batches("fit"):
            signals = np.stack([before(batch), batch.total.astype(np.float64)]) - centre[:, :, None]
            relative = np.square(signals) / safe[:, :, None]
            influence += np.square(0.5 * (relative[1] - relative[0])).sum(axis=1)
            count += signals.shape[2]
        error = influence / (count * samples)
        ratio = 0.5 * np.log(safe[1] / safe[0])
        spread = max(0.0, float((np.square(ratio) - error)[alive].mean())) if alive.any() else 0.0
        weight = spread / np.maximum(spread + self.shrink * error, np.finfo(np.float64).tiny)
        scale: Array = np.where(alive, np.exp(weight * ratio), 1.0)
        return scale


def _reason_against(layer: Layer, reference: Cutter) -> str | None:
    if layer.sharers and not layer.takes_bias:
        return f"it has no bias, and its weights are shared with {', '.join(layer.sharers)}"
    if layer.output not in reference.values:
        return "the dense model has no value of the name it writes"
    return None


def _errors(rows: Rows, before: Affine, options: Sequence[_Correction]) -> tuple[Array, float]:
    """Squared error of every option on held-out samples, (options, groups, outputs), and the energy of all targets."""
    errors, energy = np.zeros((len(options), *before.biases.shape)), 0.0
    for batch in rows.batches("check"):
        output, wanted = before(batch), batch.total.astype(np.float64)
        energy += float(np.square(wanted).sum())
        for index, option in enumerate(options):
            errors[index] += np.square(option(output) - wanted).sum(axis=1)
    return errors, energy
