"""The edge of feasibility, on candidates that follow the regularities it relies on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from surgery_ir.search.candidate import Candidate
from surgery_ir.search.edge import LARGEST_STEP, TOLERANCE, Edge, Track
from surgery_ir.search.goal import Goal, Target

GOAL = Goal(max_drop=0.01)
EDGE = 0.7


def candidate(at: float, *, edge: float = EDGE, complete: bool = True) -> Candidate:
    """A candidate whose drop is 0.01, margin included, just at ``edge``."""
    divergence = 0.02 * math.exp(4.0 * (at - edge))
    return Candidate(
        f"at {at}", 2, shares={"nonzeros": math.exp(-2.0 * at)}, drop=0.4 * divergence, error=0.1 * divergence,
        divergence=divergence, complete=complete, changed=True,
    )  # fmt: skip


def climb(track: Track, edge: Edge, true: float, steps: int) -> None:
    for _ in range(steps):
        at = edge.next(track)
        if at is None:
            return
        track.trials[at] = candidate(at, edge=true)
        edge.learn([track], list(track.trials.values()))


@pytest.mark.parametrize("true", [0.05, 0.3, 0.5, 0.7, 0.93])
def test_few_steps_find_the_edge(true: float) -> None:
    track, edge = Track(), Edge(GOAL)
    climb(track, edge, true, 6)
    low, _ = track.bracket(GOAL)
    assert low is not None
    assert true - 3 * TOLERANCE <= low <= true


def test_it_ends_where_the_bracket_is_tight() -> None:
    track, edge = Track(), Edge(GOAL)
    climb(track, edge, EDGE, 50)
    assert edge.next(track) is None
    assert len(track.trials) < 12


@pytest.mark.parametrize(("true", "end"), [(2.0, 1.0), (-1.0, 0.0)])
def test_it_ends_at_the_end_of_the_range(true: float, end: float) -> None:
    track, edge = Track(), Edge(GOAL)
    climb(track, edge, true, 100)
    assert edge.next(track) is None
    assert end in track.trials


def test_loss_compares_profiles_whatever_their_strength() -> None:
    edge = Edge(GOAL)
    track = Track({at: candidate(at) for at in (0.5, 0.6, 0.7)})
    edge.learn([track], list(track.trials.values()))
    losses = [edge.loss(candidate(at)) for at in (0.4, 0.6, 0.8)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert edge.loss(candidate(0.5, edge=0.8)) < losses[0]


def test_loss_of_failures_is_infinite_and_more_passes_must_pay() -> None:
    edge = Edge(GOAL)
    assert edge.loss(Candidate("p", failure="PassError: no")) == math.inf
    assert edge.loss(Candidate("p", divergence=math.inf)) == math.inf
    one = Candidate("p", 2, shares={"nonzeros": 0.5}, divergence=0.1)
    two = Candidate("q", 3, shares={"nonzeros": 0.5}, divergence=0.1)
    assert edge.loss(one) < edge.loss(two)


def test_only_cheaper_edges_are_promising() -> None:
    edge = Edge(GOAL)
    track = Track({at: candidate(at) for at in (0.5, 0.6, 0.7)})
    edge.learn([track], list(track.trials.values()))
    weak = candidate(0.5)
    assert edge.promises(weak, best=math.exp(-2 * 0.6))
    assert not edge.promises(weak, best=math.exp(-2 * 0.75))


def test_incomplete_candidates_bound_the_edge_but_do_not_place_it() -> None:
    track = Track({0.5: candidate(0.5), 0.9: candidate(0.9, complete=False)})
    at = Edge(GOAL).next(track)
    assert at == pytest.approx(0.7)


def test_targets_that_ask_for_less_are_no_reason_to_go_back() -> None:
    goal = Goal(max_drop=0.01, targets=(Target("nonzeros", "<=", 0.3),))
    weak = replace(candidate(0.4), complete=False, drop=0.008, error=0.02)
    track, edge = Track({0.4: weak}), Edge(goal)
    at = edge.next(track)
    assert at is not None
    assert at > 0.4
    strong = replace(weak, drop=0.02)
    at = edge.next(Track({0.4: strong}))
    assert at is not None
    assert at < 0.4


def test_targets_that_ask_for_more_are() -> None:
    edge = Edge(Goal(max_drop=0.01, targets=(Target("nonzeros", ">=", 0.6),)))
    low, high = Track({0.1: candidate(0.1), 0.4: candidate(0.4)}).bracket(edge.goal)
    assert (low, high) == (0.1, 0.4)


def test_what_is_far_from_a_target_is_no_bargain() -> None:
    edge = Edge(Goal(targets=(Target("macs", "<=", 0.5),)))
    far = replace(candidate(0.5), shares={"nonzeros": 0.3, "macs": 1.0})
    near = replace(candidate(0.5), shares={"nonzeros": 0.8, "macs": 0.6})
    assert edge.loss(near) < edge.loss(far)


def test_what_fails_is_beyond_the_edge() -> None:
    track = Track({0.3: candidate(0.3), 0.6: Candidate("p", failure="PassError: out of reach")})
    at = Edge(GOAL).next(track)
    assert at == pytest.approx(0.45)


@pytest.mark.parametrize("divergence", [math.inf, math.nan])
def test_what_overflows_teaches_nothing_and_is_far_beyond_the_edge(divergence: float) -> None:
    known = [candidate(at) for at in (0.5, 0.6, 0.7)]
    overflown = replace(candidate(0.65), divergence=divergence)
    edge, plain = Edge(GOAL), Edge(GOAL)
    plain.learn([Track(dict(zip((0.5, 0.6, 0.7), known, strict=True)))], known)
    assert edge.step(overflown) == -LARGEST_STEP, "before anything is known"
    trials = dict(zip((0.5, 0.6, 0.65, 0.7), (*known[:2], overflown, known[2]), strict=True))
    edge.learn([Track(trials)], [*known, *[overflown] * 4])
    assert (edge.slope, edge.exponent, edge.divergence) == (plain.slope, plain.exponent, plain.divergence)
    assert edge.step(overflown) == -LARGEST_STEP
    assert not edge.promises(overflown, best=0.01)
    assert edge.loss(overflown) == math.inf


def test_the_edge_is_found_below_what_overflows() -> None:
    track, edge = Track(), Edge(GOAL)
    for _ in range(12):
        at = edge.next(track)
        if at is None:
            break
        found = candidate(at)
        track.trials[at] = found if at <= EDGE else replace(found, divergence=math.inf, drop=1.0)
        edge.learn([track], list(track.trials.values()))
    low, _ = track.bracket(GOAL)
    assert low is not None
    assert EDGE - 3 * TOLERANCE <= low <= EDGE
