"""Small layer problems, their solutions by brute force, and the assertions that the solver tests share."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from surgery_ir.solvers.cholesky import scale
from surgery_ir.solvers.quadratic import Quadratic

Array = NDArray[np.float64]

deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=80)


def rows(n: int, d: int, o: int, seed: int = 0, mean: float = 0.0, mixing: float = 0.6) -> tuple[Array, Array, Array]:
    """Return correlated x (n, d), weights (o, d) and noisy targets y (n, o); a mixing of 1 is ill-conditioned."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ (np.eye(d) + mixing * rng.standard_normal((d, d)) / np.sqrt(d)) + mean
    weights = rng.standard_normal((o, d))
    return x, weights, x @ weights.T + 0.1 * rng.standard_normal((n, o))


def one_shot(x: NDArray[Any], y: NDArray[Any], centred: bool = False) -> Quadratic:
    """Return the quadratic of all rows at once, the textbook way."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if centred:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return Quadratic(x.T @ x / len(x), x.T @ y / len(x), np.mean(y * y, axis=0))


def problem(d: int, o: int, seed: int = 0) -> tuple[Quadratic, Array]:
    """Return a well-determined layer problem and the weights that made it."""
    x, weights, y = rows(40 * d, d, o, seed)
    return one_shot(x, y), weights


def objective(q: Quadratic, weights: Array, prior: Array, ridge: float) -> Array:
    """Return the ridge objective of every row."""
    value: Array = q.error(weights) + ridge * scale(q.h) * np.sum((weights - prior) ** 2, axis=1)
    return value


def best_on(q: Quadratic, mask: NDArray[np.bool_], prior: Array, ridge: float) -> Array:
    """Return the ridge solution on ``mask`` by a least-squares routine on the augmented system, row by row."""
    root = np.linalg.cholesky(q.h + 1e-14 * scale(q.h) * np.eye(len(q.h))).T
    damping = np.sqrt(ridge * scale(q.h))
    weights = np.zeros(prior.shape)
    for row, kept in enumerate(mask):
        left = np.concatenate((root, damping * np.eye(len(q.h))))[:, kept]
        right = np.concatenate((np.linalg.solve(root.T, q.r[:, row]), damping * prior[row]))
        weights[row, kept] = np.linalg.lstsq(left, right)[0]
    return weights


def best_subset_error(q: Quadratic, row: int, keep: int) -> float:
    """Return the least error of one row over all supports of ``keep`` columns."""
    errors = []
    for support in combinations(range(q.inputs), keep):
        chosen = list(support)
        solved = np.linalg.solve(q.h[np.ix_(chosen, chosen)], q.r[chosen, row]) if chosen else np.zeros(0)
        errors.append(float(q.yy[row] - q.r[chosen, row] @ solved))
    return min(errors)


def assert_optimal(q: Quadratic, weights: Array, prior: Array, ridge: float, mask: NDArray[np.bool_]) -> None:
    """Fail unless ``weights`` vanish off the mask and the gradient of the ridge objective vanishes on it."""
    np.testing.assert_array_equal(weights[~mask], 0.0)
    gradient = weights @ q.h - q.r.T + ridge * scale(q.h) * (weights - prior)
    size = np.abs(q.r).max() + ridge * scale(q.h) * np.abs(prior).max()
    np.testing.assert_allclose(gradient[mask], 0.0, atol=1e-9 * size)


def assert_rises_are_true(q: Quadratic, scores: Array, prior: Array, ridge: float, rtol: float = 1e-6) -> None:
    """Fail unless every score is the relative rise of the objective once all of lower or equal score are gone."""
    everything = objective(q, best_on(q, np.ones(scores.shape, dtype=np.bool_), prior, ridge), prior, ridge).sum()
    for score in np.unique(scores):
        solved = best_on(q, scores > score, prior, ridge)
        rise = (objective(q, solved, prior, ridge).sum() - everything) / q.yy.sum()
        np.testing.assert_allclose(score, rise, rtol=rtol, atol=1e-9)


def permuted(q: Quadratic) -> Quadratic:
    """Return the problem with H's columns and rows out of step with R: a fault that the assertions must catch."""
    order = np.roll(np.arange(q.inputs), 1)
    return Quadratic(q.h[np.ix_(order, order)], q.r, q.yy)
