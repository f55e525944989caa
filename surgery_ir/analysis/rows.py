"""Rows of a layer's regression during a repair: inputs from the compressed model, targets from the dense one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.columns import Sampler
from surgery_ir.analysis.layers import Layer
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
    x : (groups, n, columns)
        What the layer reads in the compressed model, and behind it what its taps read.
    total : (groups, n, outputs)
        What the dense model has: the layer's output, or the sum that it goes into.
    skip : (groups, n, outputs) or None
        What else is added, in the compressed model.
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
    taps
        Layers that might be added to it: further columns.
    small, dense
        Walks over the compressed and the dense model.
    positions
        Positions of each sample to take.
    seed
        Seed of the positions.
    """

    def __init__(
        self, target: Target, small: Walk, dense: Walk, positions: int, seed: list[int], taps: Sequence[Layer] = ()
    ) -> None:
        self.target = target
        self.parts = (*target.parts, *taps)
        self._small = small
        self._dense = dense
        self._samplers = [Sampler(part, positions) for part in self.parts]
        self._seed = seed
        self._read = [*(part.input for part in self.parts), *target.skips]
        small.compute(self._read)
        dense.compute([target.wanted])

    @property
    def columns(self) -> int:
        """Number of columns of one group."""
        return sum(part.inputs for part in self.parts)

    def clash(self) -> str | None:
        """Say where the dense target is not of the shape of the layer's output, which an Add may have broadcast."""
        x, total = next(self._small.values(self.target.layer.input)), next(self._totals())
        output = self._samplers[0].output_shape(x.shape)
        if output == total.shape:
            return None
        wanted = self.target.wanted
        return f"its output has shape {list(output)}, but {wanted!r} of the dense model has {list(total.shape)}"

    def batches(self, part: Part) -> Iterator[RowBatch]:
        """Yield the rows of ``part``: those that fit, those held out, or all."""
        inputs = zip(*(self._small.values(item.input) for item in self.parts), strict=True)
        skips = self._skips()
        start = 0
        for index, (read, total) in enumerate(zip(inputs, self._totals(), strict=True)):
            skip = next(skips)
            skip = None if skip is None else np.broadcast_to(skip, total.shape)
            own = self._samplers[0]
            stacked, total = [own.stack(x) for x in read], own.stack(total)
            held_out = np.arange(start, start + len(total)) % CHECK_EVERY == CHECK_EVERY - 1
            start += len(total)
            chosen = {"fit": ~held_out, "check": held_out, "all": np.ones(len(total), bool)}[part]
            if not chosen.any():
                continue
            picked = own.pick(stacked[0].shape, np.random.default_rng([*self._seed, index]))
            if skip is not None:
                skip = own.targets(own.stack(skip)[chosen], picked)
            yield RowBatch(
                self._columns([x[chosen] for x in stacked], picked), own.targets(total[chosen], picked), skip
            )

    def _columns(self, read: Sequence[NDArray[Any]], picked: NDArray[np.intp]) -> NDArray[Any]:
        """Put the columns of all parts side by side; every group of the layer sees those of the taps."""
        found = [sampler.inputs(x, picked) for sampler, x in zip(self._samplers, read, strict=True)]
        if len(found) == 1:
            return found[0]
        groups, rows, _ = found[0].shape
        return np.concatenate([np.broadcast_to(x, (groups, rows, x.shape[-1])) for x in found], axis=2)

    def _skips(self) -> Iterator[NDArray[Any] | None]:
        """Yield the sum of all other summands, batch by batch."""
        if not self.target.skips:
            while True:
                yield None
        for values in zip(*(self._small.values(name) for name in self.target.skips), strict=True):
            yield sum(values[1:], values[0])

    def _totals(self) -> Iterator[NDArray[Any]]:
        """Yield what the dense model has, as far as the compressed one still holds it."""
        cuts = self._small.graph.cuts.get(self.target.wanted, {})
        for total in self._dense.values(self.target.wanted):
            for axis, kept in cuts.items():
                total = total.take(kept, axis)
            yield total

    def release(self) -> None:
        """Let the walks forget what only this layer needed."""
        self._small.forget(self._read)
        self._dense.forget([self.target.wanted])
