"""Staged scoring: the same numbers, earlier where that is safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import InputSpec
from surgery_ir.analysis.samples import Samples
from surgery_ir.backends.metrics import Metric, find_metric
from surgery_ir.search.scoring import Scorer

SPECS = {"x": InputSpec(np.dtype(np.float32), ("N", 2))}


class Fake:
    """A session that gives the logits that its inputs hold, wrong ones where ``x[:, 1]`` is below ``wrong``."""

    inputs: Mapping[str, InputSpec] = SPECS
    output_names = ("y",)

    def __init__(self, wrong: float = 0.0) -> None:
        self.wrong = wrong
        self.fed = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        x = feeds["x"]
        self.fed += len(x)
        sign = np.where(x[:, 1] < self.wrong, -1, 1)
        return {"y": np.stack([-x[:, 0] * sign, x[:, 0] * sign], 1)}


def samples(count: int = 1000, *, labels: bool = True) -> Samples:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, count)
    x = np.stack([np.where(classes == 1, 1, -1), rng.permutation(count) / count], 1).astype(np.float32)
    return Samples({"x": x}, classes if labels else None)


def scorer(count: int = 1000, max_drop: float = 0.01, metric: Metric | None = None, *, labels: bool = True) -> Scorer:
    judge = metric or find_metric("accuracy" if labels else "fidelity")
    return Scorer(Fake(), samples(count, labels=labels), judge, max_drop)


def test_a_hopeless_candidate_costs_sixty_four_samples() -> None:
    session = Fake(wrong=0.5)
    scored = scorer().score(session)
    assert session.fed == scored.samples == 64
    assert not scored.complete
    assert scored.drop == pytest.approx(0.5, abs=0.2)


def test_a_bad_candidate_costs_more_where_it_is_closer() -> None:
    session = Fake(wrong=0.1)
    scored = scorer().score(session)
    assert session.fed == scored.samples == 256
    assert not scored.complete


@pytest.mark.parametrize("wrong", [0.0, 0.01, 0.02])
def test_what_may_win_is_scored_on_everything_once(wrong: float) -> None:
    session = Fake(wrong)
    scored = scorer().score(session)
    assert session.fed == scored.samples == 1000
    assert scored.complete
    assert scored.drop == pytest.approx(wrong)
    assert scored.metric == pytest.approx(1 - wrong)
    assert scored.error == pytest.approx(np.sqrt(max(wrong, 0.002) / 1000), rel=0.3)


def test_a_limit_stops_at_its_stage() -> None:
    session = Fake()
    assert scorer().score(session, limit=256).samples == 256
    assert session.fed == 256


def test_sets_smaller_than_a_stage_are_scored_whole() -> None:
    assert scorer(50).score(Fake(0.9)).complete


def test_sorted_samples_are_shuffled_first() -> None:
    ordered = samples()
    order = np.argsort(ordered.feeds["x"][:, 1])
    with_order = Scorer(Fake(), ordered.take(order), find_metric("accuracy"), 0.01)
    assert with_order.score(Fake(0.02)).complete


def test_without_labels_the_dense_model_is_the_truth() -> None:
    scored = scorer(labels=False).score(Fake(0.02))
    assert scored.drop == pytest.approx(0.02)
    assert scored.divergence > 0


def test_divergence_of_the_same_outputs_is_nothing() -> None:
    assert scorer().score(Fake()).divergence == pytest.approx(0, abs=1e-12)


def picky(outputs: dict[str, NDArray[Any]], labels: NDArray[Any], reference: dict[str, NDArray[Any]]) -> float:
    if len(labels) < 700:
        raise ValueError("too few")
    return float((outputs["y"].argmax(1) == labels).mean())


def test_a_metric_that_needs_many_samples_is_not_asked_about_few() -> None:
    judge = find_metric(f"{__name__}:picky")
    scored = scorer(metric=judge).score(Fake(0.9))
    assert scored.complete
    assert scored.drop == pytest.approx(0.9)
