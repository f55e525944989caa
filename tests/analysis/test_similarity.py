"""Similarity against Gram matrices of all rows at once, and against what it must not notice."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.similarity import Similarity
from surgery_ir.solvers.arrays import Array, Indices, Real

RNG = np.random.default_rng(0)
ROWS = 500
X = RNG.standard_normal((ROWS, 6)) @ RNG.standard_normal((6, 6)) + RNG.standard_normal(6)
Y = X[:, :4] @ RNG.standard_normal((4, 4)) + RNG.standard_normal((ROWS, 4)) + 3


def similarity(dense: Real, small: Real, kept: Indices | None = None, *, batch: int = ROWS) -> Similarity:
    found = Similarity(kept)
    for start in range(0, len(dense), batch):
        found.add(dense[start : start + batch], small[start : start + batch])
    return found


def direct_cka(x: Array, y: Array) -> float:
    """HSIC of the linear kernels, by the n × n Gram matrices (Kornblith et al., equations 3 and 4)."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = (centre @ (rows @ rows.T) @ centre for rows in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def direct_shift(x: Array, y: Array) -> float:
    moved = np.square(x.mean(0) - y.mean(0)) + np.square(x.std(0) - y.std(0))
    return float(moved.sum() / x.var(0).sum())


@pytest.mark.parametrize("batch", [1, 7, 100, ROWS])
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [5, 0, 3, 2]])
def test_features_of_different_widths(kept: list[int], batch: int) -> None:
    found = similarity(X, Y, np.array(kept), batch=batch)
    assert found.rows == ROWS
    assert found.cka == pytest.approx(direct_cka(X, Y), rel=1e-10)
    assert found.shift == pytest.approx(direct_shift(X[:, kept], Y), rel=1e-10)
    assert found.divergence == pytest.approx(1 - direct_cka(X, Y) + direct_shift(X[:, kept], Y), rel=1e-10)
    assert 0.1 < found.cka < 0.9


def test_equal_features() -> None:
    found = similarity(X, X)
    assert found.cka == pytest.approx(1.0, abs=1e-12)
    assert found.shift == pytest.approx(0.0, abs=1e-12)
    assert found.divergence == pytest.approx(0.0, abs=1e-12)


def test_a_rotation_is_no_loss_of_similarity_but_a_shift() -> None:
    rotation, _ = np.linalg.qr(RNG.standard_normal((6, 6)))
    found = similarity(X, 2 * X @ rotation + 7)
    assert found.cka == pytest.approx(1.0, abs=1e-12)
    assert found.shift > 0.1


def test_mixed_channels_of_equal_statistics_are_no_shift_but_a_loss_of_similarity() -> None:
    shuffled = np.stack([RNG.permutation(channel) for channel in X.T], 1)
    found = similarity(X, shuffled)
    assert found.shift == pytest.approx(0.0, abs=1e-12)
    assert found.cka < 0.05
    assert found.divergence == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [(X + np.sqrt(X.var(0)), 1.0), (3 * (X - X.mean(0)) + X.mean(0), 4.0), (np.broadcast_to(X.mean(0), X.shape), 1.0)],
    ids=["moved by a standard deviation", "three times as wide", "constant"],
)
def test_shift_by_hand(changed: Array, wanted: float) -> None:
    assert similarity(X, changed, batch=33).shift == pytest.approx(wanted, rel=1e-9)


def test_large_means_and_sorted_batches_cost_no_digits() -> None:
    """Products of uncentred rows would lose everything: means of 1e7 against variances of 1."""
    order = np.argsort(X[:, 0])
    x, y = X[order] + 1e7, Y[order] - 1e7
    found = similarity(x, y, np.arange(4), batch=16)
    assert found.cka == pytest.approx(direct_cka(X, Y), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_all_does_not_matter(scale: float) -> None:
    plain = similarity(X, Y, np.arange(4))
    found = similarity(X * scale, Y * scale, np.arange(4))
    assert found.cka == pytest.approx(plain.cka, rel=1e-9)
    assert found.shift == pytest.approx(plain.shift, rel=1e-9)


def test_float16_is_summed_in_double_precision() -> None:
    x, y = (100 * X).astype(np.float16), (100 * Y).astype(np.float16)
    found = similarity(x, y, np.arange(4), batch=50)
    assert found.cka == pytest.approx(direct_cka(x.astype(np.float64), y.astype(np.float64)), rel=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5])
@pytest.mark.parametrize("batch", [7, ROWS])
def test_constant_features(value: float, batch: int) -> None:
    constant = np.full_like(X, value)
    both = similarity(constant, constant, batch=batch)
    assert (both.cka, both.shift) == (1.0, 0.0)
    assert similarity(X, constant, batch=batch).cka == 0.0
    assert similarity(constant, X, batch=batch).cka == 0.0
    assert similarity(constant, X, batch=batch).shift == np.inf


def test_a_dead_channel_is_not_divided_by() -> None:
    x = np.column_stack([X, np.zeros(ROWS)])
    y = np.column_stack([X, np.full(ROWS, 0.1)])
    assert similarity(x, y).shift == pytest.approx(0.01 / X.var(0).sum())


def test_batches_without_rows() -> None:
    found = Similarity()
    found.add(X[:0], X[:0])
    found.add(X, X)
    found.add(X[:0], X[:0])
    assert found.cka == pytest.approx(1.0)
    assert found.rows == ROWS


def test_what_does_not_fit() -> None:
    found = Similarity()
    with pytest.raises(ValueError, match="no rows"):
        _ = found.cka
    with pytest.raises(ValueError, match=r"\(500, 6\) and \(499, 6\)"):
        found.add(X, X[1:])
    with pytest.raises(ValueError, match="4 compressed channels cannot be 6"):
        found.add(X, Y)
    with pytest.raises(ValueError, match="5 compressed channels cannot be 4"):
        Similarity(np.arange(4)).add(X, X[:, :5])
    found.add(X, X)
    with pytest.raises(ValueError, match="4 dense channels follow on 6"):
        found.add(X[:, :4], X[:, :4])
    with pytest.raises(ValueError, match="do not fit"):
        found.add(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        found.add(X, np.where(X > 1, np.nan, X))
