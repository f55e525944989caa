from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.solvers.linear_map import fit_map, identity

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 6)) @ RNG.standard_normal((6, 6)) + 2.0
T = RNG.standard_normal((6, 6))
B = RNG.standard_normal(6)


def test_the_identity_changes_nothing() -> None:
    assert np.array_equal(identity(6)(X), X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_affine_map_is_found(dtype: type) -> None:
    found = fit_map(X.astype(dtype), (X @ T.T + B).astype(dtype), 0.0)
    assert np.allclose(found.weights, T, atol=1e-4)
    assert np.allclose(found.bias, B, atol=1e-4)
    assert found.weights.dtype == found.bias.dtype == np.float64


def test_a_linear_map_is_found_without_a_bias() -> None:
    found = fit_map(X, X @ T.T, 0.0, bias=False)
    assert np.allclose(found.weights, T)
    assert np.array_equal(found.bias, np.zeros(6))
    shifted = fit_map(X, X @ T.T + B, 0.0, bias=False)
    assert np.array_equal(shifted.bias, np.zeros(6))
    assert np.abs(X.T @ (shifted(X) - X @ T.T - B)).max() < 1e-6, "the normal equations of the uncentred problem hold"


def test_what_goes_past_the_map_is_not_fitted_again() -> None:
    rest = RNG.standard_normal(X.shape)
    found = fit_map(X, X @ T.T + B + rest, 0.0, offset=rest)
    assert np.allclose(found.weights, T)
    assert np.allclose(found.bias, B)


def test_without_evidence_the_map_is_the_identity() -> None:
    x = X.copy()
    x[:, 4:] = 0.0
    found = fit_map(x, x @ T.T, 0.01)
    assert np.allclose(found.weights[:, 4:], np.eye(6)[:, 4:])
    assert not np.allclose(found.weights[:, :4], np.eye(6)[:, :4], atol=0.1)


def test_a_stronger_pull_stays_closer_to_the_identity() -> None:
    distances = [np.linalg.norm(fit_map(X, X @ T.T, ridge).weights - np.eye(6)) for ridge in (0.0, 0.1, 1.0, 1e6)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < distances[-2]


def _error(rounds: int, rest: NDArray[np.float64] | None = None) -> float:
    """Error of what a Relu lets through, where what it cuts off is far from linear."""
    linear = X @ T.T + (0 if rest is None else rest)
    y = np.where(linear > 0, linear, 20 * np.minimum(np.sin(7 * X), 0))
    found = fit_map(X, y, 0.0, offset=rest, rectified=rounds)
    output = found(X) if rest is None else found(X) + rest
    return float(((np.maximum(output, 0) - np.maximum(y, 0)) ** 2).mean())


@pytest.mark.parametrize("rest", [None, np.random.default_rng(1).standard_normal(X.shape)])
def test_targets_that_a_relu_cuts_off_are_free(rest: NDArray[np.float64] | None) -> None:
    errors = [_error(rounds, rest) for rounds in (0, 1, 5)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("x", "y", "rest"),
    [
        (X, X[:, :5], None),
        (X, X[:100], None),
        (X, X, X[:100]),
        (X[:0], X[:0], None),
        (np.where(X > 3, np.nan, X), X, None),
        (X, np.where(X > 3, np.inf, X), None),
    ],
)
def test_rows_that_do_not_fit(x: NDArray[np.float64], y: NDArray[np.float64], rest: NDArray[np.float64] | None) -> None:
    with pytest.raises(ValueError, match=r"do not fit|NaN or infinity"):
        fit_map(x, y, 0.0, offset=rest)
