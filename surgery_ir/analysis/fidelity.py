"""Fidelity: how far a model's outputs are from those of a reference, no labels needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

__all__ = ["Divergence", "Fidelity", "agreement", "divergence", "fidelity", "has_classes"]

Array = NDArray[Any]
Float = NDArray[np.float64]

SUM_TOLERANCE = 1e-3
"""Rows that are non-negative and sum to 1 within this are probabilities; other rows are logits."""

SMALLEST_PROBABILITY = 1e-12
"""Probabilities below this count as this, so that a class that underflowed to 0 costs a finite KL."""

CHUNK = 1 << 22
"""Numbers that are taken to float64 in one go; outputs over a vocabulary are large."""


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
        with R² = 1 − ‖y − ŷ‖² / ‖y − ȳ‖², clipped at 0 (ȳ is the mean sample; of a single sample, the mean of its
        values); one that is no float with its share of equal values.
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
    divergences = [
        _kl(outputs[name], wanted, _logarithms(wanted)).mean()
        for name, wanted in reference.items()
        if has_classes(wanted)
    ]
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


class Divergence:
    """Distance from the outputs of a reference in one number, of outputs that may come batch by batch.

    An output with classes enters with KL(reference ‖ model) in nats, every other float output with its relative
    squared error 1 − R² = ‖y − ŷ‖² / ‖y − ȳ‖², which is not clipped at 1. Both have no unit, are 0 for equal outputs
    and grow with the square of small differences, so outputs of both kinds count alike in the mean. Outputs that are
    no floats change in jumps: they count, with their share of unequal values, only where no output is float.

    Parameters
    ----------
    reference
        All outputs of the reference, first axis = samples. They say what is a class, a probability, and how far R²
        has to reach, so that a batch is judged as it would be among all samples.

    Raises
    ------
    ValueError
        There are no outputs.
    """

    def __init__(self, reference: Mapping[str, Array]) -> None:
        if not reference:
            raise ValueError("there are no outputs to compare with")
        self.reference = dict(reference)
        floats = {name: wanted for name, wanted in self.reference.items() if _is_float(wanted)}
        self._distances = {name: _distance_from(wanted) for name, wanted in (floats or self.reference).items()}

    def shares(self, outputs: Mapping[str, Array], start: int = 0) -> Float:
        """Give each sample's share, (samples,): their mean over all samples is the divergence.

        Parameters
        ----------
        outputs
            Outputs of the samples from ``start`` on, as many as there are.
        start
            Position of the first one among the samples of the reference.

        Raises
        ------
        ValueError
            Names or shapes differ from those of the reference.
        """
        stop = start + max(map(len, outputs.values()), default=0)
        reference = {name: array[start:stop] for name, array in self.reference.items()}
        _check(outputs, reference)
        shares = [measure(outputs[name], reference[name]) for name, measure in self._distances.items()]
        return np.asarray(np.mean(shares, axis=0))


def divergence(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Give the distance of ``outputs`` from those of the reference on the same samples, see :class:`Divergence`."""
    return float(Divergence(reference).shares(outputs).mean())


def _distance_from(reference: Array) -> Callable[[Array, Array], Float]:
    """How samples of an output are compared; what that takes of all samples is worked out once."""
    if has_classes(reference):
        logarithms = _logarithms(reference)
        return lambda output, wanted: _kl(output, wanted, logarithms)
    if _is_float(reference):
        spread = _spread(reference)
        return lambda output, wanted: _relative_error(output, wanted, spread)
    return lambda output, wanted: 1.0 - _agreement(output, wanted)


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
    return 1.0 - _relative_error(output, wanted, _spread(wanted))


def _relative_error(output: Array, wanted: Array, spread: float) -> Float:
    """Squared error of every sample, (samples,), over ``spread``; 0 or 1 where the reference is constant."""
    error = np.square(_gap(output, wanted)).sum(tuple(range(1, wanted.ndim)))
    if spread == 0.0:
        return np.where(np.isinf(error), np.inf, (error > 0.0).astype(np.float64))
    return np.asarray(error / spread)


def _spread(reference: Array) -> float:
    """Mean squared deviation of a sample from the mean sample; of a single one from the mean of its values."""
    if not reference.size:
        return 0.0
    y = reference.reshape(len(reference), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        deviation = np.square(y - (y.mean(0) if len(y) > 1 else y.mean()))
    return float(deviation[np.isfinite(deviation)].sum()) / len(y)


def _distance(output: Array, wanted: Array) -> float:
    return float(np.abs(_gap(output, wanted)).max(initial=0.0))


def _gap(output: Array, wanted: Array) -> Float:
    """Difference in float64: 0 where both are the same infinity or NaN, infinite where only one is finite."""
    one, other = output.astype(np.float64), wanted.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, one - other)
    return np.nan_to_num(gap, nan=np.inf, posinf=np.inf, neginf=-np.inf)


Logarithms = Callable[[Float], Float]


def _kl(output: Array, wanted: Array, logarithms: Logarithms) -> Float:
    """KL of every sample, (samples,), mean over its rows; rows in which the reference is not a number count 0."""
    samples, classes = len(wanted), wanted.shape[-1]
    if not wanted.size:
        return np.zeros(samples)
    p, q = wanted.reshape(-1, classes), output.reshape(-1, classes)
    step = max(1, CHUNK // classes)
    rows = [_kl_of_rows(p[at : at + step], q[at : at + step], logarithms) for at in range(0, len(p), step)]
    return np.asarray(np.concatenate(rows).reshape(samples, -1).mean(1))


def _kl_of_rows(p: Array, q: Array, logarithms: Logarithms) -> Float:
    with np.errstate(invalid="ignore"):
        log_p, log_q = logarithms(p.astype(np.float64)), logarithms(q.astype(np.float64))
        divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    divergence = np.nan_to_num(divergence, nan=np.inf, posinf=np.inf)
    divergence[np.isnan(log_p).any(-1)] = 0.0
    return np.asarray(np.maximum(divergence, 0.0))


def _logarithms(reference: Array) -> Logarithms:
    """How rows become logarithms of probabilities: the whole reference says what they are."""
    if np.all(reference >= 0.0):
        sums = reference.sum(-1, dtype=np.float64)
        if np.all(np.abs(sums - 1.0) <= SUM_TOLERANCE):
            return _log_of_probabilities
    return _log_of_logits


def _log_of_probabilities(rows: Float) -> Float:
    clipped = np.clip(rows, SMALLEST_PROBABILITY, None)
    return np.asarray(np.log(clipped / clipped.sum(-1, keepdims=True)))


def _log_of_logits(rows: Float) -> Float:
    return np.asarray(np.maximum(log_softmax(rows, axis=-1), np.log(SMALLEST_PROBABILITY)))
