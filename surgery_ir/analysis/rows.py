"""Rows of a layer's regression during a repair: inputs from the compressed model, targets from the dense one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.columns import Sampler
from surgery_ir.analysis.targets import Target
from surgery_ir.analysis.walk import Walk

__all__ = ["CHECK_EVERY", "Part", "RowBatch", "Rows"]

Part = Literal["fit", "check", "all"]

CHECK_EVERY = 8
"""One sample in so many is held out to judge what the others fit."""


@dataclass(frozen=True)
class RowBatch:
    """Rows of one batch, groups first.

    Parameters
    ----------
    x : (groups, n, inputs)
        What the layer reads in the compressed model.
    total : (groups, n, outputs)
        What the dense model has: the layer's output, or the sum that it goes into.
    skip : (groups, n, outputs) or None
        The other summand, in the compressed model.
    """

    x: NDArray[Any]
    total: NDArray[Any]
    skip: NDArray[Any] | None

    @property
    def target(self) -> NDArray[Any]:
        """What the layer itself is to give."""
        return self.total if self.skip is None else self.total - self.skip


class Rows:
    """The same sampled rows, as often as they are asked for.

    Parameters
    ----------
    target
        Layer and what it is to reproduce; the values it needs are computed in both walks.
    small, dense
        Walks over the compressed and the dense model.
    positions
        Positions of each sample to take.
    seed
        Seed of the positions.
    """

    def __init__(self, target: Target, small: Walk, dense: Walk, positions: int, seed: list[int]) -> None:
        self.target = target
        self._small = small
        self._dense = dense
        self._sampler = Sampler(target.layer, positions)
        self._seed = seed
        self._read = [target.layer.input] if target.skip is None else [target.layer.input, target.skip]
        self._wanted = target.total or target.layer.output
        small.compute(self._read)
        dense.compute([self._wanted])

    def clash(self) -> str | None:
        """Say where the dense target is not of the shape of the layer's output, which an Add may have broadcast."""
        x, total = next(self._small.values(self.target.layer.input)), next(self._totals())
        output = self._sampler.output_shape(x.shape)
        if output == total.shape:
            return None
        return f"its output has shape {list(output)}, but {self._wanted!r} of the dense model has {list(total.shape)}"

    def batches(self, part: Part) -> Iterator[RowBatch]:
        """Yield the rows of ``part``: those that fit, those held out, or all."""
        skips = self._small.values(self.target.skip) if self.target.skip is not None else None
        inputs = self._small.values(self.target.layer.input)
        start = 0
        for index, (x, total) in enumerate(zip(inputs, self._totals(), strict=True)):
            skip = np.broadcast_to(next(skips), total.shape) if skips is not None else None
            x, total = self._sampler.stack(x), self._sampler.stack(total)
            held_out = np.arange(start, start + len(x)) % CHECK_EVERY == CHECK_EVERY - 1
            start += len(x)
            chosen = {"fit": ~held_out, "check": held_out, "all": np.ones(len(x), bool)}[part]
            if not chosen.any():
                continue
            picked = self._sampler.pick(x.shape, np.random.default_rng([*self._seed, index]))
            if skip is not None:
                skip = self._sampler.targets(self._sampler.stack(skip)[chosen], picked)
            yield RowBatch(self._sampler.inputs(x[chosen], picked), self._sampler.targets(total[chosen], picked), skip)

    def _totals(self) -> Iterator[NDArray[Any]]:
        """Yield what the dense model has, as far as the compressed one still holds it."""
        cuts = self._small.graph.cuts.get(self._wanted, {})
        for total in self._dense.values(self._wanted):
            for axis, kept in cuts.items():
                total = total.take(kept, axis)
            yield total

    def release(self) -> None:
        """Let the walks forget what only this layer needed."""
        self._small.forget(self._read)
        self._dense.forget([self._wanted])
