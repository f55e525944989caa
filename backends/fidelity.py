"""Fidelity: how far a model's outputs are from those of a reference, no labels needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

__all__ = ["Fidelity", "agreement", "fidelity", "has_classes"]

Array = NDArray[Any]
Float = NDArray[np.float64]

SUM_TOLERANCE = 1e-3
"""Rows that are non-negative and sum to 1 within this are probabilities; other rows are logits."""

SMALLEST_PROBABILITY = 1e-12
"""Probabilities below this count as this, so that a class that underflowed to 0 costs a finite KL."""


@dataclass(frozen=True)
class Fidelity:
    """Distance of a model from its reference.

    Parameters
    ----------
    kl
        KL(reference ‖ model) in nats over the last axis, mean over rows and outputs with classes; 0 where no output
        has classes.
    top1_agreement
        Share of rows whose likeliest class is the reference's, mean over outputs. An output without classes enters
        with R² = 1 − ‖y − ŷ‖² / ‖y − ȳ‖², clipped at 0; one that is no float with its share of equal values.
    max_abs
        Largest absolute difference over all float outputs; infinite where an output is no longer finite.
    """

    kl: float
    top1_agreement: float
    max_abs: float


def has_classes(output: Array) -> bool:
    """Whether the last axis of ``output`` runs over classes: floats (samples, [positions,] classes ≥ 2).

    Outputs of rank 4 and more are feature maps: their last axis is a spatial one.
    """
    return _is_float(output) and output.ndim in (2, 3) and output.shape[-1] >= 2


def fidelity(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Fidelity:
    """Compare ``outputs`` with those of the reference on the same samples.

    Raises
    ------
    ValueError
        Names or shapes differ.
    """
    _check(outputs, reference)
    divergences = [_kl(outputs[name], wanted) for name, wanted in reference.items() if has_classes(wanted)]
    distances = [_distance(outputs[name], wanted) for name, wanted in reference.items() if _is_float(wanted)]
    agreements = [max(float(_agreement(outputs[name], wanted).mean()), 0.0) for name, wanted in reference.items()]
    return Fidelity(
        kl=float(np.mean(divergences)) if divergences else 0.0,
        top1_agreement=float(np.mean(agreements)),
        max_abs=max(distances, default=0.0),
    )


def agreement(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Float:
    """Give each sample's share in ``top1_agreement``: their mean is it, but for the clipping.

    A sample's part of R² is 1 − its squared error over the mean squared deviation of the reference.
    """
    _check(outputs, reference)
    shares: Float = np.mean([_agreement(outputs[name], wanted) for name, wanted in reference.items()], axis=0)
    return shares


def _check(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
    shapes = {name: array.shape for name, array in outputs.items()}
    wanted = {name: array.shape for name, array in reference.items()}
    if shapes != wanted:
        raise ValueError(f"the outputs {shapes} are not those of the reference {wanted}")


def _is_float(output: Array) -> bool:
    return bool(np.issubdtype(output.dtype, np.floating))


def _agreement(output: Array, wanted: Array) -> Float:
    """Agreement of every sample: (samples,)."""
    samples = len(wanted)
    if has_classes(wanted):
        broken = np.isnan(output).any(-1) & ~np.isnan(wanted).any(-1)
        same = (output.argmax(-1) == wanted.argmax(-1)) & ~broken
        return np.asarray(same.reshape(samples, -1).mean(1), np.float64)
    if not _is_float(wanted):
        equal = (output == wanted).reshape(samples, -1)
        return np.asarray(equal.mean(1) if equal.shape[1] else np.ones(samples), np.float64)
    y = wanted.reshape(samples, -1).astype(np.float64)
    error = np.square(_gap(output.reshape(samples, -1), y)).sum(1)
    with np.errstate(invalid="ignore"):
        deviation = np.square(y - y.mean(0))
    spread = float(deviation[np.isfinite(deviation)].sum()) / samples
    if spread == 0.0:
        return np.where(error == 0.0, 1.0, 0.0)
    return np.asarray(1.0 - error / spread)


def _distance(output: Array, wanted: Array) -> float:
    return float(np.abs(_gap(output, wanted)).max(initial=0.0))


def _gap(output: Array, wanted: Array) -> Float:
    """Difference in float64: 0 where both are the same infinity or NaN, infinite where only one is finite."""
    one, other = output.astype(np.float64), wanted.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, one - other)
    return np.nan_to_num(gap, nan=np.inf, posinf=np.inf, neginf=-np.inf)


def _kl(output: Array, wanted: Array) -> float:
    """Mean over the rows; rows in which the reference itself is not a number are left out of account."""
    classes = wanted.shape[-1]
    p, q = wanted.reshape(-1, classes).astype(np.float64), output.reshape(-1, classes).astype(np.float64)
    logarithms = _log_of_probabilities if _are_probabilities(p) else _log_of_logits
    with np.errstate(invalid="ignore"):
        log_p, log_q = logarithms(p), logarithms(q)
        divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    divergence = np.nan_to_num(divergence, nan=np.inf, posinf=np.inf)
    divergence[np.isnan(log_p).any(-1)] = 0.0
    return float(np.maximum(divergence, 0.0).mean()) if divergence.size else 0.0


def _log_of_probabilities(rows: Float) -> Float:
    clipped = np.clip(rows, SMALLEST_PROBABILITY, None)
    return np.asarray(np.log(clipped / clipped.sum(-1, keepdims=True)))


def _log_of_logits(rows: Float) -> Float:
    return np.asarray(np.maximum(log_softmax(rows, axis=-1), np.log(SMALLEST_PROBABILITY)))


def _are_probabilities(rows: Float) -> bool:
    return bool(np.all(rows >= 0.0) and np.all(np.abs(rows.sum(-1) - 1.0) <= SUM_TOLERANCE))
