"""Masked ridge regression against least squares on the augmented system."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.solvers import conjugate, ridge
from surgery_ir.solvers.cholesky import factor, scale, supports
from surgery_ir.solvers.conjugate import conjugate_gradients
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve
from tests.solvers.problems import assert_optimal, best_on, objective, one_shot, permuted, problem, rows


@pytest.mark.parametrize("keep", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 10.0])
def test_solves_the_augmented_least_squares(keep: float, damping: float) -> None:
    q, weights = problem(9, 6)
    rng = np.random.default_rng(1)
    prior = weights + rng.standard_normal(weights.shape)
    mask = rng.random(weights.shape) < keep
    solution = solve(q, prior, damping, mask)
    assert solution.ridge == damping
    np.testing.assert_allclose(solution.weights, best_on(q, mask, prior, damping), atol=1e-9)
    assert_optimal(q, solution.weights, prior, damping, mask)


def test_no_mask_is_a_full_mask() -> None:
    q, weights = problem(7, 4)
    np.testing.assert_array_equal(
        solve(q, weights, 1e-2).weights, solve(q, weights, 1e-2, np.ones((4, 7), dtype=np.bool_)).weights
    )


def test_empty_rows_are_zero() -> None:
    q, weights = problem(5, 3)
    mask = np.ones((3, 5), dtype=np.bool_)
    mask[1] = False
    solved = solve(q, weights, 1e-3, mask).weights
    np.testing.assert_array_equal(solved[1], 0.0)
    assert_optimal(q, solved, weights, 1e-3, mask)


def test_a_permuted_h_is_noticed() -> None:
    q, weights = problem(9, 6)
    mask = np.random.default_rng(2).random(weights.shape) < 0.5
    wrong = solve(permuted(q), weights, 1e-3, mask).weights
    with pytest.raises(AssertionError):
        assert_optimal(q, wrong, weights, 1e-3, mask)


def test_dead_inputs_keep_their_prior() -> None:
    x, weights, y = rows(200, 6, 3)
    x[:, [1, 4]] = 0.0
    solution = solve(one_shot(x, y), weights, 1e-3)
    np.testing.assert_allclose(solution.weights[:, [1, 4]], weights[:, [1, 4]], rtol=1e-12)
    assert solution.ridge == 1e-3


@pytest.mark.parametrize("fault", ["dead", "duplicate", "few rows", "all dead"])
def test_singular_h_raises_the_ridge_until_the_result_is_sound(fault: str) -> None:
    x, weights, y = rows(200, 12, 3)
    match fault:
        case "dead":
            x[:, 3] = 0.0
        case "duplicate":
            x[:, 3] = x[:, 5]
        case "few rows":
            x, y = x[:5], y[:5]
        case "all dead":
            x[:] = 0.0
    q = one_shot(x, y)
    solution = solve(q, weights, 0.0)
    assert 0.0 < solution.ridge < 1e-6
    assert np.isfinite(solution.weights).all()
    assert np.abs(solution.weights).max() < 100.0 * np.abs(weights).max()
    assert (q.error(solution.weights) <= q.error(weights) * (1.0 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_singular_h_is_noticed_even_where_rounding_hides_it(seed: int) -> None:
    x, weights, y = rows(60, 12, 2, seed)
    x[:, 7] = x[:, :7] @ np.random.default_rng(seed).standard_normal(7)
    solution = solve(one_shot(x, y), weights, 0.0)
    assert solution.ridge > 0.0
    assert np.abs(solution.weights).max() < 100.0


def test_badly_scaled_inputs_are_not_taken_for_singular() -> None:
    q, weights = problem(6, 2)
    units = 10.0 ** np.arange(-6, 6, 2)
    scaled = Quadratic(q.h * np.outer(units, units), q.r * units[:, None], q.yy)
    solution = solve(scaled, weights, 0.0)
    assert solution.ridge == 0.0
    np.testing.assert_allclose(solution.weights * units, solve(q, weights, 0.0).weights, rtol=1e-8)


def test_an_indefinite_h_is_refused() -> None:
    q, weights = problem(4, 2)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        factor(-1e9 * q.h, np.arange(4), 0.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        solve(Quadratic(q.h, q.r * np.nan, q.yy), weights, 0.0)


@pytest.mark.parametrize(
    ("prior", "mask", "damping"),
    [
        (np.zeros((3, 4)), None, 0.0),
        (np.zeros((2, 4)), np.ones((4, 2), dtype=np.bool_), 0.0),
        (np.zeros((2, 4)), None, -1.0),
        (np.zeros((2, 4)), None, float("nan")),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    prior: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]] | None,
    damping: float,
) -> None:
    q, _ = problem(4, 2)
    with pytest.raises(ValueError, match=r"do not fit|at least 0"):
        solve(q, prior, damping, mask)


def test_supports_group_equal_rows() -> None:
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=np.bool_)
    found = {tuple(groups.tolist()): tuple(columns.tolist()) for groups, columns in supports(mask)}
    assert found == {(0, 2): (0, 2), (3,): (1,)}


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("damping", [0.0, 1e-4, 1e-1])
@pytest.mark.parametrize(("offset", "mixing"), [(0.0, 0.3), (0.0, 1.0), (5.0, 1.0)])
def test_iteration_is_within_a_millionth_of_the_exact_objective(
    keep: float, damping: float, offset: float, mixing: float
) -> None:
    x, weights, y = rows(2000, 120, 40, mean=offset, mixing=mixing)
    q = one_shot(x, y)
    mask = np.random.default_rng(3).random(weights.shape) < keep
    mask[5] = False
    iterated = conjugate_gradients(q, weights, damping * scale(q.h), mask, weights, 1e-6)
    assert iterated is not None
    np.testing.assert_array_equal(iterated[~mask], 0.0)
    exact = best_on(q, mask, weights, damping)
    excess = objective(q, iterated, weights, damping) - objective(q, exact, weights, damping)
    assert (excess <= 1e-6 * objective(q, exact, weights, damping) + 1e-12 * q.yy).all()


def test_iteration_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    q, weights = problem(20, 15)
    mask = np.random.default_rng(4).random(weights.shape) < 0.5
    monkeypatch.setattr(conjugate, "_BLOCK_BYTES", 4 * 8 * 20)
    iterated = conjugate_gradients(q, weights, 1e-3 * scale(q.h), mask, weights, 1e-12)
    assert iterated is not None
    np.testing.assert_allclose(iterated, best_on(q, mask, weights, 1e-3), atol=1e-5)


def test_dead_inputs_and_a_perfect_start_do_not_trouble_the_iteration() -> None:
    x, weights, _ = rows(300, 30, 4)
    x[:, 7] = 0.0
    q = one_shot(x, x @ weights.T)
    iterated = conjugate_gradients(q, weights, 0.0, np.ones(weights.shape, dtype=np.bool_), weights, 1e-6)
    assert iterated is not None
    np.testing.assert_allclose(iterated, weights, atol=1e-9)


def test_solve_iterates_where_that_is_cheaper_and_falls_back_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    q, weights = problem(40, 10)
    mask = np.random.default_rng(5).random(weights.shape) < 0.8
    exact = solve(q, weights, 1e-3, mask)
    monkeypatch.setattr(ridge, "_ITERATIONS_PER_DIGIT", 0.0)
    iterated = solve(q, weights, 1e-3, mask)
    assert np.any(iterated.weights != exact.weights)
    np.testing.assert_allclose(
        objective(q, iterated.weights, weights, 1e-3), objective(q, exact.weights, weights, 1e-3), rtol=1e-6
    )
    monkeypatch.setattr(conjugate, "_MAX_ITERATIONS", 1)
    np.testing.assert_array_equal(solve(q, weights, 1e-3, mask).weights, exact.weights)


def test_the_flop_estimate_sends_shared_masks_to_one_factorisation() -> None:
    o, d = 64, 1024
    random = np.random.default_rng(6).random((o, d)) < 0.9
    assert ridge._iterate_is_cheaper(random, 1e-6)
    assert not ridge._iterate_is_cheaper(random[:1].repeat(o, axis=0), 1e-6)
    assert not ridge._iterate_is_cheaper(np.random.default_rng(6).random((o, d)) < 0.2, 1e-6)
