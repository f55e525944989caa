"""Counts moved between layers against trying every combination."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.solvers.budget import shifted
from tests.solvers.problems import Array, deterministic

BY: tuple[Literal["cumulative", "marginal"], ...] = ("cumulative", "marginal")


def curve(size: int, seed: int, convex: bool = True) -> Array:
    """Return scores in random order, whose sorted differences rise if ``convex``."""
    rng = np.random.default_rng(seed)
    rises = rng.exponential(size=size) ** 3
    return np.asarray(rng.permutation(np.cumsum(np.sort(rises) if convex else rises)))


def loss(curves: list[Array], weights: list[float], counts: tuple[int, ...]) -> float:
    """Return Σ weight · error at these counts."""
    return sum(
        weight * float(np.sort(scores)[scores.size - count - 1]) if count < scores.size else 0.0
        for scores, weight, count in zip(curves, weights, counts, strict=True)
    )


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_marginal_prices_minimise_the_sum_of_errors(seed: int, convex: bool) -> None:
    rng = np.random.default_rng(seed)
    curves = [curve(int(rng.integers(4, 9)), 10 * seed + layer, convex) for layer in range(3)]
    weights = rng.exponential(size=3).tolist()
    counts = [int(rng.integers(1, scores.size)) for scores in curves]
    found = shifted(curves, weights, counts, 1.0, 0.0, "marginal")
    every = product(*(range(scores.size + 1) for scores in curves))
    best = min(loss(curves, weights, levels) for levels in every if sum(levels) == sum(counts))
    if convex:
        np.testing.assert_allclose(loss(curves, weights, found), best, rtol=1e-12)
    else:  # The minorant's edge that the total cuts is all that may be lost.
        edge = max(weight * float(scores.max()) for scores, weight in zip(curves, weights, strict=True))
        assert best * (1.0 - 1e-12) <= loss(curves, weights, found) <= best + edge


def test_the_minorant_looks_past_a_dear_weight_to_the_cheap_ones_behind_it() -> None:
    steep_then_free = np.cumsum([1.0, 0.0, 0.0, 0.0])
    even = np.cumsum([0.3, 0.3, 0.3, 0.3])
    assert shifted([steep_then_free, even], [1.0, 1.0], [2, 2], 1.0, 0.0, "marginal") == (0, 4)


def test_cumulative_is_one_threshold_of_weighted_scores() -> None:
    curves = [curve(40, 1), curve(60, 2), curve(50, 3)]
    weights, counts = [1.0, 3.0, 0.2], [10, 20, 30]
    values = np.concatenate([weight * scores for weight, scores in zip(weights, curves, strict=True)])
    threshold = np.sort(values)[-sum(counts)]
    expected = tuple(
        int(np.count_nonzero(weight * scores >= threshold)) for weight, scores in zip(weights, curves, strict=True)
    )
    assert shifted(curves, weights, counts, 1.0, 0.0) == expected
    assert shifted(curves, weights, counts, 1.0, 0.3) == expected
    assert expected != tuple(counts)


@pytest.mark.parametrize("by", BY)
def test_strength_moves_part_of_the_way(by: Literal["cumulative", "marginal"]) -> None:
    curves = [curve(400, 1), curve(600, 2)]
    counts = [200, 200]
    goal = shifted(curves, [1.0, 100.0], counts, 1.0, 0.05, by)
    assert goal[1] > 250
    assert shifted(curves, [1.0, 100.0], counts, 0.0, 0.05, by) == (200, 200)
    half = shifted(curves, [1.0, 100.0], counts, 0.5, 0.05, by)
    np.testing.assert_allclose(half, (np.array(counts) + goal) / 2.0, atol=0.51)


@pytest.mark.parametrize("by", BY)
def test_a_layer_that_does_not_matter_keeps_the_least(by: Literal["cumulative", "marginal"]) -> None:
    curves = [curve(40, 1), curve(60, 2)]
    assert shifted(curves, [0.0, 1.0], [25, 20], 1.0, 0.1, by) == (3, 42)
    assert shifted(curves, [0.0, 1.0], [40, 40], 1.0, 0.1, by) == (20, 60)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0.0, 1.0), st.floats(0.0, 10.0)), max_size=6),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from(BY),
    st.booleans(),
)
@deterministic
def test_the_total_and_the_bounds_hold(
    layers: list[tuple[int, float, float]],
    strength: float,
    least: float,
    by: Literal["cumulative", "marginal"],
    tied: bool,
) -> None:
    curves = [np.ones(size) if tied else curve(size, seed) for seed, (size, _, _) in enumerate(layers)]
    counts = [round(share * size) for size, share, _ in layers]
    found = shifted(curves, [weight for _, _, weight in layers], counts, strength, least, by)
    assert sum(found) == sum(counts)
    for now, before, scores in zip(found, counts, curves, strict=True):
        assert least * before - 1e-6 <= now <= scores.size


@pytest.mark.parametrize("by", BY)
def test_scores_may_be_of_any_shape(by: Literal["cumulative", "marginal"]) -> None:
    curves = [curve(40, 1), curve(60, 2)]
    shaped = [curves[0].reshape(4, 10), curves[1].reshape(6, 10)]
    assert shifted(shaped, [1.0, 3.0], [20, 20], 1.0, 0.1, by) == shifted(curves, [1.0, 3.0], [20, 20], 1.0, 0.1, by)


@pytest.mark.parametrize(
    "fault",
    [
        {"weights": [1.0]},
        {"weights": [1.0, -1.0]},
        {"weights": [1.0, float("nan")]},
        {"counts": [3, 6]},
        {"counts": [-1, 3]},
        {"curves": [np.array([1.0, np.inf]), np.ones(5)], "counts": [1, 1]},
        {"curves": [np.array([1.0, -1.0]), np.ones(5)], "counts": [1, 1]},
        {"strength": 1.5},
        {"least": -0.1},
    ],
)
def test_arguments_that_do_not_fit_are_refused(fault: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "curves": [np.arange(5.0), np.arange(5.0)],
        "weights": [1.0, 1.0],
        "counts": [2, 2],
        "strength": 1.0,
    }
    with pytest.raises(ValueError, match=r"fit|count|finite|between"):
        shifted(**(arguments | fault))
