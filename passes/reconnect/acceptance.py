"""Keep what helps: new connections are tried on samples that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.judge import Judge
from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.rows import CHECK_EVERY
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.taps import Tap
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.bias import layer_bias
from surgery_ir.passes.sequential import Affine, Equation, Sequential

__all__ = ["Gain", "Trial", "judge_of", "judging_samples"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Gain:
    """What new connections of a layer were expected to bring, and what they brought on selection data.

    Parameters
    ----------
    layer
        Name of the layer.
    created
        Connections that it would get.
    before
        Divergence of the outputs with the layer re-solved without them, all layers behind it being dense.
    predicted
        By how much that should fall: in proportion to the layer's error on held-out rows.
    measured
        By how much it fell; not a number where it could not be measured.
    kept
        Whether they stayed.
    """

    layer: str
    created: int
    before: float
    predicted: float
    measured: float
    kept: bool


def judging_samples(ctx: PassContext) -> Samples:
    """Selection samples; without them, the calibration samples that a walk holds out."""
    if ctx.selection is not None:
        return ctx.selection
    assert ctx.samples is not None
    return ctx.samples.take(slice(CHECK_EVERY - 1, None, CHECK_EVERY))


def judge_of(ctx: PassContext, limit: int) -> Judge:
    """Give the judge of a context; it is made once."""
    # What is kept holds the samples, so that their identities stay theirs.
    key = ("judge", ctx.reference.fingerprint(), id(ctx.selection), id(ctx.samples), limit)
    judge, *_ = ctx.cache.get(
        key, lambda: (Judge(ctx.reference, judging_samples(ctx), ctx.runtime, limit=limit), ctx.selection, ctx.samples)
    )
    return judge


class Trial:
    """Tries solutions of a layer: the dense model, in which one value is what the compressed model would have there.

    Parameters
    ----------
    walk
        The walk of the pass, with a trial walk on the judge's samples.
    judge
        The judge.
    """

    def __init__(self, walk: Sequential, judge: Judge) -> None:
        self._walk = walk
        self._judge = judge

    def can_measure(self, equation: Equation) -> bool:
        """Whether the value that the layer ends in has the shape that it has in the dense model."""
        return not self._walk.editor.graph.cuts.get(equation.target.wanted)

    def divergence(self, equation: Equation, solution: Affine, taps: Sequence[Tap] = ()) -> float:
        """Divergence of the outputs with this solution of the layer, everything behind it dense."""
        return self._judge.patched(equation.target.wanted, self._totals(equation, solution, taps))

    def _totals(self, equation: Equation, solution: Affine, taps: Sequence[Tap]) -> Iterator[Array]:
        """Yield what the layer and all that is added to it come to, batch by batch."""
        walk, target, layer = self._walk.trial, equation.target, equation.layer
        assert walk is not None
        walk.compute([*(part.input for part in target.parts), *(tap.donor for tap in taps), *target.skips])
        weights = equation.split(solution.weights)
        existing = [
            walk.peek(part.output, {part.weight: part.array(matrix.reshape(part.groups, part.outputs, part.inputs))})
            for part, matrix in zip(target.parts, weights, strict=False)
        ]
        added = [
            (tap.layer, walk.values(tap.donor), matrix.reshape(-1, tap.layer.inputs))
            for tap, matrix in zip(taps, weights[len(target.parts) :], strict=True)
        ]
        skips = [walk.values(name) for name in target.skips]
        step = (solution.biases - layer_bias(walk.graph, layer)).reshape(-1)
        for output in existing[0]:
            total = output + _along(step, output.ndim, layer.channel_axis)
            for summand in (*existing[1:], *skips):
                total = total + next(summand)
            for tap_layer, donors, matrix in added:
                total = total + _product(tap_layer, next(donors), matrix)
            yield total.astype(output.dtype)


def _product(layer: Layer, x: Array, weights: Array) -> Array:
    """Output of a tap: ``weights`` (outputs, channels) times every position that it reads."""
    if layer.geometry is None:
        return np.asarray(x @ weights.T)
    picked = x[(slice(None), slice(None), *(slice(None, None, step) for step in layer.geometry.strides))]
    return np.moveaxis(np.moveaxis(picked, 1, -1) @ weights.T, -1, 1)


def _along(vector: Array, rank: int, axis: int) -> Array:
    """Give ``vector`` a shape that broadcasts along one axis of ``rank``."""
    shape = np.ones(rank, dtype=np.intp)
    shape[axis] = -1
    return vector.reshape(shape)
