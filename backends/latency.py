"""Latency: models timed in turns, so that whatever else the machine does slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, sqrt
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.runtime import Session

__all__ = ["Latency", "measure", "ratio"]

SLICE = 1e-3
"""Seconds that one timing takes at least: quicker models are run several times in it."""

LEAST_ROUNDS = 7
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class Latency:
    """Time of one run.

    Parameters
    ----------
    median_ms
        Median over the rounds, in milliseconds.
    low_ms, high_ms
        95 % confidence interval of the median, by order statistics.
    rounds_ms
        Time in each round; equal positions of models that were measured together belong to the same moment.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    rounds_ms: tuple[float, ...] = field(repr=False)


def measure(
    sessions: Sequence[Session],
    feeds: Mapping[str, NDArray[Any]],
    *,
    seconds: float = 2.0,
    warmup: int = 3,
    clock: Callable[[], float] = perf_counter,
) -> list[Latency]:
    """Time ``sessions`` in turns (A B, B A, A B …) on the same feeds.

    Parameters
    ----------
    sessions
        What to time; threads were chosen when they were loaded.
    feeds
        One batch.
    seconds
        Time to spend, all sessions together and the warm-up aside. Slow models get seven rounds whatever that takes.
    warmup
        Runs of each session beforehand, at least 1.
    clock
        Tells the time in seconds.

    Raises
    ------
    BackendError
        A session fails.
    """
    repeats = [_repeats(session, feeds, warmup, clock) for session in sessions]
    rounds: list[list[float]] = [[] for _ in sessions]
    start = clock()
    for index in range(MOST_ROUNDS):
        if index >= LEAST_ROUNDS and clock() - start >= seconds:
            break
        turns = list(range(len(sessions)))
        for turn in turns if index % 2 == 0 else reversed(turns):
            rounds[turn].append(_time(sessions[turn], feeds, repeats[turn], clock))
    return [_summary(times) for times in rounds]


def ratio(candidate: Latency, baseline: Latency) -> float:
    """Median over the rounds of candidate / baseline: less noisy than the ratio of the medians.

    Raises
    ------
    ValueError
        They were not measured together.
    """
    return float(np.median(np.divide(candidate.rounds_ms, baseline.rounds_ms)))


def _repeats(session: Session, feeds: Mapping[str, NDArray[Any]], warmup: int, clock: Callable[[], float]) -> int:
    quickest = min(_time(session, feeds, 1, clock) for _ in range(max(warmup, 1)))
    return max(1, ceil(SLICE * 1e3 / max(quickest, 1e-3)))


def _time(session: Session, feeds: Mapping[str, NDArray[Any]], repeats: int, clock: Callable[[], float]) -> float:
    """Milliseconds of one run, mean over ``repeats``."""
    start = clock()
    for _ in range(repeats):
        session.run(feeds)
    return (clock() - start) / repeats * 1e3


def _summary(times: list[float]) -> Latency:
    ordered = np.sort(times)
    half = 1.96 * sqrt(len(ordered)) / 2
    low = max(floor(len(ordered) / 2 - half), 0)
    high = min(ceil(len(ordered) / 2 + half), len(ordered) - 1)
    return Latency(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), tuple(times))
