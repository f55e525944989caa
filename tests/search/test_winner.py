"""The winner holds when it is proven and timed again, or the next one wins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surgery_ir.passes import registry
from surgery_ir.passes.base import Pass
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.evaluator import Evaluator
from surgery_ir.search.goal import Goal, Target
from surgery_ir.search.winner import Winner, choose, may_win, rank
from tests.search.toys import Cut, Fail, Touch, evaluator

MACS = Goal("macs", max_drop=1.0)
LATENCY = Goal("latency", max_drop=1.0)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toys be found by their names, as candidates remember them."""
    toys: dict[str, type[Pass]] = {"toy-cut": Cut, "toy-touch": Touch, "toy-fail": Fail}
    monkeypatch.setattr(registry, "builtin_passes", lambda: toys)
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.001)
    monkeypatch.setattr("surgery_ir.search.winner.CONFIRMING_SECONDS", 0.001)


def won(goal: Goal, *pipelines: tuple[Pass, ...], judge: Evaluator | None = None) -> tuple[Winner, list[Candidate]]:
    judge = judge or evaluator(goal)
    candidates = judge.evaluate([(), *pipelines])
    return choose(candidates, judge, goal), candidates


def test_the_cheapest_wins_and_says_what_it_came_to() -> None:
    winner, candidates = won(MACS, (Cut(macs=0.5),), (Cut(macs=0.8),))
    assert winner.candidate is not None
    assert winner.network is not None
    assert winner.tried == candidates[1].profile == "toy-cut{macs=0.5}"
    assert winner.candidate.profile == "toy-cut"
    assert winner.candidate.shares == candidates[1].shares
    assert winner.network.applied == (Cut(ratio=0.5),)
    assert not winner.notes


def test_what_is_not_proven_is_measured_again() -> None:
    winner, candidates = won(MACS, (Cut(ratio=0.75, unproven=0.6),))
    assert winner.candidate is not None
    assert winner.network is not None
    assert winner.network.graph.array("w2").shape == (8, 16)
    assert winner.candidate.shares["macs"] > candidates[1].shares["macs"]
    assert "measured again" in winner.notes[0].reason
    assert any("proven" in item.reason for item in winner.network.refusals)


def test_what_is_left_must_meet_the_goal_or_the_next_one_wins() -> None:
    goal = Goal("macs", max_drop=1.0, targets=(Target("macs", "<=", 0.6),))
    winner, candidates = won(goal, (Cut(ratio=0.75, unproven=0.6),), (Cut(ratio=0.625),))
    assert winner.tried == candidates[2].profile
    assert "does not meet" in winner.notes[1].reason
    winner, _ = won(goal, (Cut(ratio=0.75, unproven=0.6),))
    assert winner.candidate is None


def timings(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    given: Iterator[float] = iter(shares)
    monkeypatch.setattr("surgery_ir.search.evaluator.ratio", lambda candidate, baseline: next(given))


def test_luck_is_not_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    timings(monkeypatch, 1.0, 0.7, 0.8, 0.97, 0.82)
    winner, candidates = won(LATENCY, (Cut(macs=0.5),), (Cut(macs=0.8),))
    assert winner.tried == candidates[2].profile
    assert "timed again, it takes 97.0%" in winner.notes[0].reason


def test_what_is_not_measurably_quicker_leaves_the_dense_model(monkeypatch: pytest.MonkeyPatch) -> None:
    timings(monkeypatch, 1.0, 0.9, 0.96, 1.2)
    winner, candidates = won(LATENCY, (Cut(macs=0.5),), (Cut(macs=0.8),))
    assert winner.candidate == candidates[0]
    assert not may_win(candidates[2], LATENCY)
    assert may_win(candidates[0], LATENCY)


def test_only_so_many_are_tried() -> None:
    judge = evaluator(MACS)
    cuts = [(Cut(ratio=0.75, unproven=0.6), Touch(scale=1.0 + number / 100)) for number in range(1, 9)]
    candidates = judge.evaluate(cuts)
    winner = choose(candidates, judge, Goal("macs", max_drop=1.0, targets=(Target("macs", "<=", 0.6),)))
    assert winner.candidate is None
    assert sum("does not win" in item.reason for item in winner.notes) == 5


def test_a_winner_that_fails_under_proof_is_passed_over() -> None:
    judge = evaluator(MACS)
    candidates = judge.evaluate([(), (Cut(macs=0.5),)])
    strange = Candidate("toy-cut,toy-fail", shares={"macs": 0.1}, complete=True, changed=True)
    winner = choose([*candidates, strange], judge, MACS)
    assert winner.tried == candidates[1].profile
    assert "toy-fail: cannot" in winner.notes[0].reason


def test_rank_is_by_steps_where_latency_counts() -> None:
    one = Candidate("a", shares={"latency": 0.51, "macs": 0.51}, drop=0.001)
    other = Candidate("b", shares={"latency": 0.49, "macs": 0.49}, drop=0.002)
    assert rank(one, LATENCY) < rank(other, LATENCY)
    assert rank(other, MACS) < rank(one, MACS)
