"""The response surface finds optima of smooth losses from few points."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.search.surface import REACH, descend

SPREAD = np.full(6, 0.05)


def bowl(points: np.ndarray) -> np.ndarray:
    """A bowl in coordinates of the spread, so that its curvature is one that occurs."""
    optimum = np.array([0.55, 0.45, 0.5, 0.58, 0.42, 0.5])
    result: np.ndarray = 0.03 * np.square((points - optimum) / SPREAD).sum(axis=-1)
    return result


def test_few_steps_reach_the_optimum() -> None:
    rng = np.random.default_rng(0)
    points = 0.5 + SPREAD * rng.standard_normal((4, 6)) * 0.5
    points[0] = 0.5
    start = bowl(points[0])
    for _ in range(12):
        proposal = descend(points, bowl(points), SPREAD) + 0.2 * SPREAD * rng.standard_normal(6)
        points = np.vstack([points, proposal])
    assert bowl(points).min() < 0.25 * start


def test_one_point_says_nothing() -> None:
    assert np.array_equal(descend(np.full((1, 6), 0.5), np.zeros(1), SPREAD), np.full(6, 0.5))


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_steps_are_bounded(scale: float) -> None:
    points = np.array([[0.5] * 6, [0.5 + 1e-3] * 6])
    step = (descend(points, np.array([0.0, scale]), SPREAD) - 0.5) / SPREAD
    assert np.sqrt(np.mean(np.square(step))) <= REACH * (1 + 1e-9)


def test_it_leaves_the_best_point_downhill() -> None:
    points = np.array([[0.5, 0.5], [0.55, 0.5]])
    optimum = descend(points, np.array([0.0, 0.1]), np.full(2, 0.05))
    assert optimum[0] < 0.5
    assert optimum[1] == pytest.approx(0.5)
