"""Sparsity patterns: which weights of a layer may be dropped together, and how the best ones are kept."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Mask, Real

COMMON_NM: Final = ((2, 4), (1, 4), (4, 8), (2, 8), (1, 2))
BLOCK: Final = 4


@dataclass(frozen=True)
class Unstructured:
    """Single weights, the whole layer competing."""

    def __str__(self) -> str:
        return "unstructured"

    def select(self, scores: Real, ratio: float) -> Mask:
        """Drop the round(ratio · o · d) weights of the lowest scores (halves rounded up).

        Parameters
        ----------
        scores : (o, d)
            Higher is kept longer; of equal scores the first in row-major order is kept.
        ratio : float
            Fraction to drop, in [0, 1].

        Returns
        -------
        (o, d) bool
            True where the weight is kept. A higher ratio keeps a subset of what a lower one keeps.
        """
        flat = _checked(scores).ravel()
        return keep_highest(flat, flat.size - share(ratio, flat.size)).reshape(scores.shape)


@dataclass(frozen=True)
class NM:
    """At most ``n`` weights out of every ``m`` consecutive inputs of an output, as "2:4" sparse hardware wants them.

    A ragged tail of fewer than ``m`` inputs keeps its best ``n`` too (all of it if it has no more): it is the group of
    ``m`` that zero padding would complete.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise ValueError(f"the pattern {self} needs 1 <= N <= M")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def ratio(self) -> float:
        """The fraction that the pattern drops by itself, 1 − n/m."""
        return 1.0 - self.n / self.m

    def select(self, scores: Real, ratio: float | None = None) -> Mask:
        """Keep the ``n`` weights of the highest scores in every group.

        Parameters
        ----------
        scores : (o, d)
            Higher is kept longer; of equal scores the first along the inputs is kept.
        ratio : float, optional
            The pattern has its own; None, or that one to three digits.

        Returns
        -------
        (o, d) bool
            True where the weight is kept.

        Raises
        ------
        ValueError
            If ``ratio`` contradicts the pattern.
        """
        if ratio is not None and not math.isclose(ratio, self.ratio, abs_tol=1e-3):
            raise ValueError(f"the pattern {self} drops {self.ratio:.3g} of the weights, not the ratio {ratio:.3g}")
        return self.ranks(_checked(scores), descending=True) < self.n

    def ranks(self, scores: Array, descending: bool) -> Indices:
        """Return the rank, from 0, of every weight within its group; shape (o, d). Equal scores rank by position."""
        o, d = scores.shape
        groups = -(-d // self.m)
        padded = np.full((o, groups * self.m), np.inf)  # the padding of a ragged tail ranks last
        padded[:, :d] = -scores if descending else scores
        order = padded.reshape(o, groups, self.m).argsort(axis=2, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(self.m), axis=2)
        return ranks.reshape(o, -1)[:, :d]


@dataclass(frozen=True)
class Block:
    """Rectangles of ``rows`` consecutive outputs by ``cols`` consecutive inputs, kept or dropped whole.

    A ragged tail of outputs or inputs forms smaller blocks. A block's score is the mean over its weights, so that the
    smaller blocks of the tail compete fairly.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"the pattern {self} needs at least one row and one column")

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    def select(self, scores: Real, ratio: float) -> Mask:
        """Drop the round(ratio · number of blocks) blocks of the lowest scores (halves rounded up).

        Parameters
        ----------
        scores : (o, d)
            Higher is kept longer; of equal blocks the first in row-major order is kept.
        ratio : float
            Fraction to drop, in [0, 1].

        Returns
        -------
        (o, d) bool
            True where the weight is kept. A higher ratio keeps a subset of what a lower one keeps.
        """
        means = self.sums(_checked(scores)) / self.sums(np.ones(scores.shape))
        kept = keep_highest(means.ravel(), means.size - share(ratio, means.size))
        return self.spread(kept.reshape(means.shape), scores.shape).astype(np.bool_)

    def sums(self, values: Array) -> Array:
        """Return the sum of ``values`` (o, d) over every block, shape (ceil(o / rows), ceil(d / cols))."""
        o, d = values.shape
        over_rows = np.add.reduceat(values, np.arange(0, o, self.rows), axis=0)
        return np.add.reduceat(over_rows, np.arange(0, d, self.cols), axis=1)

    def spread(self, values: Real, shape: tuple[int, ...]) -> Real:
        """Return an array of ``shape`` (o, d) that holds each block's value at all its weights."""
        o, d = shape
        return values.repeat(self.rows, axis=0)[:o].repeat(self.cols, axis=1)[:, :d]


Pattern: TypeAlias = Unstructured | NM | Block

_FORMS: Final = 'a pattern is "unstructured", "N:M" such as "2:4", or "ROWSxCOLUMNS" such as "4x1"'


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that ``text`` names; ``str(pattern)`` is the way back.

    Raises
    ------
    ValueError
        If the text is none of "unstructured", "N:M" and "ROWSxCOLUMNS", or its numbers make no pattern.
    """
    if text == "unstructured":
        return Unstructured()
    match = re.fullmatch(r"([0-9]{1,6})([:x])([0-9]{1,6})", text)
    if match is None:
        raise ValueError(f"{text!r}: {_FORMS}")
    first, second = int(match[1]), int(match[3])
    return NM(first, second) if match[2] == ":" else Block(first, second)


def share(ratio: float, size: int) -> int:
    """Return how many of ``size`` things the ratio drops, halves rounded up."""
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the ratio must be between 0 and 1, not {ratio}")
    return math.floor(ratio * size + 0.5)


def keep_highest(scores: Array, count: int) -> Mask:
    """Return True at the ``count`` highest of the flat ``scores``; of equal scores the first are taken."""
    if count <= 0:
        return np.zeros(scores.size, dtype=np.bool_)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    keep: Mask = scores > threshold
    keep[np.flatnonzero(scores == threshold)[: count - np.count_nonzero(keep)]] = True
    return keep


def _checked(scores: Real) -> Array:
    if scores.ndim != 2:
        raise ValueError(f"scores must be (outputs, inputs), not of shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("the scores hold NaN")
    return scores.astype(np.float64, copy=False)


def kept_pattern(mask: Mask) -> NM | Block | None:
    """Give the pattern that a mask (o, d) keeps to, if it is one that sparse hardware or kernels know.

    N:M for the common N and M where every group is full, so that chance is out of the question; else blocks of 4×1
    along the outputs or of 1×4 along the inputs, unless whole columns or rows are all that is missing.
    """
    if mask.all() or not mask.any():
        return None
    for n, m in COMMON_NM:
        if mask.shape[1] % m == 0 and np.all(mask.reshape(len(mask), -1, m).sum(axis=2) == n):
            return NM(n, m)
    if _is_blocked(mask) and not (len(mask) > BLOCK and _is_constant(mask)):
        return Block(BLOCK, 1)
    if _is_blocked(mask.T) and not _is_constant(mask.T):
        return Block(1, BLOCK)
    return None


def _is_blocked(mask: Mask) -> bool:
    """Whether rows are equal by fours."""
    if len(mask) % BLOCK:
        return False
    blocks = mask.reshape(-1, BLOCK, mask.shape[1])
    return bool(np.all(blocks == blocks[:, :1]))


def _is_constant(mask: Mask) -> bool:
    """Whether all rows are equal."""
    return bool(np.all(mask == mask[:1]))
