"""Optimal brain surgery against brute force."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery_ir.solvers.obs import elimination_scores
from surgery_ir.solvers.patterns import NM, Block, Pattern, Unstructured
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve
from tests.solvers.problems import (
    Array,
    assert_rises_are_true,
    best_on,
    best_subset_error,
    deterministic,
    objective,
    one_shot,
    permuted,
    problem,
    rows,
)

RIDGE = 1e-3


def units_of(pattern: Pattern, shape: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return one mask (o, d) for each set of weights that the pattern drops together."""
    block = pattern if isinstance(pattern, Block) else Block(1, 1)
    units = []
    for row in range(0, shape[0], block.rows):
        for column in range(0, shape[1], block.cols):
            unit = np.zeros(shape, dtype=np.bool_)
            unit[row : row + block.rows, column : column + block.cols] = True
            units.append(unit)
    return units


def greedy(q: Quadratic, prior: Array, pattern: Pattern) -> list[NDArray[np.bool_]]:
    """Return the masks of greedy elimination that tries every single drop by solving the layer anew."""
    alive = np.ones(prior.shape, dtype=np.bool_)
    units, masks = units_of(pattern, (q.outputs, q.inputs)), [alive]
    while units:
        candidates = units
        if isinstance(pattern, NM):
            groups = alive.reshape(q.outputs, -1, pattern.m).sum(axis=2) > pattern.n
            spare = groups.repeat(pattern.m, axis=1)
            candidates = [unit for unit in units if spare[unit].any()]
            if not candidates:
                break
        costs = [objective(q, best_on(q, alive & ~unit, prior, RIDGE), prior, RIDGE).sum() for unit in candidates]
        base = objective(q, best_on(q, alive, prior, RIDGE), prior, RIDGE).sum()
        best = candidates[int(np.argmin((np.array(costs) - base) / [unit.sum() for unit in candidates]))]
        units = [unit for unit in units if unit is not best]
        alive = alive & ~best
        masks.append(alive)
    return masks


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (Unstructured(), (3, 6)),
        (Unstructured(), (1, 9)),
        (Block(4, 1), (8, 5)),
        (Block(4, 1), (6, 4)),
        (Block(2, 3), (4, 6)),
        (Block(1, 4), (2, 10)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_single_steps_are_those_of_greedy_elimination(pattern: Pattern, shape: tuple[int, int], seed: int) -> None:
    q, weights = problem(shape[1], shape[0], seed)
    scores = elimination_scores(q, weights, pattern, RIDGE, fraction=0.0)
    thresholds = np.unique(scores)
    masks = greedy(q, weights, pattern)
    assert len(thresholds) == len(masks) - 1
    for threshold, mask in zip(thresholds, masks[1:], strict=True):
        np.testing.assert_array_equal(scores > threshold, mask)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_n_of_m_is_greedy_too_and_spares_groups_that_are_down_to_n(seed: int) -> None:
    q, weights = problem(8, 2, seed)
    scores = elimination_scores(q, weights, NM(2, 4), RIDGE, fraction=0.0)
    keep = NM(2, 4).select(scores)
    for row in range(2):
        single = Quadratic(q.h, q.r[:, row : row + 1], q.yy[row : row + 1])
        np.testing.assert_array_equal(keep[row], greedy(single, weights[row : row + 1], NM(2, 4))[-1][0])
    assert (keep.reshape(2, 2, 4).sum(axis=2) == 2).all()
    assert all(scores[row][keep[row]].min() > scores[row][~keep[row]].max() for row in range(2))


@pytest.mark.parametrize("d", [5, 6, 8])
def test_close_to_the_best_subset(d: int) -> None:
    ratios = []
    for seed in range(8):
        q, weights = problem(d, 1, seed)
        scores = elimination_scores(q, weights, Unstructured(), 1e-6)
        for keep in range(1, d):
            mask = Unstructured().select(scores, 1.0 - keep / d)
            assert mask.sum() == keep
            error = float(q.error(solve(q, weights, 1e-6, mask).weights)[0])
            ratios.append(error / best_subset_error(q, 0, keep))
    assert max(ratios) < 2.0
    assert np.mean(ratios) < 1.06
    assert np.mean(np.array(ratios) < 1.001) > 0.8


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1), Block(3, 2), NM(2, 4), NM(1, 3)])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.4])
def test_scores_are_the_rise_of_the_error(pattern: Pattern, fraction: float) -> None:
    q, weights = problem(11, 6)
    scores = elimination_scores(q, weights, pattern, RIDGE, fraction=fraction)
    assert_rises_are_true(q, scores, weights, RIDGE)


def test_a_permuted_h_is_noticed() -> None:
    q, weights = problem(8, 3)
    scores = elimination_scores(permuted(q), weights, Unstructured(), RIDGE)
    with pytest.raises(AssertionError):
        assert_rises_are_true(q, scores, weights, RIDGE)


@deterministic
@given(
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from([Unstructured(), Block(4, 1), Block(2, 3), NM(2, 4), NM(1, 3)]),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.sampled_from([0.0, 1e12]),
    st.integers(1, 5),
)
def test_scores_are_an_order(
    o: int, d: int, pattern: Pattern, fraction: float, exact_flops: float, columns: int
) -> None:
    q, weights = problem(d, o)
    scores = elimination_scores(q, weights, pattern, RIDGE, fraction=fraction, exact_flops=exact_flops, columns=columns)
    units = units_of(pattern, (o, d))
    assert np.isfinite(scores).all()
    assert all(np.ptp(scores[unit]) == 0.0 for unit in units)
    assert np.unique(scores).size == len(units)
    if isinstance(pattern, NM):
        assert (np.add.reduceat(pattern.select(scores), range(0, d, pattern.m), axis=1) <= pattern.n).all()
    else:
        masks = [pattern.select(scores, ratio) for ratio in (0.0, 0.2, 0.5, 0.8, 1.0)]
        assert all(not np.any(more & ~less) for less, more in pairwise(masks))


def correlated_layer(o: int = 24, d: int = 96) -> tuple[Quadratic, Array]:
    """Return a layer whose inputs look like activations: few latent causes, rectified, of unequal size."""
    rng = np.random.default_rng(7)
    causes = rng.standard_normal((4000, 16)) @ rng.standard_normal((16, d)) / 2.0
    x = np.maximum(causes + 0.3 * rng.standard_normal((4000, d)), 0.0) * rng.gamma(2.0, 1.0, d)
    weights = rng.standard_normal((o, d)) / np.sqrt(d)
    return one_shot(x, x @ weights.T, centred=True), weights


def error_at(q: Quadratic, weights: Array, scores: Array, ratio: float) -> float:
    mask = Unstructured().select(scores, ratio)
    return float(q.error(solve(q, weights, RIDGE, mask).weights).sum())


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9])
def test_beats_magnitude_and_wanda_after_the_same_repair(ratio: float) -> None:
    q, weights = correlated_layer()
    found = error_at(q, weights, elimination_scores(q, weights, Unstructured(), RIDGE), ratio)
    assert found < 0.8 * error_at(q, weights, np.abs(weights), ratio)
    assert found < 0.8 * error_at(q, weights, weights**2 * np.diag(q.h), ratio)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9])
def test_rounds_of_column_blocks_come_close(ratio: float) -> None:
    q, weights = correlated_layer()
    exact = elimination_scores(q, weights, Unstructured(), RIDGE)
    blocks = elimination_scores(q, weights, Unstructured(), RIDGE, exact_flops=0.0, columns=24)
    assert np.any(exact != blocks)
    assert error_at(q, weights, blocks, ratio) < 1.25 * error_at(q, weights, exact, ratio)
    assert error_at(q, weights, blocks, ratio) < 0.9 * error_at(q, weights, weights**2 * np.diag(q.h), ratio)


def test_rounds_end_in_an_exact_finish_where_that_is_affordable() -> None:
    q, weights = correlated_layer(o=8, d=48)
    scores = elimination_scores(q, weights, Unstructured(), RIDGE, exact_flops=8 * 24**3, columns=12)
    order = np.sort(scores.ravel())
    for threshold in order[[300, 340, 383]]:  # the last ones: their costs, and so the rises, are exact
        mask = scores > threshold
        full = objective(q, solve(q, weights, RIDGE).weights, weights, RIDGE).sum()
        rise = objective(q, solve(q, weights, RIDGE, mask).weights, weights, RIDGE).sum() - full
        np.testing.assert_allclose(threshold, rise / q.yy.sum(), rtol=2e-2)


@pytest.mark.parametrize("exact_flops", [0.0, 1e12])
def test_dead_inputs_go_first_and_cost_next_to_nothing(exact_flops: float) -> None:
    x, weights, y = rows(300, 10, 4)
    x[:, [2, 5]] = 0.0
    scores = elimination_scores(one_shot(x, y), weights, Unstructured(), 1e-6, exact_flops=exact_flops)
    dead = scores[:, [2, 5]]
    assert dead.max() < np.delete(scores, [2, 5], axis=1).min()
    assert dead.max() < 1e-4


@pytest.mark.parametrize("exact_flops", [0.0, 1e12])
@pytest.mark.parametrize("n", [1, 5])
def test_fewer_rows_than_columns(n: int, exact_flops: float) -> None:
    x, weights, y = rows(n, 12, 3)
    scores = elimination_scores(one_shot(x, y), weights, Unstructured(), 0.0, exact_flops=exact_flops)
    assert np.isfinite(scores).all()
    assert np.unique(scores).size == scores.size


@pytest.mark.parametrize("exact_flops", [0.0, 1e12])
def test_ties_are_an_order_too(exact_flops: float) -> None:
    x, weights, y = rows(300, 10, 4)
    x[:, :4], weights[:, :4] = 0.0, 0.0  # these cost nothing at all
    scores = elimination_scores(one_shot(x, y), weights, Unstructured(), RIDGE, exact_flops=exact_flops)
    assert np.unique(scores).size == scores.size
    assert scores[:, :4].max() < scores[:, 4:].min()


def test_a_layer_that_sees_nothing_keeps_its_larger_weights_longer() -> None:
    weights = np.array([[3.0, -1.0, 2.0]])
    q = Quadratic(np.zeros((3, 3)), np.zeros((3, 1)), np.zeros(1))
    scores = elimination_scores(q, weights, Unstructured(), RIDGE)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(np.argsort(scores.ravel()), [1, 2, 0])


@pytest.mark.parametrize("exact_flops", [0.0, 1e12])
@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 1), NM(2, 4)])
def test_weights_that_do_not_exist_come_first_and_are_not_revived(pattern: Pattern, exact_flops: float) -> None:
    q, weights = problem(8, 4)
    allowed = np.random.default_rng(3).random((2, 8)).repeat(2, axis=0) < 0.6
    scores = elimination_scores(q, weights, pattern, RIDGE, allowed=allowed, exact_flops=exact_flops, columns=4)
    assert scores[~allowed].max() < scores[allowed].min()
    if exact_flops:
        base = objective(q, best_on(q, allowed, weights, RIDGE), weights, RIDGE).sum()
        first = np.sort(np.unique(scores[allowed]))[0]
        rise = objective(q, best_on(q, scores > first, weights, RIDGE), weights, RIDGE).sum() - base
        np.testing.assert_allclose(first, rise / q.yy.sum(), rtol=1e-6)


def test_nothing_allowed() -> None:
    q, weights = problem(4, 2)
    scores = elimination_scores(q, weights, Unstructured(), RIDGE, allowed=np.zeros((2, 4), dtype=np.bool_))
    np.testing.assert_allclose(scores, 0.0, atol=1e-12)


def test_the_same_bytes_every_time() -> None:
    q, weights = correlated_layer()
    one, two = (elimination_scores(q, weights, Unstructured(), RIDGE) for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_arguments_that_do_not_fit_are_refused() -> None:
    q, weights = problem(6, 4)
    ragged = np.arange(24).reshape(4, 6) % 5 > 0
    with pytest.raises(ValueError, match="no whole 4x1 blocks"):
        elimination_scores(q, weights, Block(4, 1), RIDGE, allowed=ragged)
    with pytest.raises(ValueError, match="do not fit"):
        elimination_scores(q, weights.T, Unstructured(), RIDGE)
    with pytest.raises(ValueError, match="do not fit"):
        elimination_scores(q, weights, Unstructured(), RIDGE, allowed=ragged[:2])
    with pytest.raises(ValueError, match="NaN"):
        elimination_scores(Quadratic(q.h, q.r * np.nan, q.yy), weights, Unstructured(), RIDGE)
    with pytest.raises(ValueError, match="fraction"):
        elimination_scores(q, weights, Unstructured(), RIDGE, fraction=-0.1)
