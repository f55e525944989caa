"""Block downdates against inverting what is left from scratch."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.solvers.cholesky import factor, scale
from surgery_ir.solvers.downdate import Support
from tests.solvers.problems import Array, problem


def support(d: int, r: int) -> tuple[Support, Array, Array]:
    """Return a support of all columns, H and the right-hand sides (r, d)."""
    q, _ = problem(d, r)
    chol = factor(q.h, np.arange(d), 0.0, scale(q.h))
    weights = chol.solve(q.r).T
    return Support(chol.inverse(), weights, np.arange(d)), q.h, q.r.T


def assert_up_to_date(found: Support, h: Array, right: Array) -> None:
    columns = found.columns[found.alive]
    inverse = np.linalg.inv(h[np.ix_(columns, columns)])
    stored = np.flatnonzero(found.alive)
    lower = np.tril(found.inverse[np.ix_(stored, stored)])
    np.testing.assert_allclose(lower, np.tril(inverse), atol=1e-9 * np.abs(inverse).max())
    np.testing.assert_allclose(found.weights[:, stored], right[:, columns] @ inverse, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_weights_and_inverse_stay_those_of_the_columns_left(batch: int) -> None:
    found, h, right = support(20, 3)
    rng = np.random.default_rng(0)
    while len(found) > batch:
        found.drop(rng.permutation(np.flatnonzero(found.alive))[:batch])
        assert_up_to_date(found, h, right)


def test_costs_are_the_rise_of_the_error_drop_by_drop() -> None:
    found, h, right = support(12, 2)
    columns = np.arange(12)
    explained = [float(np.sum(right * (right @ np.linalg.inv(h))))]
    order = [4, 9, 0, 7]
    for column in order:
        columns = columns[columns != column]
        part = right[:, columns]
        explained.append(float(np.sum(part * (part @ np.linalg.inv(h[np.ix_(columns, columns)])))))
    saliency = found.saliency()
    costs = found.drop(np.array(order))
    np.testing.assert_allclose(costs, -np.diff(explained), rtol=1e-8)
    np.testing.assert_allclose(costs[0], saliency[4], rtol=1e-12)
    assert np.isinf(found.saliency()[~found.alive]).all()


def test_dropping_everything_leaves_nothing() -> None:
    found, _, right = support(5, 2)
    total = float(np.sum(right * found.weights))
    assert found.drop(np.arange(5)).sum() == pytest.approx(total)
    assert len(found) == 0


def test_an_inverse_that_is_none_is_noticed() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="no longer positive definite"):
        Support(-np.eye(3), np.ones((1, 3)), np.arange(3)).drop(np.array([0, 1]))
