"""Scores, and how sure the difference of two of them is."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Score", "difference"]


@dataclass(frozen=True)
class Score:
    """How good a model is on some samples; higher is better.

    Parameters
    ----------
    name
        Name of the metric.
    value
        The score.
    samples
        Number of samples behind it.
    units
        Parts that average to the score, float64: one per sample, or fewer pseudo-values of a jackknife where the
        metric is no mean over samples. Scores on the same samples can be compared unit by unit.
    """

    name: str
    value: float
    samples: int
    units: NDArray[np.float64] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Difference:
    """A candidate's score minus its baseline's, and the standard error of that."""

    value: float
    standard_error: float


def difference(candidate: Score, baseline: Score) -> Difference:
    """Compare two scores on the same samples, sample by sample.

    Pairing removes what makes a sample hard for both. Per-sample scores get one pseudo-difference of +1 and one of
    -1 in the standard error (Bonett and Price 2012, adjusted Wald interval for paired proportions), so that a few
    samples without a disagreement do not pass for certainty.

    Raises
    ------
    ValueError
        The scores are of different metrics or samples.
    """
    if (candidate.name, candidate.units.shape) != (baseline.name, baseline.units.shape):
        raise ValueError(f"{candidate} and {baseline} are scores of different metrics or samples")
    delta = candidate.units - baseline.units
    if delta.size == candidate.samples:
        delta = np.append(delta, (1.0, -1.0))
        freedom = delta.size
    else:
        freedom = max(delta.size - 1, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.square(delta - delta.mean()).sum())
    error = sqrt(squares / freedom / delta.size) if np.isfinite(squares) else inf
    return Difference(candidate.value - baseline.value, error)


def jackknife(value: float, without: list[float]) -> NDArray[np.float64]:
    """Give the pseudo-values of a score from its values ``without`` one block of samples each (Tukey 1958)."""
    blocks = len(without)
    values: NDArray[np.float64] = blocks * value - (blocks - 1) * np.asarray(without, np.float64)
    return values
