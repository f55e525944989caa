"""Reduced-rank regression against the singular value decomposition and numerical minimisation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from surgery_ir.solvers.cholesky import scale
from surgery_ir.solvers.lowrank import gain_by_rank, reduced_rank
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve
from tests.solvers.problems import Array, objective, one_shot, problem, rows

SHAPES = pytest.mark.parametrize(("d", "o"), [(7, 4), (4, 7), (5, 5)], ids=["wide", "tall", "square"])


def total(q: Quadratic, weights: Array, ridge: float) -> float:
    return float(objective(q, weights, np.zeros(weights.shape), ridge).sum())


@SHAPES
@pytest.mark.parametrize("ridge", [0.0, 1e-2, 1.0])
def test_full_rank_is_the_ridge_solution(d: int, o: int, ridge: float) -> None:
    q, weights = problem(d, o)
    down, up = reduced_rank(q, min(d, o), ridge)
    np.testing.assert_allclose(up @ down, solve(q, np.zeros(weights.shape), ridge).weights, atol=1e-9)


@SHAPES
def test_white_inputs_make_it_the_truncated_decomposition(d: int, o: int) -> None:
    weights = np.random.default_rng(1).standard_normal((o, d))
    down, up = reduced_rank(Quadratic.from_inputs(np.eye(d), weights), 2, 0.0)
    left, values, right = np.linalg.svd(weights, full_matrices=False)
    np.testing.assert_allclose(up @ down, (left[:, :2] * values[:2]) @ right[:2], atol=1e-10)


@SHAPES
@pytest.mark.parametrize("rank", [1, 2])
def test_no_other_map_of_the_rank_is_better(d: int, o: int, rank: int) -> None:
    q, _ = problem(d, o, seed=2)
    ridge = 0.1
    down, up = reduced_rank(q, rank, ridge)
    assert (down.shape, up.shape) == ((rank, d), (o, rank))
    damped = q.h + ridge * scale(q.h) * np.eye(d)

    def loss(values: Array) -> tuple[float, Array]:
        a, b = values[: o * rank].reshape(o, rank), values[o * rank :].reshape(rank, d)
        slope = 2.0 * (a @ b @ damped - q.r.T)
        gradient = np.concatenate(((slope @ b.T).ravel(), (a.T @ slope).ravel()))
        return total(q, a @ b, ridge), gradient

    rng = np.random.default_rng(0)
    found = min(
        float(minimize(loss, rng.standard_normal(rank * (o + d)), jac=True, method="BFGS").fun) for _ in range(5)
    )
    np.testing.assert_allclose(total(q, up @ down, ridge), found, rtol=1e-6)


@SHAPES
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_gains_are_those_of_the_maps(d: int, o: int, ridge: float) -> None:
    q, _ = problem(d, o, seed=3)
    gains = gain_by_rank(q, ridge)
    assert gains.shape == (min(d, o),)
    nothing = float(q.yy.sum())
    for rank, gain in enumerate(gains.tolist(), start=1):
        down, up = reduced_rank(q, rank, ridge)
        np.testing.assert_allclose(nothing - total(q, up @ down, ridge), gain, rtol=1e-8)
    steps = np.diff(gains, prepend=0.0)
    assert (steps >= 0.0).all()
    assert (np.diff(steps) <= 1e-12 * nothing).all()


@SHAPES
def test_lower_ranks_are_the_first_directions_of_higher_ones(d: int, o: int) -> None:
    q, _ = problem(d, o, seed=4)
    down, up = reduced_rank(q, 3, 1e-2)
    fewer_down, fewer_up = reduced_rank(q, 2, 1e-2)
    np.testing.assert_allclose(up[:, :2] @ down[:2], fewer_up @ fewer_down, atol=1e-9)
    damped = q.h + 1e-2 * scale(q.h) * np.eye(d)
    basis = up.T @ up if o <= d else down @ damped @ down.T
    np.testing.assert_allclose(basis, np.eye(3), atol=1e-9)


def test_rank_zero_is_nothing() -> None:
    q, _ = problem(4, 3)
    down, up = reduced_rank(q, 0, 0.0)
    assert (down.shape, up.shape) == ((0, 4), (3, 0))
    np.testing.assert_array_equal(up @ down, np.zeros((3, 4)))


def test_undetermined_inputs_give_a_sound_map() -> None:
    x, _, y = rows(5, 12, 3)
    x[:, 4] = 0.0
    q = one_shot(x, y)
    down, up = reduced_rank(q, 2, 0.0)
    assert np.isfinite(down).all()
    assert total(q, up @ down, 0.0) < q.yy.sum()
    np.testing.assert_array_equal((up @ down)[:, 4], 0.0)


@pytest.mark.parametrize(("rank", "ridge"), [(-1, 0.0), (4, 0.0), (1, -1.0), (1, float("nan"))])
def test_arguments_out_of_range_are_refused(rank: int, ridge: float) -> None:
    q, _ = problem(5, 3)
    with pytest.raises(ValueError, match=r"rank|ridge"):
        reduced_rank(q, rank, ridge)


def test_moments_that_are_not_finite_are_refused() -> None:
    q, _ = problem(5, 3)
    with pytest.raises(ValueError, match="NaN"):
        gain_by_rank(Quadratic(q.h, q.r * np.nan, q.yy), 0.0)
