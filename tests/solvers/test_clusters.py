"""Clusters of units, and duplicates among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery_ir.solvers import clusters
from surgery_ir.solvers.clusters import cluster, duplicates
from tests.solvers.problems import Array, deterministic


def inertia(x: Array, labels: NDArray[np.intp]) -> float:
    return float(sum(np.square(x[labels == k] - x[labels == k].mean(axis=0)).sum() for k in np.unique(labels)))


def partitions(n: int, k: int) -> list[list[int]]:
    """Return all labelings of n things by k labels, all in use, numbered by first appearance."""
    grown = [[0]]
    for _ in range(n - 1):
        grown = [[*labels, label] for labels in grown for label in range(min(max(labels) + 2, k))]
    return [labels for labels in grown if max(labels) == k - 1]


def blobs(groups: int, members: int, features: int, seed: int) -> tuple[Array, NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(groups).repeat(members))
    centres = 20.0 * rng.standard_normal((groups, features))
    return centres[truth] + 0.1 * rng.standard_normal((truth.size, features)), truth


@pytest.mark.parametrize("features", [3, 200])
def test_well_separated_clusters_are_found(features: int) -> None:
    x, truth = blobs(7, 6, features, 0)
    labels = cluster(x, 7, 0)
    assert len({*zip(labels.tolist(), truth.tolist(), strict=True)}) == 7
    assert labels.max() == 6


@deterministic
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000), st.data())
def test_exactly_k_clusters_numbered_by_first_member(
    n: int, f: int, values: int, seed: int, data: st.DataObject
) -> None:
    """Few distinct values make many duplicates, so that more clusters than distinct rows are asked for."""
    x = np.random.default_rng(seed).integers(values, size=(n, f)).astype(np.float64)
    k = data.draw(st.integers(1, n))
    labels = cluster(x, k, seed)
    firsts = [int(np.argmax(labels == label)) for label in range(k)]
    assert set(labels.tolist()) == set(range(k))
    assert firsts == sorted(firsts)
    if k >= len(np.unique(x, axis=0)):
        assert inertia(x, labels) == 0.0


@pytest.mark.parametrize("seed", range(12))
def test_close_to_the_best_partition(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((8, 2 + seed % 8))
    for k in (2, 4, 6):
        best = min(inertia(x, np.array(labels)) for labels in partitions(8, k))
        assert inertia(x, cluster(x, k, 0)) <= 1.15 * best


def test_no_unit_is_nearer_to_another_mean() -> None:
    x = np.random.default_rng(1).standard_normal((60, 5)) + 1e8
    labels = cluster(x, 9, 0)
    means = np.array([x[labels == k].mean(axis=0) for k in range(9)])
    distances = np.square(x[:, None] - means).sum(axis=2)
    np.testing.assert_allclose(distances[np.arange(60), labels], distances.min(axis=1), atol=1e-6)


@pytest.mark.parametrize("k", [1, 40])
def test_extreme_numbers_of_clusters(k: int) -> None:
    labels = cluster(np.random.default_rng(2).standard_normal((40, 7)), k, 0)
    np.testing.assert_array_equal(labels, np.arange(40) if k == 40 else np.zeros(40))


def test_the_same_seed_gives_the_same_clusters() -> None:
    x = np.random.default_rng(3).standard_normal((50, 4))
    before = x.copy()
    np.testing.assert_array_equal(cluster(x, 10, 5), cluster(x, 10, 5))
    np.testing.assert_array_equal(x, before)


def test_an_empty_cluster_takes_the_farthest_unit() -> None:
    x = np.array([[0.0], [1.0], [5.0], [6.0], [20.0]])
    labels, least = clusters._lloyd(x, np.array([[0.5], [1e6], [5.5]]))
    assert labels.tolist() == [0, 0, 2, 2, 1]
    assert least == pytest.approx(1.0)


def test_seeds_are_distinct_and_far_apart() -> None:
    x, truth = blobs(6, 10, 40, 4)
    for seed in range(10):
        chosen = clusters._seeds(x, 6, np.random.default_rng(seed))
        assert len(set(truth[chosen].tolist())) == 6
        assert len(set(clusters._seeds(x, 60, np.random.default_rng(seed)).tolist())) == 60


def test_seeds_are_distinct_where_rows_are_not() -> None:
    x = np.random.default_rng(6).standard_normal((3, 50)).repeat(20, axis=0)
    for seed in range(10):
        assert len(set(clusters._seeds(x, 60, np.random.default_rng(seed)).tolist())) == 60


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_number_of_clusters_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match="do not form"):
        cluster(np.ones((3, 2)), k, 0)


@pytest.mark.parametrize("features", [np.array([[1.0], [np.nan]]), np.ones(3)])
def test_features_that_are_no_features(features: Array) -> None:
    with pytest.raises(ValueError, match="features"):
        cluster(features, 1, 0)
    with pytest.raises(ValueError, match="features"):
        duplicates(features, 0.0)


def first_like(x: Array, tolerance: float) -> list[int]:
    """Return the labels by comparing every row with every leader before it."""
    labels: list[int] = []
    for row in range(len(x)):
        leaders = [leader for leader in range(row) if labels[leader] == leader]
        near = [i for i in leaders if np.linalg.norm(x[row] - x[i]) <= tolerance * np.linalg.norm(x[i])]
        labels.append(near[0] if near else row)
    return labels


@deterministic
@given(st.integers(0, 30), st.integers(1, 12), st.sampled_from([0.0, 1e-6, 0.02, 0.3, 1.0]), st.integers(0, 1000))
def test_duplicates_against_comparing_all_pairs(n: int, f: int, tolerance: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    originals = rng.standard_normal((6, f)) * 10.0 ** rng.integers(-3, 4, size=(6, 1))
    originals[0] = 0.0
    x = originals[rng.integers(6, size=n)]
    x = x * (1.0 + 0.05 * rng.integers(2, size=(n, 1)) * rng.standard_normal((n, f)))
    assert duplicates(x, tolerance).tolist() == first_like(x, tolerance)


def test_duplicates_among_thousands_of_rows() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3000, 64)) * 10.0 ** rng.uniform(-4.0, 4.0, size=(3000, 1))
    x[1000:2000] = x[:1000] * (1.0 + 1e-9)
    x[2500:] = 0.0
    expected = np.arange(3000)
    expected[1000:2000] = np.arange(1000)
    expected[2500:] = 2500
    np.testing.assert_array_equal(duplicates(x, 1e-6), expected)
    expected[1000:2000] = np.arange(1000, 2000)
    np.testing.assert_array_equal(duplicates(x, 1e-11), expected)


def test_the_tolerance_is_that_of_the_first_member() -> None:
    x = np.array([[10.0, 0.0], [11.0, 0.0], [12.0, 0.0], [-10.0, 0.0]])
    assert duplicates(x, 0.1).tolist() == [0, 0, 2, 3]
    assert duplicates(x, 0.099).tolist() == [0, 1, 1, 3]


def test_rows_without_features_are_all_alike() -> None:
    assert duplicates(np.zeros((3, 0)), 0.0).tolist() == [0, 0, 0]
    assert sorted(cluster(np.zeros((3, 0)), 2, 0).tolist()) in ([0, 0, 1], [0, 1, 1])


@pytest.mark.parametrize("tolerance", [-1e-3, np.nan])
def test_a_tolerance_that_is_none(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        duplicates(np.ones((2, 2)), tolerance)
