"""The elimination of whole units against least squares on what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.solvers import structured
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve
from surgery_ir.solvers.structured import Consumer, eliminate
from tests.solvers.problems import Array, best_on, deterministic, objective, rows

RIDGE = 1e-4


def consumer(
    units: int, width: int, outputs: int, seed: int, *, spare: int = 0, samples: int = 400, importance: float = 1.0
) -> Consumer:
    """Return a layer whose units own shuffled columns, ``spare`` more of which nobody owns."""
    x, weights, _ = rows(samples, units * width + spare, outputs, seed)
    columns = np.random.default_rng(seed).permutation(units * width + spare)[: units * width]
    return Consumer(x.T @ x / samples, weights, columns.reshape(units, width), importance)


def refit_error(layers: Sequence[Consumer], removed: Sequence[int], ridge: float = RIDGE) -> float:
    """Return Σ importance · error of the layers once these units are gone, solved anew by least squares."""
    total = 0.0
    for layer in layers:
        keep = np.ones(layer.weights.shape, dtype=np.bool_)
        gone = layer.columns[list(removed)].ravel()
        keep[:, gone[gone >= 0]] = False
        q = Quadratic.from_inputs(layer.h, layer.weights)
        total += layer.importance * float(
            objective(q, best_on(q, keep, layer.weights, ridge), layer.weights, ridge).sum()
        )
    return total


def greedy(layers: Sequence[Consumer], units: int) -> list[int]:
    order: list[int] = []
    while len(order) < units:
        order.append(
            min(
                (unit for unit in range(units) if unit not in order),
                key=lambda unit: refit_error(layers, [*order, unit]),
            )
        )
    return order


PROBLEMS = {
    "one consumer": [consumer(8, 1, 3, 0)],
    "kernel positions": [consumer(6, 4, 3, 1)],
    "columns of nobody": [consumer(6, 2, 3, 2, spare=5)],
    "two consumers": [consumer(7, 1, 4, 3), consumer(7, 3, 2, 4)],
    "importance": [consumer(7, 1, 4, 5, importance=1e-3), consumer(7, 1, 4, 6, importance=20.0)],
    "a consumer that does not count": [consumer(6, 1, 4, 5, importance=0.0), consumer(6, 2, 1, 6)],
}


@pytest.mark.parametrize("layers", PROBLEMS.values(), ids=PROBLEMS)
def test_every_removal_is_the_cheapest_and_every_error_that_of_a_refit(layers: list[Consumer]) -> None:
    units = len(layers[0].columns)
    found = eliminate(layers, RIDGE)
    assert found.order.tolist() == greedy(layers, units)
    refitted = [refit_error(layers, found.order[:count].tolist()) for count in range(units + 1)]
    assert found.errors[0] == 0.0
    np.testing.assert_allclose(found.errors[1:], refitted[1:], rtol=1e-8)
    assert (np.diff(found.errors) >= 0.0).all()


def test_the_ridge_solver_gives_the_compensated_weights() -> None:
    layer = consumer(10, 3, 5, 7)
    found = eliminate([layer], RIDGE)
    keep = np.ones(layer.weights.shape, dtype=np.bool_)
    keep[:, layer.columns[found.order[:4]].ravel()] = False
    q = Quadratic.from_inputs(layer.h, layer.weights)
    solved = solve(q, layer.weights, RIDGE, keep).weights
    error = objective(q, solved, layer.weights, RIDGE).sum()
    np.testing.assert_allclose(found.errors[4], error, rtol=1e-8)


@deterministic
@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_random_problems(units: int, width: int, outputs: int, seed: int) -> None:
    layers = [consumer(units, width, outputs, seed), consumer(units, 1, outputs, seed + 1, spare=1)]
    found = eliminate(layers, RIDGE)
    assert sorted(found.order) == list(range(units))
    for count in range(1, units + 1):
        np.testing.assert_allclose(found.errors[count], refit_error(layers, found.order[:count].tolist()), rtol=1e-7)
    alone = [refit_error(layers, [unit]) for unit in range(units)]
    np.testing.assert_allclose(found.errors[1], min(alone), rtol=1e-7)


def test_a_consumer_may_read_some_units_only() -> None:
    """A grouped convolution: either half of the units feeds a group of its own."""
    halves = [consumer(4, 2, 3, 8), consumer(4, 2, 3, 9, importance=2.0)]
    absent = np.full((4, 2), -1)
    layers = [
        Consumer(halves[0].h, halves[0].weights, np.concatenate((halves[0].columns, absent))),
        Consumer(halves[1].h, halves[1].weights, np.concatenate((absent, halves[1].columns)), 2.0),
    ]
    found = eliminate(layers, RIDGE)
    assert found.order.tolist() == greedy(layers, 8)
    first = [int(unit) for unit in found.order if unit < 4]
    assert first == eliminate([halves[0]], RIDGE).order.tolist()
    np.testing.assert_allclose(found.errors[-1], refit_error(layers, range(8)), rtol=1e-8)


def test_fixed_units_stay_and_compensate() -> None:
    layers = [consumer(8, 2, 3, 10)]
    free = eliminate(layers, RIDGE).order
    fixed = np.isin(np.arange(8), free[:3])
    found = eliminate(layers, RIDGE, fixed)
    assert set(found.order) == set(free[3:])
    assert len(found.errors) == 6
    for count in range(1, 6):
        np.testing.assert_allclose(found.errors[count], refit_error(layers, found.order[:count].tolist()), rtol=1e-8)


def test_all_units_fixed() -> None:
    found = eliminate([consumer(3, 1, 2, 0)], RIDGE, np.ones(3, dtype=np.bool_))
    assert found.order.size == 0
    assert found.errors.tolist() == [0.0]


def with_inputs(x: Array, outputs: int, width: int = 1, seed: int = 0) -> Consumer:
    d = x.shape[1]
    weights = np.random.default_rng(seed).standard_normal((outputs, d))
    return Consumer(x.T @ x / len(x), weights, np.arange(d).reshape(-1, width))


def test_dead_units_go_first_and_cost_nothing() -> None:
    x, _, _ = rows(300, 12, 3, 11)
    x[:, [2, 3, 8, 9]] = 0.0
    layer = with_inputs(x, 3, width=2)
    layer.weights[:, [2, 3]] = 1e6  # what reads a dead input means nothing, however large
    found = eliminate([layer], RIDGE)
    assert set(found.order[:2]) == {1, 4}
    assert found.errors[2] == 0.0
    assert found.errors[3] > 0.0


def test_of_two_twins_the_second_is_dear() -> None:
    x, _, _ = rows(300, 8, 3, 12)
    x[:, 5] = x[:, 1]
    layer = with_inputs(10.0 * x, 3)
    layer.weights[:, [1, 5]] *= 3.0
    found = eliminate([layer], 1e-6)
    assert found.order[0] in {1, 5}
    assert found.errors[1] < 1e-3 * found.errors[2]
    assert found.order[1] not in {1, 5}


@pytest.mark.parametrize("samples", [5, 10])
def test_fewer_samples_than_inputs(samples: int) -> None:
    layer = consumer(8, 3, 4, 13, samples=samples)
    found = eliminate([layer], 0.0)
    assert sorted(found.order) == list(range(8))
    for count in range(1, 9):
        refitted = refit_error([layer], found.order[:count].tolist(), 1e-6)
        np.testing.assert_allclose(found.errors[count], refitted, rtol=1e-4, atol=1e-9 * found.errors[-1])
    # A few samples are reproduced by as many inputs, and with the least ridge that costs next to nothing.
    spare = 8 - -(-samples // 3)
    assert found.errors[spare] < 1e-3 * found.errors[-1]


def test_importance_shifts_the_order_towards_the_layer_that_counts() -> None:
    one, other = consumer(9, 1, 3, 14), consumer(9, 1, 3, 15)
    alone = eliminate([one], RIDGE).order.tolist()
    weighted = Consumer(one.h, one.weights, one.columns, 1e9)
    assert eliminate([weighted, other], RIDGE).order.tolist() == alone
    assert eliminate([one, other], RIDGE).order.tolist() != alone


def test_the_error_is_the_energy_as_given() -> None:
    layer = consumer(5, 2, 3, 16)
    scaled = Consumer(4.0 * layer.h, layer.weights, layer.columns, 0.5)
    np.testing.assert_allclose(eliminate([scaled], RIDGE).errors, 2.0 * eliminate([layer], RIDGE).errors, rtol=1e-9)


def test_rounds_of_many_units_are_exact_in_error_and_close_to_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [consumer(60, 2, 4, 17), consumer(60, 1, 8, 18, spare=4)]
    exact = eliminate(layers, RIDGE)
    monkeypatch.setattr(structured, "_UNITS_PER_REMOVAL", 8)
    rounds = eliminate(layers, RIDGE)
    assert sorted(rounds.order) == list(range(60))
    for count in (1, 7, 20, 31, 59):
        np.testing.assert_allclose(rounds.errors[count], refit_error(layers, rounds.order[:count].tolist()), rtol=1e-7)
    np.testing.assert_allclose(rounds.errors[1:], exact.errors[1:], rtol=0.02)


def test_a_round_does_not_take_both_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins are cheap until one is gone: prices that are stale within a round would take the pair."""
    monkeypatch.setattr(structured, "_UNITS_PER_REMOVAL", 8)
    x, _, _ = rows(400, 40, 5, 19)
    twins = list(range(10))
    x[:, [unit + 10 for unit in twins]] = x[:, twins]
    x[:, :20] *= 3.0
    found = eliminate([with_inputs(x, 5)], 1e-5)
    assert {int(unit) % 10 for unit in found.order[:10]} == set(twins)
    assert found.errors[10] < 0.02 * found.errors[11]


def test_a_round_ends_where_the_next_unit_would_be_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the inputs are loud and span four dimensions fewer than they are: only four of them are cheap."""
    monkeypatch.setattr(structured, "_UNITS_PER_REMOVAL", 8)
    rng = np.random.default_rng(23)
    loud = rng.standard_normal((600, 28)) @ rng.standard_normal((28, 32))
    layer = with_inputs(np.concatenate((loud, 0.3 * rng.standard_normal((600, 32))), axis=1), 3)
    found = eliminate([layer], 1e-6)
    assert (found.order[:4] < 32).all()
    assert (found.order[4:8] >= 32).all()


def test_many_units() -> None:
    layer = consumer(300, 2, 2, 20, samples=1200)
    found = eliminate([layer], 1e-3)
    assert sorted(found.order) == list(range(300))
    for count in (1, 2, 150):
        np.testing.assert_allclose(
            found.errors[count], refit_error([layer], found.order[:count].tolist(), 1e-3), rtol=1e-6
        )


H = np.eye(4)
W = np.ones((2, 4))


@pytest.mark.parametrize(
    ("h", "weights", "columns", "importance"),
    [
        (np.ones((4, 3)), W, [[0], [1]], 1.0),
        (H, np.ones((2, 3)), [[0], [1]], 1.0),
        (H, W, [[0, 1], [1, 2]], 1.0),
        (H, W, [[0, 1], [2, 4]], 1.0),
        (H, W, [[0, 1], [2, -1]], 1.0),
        (H, W, [[0, 1], [2, -2]], 1.0),
        (H, W, [0, 1], 1.0),
        (H, W, [[], []], 1.0),
        (H, W, [[0], [1]], -1.0),
        (H, W, [[0], [1]], np.nan),
        (np.diag([1.0, 1.0, 1.0, np.inf]), W, [[0], [1]], 1.0),
        (H, W * np.nan, [[0], [1]], 1.0),
    ],
)
def test_a_consumer_that_makes_no_sense(h: Array, weights: Array, columns: list[list[int]], importance: float) -> None:
    with pytest.raises(ValueError, match=r"are not|do not own|importance|NaN"):
        Consumer(h, weights, np.array(columns, dtype=np.intp), importance)


@pytest.mark.parametrize(
    ("layers", "ridge", "fixed", "message"),
    [
        ([], RIDGE, None, "no layer"),
        ([consumer(3, 1, 2, 0), consumer(4, 1, 2, 0)], RIDGE, None, "number of units"),
        ([consumer(3, 1, 2, 0)], RIDGE, np.zeros(4, dtype=np.bool_), "number of units"),
        ([consumer(3, 1, 2, 0)], -1.0, None, "ridge"),
        ([Consumer(H + 1e9 * (1.0 - H), W, np.arange(4)[:, None])], RIDGE, None, "positive semidefinite"),
    ],
)
def test_arguments_that_make_no_sense(
    layers: list[Consumer], ridge: float, fixed: np.ndarray[tuple[int], np.dtype[np.bool_]] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        eliminate(layers, ridge, fixed)


def test_the_arguments_are_left_alone() -> None:
    layer = consumer(6, 2, 3, 22)
    h, weights = layer.h.copy(), layer.weights.copy()
    eliminate([layer], RIDGE)
    np.testing.assert_array_equal(layer.h, h)
    np.testing.assert_array_equal(layer.weights, weights)
