"""Which candidate wins: the best whose cuts are proven, and whose speed is more than luck.

Candidates are not proven while the search runs, and those that are to be quick are timed briefly; the quickest of many
is then quick by luck in part. So the winner is proven and timed again, and where it does not hold, the next one is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from surgery_ir.errors import SurgeryError
from surgery_ir.passes.base import Pass, Refusal
from surgery_ir.passes.spec import format_pipeline, parse_pipeline
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.evaluator import Evaluator
from surgery_ir.search.goal import Goal
from surgery_ir.search.network import Network

__all__ = ["TIMING_STEP", "Winner", "choose", "may_win", "rank"]

TIMING_STEP = 0.05
"""Difference of latencies, relative to the baseline's, that counts as one: less is noise, and buys no drop."""

CONFIRMING_SECONDS = 3.0
"""Time for timing what is about to win."""

ATTEMPTS = 5
"""Candidates that are tried as winners."""

NAME = "search"


@dataclass(frozen=True)
class Winner:
    """What won, and why nothing better did.

    Parameters
    ----------
    candidate
        The winner as it was measured last, with the passes as they were applied; ``None`` where nothing holds.
    tried
        Profile of the candidate that it was in the search.
    network
        Its graph, proven.
    notes
        What kept better candidates from winning, and what became of the winner when it was proven.
    """

    candidate: Candidate | None
    network: Network | None
    tried: str | None = None
    notes: tuple[Refusal, ...] = ()


def may_win(candidate: Candidate, goal: Goal) -> bool:
    """Whether a candidate meets the goal, and is measurably quicker than the dense model where that is what counts."""
    return candidate.feasible(goal) and not (candidate.changed and _is_idle(candidate.cost(goal), goal))


def rank(candidate: Candidate, goal: Goal) -> tuple[float, float, float]:
    """Order candidates: cheaper is better, by steps that can be measured; then what drops less, is more plastic."""
    step = TIMING_STEP if goal.minimize == "latency" else 0.0
    cost = round(candidate.cost(goal) / step) * step if step else candidate.cost(goal)
    return cost, candidate.drop if step else 0.0, -candidate.plasticity


def choose(candidates: Sequence[Candidate], evaluator: Evaluator, goal: Goal) -> Winner:
    """Give the best candidate that is proven and, where latency counts, quick when it is timed again.

    Parameters
    ----------
    candidates
        Everything that was tried.
    evaluator
        What tried it.
    goal
        What the search was asked for.
    """
    notes: list[Refusal] = []
    for candidate in _ranked(candidates, goal):
        try:
            network = evaluator.networks.proven(_passes(candidate))
            held = _measured_again(candidate, network, evaluator, notes)
        except SurgeryError as error:
            notes.append(Refusal(f"{candidate.profile} cannot be proven: {error}", pass_name=NAME))
            continue
        reason = _reason_against(held, network, evaluator, goal)
        if reason is None:
            held = replace(held, profile=format_pipeline(network.applied))
            return Winner(held, network, candidate.profile, tuple(notes))
        notes.append(Refusal(f"{candidate.profile} does not win: {reason}", pass_name=NAME))
    return Winner(None, None, notes=tuple(notes))


def _passes(candidate: Candidate) -> tuple[Pass, ...]:
    return parse_pipeline(candidate.profile) if candidate.profile else ()


def _ranked(candidates: Sequence[Candidate], goal: Goal) -> Iterator[Candidate]:
    """Yield the best candidates that may win, at most so many; then what changes nothing, which always holds."""
    able = sorted((item for item in candidates if may_win(item, goal)), key=lambda item: rank(item, goal))
    yield from able[:ATTEMPTS]
    yield from (item for item in able[ATTEMPTS:] if not item.changed)


def _measured_again(candidate: Candidate, network: Network, evaluator: Evaluator, notes: list[Refusal]) -> Candidate:
    """Give the candidate; where the proof has refused some of its cuts, as what is left of it measures now."""
    passes = _passes(candidate)
    if network.graph.fingerprint() == evaluator.networks.apply(passes).graph.fingerprint():
        return candidate
    again = evaluator.measure(passes, network)
    notes.append(
        Refusal(f"not every cut of {candidate.profile} is proven; what is left was measured again", pass_name=NAME)
    )
    return again


def _reason_against(candidate: Candidate, network: Network, evaluator: Evaluator, goal: Goal) -> str | None:
    if not may_win(candidate, goal):
        return f"it does not meet {goal}" if not candidate.feasible(goal) else "it is not measurably quicker"
    if goal.minimize != "latency" or not candidate.changed:
        return None
    _, share = evaluator.time(network, CONFIRMING_SECONDS)
    if _is_idle(share, goal):
        return f"timed again, it takes {share:.1%} of the dense model's time, which is not measurably quicker"
    return None


def _is_idle(share: float, goal: Goal) -> bool:
    """Whether a share of the dense model's latency is within what timing it twice may differ by."""
    return goal.minimize == "latency" and share > 1.0 - TIMING_STEP
