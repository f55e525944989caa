"""Which earlier values a layer would gain most from, by correlation with what it still misses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.rows import RowBatch
from surgery_ir.analysis.taps import Tap
from surgery_ir.passes.sequential import Affine, Equation, Sequential

__all__ = ["best_donors", "donor_gains"]

Array = NDArray[np.float64]


def best_donors(
    walk: Sequential, equation: Equation, solution: Affine, taps: Sequence[Tap], count: int
) -> tuple[Tap, ...]:
    """Give the ``count`` taps whose donors explain most of what ``solution`` leaves of the targets, best first."""
    if len(taps) <= count:
        return tuple(taps)
    gains = donor_gains(walk, equation, solution, taps)
    totals = [float(gain.max(axis=0).sum()) for gain in gains]
    return tuple(taps[place] for place in sorted(range(len(taps)), key=lambda place: -totals[place])[:count])


def donor_gains(walk: Sequential, equation: Equation, solution: Affine, taps: Sequence[Tap]) -> list[Array]:
    """By how much every single connection would lower the error, (channels, outputs) for each tap.

    That is cov(z, y − Wx)² / var(z) for a channel z of the donor: what counts is correlation with the residual, not
    with the output, which would pick what the layer has already. Outputs that a Relu cuts off rightly miss nothing.
    """
    own = equation.rows.columns
    widened = walk.equation(equation.target, taps)
    sums = _Covariance(widened.rows.columns - own, equation.layer.groups * equation.layer.outputs)
    for batch in widened.rows.batches("fit"):
        output = solution(RowBatch(batch.x[:, :, :own], batch.total, batch.skip))
        residual = batch.total - output
        if equation.rectified:
            residual = np.where((batch.total <= 0) & (output <= 0), 0.0, residual)
        sums.add(batch.x[0, :, own:], residual.transpose(1, 0, 2).reshape(residual.shape[1], -1))
    ends = np.cumsum([tap.layer.inputs for tap in taps])[:-1]
    return np.split(sums.gains(), ends, axis=0)


class _Covariance:
    """Covariances of inputs with targets, and variances of inputs, of batches as they come.

    Batches are merged as by Chan, Golub & LeVeque (1983).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self.x, self.y = np.zeros(inputs), np.zeros(outputs)
        self.xx, self.xy = np.zeros(inputs), np.zeros((inputs, outputs))

    def add(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
        """Add rows ``x`` (n, inputs), ``y`` (n, outputs)."""
        wide, target = x.astype(np.float64), y.astype(np.float64)
        x_mean, y_mean = wide.mean(axis=0), target.mean(axis=0)
        wide, target = wide - x_mean, target - y_mean
        x_step, y_step, total = x_mean - self.x, y_mean - self.y, self.count + len(x)
        weight, share = self.count * len(x) / total, len(x) / total
        self.xx += np.einsum("nd,nd->d", wide, wide) + weight * np.square(x_step)
        self.xy += wide.T @ target + weight * np.outer(x_step, y_step)
        self.x, self.y, self.count = self.x + share * x_step, self.y + share * y_step, total

    def gains(self) -> Array:
        """Reduction of the mean squared error by each single connection, (inputs, outputs)."""
        alive = self.xx > 0
        safe = np.where(alive, self.xx, 1.0)[:, None]
        found: Array = np.where(alive[:, None], np.square(self.xy) / safe, 0.0) / max(self.count, 1)
        return found
