"""Metrics and the certainty of their differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.backends.evaluate import Score, difference, find_metric
from surgery_ir.backends.metrics import accuracy
from surgery_ir.errors import DataError, SpecError

CLASSES = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]


class TestAccuracy:
    @pytest.mark.parametrize(
        ("outputs", "labels", "wanted"),
        [
            ({"y": CLASSES}, [0, 1, 2, 3, 0, 1], [1, 1, 1, 1, 1, 1]),
            ({"y": CLASSES}, [0, 1, 2, 3, 1, 0], [1, 1, 1, 1, 0, 0]),
            ({"y": CLASSES}, [0.0, 1, 2, 3, 1, 0], [1, 1, 1, 1, 0, 0]),
            ({"y": CLASSES[:, None]}, [0, 1, 2, 3, 0, 0], [1, 1, 1, 1, 1, 0]),
            ({"y": CLASSES.reshape(3, 2, 4)}, [[0, 1], [2, 0], [1, 0]], [1, 0.5, 0]),
            ({"id": np.array([3, 1]), "y": CLASSES[:2]}, [0, 1], [1, 1]),
            ({"id": np.array([3, 1])}, [3, 0], [1, 0]),
            ({"id": np.array([[3], [1]])}, [3, 0], [1, 0]),
            ({"score": np.ones((2, 1), np.float32), "id": np.array([3, 1])}, [3, 1], [1, 1]),
            ({"flag": np.array([True, False])}, [True, True], [1, 0]),
            ({"name": np.array(["a", "b"], object)}, ["a", "c"], [1, 0]),
            ({"y": np.array([[np.nan, 1], [0, 1]])}, [0, 1], [0, 1]),
        ],
    )
    def test_values(self, outputs: dict[str, NDArray[Any]], labels: list[Any], wanted: list[float]) -> None:
        assert accuracy(outputs, np.array(labels)).tolist() == wanted

    @pytest.mark.parametrize(
        ("outputs", "labels", "message"),
        [
            ({"y": CLASSES}, [1, 2, 3, 4, 1, 2], "labels run from 1 to 4, but output 'y' has the classes 0 to 3"),
            ({"y": CLASSES}, [0, -1, 2, 3, 1, 2], "labels run from -1 to 3"),
            ({"y": CLASSES}, [0, 1], r"labels have shape \[2\], but output 'y' says classes of shape \[6\]"),
            ({"y": CLASSES}, [[0, 1]] * 6, r"labels have shape \[6, 2\]"),
            ({"y": CLASSES}, [0.5] * 6, "labels of type float64 do not fit output 'y'"),
            ({"y": CLASSES}, ["a"] * 6, "labels of type <U1 do not fit output 'y'"),
            ({"name": np.array(["a", "b"])}, [0, 1], "labels of type int64 do not fit output 'name'"),
            ({"y": np.ones((6, 1), np.float32)}, [0] * 6, r"needs an output with classes .* 'y' float32\[6, 1\]"),
        ],
    )
    def test_labels_that_do_not_fit(self, outputs: dict[str, NDArray[Any]], labels: list[Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            accuracy(outputs, np.array(labels))

    def test_score(self) -> None:
        score = find_metric("accuracy")({"y": CLASSES}, np.array([0, 1, 2, 3, 1, 0]), {})
        assert score == Score("accuracy", 4 / 6, 6, score.units)
        assert score.units.tolist() == [1, 1, 1, 1, 0, 0]

    def test_without_labels(self) -> None:
        with pytest.raises(DataError, match="accuracy needs labels"):
            find_metric("accuracy")({"y": CLASSES}, None, {"y": CLASSES})


def test_fidelity_is_the_agreement_with_the_reference() -> None:
    score = find_metric("fidelity")({"y": CLASSES}, None, {"y": CLASSES[[0, 1, 2, 3, 1, 0]]})
    assert score == Score("fidelity", 4 / 6, 6, score.units)
    assert score.units.tolist() == [1, 1, 1, 1, 0, 0]


CUSTOM = """
import numpy as np

calls = []

def share(outputs, labels, reference):
    calls.append(len(labels))
    assert set(outputs) == set(reference) == {"y"}
    return np.mean(outputs["y"].argmax(1) == labels)

class inside:
    @staticmethod
    def of_a_class(outputs, labels, reference):
        return 0.25

def fails(outputs, labels, reference):
    raise KeyError("logits")

def nothing(outputs, labels, reference):
    return None

def nan(outputs, labels, reference):
    return float("nan")

number = 3
"""


class TestCustom:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_metric.py").write_text(CUSTOM)
        monkeypatch.syspath_prepend(str(tmp_path))

    def score(self, name: str, samples: int = 6) -> Score:
        outputs = {"y": CLASSES[np.arange(samples) % 6]}
        return find_metric(f"own_metric:{name}")(outputs, self.labels(samples), outputs)

    def labels(self, samples: int) -> NDArray[Any]:
        return np.where(np.arange(samples) % 7 == 0, 3, np.arange(samples) % 6 % 4)

    def test_value_and_units(self) -> None:
        """The pseudo-values of a mean are the means of the blocks."""
        custom = self.score("share", 60)
        assert custom.name == "own_metric:share"
        predicted, labels = np.arange(60) % 6 % 4, self.labels(60)
        assert custom.value == pytest.approx(np.mean(predicted == labels))
        assert custom.units == pytest.approx((predicted == labels).reshape(10, 6).mean(1))
        assert difference(custom, self.score("share", 60)).standard_error == 0

    def test_function_inside_of_something(self) -> None:
        assert self.score("inside.of_a_class").value == 0.25

    def test_one_sample(self) -> None:
        assert self.score("inside.of_a_class", 1).units.tolist() == [0.25]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_metric:fails", "metric 'own_metric:fails' failed: KeyError: 'logits'"),
            ("own_metric:nothing", "metric 'own_metric:nothing' failed: TypeError"),
            ("own_metric:nan", "gave nan; it must give a finite number"),
            ("own_metric:number", "metric 'own_metric:number' is not a function"),
            ("own_metric:absent", "cannot be imported: AttributeError: .*absent"),
            ("a_module_that_is_not_there:f", "cannot be imported: ModuleNotFoundError"),
            ("f1", "there is no metric called 'f1'; there are accuracy, fidelity and module:function"),
            ("own_metric:", "there is no metric called"),
            (":f", "there is no metric called"),
        ],
    )
    def test_faults(self, name: str, message: str) -> None:
        with pytest.raises(SpecError, match=message) as caught:
            find_metric(name)({"y": CLASSES}, np.zeros(6, int), {"y": CLASSES})
        assert "\n" not in str(caught.value)


def per_sample(units: NDArray[Any], name: str = "accuracy") -> Score:
    return Score(name, float(units.mean()), len(units), units.astype(np.float64))


class TestDifference:
    def test_paired_proportions(self) -> None:
        """Bonett and Price 2012: n12 and n21 discordant pairs, each plus one, over n + 2."""
        candidate, baseline = np.ones(100), np.ones(100)
        candidate[:7], baseline[7:10] = 0, 0
        found = difference(per_sample(candidate), per_sample(baseline))
        up, down = 4 / 102, 8 / 102
        assert found.value == pytest.approx(-0.04)
        assert found.standard_error == pytest.approx(np.sqrt((up + down - (up - down) ** 2) / 102))

    def test_agreement_on_few_samples_is_no_certainty(self) -> None:
        few = difference(per_sample(np.ones(10)), per_sample(np.ones(10)))
        many = difference(per_sample(np.ones(1000)), per_sample(np.ones(1000)))
        assert few.value == many.value == 0
        assert few.standard_error > 0.1
        assert many.standard_error < 0.002

    def test_pairing_removes_what_both_find_hard(self) -> None:
        hard = np.arange(1000) % 2.0
        shifted = hard.copy()
        shifted[:10] = 1 - shifted[:10]
        paired = difference(per_sample(shifted), per_sample(hard)).standard_error
        unpaired = difference(per_sample(np.roll(hard, 1)), per_sample(hard)).standard_error
        assert paired < unpaired / 5

    def test_covers_the_truth(self) -> None:
        """95 % intervals over 400 draws of 200 samples that a candidate gets wrong in 6 %, a baseline in 4 %."""
        rng = np.random.default_rng(0)
        inside = 0
        for _ in range(400):
            draw = rng.random(200)
            found = difference(per_sample(draw > 0.06), per_sample(draw < 0.96))
            inside += abs(found.value + 0.02) <= 1.96 * found.standard_error
        assert 0.92 < inside / 400 <= 0.99

    def test_values_that_are_no_longer_finite(self) -> None:
        broken = np.ones(10)
        broken[0] = -np.inf
        found = difference(Score("fidelity", 0.0, 10, broken), per_sample(np.ones(10), "fidelity"))
        assert (found.value, found.standard_error) == (-1.0, np.inf)

    def test_scores_that_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="different metrics or samples"):
            difference(per_sample(np.ones(10)), per_sample(np.ones(11)))
        with pytest.raises(ValueError, match="different metrics or samples"):
            difference(per_sample(np.ones(10)), per_sample(np.ones(10), "fidelity"))
