"""Units that can stand for one another: k-means for folding, and exact duplicates."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.cluster.hierarchy import cut_tree, ward
from scipy.spatial.distance import pdist

from surgery_ir.solvers.arrays import Array, Indices, Real

_ROUNDS: Final = 100
_SHADOWS: Final = 8  # projections that have to agree before rows are compared entry by entry
_ROUNDING: Final = 1e-12


def cluster(features: Real, k: int, seed: int) -> Indices:
    """Partition units into exactly ``k`` clusters of small squared distance from their means.

    The clusters of model folding (Wang et al., ICLR 2025), whose means replace their members. Lloyd's iteration (1982)
    from two starts, of which the better result counts: Ward's tree (1963), by far the better where clusters have few
    members, as they have in folding, and k-means++ seeds (Arthur & Vassilvitskii, 2007). A cluster that runs empty
    takes the unit that is farthest from its own mean.

    Parameters
    ----------
    features : (units, f)
        What is to be alike, scaled as it counts.
    k : int
        From 1 to the number of units.
    seed : int

    Returns
    -------
    (units,) int
        Labels 0 … k - 1, all of them in use, numbered in the order of their first members.

    Raises
    ------
    ValueError
        If ``k`` is out of range or a feature is not finite.
    """
    x = _checked(features)
    if not 1 <= k <= len(x):
        raise ValueError(f"{len(x)} units do not form {k} clusters")
    x = x - x.mean(axis=0)
    if x.shape[1] > len(x):
        # Distances depend on the inner products of the rows only: a rotation leaves no more columns than rows.
        x = np.linalg.qr(x.T)[1].T
    starts = [x[_seeds(x, k, np.random.default_rng(seed))]]
    if len(x) > 1 and x.size:
        starts.append(_means(x, cut_tree(ward(pdist(x)), n_clusters=[k])[:, 0], k))
    best, _ = min((_lloyd(x, start) for start in starts), key=lambda result: result[1])
    _, first, labels = np.unique(best, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[labels])


def duplicates(features: Real, tolerance: float) -> Indices:
    """Group the rows that are equal within a tolerance.

    Parameters
    ----------
    features : (units, f)
    tolerance : float
        A row belongs to the first row before it, itself no duplicate, whose distance (Euclidean) from it is at most
        ``tolerance`` times that row's norm; of all rows that qualify the earliest. 0 asks for equality.

    Returns
    -------
    (units,) int
        For every row the index of the first member of its group; its own index if it is no duplicate.

    Raises
    ------
    ValueError
        If the tolerance is negative or a feature is not finite.
    """
    x = _checked(features)
    if not tolerance >= 0.0:
        raise ValueError(f"the tolerance must be at least 0, not {tolerance}")
    n, f = x.shape
    labels = np.arange(n)
    if f == 0:
        return np.zeros(n, dtype=np.intp)
    # A projection shortens distances: rows whose shadows are apart are apart, and sorted shadows find neighbours fast.
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((f, min(f, _SHADOWS))))[0]
    shadows, reach = x @ axes, (tolerance + _ROUNDING) * np.linalg.norm(x, axis=1)
    order = np.argsort(shadows[:, 0], kind="stable")
    ranked = shadows[order, 0]
    low = np.searchsorted(ranked, shadows[:, 0] - reach, side="left")
    high = np.searchsorted(ranked, shadows[:, 0] + reach, side="right")
    leads = np.ones(n, dtype=np.bool_)
    for row in np.flatnonzero(high - low > 1):
        if not leads[row]:
            continue
        near = order[low[row] : high[row]]
        near = near[(near > row) & leads[near]]
        near = near[(np.abs(shadows[near] - shadows[row]) <= reach[row]).all(axis=1)]
        equal = near[np.linalg.norm(x[near] - x[row], axis=1) <= tolerance * np.linalg.norm(x[row])]
        labels[equal] = row
        leads[equal] = False
    return labels


def _checked(features: Real) -> Array:
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(f"features {features.shape} are not (units, f), or not finite")
    return features.astype(np.float64)


def _seeds(x: Array, k: int, rng: np.random.Generator) -> Indices:
    """Return k distinct rows, each drawn with a chance proportional to its squared distance from those before."""
    norms = np.square(x).sum(axis=1)
    seeds = [int(rng.integers(len(x)))]
    squares = np.full(len(x), np.inf)
    while len(seeds) < k:
        distances = norms + norms[seeds[-1]] - 2.0 * (x @ x[seeds[-1]])
        squares = np.minimum(squares, np.maximum(distances, 0.0))
        squares[seeds[-1]] = 0.0
        total = squares.sum()
        if total > 0.0:
            seeds.append(int(rng.choice(len(x), p=squares / total)))
        else:
            unused = np.setdiff1d(np.arange(len(x)), seeds)
            seeds.extend(unused[: k - len(seeds)].tolist())
    return np.array(seeds, dtype=np.intp)


def _lloyd(x: Array, centres: Array) -> tuple[Indices, float]:
    """Alternate assignment and means until the sum of squares stops falling; return the labels and that sum."""
    best, least = np.zeros(len(x), dtype=np.intp), np.inf
    for _ in range(_ROUNDS):
        squares = np.square(centres).sum(axis=1) - 2.0 * (x @ centres.T)
        labels = _filled(x, np.argmin(squares, axis=1), centres)
        centres = _means(x, labels, len(centres))
        inertia = float(np.square(x - centres[labels]).sum())
        if not inertia < least * (1.0 - _ROUNDING):
            break
        best, least = labels, inertia
    return best, least


def _filled(x: Array, labels: Indices, centres: Array) -> Indices:
    """Give every empty cluster the farthest member of a cluster that has several."""
    sizes = np.bincount(labels, minlength=len(centres))
    empty = np.flatnonzero(sizes == 0).tolist()
    if not empty:
        return labels
    labels = labels.copy()
    for row in np.argsort(-np.square(x - centres[labels]).sum(axis=1), kind="stable").tolist():
        if not empty:
            break
        if sizes[labels[row]] > 1:
            sizes[labels[row]] -= 1
            labels[row] = empty.pop()
    return labels


def _means(x: Array, labels: Indices, k: int) -> Array:
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(k))
    sums = np.add.reduceat(x[order], starts, axis=0)
    return np.asarray(sums / np.bincount(labels, minlength=k)[:, None])
