"""Fidelity against values worked out by hand or by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from surgery_ir.analysis import fidelity as module
from surgery_ir.analysis.fidelity import Divergence, Fidelity, agreement, divergence, fidelity

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((50, 7)).astype(np.float32) * 3
OTHER = LOGITS + RNG.standard_normal((50, 7)).astype(np.float32)


def compare(output: NDArray[Any], wanted: NDArray[Any]) -> Fidelity:
    return fidelity({"y": output}, {"y": wanted})


def test_equal_outputs() -> None:
    assert compare(LOGITS, LOGITS) == Fidelity(kl=0.0, top1_agreement=1.0, max_abs=0.0)


def reference_kl(output: NDArray[Any], wanted: NDArray[Any]) -> float:
    p, q = (special.softmax(rows.astype(np.float64), axis=-1) for rows in (wanted, output))
    return float(np.mean(stats.entropy(p, q, axis=-1)))


@pytest.mark.parametrize("shape", [(50, 7), (10, 5, 7)])
def test_logits(shape: tuple[int, ...]) -> None:
    found = compare(OTHER.reshape(shape), LOGITS.reshape(shape))
    assert found.kl == pytest.approx(reference_kl(OTHER, LOGITS))
    assert found.top1_agreement == pytest.approx(np.mean(OTHER.argmax(1) == LOGITS.argmax(1)))
    assert found.max_abs == pytest.approx(np.abs(OTHER - LOGITS).max())


def test_probabilities_are_taken_as_they_are() -> None:
    found = compare(special.softmax(OTHER, axis=1), special.softmax(LOGITS, axis=1))
    assert found.kl == pytest.approx(reference_kl(OTHER, LOGITS), rel=1e-4)
    assert found.top1_agreement == compare(OTHER, LOGITS).top1_agreement


def test_logits_of_any_size_do_not_overflow() -> None:
    assert compare(LOGITS + 1e4, LOGITS).kl == pytest.approx(0, abs=1e-5)
    far = compare(np.array([[0, 1e30]], np.float32), np.array([[1e30, 0]], np.float32))
    assert far.kl == pytest.approx(-np.log(1e-12))
    assert far.top1_agreement == 0


def test_a_probability_of_zero_costs_a_finite_amount() -> None:
    found = compare(np.array([[1, 0]], np.float32), np.array([[0.5, 0.5]], np.float32))
    assert found.kl == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-12))


@pytest.mark.parametrize("shape", [(100,), (100, 1), (100, 1, 1), (25, 1, 2, 2)])
def test_outputs_without_classes(shape: tuple[int, ...]) -> None:
    y = RNG.standard_normal(100) * 2 + 5
    other = y + RNG.standard_normal(100) * 0.5
    flat = y.reshape(shape[0], -1)
    wanted = 1 - np.square(y - other).sum() / np.square(flat - flat.mean(0)).sum()
    found = compare(other.reshape(shape), y.reshape(shape))
    assert found.top1_agreement == pytest.approx(wanted)
    assert found.kl == 0
    shares = agreement({"y": other.reshape(shape)}, {"y": y.reshape(shape)})
    assert shares.shape == (shape[0],)
    assert shares.mean() == pytest.approx(wanted)


def test_agreement_is_not_negative() -> None:
    y = RNG.standard_normal(100)
    assert compare(y + 100, y).top1_agreement == 0


@pytest.mark.parametrize(("other", "wanted"), [(3.0, 1.0), (3.1, 0.0)])
def test_a_constant_reference(other: float, wanted: float) -> None:
    assert compare(np.full(10, other), np.full(10, 3.0)).top1_agreement == wanted


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.str_, object])
def test_outputs_that_are_no_floats_agree_where_they_are_equal(dtype: Any) -> None:
    wanted = np.array([["1", "0"], ["1", "1"]]).astype(np.int64).astype(dtype)
    output = np.array([["1", "1"], ["1", "1"]]).astype(np.int64).astype(dtype)
    assert compare(output, wanted) == Fidelity(kl=0.0, top1_agreement=0.75, max_abs=0.0)


def test_several_outputs_count_alike() -> None:
    codes = np.arange(50) % 5
    found = fidelity({"a": OTHER, "b": codes + 1}, {"a": LOGITS, "b": codes})
    assert found.kl == compare(OTHER, LOGITS).kl
    assert found.top1_agreement == pytest.approx(compare(OTHER, LOGITS).top1_agreement / 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_longer_finite(value: float) -> None:
    broken = LOGITS.copy()
    broken[0] = value
    found = compare(broken, LOGITS)
    assert found.max_abs == np.inf
    assert found.kl > 0.1
    assert found.top1_agreement <= 1
    assert not np.isnan(found.kl)
    numbers = np.arange(10.0)
    assert compare(np.where(numbers == 3, value, numbers), numbers).top1_agreement == 0


def test_all_classes_nan_agree_with_nothing() -> None:
    found = compare(np.full_like(LOGITS, np.nan), LOGITS)
    assert (found.kl, found.top1_agreement, found.max_abs) == (np.inf, 0.0, np.inf)


def test_infinities_of_the_reference_are_no_difference() -> None:
    masked = LOGITS.copy()
    masked[:, 0] = -np.inf
    assert compare(masked, masked) == Fidelity(kl=0.0, top1_agreement=1.0, max_abs=0.0)


def test_outputs_of_other_models() -> None:
    with pytest.raises(ValueError, match="are not those of the reference"):
        compare(LOGITS, LOGITS[:10])
    with pytest.raises(ValueError, match="are not those of the reference"):
        fidelity({"a": LOGITS}, {"b": LOGITS})


MAPS = RNG.standard_normal((50, 3, 2, 2)) + 5
OTHER_MAPS = MAPS + 0.5 * RNG.standard_normal(MAPS.shape)
CODES = np.arange(50) % 5


def relative_error(output: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.square(output - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


@pytest.mark.parametrize(
    ("outputs", "reference", "wanted"),
    [
        ([OTHER], [LOGITS], reference_kl(OTHER, LOGITS)),
        ([OTHER_MAPS], [MAPS], relative_error(OTHER_MAPS, MAPS)),
        ([MAPS + 100], [MAPS], relative_error(MAPS + 100, MAPS)),
        ([CODES % 4], [CODES], 0.2),
        (
            [OTHER, OTHER_MAPS, CODES % 4],
            [LOGITS, MAPS, CODES],
            (reference_kl(OTHER, LOGITS) + relative_error(OTHER_MAPS, MAPS)) / 2,
        ),
        ([LOGITS, CODES % 4], [LOGITS, CODES], 0.0),
    ],
    ids=["classes", "maps", "far off", "codes", "all kinds", "codes beside floats"],
)
def test_divergence(outputs: list[NDArray[Any]], reference: list[NDArray[Any]], wanted: float) -> None:
    names = "abc"[: len(outputs)]
    found = dict(zip(names, outputs, strict=True))
    dense = dict(zip(names, reference, strict=True))
    assert divergence(found, dense) == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    measure = Divergence(dense)
    parts = [measure.shares({name: array[at : at + 7] for name, array in found.items()}, at) for at in range(0, 50, 7)]
    assert [len(part) for part in parts] == [7] * 7 + [1]
    assert np.concatenate(parts).mean() == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_what_are_probabilities_is_a_question_to_all_samples() -> None:
    """The first row of these logits could be one of probabilities."""
    logits = np.array([[0.3, 0.7], [-1.0, 2.0]])
    other = logits[:, ::-1]
    first = Divergence({"y": logits}).shares({"y": other[:1]})
    assert first == pytest.approx([reference_kl(other[:1], logits[:1])])
    assert divergence({"y": other[:1]}, {"y": logits[:1]}) != pytest.approx(first[0])


def test_large_outputs_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, output = LOGITS.reshape(10, 5, 7), OTHER.reshape(10, 5, 7)
    at_once = Divergence({"y": wanted}).shares({"y": output})
    assert at_once == pytest.approx([reference_kl(*pair) for pair in zip(output, wanted, strict=True)])
    for chunk in (1, 21, 7 * 50 + 1):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert np.array_equal(Divergence({"y": wanted}).shares({"y": output}), at_once)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("wanted", [LOGITS, MAPS, np.full((4, 1), 3.0)], ids=["classes", "maps", "constant"])
def test_outputs_that_are_not_finite_are_infinitely_far(wanted: NDArray[Any], value: float) -> None:
    broken = wanted.copy()
    broken[-1] = value
    assert divergence({"y": broken}, {"y": wanted}) == np.inf


@pytest.mark.parametrize(("other", "wanted"), [(3.0, 0.0), (3.1, 1.0)])
def test_divergence_from_a_constant(other: float, wanted: float) -> None:
    assert divergence({"y": np.full(10, other)}, {"y": np.full(10, 3.0)}) == wanted


def test_a_single_sample_varies_within_itself() -> None:
    found = divergence({"y": OTHER_MAPS[:1]}, {"y": MAPS[:1]})
    assert found == pytest.approx(np.square(OTHER_MAPS[0] - MAPS[0]).mean() / MAPS[0].var())
    assert compare(OTHER_MAPS[:1], MAPS[:1]).top1_agreement == pytest.approx(1 - found)


@pytest.mark.parametrize("shape", [(3, 0, 4), (3, 0), (3, 2, 0, 1), (1, 0)])
def test_empty_outputs_do_not_differ(shape: tuple[int, ...]) -> None:
    empty = np.empty(shape)
    assert Divergence({"y": empty}).shares({"y": empty}) == pytest.approx(np.zeros(shape[0]))
    assert Divergence({"y": empty.astype(int)}).shares({"y": empty.astype(int)}) == pytest.approx(np.zeros(shape[0]))


def test_divergence_of_other_outputs() -> None:
    measure = Divergence({"y": LOGITS})
    with pytest.raises(ValueError, match="are not those of the reference"):
        measure.shares({"y": LOGITS[:7]}, 45)
    with pytest.raises(ValueError, match="are not those of the reference"):
        measure.shares({"z": LOGITS})
    with pytest.raises(ValueError, match="no outputs"):
        divergence({}, {})
