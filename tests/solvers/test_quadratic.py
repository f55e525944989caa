"""Streaming moments against one-shot float64 sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.solvers import quadratic
from surgery_ir.solvers.quadratic import Moments, Quadratic
from tests.solvers.problems import one_shot, permuted, rows


def stream(x: NDArray[Any], y: NDArray[Any], cuts: Sequence[int]) -> Moments:
    moments = Moments(x.shape[1], y.shape[1])
    for part_x, part_y in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        moments.add(part_x, part_y)
    return moments


def assert_same(found: Quadratic, expected: Quadratic, rtol: float) -> None:
    for name in ("h", "r", "yy"):
        value = getattr(expected, name)
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name
        )


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("cuts", [[], [1], [0, 0, 7], [100, 150, 299]])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_streaming_equals_one_shot(centred: bool, cuts: list[int], mean: float) -> None:
    x, _, y = rows(300, 7, 3, mean=mean)
    assert_same(stream(x, y, cuts).quadratic(centred), one_shot(x, y, centred), rtol=1e-10)


def test_an_untypical_first_batch_costs_no_digits() -> None:
    x, _, y = rows(2000, 5, 2)
    x[0] += 1e7
    x = x[[0, *np.tile(np.arange(1, 2000), 1)]]
    covariance = stream(x, y, [1]).second_moment(centred=True)
    centred = (x - x.mean(axis=0)).astype(np.longdouble)
    np.testing.assert_allclose(covariance, (centred.T @ centred / len(x)).astype(np.float64), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types_are_summed_in_float64(dtype: type[np.floating[Any]]) -> None:
    x, _, y = (a.astype(dtype) for a in rows(5000, 4, 2, mean=3.0))
    assert_same(stream(x, y, [17]).quadratic(centred=True), one_shot(x, y, centred=True), rtol=1e-12)


def test_chunks_of_one_batch_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, y = rows(50, 4, 2, mean=2.0)
    monkeypatch.setattr(quadratic, "_CHUNK_ROWS", 7)
    moments = stream(x, y, [])
    assert moments.n == 50
    assert_same(moments.quadratic(centred=True), one_shot(x, y, centred=True), rtol=1e-12)


def test_merge_equals_one_stream_and_leaves_the_other_alone() -> None:
    x, _, y = rows(90, 4, 2, mean=50.0)
    left, right = stream(x[:20], y[:20], []), stream(x[20:], y[20:], [])
    before = right.quadratic(centred=False)
    left.merge(right)
    left.merge(Moments(4, 2))
    assert left.n == 90
    assert_same(left.quadratic(centred=True), one_shot(x, y, centred=True), rtol=1e-12)
    assert_same(right.quadratic(centred=False), before, rtol=0.0)


def test_merge_into_an_empty_accumulator() -> None:
    x, _, y = rows(30, 3, 2, mean=5.0)
    moments = Moments(3, 2)
    moments.merge(stream(x, y, []))
    assert_same(moments.quadratic(centred=True), one_shot(x, y, centred=True), rtol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_h_is_exactly_symmetric(centred: bool) -> None:
    x, _, y = rows(200, 33, 2, mean=7.0)
    h = stream(x, y, [11]).second_moment(centred)
    np.testing.assert_array_equal(h, h.T)


def test_error_is_the_mean_squared_error_with_the_best_bias() -> None:
    x, weights, y = rows(400, 6, 3, mean=4.0)
    y += np.array([1.0, -20.0, 300.0])
    moments = stream(x, y, [100])
    q = moments.quadratic(centred=True)
    direct = np.mean((x @ weights.T + moments.intercept(weights) - y) ** 2, axis=0)
    np.testing.assert_allclose(q.error(weights), direct, rtol=1e-9)
    raw = moments.quadratic(centred=False)
    np.testing.assert_allclose(raw.error(weights), np.mean((x @ weights.T - y) ** 2, axis=0), rtol=1e-8)


def test_means() -> None:
    x, _, y = rows(60, 3, 2, mean=9.0)
    moments = stream(x, y, [13])
    np.testing.assert_allclose(moments.x_mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.y_mean, y.mean(axis=0), rtol=1e-14)


def test_the_dense_layer_teaches_itself() -> None:
    x, weights, _ = rows(100, 5, 3)
    moments = Moments(5)
    moments.add(x)
    q = Quadratic.from_inputs(moments.second_moment(centred=False), weights)
    assert_same(q, one_shot(x, x @ weights.T), rtol=1e-12)
    np.testing.assert_allclose(q.error(weights), 0.0, atol=1e-12 * q.yy.max())


def test_error_never_goes_below_zero() -> None:
    x, weights, _ = rows(100, 5, 8, mean=1e3)
    assert (one_shot(x, x @ weights.T).error(weights) >= 0.0).all()


def test_a_permuted_h_is_noticed() -> None:
    x, weights, y = rows(300, 6, 3)
    q = one_shot(x, y)
    with pytest.raises(AssertionError):
        assert_same(permuted(q), q, rtol=1e-6)
    assert not np.allclose(permuted(q).error(weights), q.error(weights), rtol=0.1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "do not fit"),
        (np.zeros((4, 5)), np.zeros((3, 2)), "do not fit"),
        (np.zeros((4, 5)), None, "do not fit"),
        (np.zeros((4, 5, 1)), np.zeros((4, 2)), "do not fit"),
        (np.full((4, 5), np.nan), np.zeros((4, 2)), "NaN or infinity"),
        (np.zeros((4, 5)), np.array([[0.0, 0.0]] * 3 + [[0.0, np.inf]]), "NaN or infinity"),
    ],
)
def test_rows_that_do_not_fit_are_refused(x: NDArray[Any], y: NDArray[Any] | None, message: str) -> None:
    moments = Moments(5, 2)
    with pytest.raises(ValueError, match=message):
        moments.add(x, y)
    assert moments.n == 0


def test_nothing_comes_from_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Moments(3, 1).quadratic(centred=True)
    with pytest.raises(ValueError, match="no targets"):
        Moments(3).quadratic(centred=True)
    with pytest.raises(ValueError, match="do not fit"):
        Moments(3, 1).merge(Moments(3, 2))
    with pytest.raises(ValueError, match="not \\(d, d\\)"):
        Quadratic(np.zeros((3, 3)), np.zeros((2, 1)), np.zeros(1))
