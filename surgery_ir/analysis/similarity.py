"""Whether two networks see the same in the same samples: linear CKA, and how mean and variance have shifted."""

from __future__ import annotations

import math

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Real
from surgery_ir.solvers.quadratic import Moments

__all__ = ["Similarity"]

CONSTANT = 1e-12
"""Channels whose standard deviation is below this share of their mean are constant: it is rounding."""


class Similarity:
    """Similarity of the features that a dense and a compressed network have at the same place, over streamed rows.

    Rows are samples, or positions of samples. Only second moments are kept, centred about the running mean and
    merged as by Chan, Golub & LeVeque (1979): memory is one square matrix over the channels of both.

    Parameters
    ----------
    kept
        Which channels of the dense network those of the compressed one are, (c',); all by default.

    Notes
    -----
    With fewer rows than channels :attr:`cka` tends to 1 for features that have nothing in common; take several times
    as many rows as channels.
    """

    def __init__(self, kept: Indices | None = None) -> None:
        self._kept = kept
        self._channels = 0
        self._moments = Moments(0)

    @property
    def rows(self) -> int:
        """Number of rows that were added."""
        return self._moments.n

    def add(self, dense: Real, small: Real) -> None:
        """Add rows.

        Parameters
        ----------
        dense : (n, c)
            Features of the dense network.
        small : (n, c')
            Features of the compressed one for the same rows.

        Raises
        ------
        ValueError
            The shapes do not fit each other or the rows before, or a value is NaN or infinite.
        """
        if dense.ndim != 2 or small.ndim != 2 or len(dense) != len(small):
            raise ValueError(f"features {dense.shape} and {small.shape} are not of shapes (n, c) and (n, c')")
        if self.rows == 0:
            counterparts = dense.shape[1] if self._kept is None else len(self._kept)
            if small.shape[1] != counterparts:
                raise ValueError(f"{small.shape[1]} compressed channels cannot be {counterparts} of the dense ones")
            self._channels = dense.shape[1]
            self._moments = Moments(dense.shape[1] + small.shape[1])
        elif dense.shape[1] != self._channels:
            raise ValueError(f"{dense.shape[1]} dense channels follow on {self._channels}")
        self._moments.add(np.concatenate([dense, small], axis=1))

    @property
    def cka(self) -> float:
        """Linear centred kernel alignment (Kornblith et al., ICML 2019), from 0 to 1.

        ‖X̃ᵀỸ‖² / (‖X̃ᵀX̃‖ ‖ỸᵀỸ‖) in Frobenius norms, X̃ and Ỹ the centred features: 1 where one is a rotation and
        scaling of the other. Two constant features are alike, a constant and a varying one have nothing in common.
        """
        covariance, c = self._covariance(), self._channels
        own = float(np.linalg.norm(covariance[:c, :c])), float(np.linalg.norm(covariance[c:, c:]))
        if min(own) == 0.0:
            return 1.0 if max(own) == 0.0 else 0.0
        shared = float(np.linalg.norm(covariance[:c, c:]))
        return min((shared / own[0]) * (shared / own[1]), 1.0)

    @property
    def shift(self) -> float:
        """How far mean and variance of the channels have moved, in units of the dense variance; 0 or more.

        Σ ((μ − μ')² + (σ − σ')²) / Σ σ² over the channels that both have: the squared Fréchet distance (Dowson &
        Landau, 1982) between Gaussians with these means and variances, every channel by itself. Infinite where the
        dense channels are constant and the others are not the same constants.
        """
        mean = self._moments.x_mean
        variance: Array = self._covariance().diagonal()
        which = np.arange(self._channels) if self._kept is None else self._kept
        means, others = mean[which], mean[self._channels :]
        deviations, other_deviations = np.sqrt(variance[which]), np.sqrt(variance[self._channels :])
        moved = float(np.square(means - others).sum() + np.square(deviations - other_deviations).sum())
        scale = float(variance[which].sum())
        if scale == 0.0:
            return 0.0 if moved == 0.0 else math.inf
        return moved / scale

    @property
    def divergence(self) -> float:
        """1 − CKA + shift: 0 for equal features.

        CKA does not see what a scale or a mean has become, the shift does not see how channels are mixed; each is
        about 1 where what it looks at is lost.
        """
        return 1.0 - self.cka + self.shift

    def _covariance(self) -> Array:
        """Covariance of the channels of both, exactly 0 for constant ones."""
        covariance = self._moments.second_moment(centred=True)
        constant = np.sqrt(covariance.diagonal()) <= CONSTANT * np.abs(self._moments.x_mean)
        covariance[constant] = 0.0
        covariance[:, constant] = 0.0
        return covariance
