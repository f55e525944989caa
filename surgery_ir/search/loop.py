"""The search: generate a compression profile, apply it, evaluate it, update the policy, until criteria are met."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from surgery_ir.passes.base import Progress
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.evaluator import Evaluator, never
from surgery_ir.search.goal import Goal
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.space import Space
from surgery_ir.search.strategy import Strategy
from surgery_ir.search.winner import may_win, rank

__all__ = ["Criteria", "Found", "search"]

IDLE_ROUNDS = 10
"""Rounds in which nothing was proposed that had not been tried, after which a search ends."""

PROOF = 0.5
"""Time that proving the winner takes, in candidates: its cuts are made again, and little else."""

SLACK = 1.15
"""Time that a candidate is expected to take, relative to the mean so far."""


class Criteria:
    """When a search ends: after so many candidates, or before it would run over its time.

    A candidate is not begun where the mean so far would run over, and cut short where it takes much longer itself.

    Parameters
    ----------
    budget
        Candidates to try at most.
    seconds
        Time from ``start`` that the search, and ``reserve`` after it, may take.
    reserve
        Seconds that are needed after the search, besides half of what a candidate takes: the winner is proven.
    clock
        Tells the time in seconds.
    start
        When the time began to run; now, where it is not given.
    """

    def __init__(
        self,
        budget: int | None = None,
        seconds: float | None = None,
        reserve: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        start: float | None = None,
    ) -> None:
        self.budget = budget
        self.seconds = seconds
        self.reserve = reserve
        self.clock = clock
        self.start = clock() if start is None else start
        self.tried = 0
        self._spent = 0.0

    def room(self, wanted: int) -> int:
        """How many of ``wanted`` candidates may be tried now. The first one always may."""
        room = wanted if self.budget is None else min(wanted, self.budget - self.tried)
        if self.seconds is not None and self.tried:
            left, mean = self._left(), self._mean()
            if mean > 0:
                room = min(room, int(left / mean - PROOF))
            elif left <= 0:
                room = 0
        return max(room, 0)

    def over(self) -> bool:
        """Whether what is being evaluated leaves no time but what is needed after the search."""
        return self._left() < PROOF * self._mean()

    def _left(self) -> float:
        """Seconds that are left to the search."""
        return math.inf if self.seconds is None else self.start + self.seconds - self.reserve - self.clock()

    def _mean(self) -> float:
        """Seconds that a candidate is expected to take."""
        return SLACK * self._spent / self.tried if self.tried else 0.0

    def spend(self, count: int, seconds: float) -> None:
        """Take note that ``count`` candidates were tried in ``seconds``."""
        self.tried += count
        self._spent += seconds


@dataclass(frozen=True)
class Found:
    """What a search found.

    Parameters
    ----------
    best
        The candidate of the lowest cost of those that may win; ``None`` where there is none.
    policy
        The policy with what was learnt.
    candidates
        Everything that was tried, each profile once, in order.
    """

    best: Candidate | None
    policy: SearchPolicy
    candidates: tuple[Candidate, ...]


def search(
    space: Space,
    evaluator: Evaluator,
    goal: Goal,
    criteria: Criteria,
    policy: SearchPolicy | None = None,
    *,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Found:
    """Search for the compression profile of the lowest cost that meets the goal.

    Parameters
    ----------
    space
        The profiles to choose from.
    evaluator
        Applies and evaluates them.
    goal
        What to minimise, and the constraints.
    criteria
        When to stop.
    policy
        What an earlier search learnt.
    seed
        Seed of everything random. The same space, data, goal, policy, seed and budget give the same result, with any
        number of workers. A time limit does not: how far a search comes depends on the machine.
    progress
        Told how far the search has come.
    """
    policy = policy or SearchPolicy()
    strategy = Strategy(space, goal, policy, seed, criteria.budget)
    best: Candidate | None = None
    reduced = False  # a limit that is too short for any candidate at all lets one end nevertheless
    idle = 0
    plan = strategy.plan()
    genomes = next(plan)
    while (room := criteria.room(len(genomes))) and idle < IDLE_ROUNDS:
        started, evaluated = criteria.clock(), evaluator.evaluated
        # 1. Generate compression profiles.
        genomes = genomes[:room]
        profiles = [space.decode(genome) for genome in genomes]
        # 2. Apply them, and 3. evaluate the compressed networks: metric, cost and plasticity.
        tick = partial(_tick, progress, _status(best, goal), criteria.tried, criteria.budget or 0)
        candidates = evaluator.evaluate(profiles, tick, criteria.over if reduced else never)
        reduced = reduced or any(item.changed for item in candidates)
        for candidate in candidates:
            if may_win(candidate, goal) and (best is None or rank(candidate, goal) < rank(best, goal)):
                best = candidate
                evaluator.networks.pin(best.profile)
        # 4. Update the search policy.
        policy = strategy.update(policy, genomes, candidates)
        criteria.spend(len(candidates), criteria.clock() - started)
        idle = idle + 1 if evaluator.evaluated == evaluated else 0
        try:
            genomes = plan.send(candidates)
        except StopIteration:
            break
    return Found(best, replace(policy, searches=policy.searches + 1), tuple(evaluator.seen.values()))


def _status(best: Candidate | None, goal: Goal) -> str:
    found = "" if best is None or not best.changed else f", best so far {best.cost(goal):.1%} of the {goal.minimize}"
    return f"searching{found}"


def _tick(progress: Progress, status: str, tried: int, total: int, done: int) -> None:
    progress(status, tried + done, total)
