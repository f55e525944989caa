"""Sparsity patterns: text forms, exact counts, ties, nesting, and the invariants of N:M and of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from surgery_ir.solvers.patterns import NM, Block, Pattern, Unstructured, keep_highest, kept_pattern, parse_pattern
from tests.solvers.problems import deterministic

# Few distinct values, so that ties are the rule.
scores_of_any_shape = st.tuples(st.integers(1, 9), st.integers(1, 13)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.integers(-3, 3).map(float))
)
ratios = st.floats(0.0, 1.0)
blocks = st.builds(Block, st.integers(1, 5), st.integers(1, 5))
n_of_m = st.integers(1, 6).flatmap(lambda m: st.builds(NM, st.integers(1, m), st.just(m)))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured", Unstructured()),
        ("2:4", NM(2, 4)),
        ("1:8", NM(1, 8)),
        ("4x1", Block(4, 1)),
        ("1x16", Block(1, 16)),
    ],
)
def test_text_form_both_ways(text: str, pattern: Pattern) -> None:
    assert parse_pattern(text) == pattern
    assert str(pattern) == text


@pytest.mark.parametrize(
    "text", ["", "2:", "x4", "2:4:8", "4 x 1", "-1:4", "1.5:4", "Unstructured", "²:4", "1:9999999"]
)
def test_other_texts_are_refused_and_told_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match='a pattern is "unstructured", "N:M" such as "2:4"'):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["0:4", "5:4", "0:0", "0x1", "4x0"])
def test_numbers_that_make_no_pattern_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"the pattern {text} needs"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("ratio", "dropped"), [(0.0, 0), (1.0, 12), (0.5, 6), (0.04, 0), (0.05, 1), (0.125, 2), (0.96, 12)]
)
def test_the_count_is_the_ratio_with_halves_rounded_up(ratio: float, dropped: int) -> None:
    scores = np.random.default_rng(0).random((3, 4))
    assert np.count_nonzero(~Unstructured().select(scores, ratio)) == dropped


@deterministic
@given(scores_of_any_shape, ratios)
def test_unstructured_keeps_exactly_the_highest(scores: NDArray[np.float32], ratio: float) -> None:
    keep = Unstructured().select(scores, ratio)
    assert np.count_nonzero(~keep) == int(ratio * scores.size + 0.5)
    assert scores[keep].min(initial=np.inf) >= scores[~keep].max(initial=-np.inf)
    by_hand = np.argsort(-scores.ravel(), kind="stable")[: np.count_nonzero(keep)]
    np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(by_hand))


@deterministic
@given(scores_of_any_shape, st.one_of(st.just(Unstructured()), blocks), ratios, ratios)
def test_masks_are_nested(scores: NDArray[np.float32], pattern: Unstructured | Block, one: float, two: float) -> None:
    more, less = pattern.select(scores, max(one, two)), pattern.select(scores, min(one, two))
    assert not np.any(more & ~less)


@deterministic
@given(scores_of_any_shape, n_of_m)
def test_every_group_of_m_keeps_its_best_n(scores: NDArray[np.float32], pattern: NM) -> None:
    keep = pattern.select(scores, pattern.ratio)
    np.testing.assert_array_equal(keep, pattern.select(scores))
    for start in range(0, scores.shape[1], pattern.m):
        group, kept = scores[:, start : start + pattern.m], keep[:, start : start + pattern.m]
        assert (kept.sum(axis=1) == min(pattern.n, group.shape[1])).all()
        for values, chosen in zip(group, kept, strict=True):
            best = np.sort(np.argsort(-values, kind="stable")[: pattern.n])
            np.testing.assert_array_equal(np.flatnonzero(chosen), best)


@deterministic
@given(scores_of_any_shape, blocks, ratios)
def test_blocks_are_kept_whole_and_by_their_mean(scores: NDArray[np.float32], pattern: Block, ratio: float) -> None:
    keep = pattern.select(scores, ratio)
    means = {True: [], False: []}  # type: dict[bool, list[float]]
    for row in range(0, scores.shape[0], pattern.rows):
        for column in range(0, scores.shape[1], pattern.cols):
            place = np.s_[row : row + pattern.rows, column : column + pattern.cols]
            assert keep[place].all() or not keep[place].any()
            means[bool(keep[place].all())].append(float(scores[place].mean(dtype=np.float64)))
    assert len(means[False]) == int(ratio * (len(means[True]) + len(means[False])) + 0.5)
    assert min(means[True], default=np.inf) >= max(means[False], default=-np.inf) - 1e-12


def test_equal_scores_keep_the_first_in_row_major_order() -> None:
    equal = np.ones((2, 4))
    np.testing.assert_array_equal(Unstructured().select(equal, 0.625), [[1, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(NM(1, 2).select(equal), [[1, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(Block(2, 1).select(equal, 0.5), [[1, 1, 0, 0]] * 2)
    few = np.random.default_rng(2).integers(0, 3, (1, 64)).astype(np.float64)
    by_hand = np.sort(np.argsort(-few[0], kind="stable")[:8])
    np.testing.assert_array_equal(np.flatnonzero(NM(8, 64).select(few)), by_hand)


def test_one_by_one_blocks_are_unstructured() -> None:
    scores = np.random.default_rng(1).random((5, 7))
    np.testing.assert_array_equal(Block(1, 1).select(scores, 0.6), Unstructured().select(scores, 0.6))


def test_infinite_scores_have_the_last_word() -> None:
    scores = np.array([[-np.inf, 0.0, np.inf, 1.0, -np.inf]])
    np.testing.assert_array_equal(Unstructured().select(scores, 0.4), [[0, 1, 1, 1, 0]])
    np.testing.assert_array_equal(NM(1, 2).select(scores), [[0, 1, 1, 0, 1]])


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(4, 1)])
def test_scores_that_cannot_be_ordered_are_refused(pattern: Pattern) -> None:
    with pytest.raises(ValueError, match="NaN"):
        pattern.select(np.array([[1.0, np.nan]]), 0.5)
    with pytest.raises(ValueError, match=r"must be \(outputs, inputs\)"):
        pattern.select(np.ones(4), 0.5)


def test_ratios_out_of_range_or_against_the_pattern_are_refused() -> None:
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Unstructured().select(np.ones((1, 4)), ratio)
    with pytest.raises(ValueError, match=r"2:4 drops 0\.5 of the weights, not the ratio 0\.9"):
        NM(2, 4).select(np.ones((1, 4)), 0.9)


def test_keep_highest_notices_a_planted_fault() -> None:
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(keep_highest(scores, 3), [True, True, True, False])
    assert not np.array_equal(keep_highest(scores[::-1], 3), keep_highest(scores, 3))


NOISE = np.random.default_rng(4).random((16, 48))


@pytest.mark.parametrize(
    ("pattern", "columns", "told"),
    [
        (NM(2, 4), 48, NM(2, 4)),
        (NM(1, 4), 48, NM(1, 4)),
        (NM(4, 8), 48, NM(4, 8)),
        (NM(2, 8), 48, NM(2, 8)),
        (NM(1, 2), 46, NM(1, 2)),
        (NM(1, 2), 48, NM(2, 4)),  # which it is, too
        (Block(4, 1), 48, Block(4, 1)),
        (Block(8, 1), 48, Block(4, 1)),
        (Block(1, 4), 48, Block(1, 4)),
        (Block(1, 8), 48, Block(1, 4)),
        (Block(4, 4), 48, Block(4, 1)),
    ],
)
def test_a_mask_tells_its_pattern(pattern: NM | Block, columns: int, told: NM | Block) -> None:
    mask = pattern.select(NOISE[:, :columns], 0.5 if isinstance(pattern, Block) else pattern.ratio)
    assert kept_pattern(mask) == told
    row, column = np.argwhere(mask)[7]
    mask[row, column] = False
    assert kept_pattern(mask) is None


@pytest.mark.parametrize("rows", [np.s_[:1], np.s_[:3], np.s_[:5]])
def test_blocks_need_rows_of_their_own(rows: slice) -> None:
    """Equal rows are no blocks where there are not four of them."""
    assert kept_pattern(np.repeat(NOISE[:1] < 0.3, 16, axis=0)[rows]) is None


@pytest.mark.parametrize("columns", [np.s_[:, :1], np.s_[:, :4], np.s_[:, :5], np.s_[:, :16]])
def test_rows_that_are_gone_as_a_whole_are_no_blocks(columns: tuple[slice, slice]) -> None:
    assert kept_pattern(np.repeat(NOISE[:, :1] < 0.3, 16, axis=1)[columns]) is None


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((8, 16), bool),
        np.zeros((8, 16), bool),
        NOISE < 0.5,
        NOISE < 0.95,
        NM(2, 4).select(NOISE)[:, :46],  # the last group is cut short
        NM(3, 4).select(NOISE),  # none that hardware knows
        NOISE[:, :24].repeat(2, axis=1) < 0.5,  # blocks along the inputs
        np.repeat(NOISE[:1] < 0.5, 16, axis=0),  # no output reads some of the inputs
    ],
    ids=["dense", "empty", "half", "few zeros", "46 columns", "3:4", "1x2", "whole columns"],
)
def test_a_mask_without_a_pattern(mask: NDArray[np.bool_]) -> None:
    assert kept_pattern(mask) is None
