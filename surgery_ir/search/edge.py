"""The edge of feasibility: how strong a profile may be before its drop exceeds the limit.

Whether targets are met is not asked here: those that ask for less are met on the strong side, so the edge of the drop
is where to look for them.

Two regularities make the edge cheap to find. Along one profile's strength, the logarithm of the divergence grows
about linearly; and near the limit, the drop of the metric is about proportional to the divergence, whatever the
profile. The divergence is smooth and free of the coarse noise that counting right answers has, so it is what predicts;
the drop that was measured, with its margin, is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from surgery_ir.search.candidate import Candidate
from surgery_ir.search.goal import Goal

__all__ = ["TOLERANCE", "Edge", "Track"]

TOLERANCE = 0.006
"""Width of a bracket of strengths that is not worth halving: 1.6 % of the weights, for the usual range of ratios."""

PARSIMONY = 0.02
"""What a pass must save at least: it takes time in every candidate, and in every replay."""

MISSED = 4
"""Power of what a missed target makes of a loss: what is far from its targets is not to be the best."""

SLOPE = 5.0
"""Rise of log-divergence from strength 0 to 1 that is assumed until it is known."""

SLOPES = (1.0, 20.0)
EXPONENTS = (0.5, 8.0)
EXPONENT = 2.0
LARGEST_STEP = 0.25
SMALLEST = 1e-9


@dataclass
class Track:
    """What is known of one profile at different strengths."""

    trials: dict[float, Candidate] = field(default_factory=dict)

    def bracket(self, goal: Goal) -> tuple[float | None, float | None]:
        """The greatest strength that is not too much, and the least one above it that is."""
        good = [at for at, item in self.trials.items() if not item.overdone(goal)]
        low = max(good, default=None)
        bad = [at for at, item in self.trials.items() if item.overdone(goal) and (low is None or at > low)]
        return low, min(bad, default=None)


class Edge:
    """Learns the two regularities from candidates, and says which strength to try next.

    Parameters
    ----------
    goal
        Holds the limit of the drop.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.slope = SLOPE
        self.exponent = EXPONENT
        self.divergence: float | None = None

    def learn(self, tracks: Sequence[Track], candidates: Sequence[Candidate]) -> None:
        """Fit slope, exponent and the divergence at the edge to what is known.

        Candidates whose outputs overflow have no finite divergence, and say nothing about either.
        """
        points = [
            (at, math.log(max(item.divergence, SMALLEST)), math.log(max(item.cost(self.goal), SMALLEST)))
            for track in sorted(tracks, key=lambda item: len(item.trials))[-1:]
            for at, item in track.trials.items()
            if item.changed and not item.failure and math.isfinite(item.divergence) and 0.0 < at < 1.0
        ]
        if len(points) >= 3:
            at, divergence, cost = np.array(points).T
            if np.ptp(at) > 0.02:
                self.slope = float(np.clip(np.polyfit(at, divergence, 1)[0], *SLOPES))
                fall = -float(np.polyfit(at, cost, 1)[0])
                self.exponent = float(np.clip(self.slope / fall, *EXPONENTS)) if fall > 0.05 else EXPONENT
        limit = max(self.goal.max_drop, 1e-4)
        edges = [
            item.divergence * limit / item.bound
            for item in candidates
            if item.changed and item.complete and 0.4 * limit <= item.bound <= 2.5 * limit
            if 0 < item.divergence < math.inf
        ]
        if edges:
            self.divergence = float(np.median(edges))

    def loss(self, candidate: Candidate) -> float:
        """Cost that a candidate would have if its strength were changed until it stands at the edge.

        It compares profiles of different strengths: cost · divergence^(1/exponent) is the same all along one profile.
        Passes, and targets that are missed, make it worse. Infinite where the candidate failed.
        """
        if candidate.failure or not math.isfinite(candidate.divergence):
            return math.inf
        reference = self.divergence or 1.0
        surplus = (max(candidate.divergence, SMALLEST) / reference) ** (1.0 / self.exponent)
        burden = (1.0 + PARSIMONY) ** candidate.passes * (1.0 + sum(candidate.excesses(self.goal)[1:])) ** MISSED
        return float(candidate.cost(self.goal) * surplus * burden)

    def step(self, candidate: Candidate) -> float:
        """Predict how much strength takes a candidate to the edge; the largest step back where its outputs overflow."""
        if not math.isfinite(candidate.divergence):
            return -LARGEST_STEP
        if self.divergence is None or candidate.divergence <= 0:
            return -LARGEST_STEP if candidate.overdone(self.goal) else LARGEST_STEP
        step = math.log(self.divergence / candidate.divergence) / self.slope
        return float(np.clip(step, -LARGEST_STEP, LARGEST_STEP))

    def promises(self, candidate: Candidate, best: float) -> bool:
        """Whether the candidate's profile should become cheaper than ``best`` where it stands at its edge."""
        fall = self.slope / self.exponent
        return candidate.cost(self.goal) * math.exp(-fall * self.step(candidate)) < best * (1.0 - fall * TOLERANCE)

    def next(self, track: Track, tolerance: float = TOLERANCE) -> float | None:
        """Say which strength of a profile to try next; ``None`` where its edge is known well enough."""
        low, high = track.bracket(self.goal)
        if low is not None and high is not None:
            return self._inside(track, low, high) if high - low > tolerance else None
        if low is not None:
            if low >= 1.0:
                return None
            step = self.step(track.trials[low])
            return min(low + max(step, 2 * TOLERANCE), 1.0)
        if high is not None:
            if high <= 0.0:
                return None
            step = self.step(track.trials[high])
            return max(high + min(step, -2 * TOLERANCE), 0.0)
        return 0.5

    def _inside(self, track: Track, low: float, high: float) -> float:
        width = high - low
        below, above = track.trials[low], track.trials[high]
        share = 0.5
        if above.complete and above.bound > below.bound:
            share = (self.goal.max_drop - below.bound) / (above.bound - below.bound)
        return low + width * float(np.clip(share, 0.2, 0.8))
