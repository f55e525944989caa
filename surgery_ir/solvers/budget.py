"""Nonzeros moved between layers, from where a weight costs little to where it costs much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression

from surgery_ir.solvers.arrays import Array, Indices


def shifted(
    curves: Sequence[Array],
    weights: Sequence[float],
    counts: Sequence[int],
    strength: float,
    least: float = 0.1,
    by: Literal["cumulative", "marginal"] = "cumulative",
) -> tuple[int, ...]:
    """Move the nonzeros of layers towards those of one threshold over all of them, at the same total.

    Parameters
    ----------
    curves : sequence of arrays
        For every layer, the relative error at which each of its weights has to go, in any order, as
        :func:`surgery_ir.solvers.obs.elimination_scores` returns it: cumulative, all that went before included.
    weights : sequence of float
        What a unit of each layer's relative error costs at the network's output; at least 0.
    counts : sequence of int
        Present nonzeros of every layer.
    strength : float
        0 leaves the counts, 1 moves them all the way.
    least : float, default 0.1
        A layer keeps at least this share of its present count.
    by : {"cumulative", "marginal"}
        What the threshold applies to. ``marginal``, the rise of the weighted error by each weight, made monotone by its
        greatest convex minorant, minimises Σ weight · error as Lagrange's condition has it (Shoham & Gersho, 1988).
        ``cumulative``, the weighted error itself, evens out the layers' errors: more careful where they compound
        rather than add up.

    Returns
    -------
    tuple of int
        Sums to the same total, each between ``least`` of the present count and the size of the layer.

    Raises
    ------
    ValueError
        If lengths do not fit, a count exceeds its layer, a share is out of [0, 1], or a score or weight is negative or
        not finite.
    """
    _check(curves, weights, counts)
    if not (0.0 <= strength <= 1.0 and 0.0 <= least <= 1.0):
        raise ValueError(f"strength {strength} and least {least} must be between 0 and 1")
    present = np.array(counts, dtype=np.intp)
    floors = np.ceil(least * present - 1e-9).astype(np.intp)
    prices = [
        weight * (np.sort(curve, axis=None) if by == "cumulative" else _marginal(curve))
        for curve, weight in zip(curves, weights, strict=True)
    ]
    goals = floors + _chosen(
        [price[: price.size - floor] for price, floor in zip(prices, floors.tolist(), strict=True)],
        int(present.sum() - floors.sum()),
    )
    return tuple(_rounded(present + strength * (goals - present), int(present.sum())).tolist())


def _check(curves: Sequence[Array], weights: Sequence[float], counts: Sequence[int]) -> None:
    if not len(curves) == len(weights) == len(counts):
        raise ValueError(f"{len(curves)} curves, {len(weights)} weights and {len(counts)} counts do not fit")
    if any(not 0 <= count <= curve.size for curve, count in zip(curves, counts, strict=True)):
        raise ValueError("a layer's count is negative or exceeds its size")
    if any(not (np.isfinite(curve).all() and (curve >= 0.0).all()) for curve in curves):
        raise ValueError("a score is negative or not finite")
    if any(not 0.0 <= weight < np.inf for weight in weights):
        raise ValueError("a layer's weight is negative or not finite")


def _marginal(curve: Array) -> Array:
    """Return the slopes of the greatest convex minorant of the sorted scores, which start from 0; ascending."""
    rises = np.diff(np.sort(curve, axis=None), prepend=0.0)
    return np.asarray(isotonic_regression(rises).x) if rises.size else rises


def _chosen(prices: list[Array], total: int) -> Indices:
    """Return how many of the ``total`` largest prices each layer has; of equal ones the first layers' count first."""
    flat = np.concatenate([*prices, np.zeros(0)])
    layers = np.repeat(np.arange(len(prices)), [price.size for price in prices])
    largest = np.argsort(-flat, kind="stable")[:total]
    return np.bincount(layers[largest], minlength=len(prices))


def _rounded(values: Array, total: int) -> Indices:
    """Round to whole numbers of the given sum, by the largest remainders."""
    whole = np.floor(values + 1e-9).astype(np.intp)
    order = np.argsort(whole - values, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole
