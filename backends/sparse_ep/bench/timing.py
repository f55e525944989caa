"""Interleaved timing: every contestant takes its turn, round after round, so that a noisy machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

TURN = 0.01  # seconds that a turn lasts at least, unless it reaches LONGEST_TURN runs before
LONGEST_TURN = 20
# Processor time leaves out what others on a busy machine take; it is of use for one thread only.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Contestant(Protocol):
    """Something that can be timed."""

    def time(self, runs: int) -> list[float]:
        """Seconds of each of so many runs in a row."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least so many rounds and so many seconds for each contestant."""

    rounds: int = 9
    seconds: float = 1.0
    clock: str = "wall"


def interleave(contestants: Mapping[str, Contestant], effort: Effort) -> dict[str, float]:
    """Median milliseconds of a run, by contestant.

    A turn is a run that does not count, which brings the contestant's weights back into the caches, and a few that do.
    """
    first = {name: min(contestant.time(3)) for name, contestant in contestants.items()}  # also the warm-up
    turns = {name: max(1, min(LONGEST_TURN, round(TURN / seconds))) for name, seconds in first.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    start, done = time.monotonic(), 0
    while done < effort.rounds or time.monotonic() - start < effort.seconds * len(contestants):
        for name, contestant in contestants.items():
            times[name] += contestant.time(1 + turns[name])[1:]
        done += 1
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}
