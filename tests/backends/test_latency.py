"""Timing, with a clock that only the models under test move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.backends.latency import measure, ratio


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """Takes ``cost()`` seconds a run and writes its name into a log."""

    def __init__(self, name: str, clock: Clock, log: list[str], cost: Callable[[], float]) -> None:
        self.name, self.clock, self.log, self.cost = name, clock, log, cost

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.clock.now += self.cost()
        self.log.append(self.name)
        return {}


def fakes(*costs: Callable[[], float]) -> tuple[list[Fake], Clock, list[str]]:
    clock, log = Clock(), list[str]()
    return [Fake("AB"[index], clock, log, cost) for index, cost in enumerate(costs)], clock, log


def test_models_take_turns() -> None:
    sessions, clock, log = fakes(lambda: 0.01, lambda: 0.02)
    found = measure(sessions, {}, seconds=0.3, warmup=2, clock=clock)
    assert "".join(log) == "AABB" + "ABBA" * 5
    assert [len(latency.rounds_ms) for latency in found] == [10, 10]
    assert [latency.median_ms for latency in found] == pytest.approx([10, 20])
    assert ratio(found[1], found[0]) == pytest.approx(2)


def test_quick_models_run_several_times_a_round() -> None:
    sessions, clock, log = fakes(lambda: 1e-4, lambda: 0.01)
    (quick, slow) = measure(sessions, {}, seconds=0.2, warmup=1, clock=clock)
    assert "".join(log).startswith("AB" + "A" * 10 + "BB" + "A" * 20 + "B")
    assert (quick.median_ms, slow.median_ms) == pytest.approx((0.1, 10))


def test_slow_models_get_their_rounds() -> None:
    sessions, clock, _ = fakes(lambda: 100.0)
    (found,) = measure(sessions, {}, seconds=1, clock=clock)
    assert len(found.rounds_ms) == 7


def test_very_quick_models_end() -> None:
    sessions, clock, _ = fakes(lambda: 0.0)
    (found,) = measure(sessions, {}, seconds=1, clock=clock)
    assert found.median_ms == 0


def test_outliers_move_neither_median_nor_interval() -> None:
    costs = np.random.default_rng(0).normal(10, 0.1, 1000) * 1e-3
    costs[::10] = 1.0
    values = iter(costs)
    sessions, clock, _ = fakes(lambda: float(next(values)))
    (found,) = measure(sessions, {}, seconds=30, warmup=1, clock=clock)
    assert found.median_ms == pytest.approx(10, abs=0.1)
    assert 9.9 < found.low_ms <= found.median_ms <= found.high_ms < 10.1


def test_interval_covers_the_median() -> None:
    """In 95 of 100 cases, of which 300 are tried."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        sessions, clock, _log = fakes(lambda: float(rng.exponential(0.01)))
        (found,) = measure(sessions, {}, seconds=0.4, warmup=1, clock=clock)
        covered += found.low_ms <= 10 * np.log(2) <= found.high_ms
    assert 0.91 < covered / 300 < 0.99


def test_drift_cancels_in_the_ratio() -> None:
    sessions, clock, _ = fakes(lambda: 0.01 * (1 + clock.now / 10), lambda: 0.02 * (1 + clock.now / 10))
    one, other = measure(sessions, {}, seconds=10, clock=clock)
    assert one.rounds_ms[-1] > 1.5 * one.rounds_ms[0]
    assert ratio(other, one) == pytest.approx(2, rel=0.01)


def test_ratio_needs_rounds_of_one_measurement() -> None:
    sessions, clock, _ = fakes(lambda: 0.01)
    (short,), (long,) = (measure(sessions, {}, seconds=seconds, clock=clock) for seconds in (0.1, 0.2))
    with pytest.raises(ValueError, match="shapes"):
        ratio(short, long)
