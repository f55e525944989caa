"""The search for supports against planted ones, brute force and what every search has to hold."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery_ir.solvers import regrowth
from surgery_ir.solvers.cholesky import scale
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.regrowth import Regrown, regrow
from surgery_ir.solvers.ridge import solve
from surgery_ir.solvers.saliency import Exact, Sampled, smallest
from tests.solvers.problems import Array, assert_optimal, best_on, deterministic, objective, one_shot, problem, rows

Bools = NDArray[np.bool_]
ESTIMATED = 1.0  # flops: too few for exact prices


def ridge_quadratic(q: Quadratic, prior: Array, ridge: float) -> Quadratic:
    damping = ridge * scale(q.h)
    return Quadratic(
        q.h + damping * np.eye(q.inputs), q.r + damping * prior.T, q.yy + damping * np.sum(prior**2, axis=1)
    )


def assert_sound(
    found: Regrown, q: Quadratic, prior: Array, mask: Bools, ridge: float, count: int, growable: Bools
) -> None:
    """Fail unless the result is what its documentation says, whatever the quality of the search."""
    own_prior = np.where(mask, prior, 0.0)
    assert np.count_nonzero(found.mask) == count
    assert not (found.mask & ~mask & ~growable).any()
    assert not (found.mask & ~mask)[:, np.diagonal(q.h) == 0.0].any()
    assert found.exchanged == np.count_nonzero(found.mask & ~mask)
    np.testing.assert_array_equal(found.weights[~found.mask], 0.0)
    assert all(later <= earlier for earlier, later in zip(found.errors, found.errors[1:], strict=False))
    total = objective(q, found.weights, own_prior, ridge).sum()
    size = q.yy.sum() + np.sum(own_prior**2) + 1e-300
    np.testing.assert_allclose(found.errors[-1], total, rtol=1e-8, atol=1e-11 * size)
    best = objective(q, solve(q, own_prior, ridge, found.mask).weights, own_prior, ridge).sum()
    assert total <= best * (1.0 + 1e-4) + 1e-9 * size


@st.composite
def searches(draw: st.DrawFn) -> tuple[Quadratic, Array, Bools, Bools, int, float]:
    o, d, n = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x, weights, y = rows(n, d, o, draw(st.integers(0, 999)))
    x[:, rng.random(d) < draw(st.sampled_from([0.0, 0.3]))] = 0.0
    if d > 2 and draw(st.booleans()):
        x[:, 1] = x[:, 0]
    mask = rng.random((o, d)) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    mask[rng.random(o) < draw(st.sampled_from([0.0, 0.4]))] = False
    growable = rng.random((o, d)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    most = int(np.count_nonzero(mask | (growable & (np.square(x).mean(axis=0) > 0.0))))
    count = draw(st.one_of(st.just(int(np.count_nonzero(mask))), st.integers(0, most)))
    return one_shot(x, y), weights, mask, growable, count, draw(st.sampled_from([1e-6, 1e-2, 1.0]))


@given(searches(), st.sampled_from([2e11, ESTIMATED]), st.sampled_from([0.1, 1.0]), st.booleans())
@deterministic
def test_every_search_is_sound(
    search: tuple[Quadratic, Array, Bools, Bools, int, float], flops: float, share: float, ranked: bool
) -> None:
    q, prior, mask, growable, count, ridge = search
    gains = np.random.default_rng(0).standard_normal(mask.shape) if ranked else None
    found = regrow(q, prior, mask, ridge, growable=growable, count=count, gains=gains, share=share, flops=flops)
    assert_sound(found, q, prior, mask, ridge, count, growable)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "estimated"])
def test_a_planted_support_is_recovered_by_steps_alone(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrowth, "_SWEEPS", 0.0)
    if not exact:
        monkeypatch.setattr(regrowth, "_EXACT_WORK", np.inf)
    rng = np.random.default_rng(3)
    x, _, _ = rows(600, 30, 1, 3, mixing=0.3)
    planted = rng.random((8, 30)) < np.linspace(0.05, 0.4, 8)[:, None]
    weights = np.where(planted, rng.choice([-1.0, 1.0], planted.shape) * rng.uniform(0.5, 1.5, planted.shape), 0.0)
    q = one_shot(x, x @ weights.T + 0.01 * rng.standard_normal((600, 8)))
    start = np.zeros(planted.shape, dtype=np.bool_)
    start.flat[rng.choice(planted.size, np.count_nonzero(planted), replace=False)] = True
    found = regrow(q, np.zeros(planted.shape), start, 1e-4, rounds=40)
    np.testing.assert_array_equal(found.mask, planted)
    assert found.exchanged == np.count_nonzero(planted & ~start)
    assert found.errors[-1] < 0.01 * found.errors[0]


def test_steps_get_smaller_where_large_ones_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrowth, "_SWEEPS", 0.0)
    q, weights = problem(30, 10, 4)
    mask = np.abs(weights) > 0.7
    once, often = (regrow(q, weights, mask, 1e-2, share=2.0, rounds=rounds) for rounds in (3, 12))
    assert often.errors[-1] < once.errors[-1] * (1.0 - 1e-4)


def optimum(q: Quadratic, ridge: float, count: int) -> float:
    """Return the least objective over all supports of ``count`` weights, prior 0."""
    shape = (q.outputs, q.inputs)
    errors = []
    for chosen in combinations(range(shape[0] * shape[1]), count):
        mask = np.zeros(shape, dtype=np.bool_)
        mask.flat[list(chosen)] = True
        errors.append(objective(q, best_on(q, mask, np.zeros(shape), ridge), np.zeros(shape), ridge).sum())
    return float(min(errors))


def test_tiny_problems_are_solved_to_the_optimum_or_close() -> None:
    excess = []
    for seed in range(12):
        q, _ = problem(5, 2, seed)
        start = np.zeros((2, 5), dtype=np.bool_)
        start.flat[np.random.default_rng(seed).permutation(10)[:4]] = True
        found = regrow(q, np.zeros((2, 5)), start, 1e-3, rounds=20)
        excess.append(found.errors[-1] / optimum(q, 1e-3, 4) - 1.0)
    assert min(excess) > -1e-9
    assert sum(value < 1e-9 for value in excess) >= 11
    assert max(excess) < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_no_single_swap_within_a_row_is_left(seed: int) -> None:
    q, _ = problem(9, 3, seed)
    mask = np.random.default_rng(seed).random((3, 9)) < 0.4
    prior, ridge = np.zeros((3, 9)), 1e-3
    found = regrow(q, prior, mask, ridge, rounds=60, tolerance=0.0)
    for row, kept in enumerate(found.mask):
        for old in np.flatnonzero(kept):
            for new in np.flatnonzero(~kept):
                other = found.mask.copy()
                other[row, old], other[row, new] = False, True
                swapped = objective(q, best_on(q, other, prior, ridge), prior, ridge).sum()
                assert swapped >= found.errors[-1] * (1.0 - 1e-9)


def test_a_swap_that_only_a_pair_shows_is_found_by_the_last_sweep() -> None:
    # Column 2 is the sum of the kept column 0 and the missing 1, so that neither a gain nor a saliency alone shows it.
    rng = np.random.default_rng(5)
    x = rng.standard_normal((500, 3))
    x[:, 2] = x[:, 0] + x[:, 1] + 0.1 * rng.standard_normal(500)
    q = one_shot(x, x[:, :1] + x[:, 1:2])
    mask = np.array([[True, False, False]])
    found = regrow(q, np.zeros((1, 3)), mask, 1e-6)
    np.testing.assert_array_equal(found.mask, [[False, False, True]])
    prices = Exact(ridge_quadratic(q, np.zeros((1, 3)), 1e-6))
    gradient = prices.q.r.T - prices.fit(np.arange(1), mask, np.zeros((1, 3))) @ prices.q.h
    np.testing.assert_array_equal(prices.swapped(np.arange(1), gradient, mask, ~mask), [[False, False, True]])


def test_rows_compete() -> None:
    q, _ = problem(8, 2, 1)
    loud = Quadratic(q.h, q.r * [1.0, 100.0], q.yy * [1.0, 1e4])
    mask = np.zeros((2, 8), dtype=np.bool_)
    mask[0, :6] = True
    found = regrow(loud, np.zeros((2, 8)), mask, 1e-3, rounds=30)
    np.testing.assert_array_equal(found.mask.sum(axis=1), [0, 6])


def test_exact_prices_are_the_true_changes_of_the_error() -> None:
    q, weights = problem(9, 3, 2)
    layer = ridge_quadratic(q, weights, 1e-2)
    mask = np.random.default_rng(0).random((3, 9)) < 0.5
    zero = np.zeros(mask.shape)
    prices = Exact(layer)

    def error(support: Bools) -> float:
        return float(layer.error(best_on(layer, support, zero, 0.0)).sum())

    def after(flat: int, value: bool) -> float:
        other = mask.copy()
        other.flat[flat] = value
        return error(other)

    fitted = prices.fit(np.arange(3), mask, zero)
    coming = prices.coming(layer.r.T - fitted @ layer.h, mask, ~mask, mask.size)
    assert set(coming.tolist()) == set(np.flatnonzero(~mask).tolist())
    falls = [after(flat, True) for flat in coming.tolist()]
    np.testing.assert_array_equal(falls, np.sort(falls))
    cheapest = min(np.flatnonzero(mask).tolist(), key=lambda flat: after(flat, False))
    assert prices.going(mask, 1, zero).tolist() == [cheapest]


def test_of_two_weights_that_stand_in_for_each_other_one_stays() -> None:
    x, _, _ = rows(400, 6, 1, 4, mixing=0.2)
    x[:, 1] = x[:, 0] + 1e-3 * np.random.default_rng(0).standard_normal(400)
    q = one_shot(x, x @ np.array([[1.0, 1.0, 0.4, 0.4, 0.4, 0.4], [0.0, 0.0, 0.4, 0.4, 0.4, 0.4]]).T)
    prices = Exact(ridge_quadratic(q, np.zeros((2, 6)), 1e-6))
    mask = np.array([[True] * 6, [False] * 2 + [True] * 4])
    going = prices.going(mask, 2, np.zeros((2, 6)))
    assert len({0, 1} & set(going.tolist())) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_sample_of_rows_on_one_support_is_exact(seed: int) -> None:
    x, weights, y = rows(300, 7, 4, seed, mixing=1.0)
    x[:, 2] = x[:, 3] + 0.1 * x[:, 2]
    x *= np.random.default_rng(seed).permutation(np.geomspace(0.3, 3.0, 7))
    mask = np.zeros((4, 7), dtype=np.bool_)
    mask[:, 1:6] = True
    layer = ridge_quadratic(one_shot(x, y), weights, 1e-2)
    fitted = solve(layer, np.zeros(mask.shape), 0.0, mask).weights
    sampled = Sampled(layer, mask, np.arange(2)).going(mask, 1, fitted)
    assert sampled.tolist() == Exact(layer).going(mask, 1, fitted).tolist()


def test_estimated_prices_end_in_a_converged_solution() -> None:
    x, _, y = rows(400, 60, 5, 2, mixing=2.0)
    q, mask = one_shot(x, y), np.random.default_rng(2).random((5, 60)) < 0.5
    found = regrow(q, np.zeros(mask.shape), mask, 1e-6, flops=ESTIMATED)
    best = best_on(q, found.mask, np.zeros(mask.shape), 1e-6)
    np.testing.assert_allclose(found.errors[-1], objective(q, best, np.zeros(mask.shape), 1e-6).sum(), rtol=1e-5)


@pytest.mark.parametrize("flops", [2e11, ESTIMATED], ids=["exact", "estimated"])
@pytest.mark.parametrize("count", [0, 1, 10, 60, 96])
def test_count_is_met_from_either_side(count: int, flops: float) -> None:
    q, weights = problem(12, 8, 6)
    mask = np.random.default_rng(1).random((8, 12)) < 0.4
    found = regrow(q, weights, mask, 1e-2, count=count, flops=flops)
    assert_sound(found, q, weights, mask, 1e-2, count, np.ones_like(mask))
    assert found.mask.sum() == count


def test_growing_lowers_the_error_from_that_of_the_start() -> None:
    q, weights = problem(12, 8, 6)
    mask = np.random.default_rng(1).random((8, 12)) < 0.4
    start = objective(q, best_on(q, mask, np.where(mask, weights, 0.0), 1e-2), np.where(mask, weights, 0.0), 1e-2)
    found = regrow(q, weights, mask, 1e-2, count=60, rounds=0)
    np.testing.assert_allclose(found.errors[0], start.sum(), rtol=1e-9)
    assert found.errors[-1] < 0.8 * found.errors[0]
    assert not (mask & ~found.mask).any()


def test_given_gains_rank_what_comes() -> None:
    q, _ = problem(6, 2, 8)
    mask = np.zeros((2, 6), dtype=np.bool_)
    gains = np.full(mask.shape, -np.inf)
    gains[0, 3], gains[1, 2] = 2.0, 1.0
    one = regrow(q, np.zeros(mask.shape), mask, 1e-3, count=1, gains=gains, rounds=0)
    np.testing.assert_array_equal(np.argwhere(one.mask), [[0, 3]])
    two = regrow(q, np.zeros(mask.shape), mask, 1e-3, count=2, gains=gains, rounds=0)
    np.testing.assert_array_equal(np.argwhere(two.mask), [[0, 3], [1, 2]])
    assert np.count_nonzero(regrow(q, np.zeros(mask.shape), mask, 1e-3, count=5, gains=gains).mask) == 5


def test_a_full_mask_is_left_as_it_is() -> None:
    q, weights = problem(6, 3)
    full = np.ones((3, 6), dtype=np.bool_)
    found = regrow(q, weights, full, 1e-2)
    assert (found.exchanged, len(found.errors)) == (0, 1)
    assert_optimal(q, found.weights, weights, 1e-2, full)


def test_the_prior_off_the_start_mask_is_zero() -> None:
    q, weights = problem(6, 3)
    mask = np.random.default_rng(2).random((3, 6)) < 0.5
    other = np.where(mask, weights, 77.0)
    np.testing.assert_array_equal(regrow(q, weights, mask, 1.0).weights, regrow(q, other, mask, 1.0).weights)


def test_is_deterministic_and_leaves_its_arguments_alone() -> None:
    q, weights = problem(20, 10, 4)
    mask = np.random.default_rng(4).random((10, 20)) < 0.3
    before = mask.copy(), weights.copy(), q.h.copy()
    first, second = (regrow(q, weights, mask, 1e-2) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    for now, then in zip((mask, weights, q.h), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_estimates_are_used_where_exact_prices_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    q, weights = problem(20, 10, 4)
    mask = np.random.default_rng(4).random((10, 20)) < 0.3
    exact = regrow(q, weights, mask, 1e-2).errors[-1]
    built: list[int] = []

    class Spy(Sampled):
        def __init__(self, q: Quadratic, mask: Bools, rows: NDArray[np.intp]) -> None:
            super().__init__(q, mask, rows)
            built.append(rows.size)

    monkeypatch.setattr(regrowth, "Sampled", Spy)
    found = regrow(q, weights, mask, 1e-2, flops=1e5)
    assert len(built) == 1
    assert 1 <= built[0] <= 10
    assert found.errors[-1] < found.errors[0]
    assert exact < 1.05 * found.errors[-1]


def test_smallest() -> None:
    values = np.array([[3.0, np.inf, 1.0], [np.nan, 1.0, -np.inf]])
    assert smallest(values, 2).tolist() == [2, 4]
    assert smallest(values, 9).tolist() == [2, 4, 0]
    assert smallest(values, 0).size == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"count": 9},
        {"count": -1},
        {"growable": np.zeros((2, 4), dtype=np.bool_), "count": 3},
        {"growable": np.zeros((4, 2), dtype=np.bool_)},
        {"gains": np.zeros((1, 4))},
        {"share": 0.0},
        {"rounds": -1},
        {"tolerance": -1.0},
    ],
)
def test_arguments_that_do_not_fit_are_refused(fault: dict[str, Any]) -> None:
    q, weights = problem(4, 2)
    mask = np.zeros((2, 4), dtype=np.bool_)
    mask[:, 0] = True
    with pytest.raises(ValueError, match=r"asked for|shape|must not be negative"):
        regrow(q, weights, mask, 1e-2, **fault)


@pytest.mark.parametrize("growable", [None, np.ones((3, 6), dtype=np.bool_)])
def test_columns_without_variance_never_come(growable: Bools | None) -> None:
    x, weights, y = rows(200, 6, 3)
    x[:, 2] = 0.0
    q = one_shot(x, y)
    mask = np.zeros((3, 6), dtype=np.bool_)
    found = regrow(q, weights, mask, 1e-2, growable=growable, count=15)
    assert not found.mask[:, 2].any()
    with pytest.raises(ValueError, match="only 15 can be had"):
        regrow(q, weights, mask, 1e-2, growable=growable, count=16)
