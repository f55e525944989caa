"""The search as a whole, on a net that takes no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from surgery_ir.passes import registry
from surgery_ir.passes.base import Pass
from surgery_ir.passes.spec import format_pipeline
from surgery_ir.search.evaluator import Evaluator
from surgery_ir.search.goal import Goal, Target
from surgery_ir.search.loop import Criteria, Found, search
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.space import Space
from surgery_ir.search.study import Study
from tests.search.toys import Cut, Dawdle, Fail, Prune, Regrow, Touch, budgeted, data, evaluator, space

GOAL = Goal(max_drop=0.2)


def run(
    budget: int = 24,
    *,
    goal: Goal = GOAL,
    policy: SearchPolicy | None = None,
    seed: int = 0,
    workers: int = 1,
    of: Space | None = None,
    judge: Evaluator | None = None,
) -> Found:
    judge = evaluator(goal, workers=workers) if judge is None else judge
    return search(space() if of is None else of, judge, goal, Criteria(budget), policy, seed=seed)


def test_it_finds_a_smaller_net_within_the_limit() -> None:
    found = run()
    assert found.best is not None
    assert found.best.feasible(GOAL)
    assert found.best.bound <= GOAL.max_drop
    assert found.best.shares["nonzeros"] < 0.75
    cheaper = [item for item in found.candidates if item.cost(GOAL) < found.best.cost(GOAL)]
    assert cheaper
    assert not any(item.feasible(GOAL) for item in cheaper)


def test_the_dense_net_comes_first_so_that_something_is_always_feasible() -> None:
    found = run(1)
    assert [item.profile for item in found.candidates] == [""]
    assert found.best == found.candidates[0]


@pytest.mark.parametrize("budget", [1, 2, 7, 15])
def test_budget_is_obeyed(budget: int) -> None:
    judge = evaluator(GOAL)
    found = run(budget, judge=judge)
    assert judge.evaluated <= budget
    assert found.policy.evaluations == budget


@pytest.mark.parametrize("workers", [2, 3])
def test_same_seed_and_budget_give_the_same_with_any_number_of_workers(workers: int) -> None:
    assert run(workers=workers) == run()


def test_another_seed_goes_another_way() -> None:
    one, other = run(seed=1), run(seed=2)
    assert [item.profile for item in one.candidates] != [item.profile for item in other.candidates]


def test_a_longer_search_is_not_worse_and_starts_the_same() -> None:
    short, long = run(12), run(30)
    assert short.best is not None
    assert long.best is not None
    assert long.best.cost(GOAL) <= short.best.cost(GOAL)
    assert long.candidates[: len(short.candidates)] == short.candidates


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toys be found by their names, as a policy remembers them."""
    toys: dict[str, type[Pass]] = {"toy-prune": Prune, "toy-touch": Touch}
    monkeypatch.setattr(registry, "builtin_passes", lambda: toys)


@pytest.mark.usefixtures("registered")
def test_continuing_from_a_policy_is_deterministic_and_starts_where_it_ended(tmp_path: Path) -> None:
    first = run(20)
    assert first.best is not None
    first.policy.write(tmp_path / "p.yaml")
    policy = SearchPolicy.read(tmp_path / "p.yaml")
    again = [run(10, policy=policy), run(10, policy=first.policy)]
    assert again[0] == again[1]
    assert again[0].policy.searches == 2
    assert again[0].policy.evaluations == first.policy.evaluations + 10
    assert again[0].best is not None
    assert again[0].best.cost(GOAL) <= first.best.cost(GOAL)
    fresh = run(10)
    assert again[0].candidates[1].profile == first.policy.elites[0].profile
    assert fresh.candidates[1].profile != first.policy.elites[0].profile


def test_a_failing_pass_does_not_stop_the_search() -> None:
    judge = evaluator(GOAL)
    found = run(24, of=space(Prune(), Touch(), Fail()), judge=judge)
    assert judge.failed > 0
    assert all(not item.feasible(GOAL) for item in found.candidates if item.failure)
    assert found.best is not None


def test_latency_that_is_only_noise_buys_no_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter(0.98 + 0.01 * (index % 3) for index in range(1000))
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.001)
    monkeypatch.setattr("surgery_ir.search.evaluator.ratio", lambda candidate, baseline: next(shares))
    found = run(15, goal=Goal("latency", max_drop=0.5))
    assert found.best is not None
    assert found.best.profile == ""


def test_a_budget_that_cannot_be_reached_is_not_the_end() -> None:
    goal = Goal("macs", max_drop=0.9)
    found = run(24, goal=goal, of=budgeted(Cut(least=0.6)), judge=evaluator(goal))
    assert any(item.failure for item in found.candidates)
    assert found.best is not None
    assert 0.6 <= found.best.shares["macs"] < 0.8


def test_a_target_is_looked_for_at_the_edge_of_the_drop() -> None:
    goal = Goal("nonzeros", max_drop=0.9, targets=(Target("macs", "<=", 0.75),))
    found = run(12, goal=goal, of=budgeted(Cut(), Touch()), judge=evaluator(goal))
    assert found.best is not None
    assert found.best.shares["macs"] <= 0.75


def test_what_is_not_measurably_quicker_does_not_win_however_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.001)
    monkeypatch.setattr("surgery_ir.search.evaluator.ratio", lambda candidate, baseline: 0.97)
    goal = Goal("latency", max_drop=0.5)
    judge = evaluator(goal, selection=data(noise=True))
    found = run(15, goal=goal, judge=judge)
    assert any(item.changed and item.feasible(goal) and item.drop <= 0 for item in found.candidates)
    assert found.best is not None
    assert not found.best.changed


def test_nothing_to_cut_ends_early() -> None:
    judge = evaluator(GOAL)
    found = run(100, of=space(Touch()), judge=judge)
    assert judge.evaluated <= 4
    assert found.best is not None
    assert not found.best.changed


def test_an_empty_pool_leaves_the_net_as_it_is() -> None:
    found = run(100, of=Space(()))
    assert [item.profile for item in found.candidates] == [""]


def test_unmet_targets_leave_nothing() -> None:
    goal = Goal(max_drop=0.1, targets=(Target("nonzeros", "<=", 0.01),))
    found = run(goal=goal)
    assert found.best is None
    assert len(found.candidates) > 5


def test_a_target_is_a_constraint_beside_the_drop() -> None:
    goal = Goal(max_drop=1.0, targets=(Target("nonzeros", ">=", 0.6),))
    found = run(goal=goal)
    assert found.best is not None
    assert 0.6 <= found.best.shares["nonzeros"] < 0.7


COVERS = {"toy-regrow": {"toy-touch"}}


def test_a_pass_that_covers_another_one_is_tried_in_the_opening_and_by_turns() -> None:
    found = run(48, of=space(Prune(), Regrow(), Touch(), covers=COVERS))
    profiles = [[part.split("{")[0] for part in item.profile.split(",")] for item in found.candidates]
    assert profiles[1] == ["toy-prune", "toy-touch"]
    assert ["toy-prune", "toy-regrow"] in profiles[:6]
    assert 2 * ["toy-prune", "toy-regrow"] in profiles


def test_a_target_for_plasticity_is_met() -> None:
    goal = Goal(max_drop=0.6, targets=(Target.parse("plasticity>=0.05"),))
    judge = evaluator(goal)
    found = run(32, goal=goal, of=space(Prune(), Regrow(), Touch(), covers=COVERS), judge=judge)
    assert found.best is not None
    assert found.best.plasticity >= 0.05
    assert found.best.created > 0
    assert found.best.shares["nonzeros"] < 0.8
    assert not any(item.feasible(goal) for item in found.candidates if item.plasticity < 0.05)
    assert any(item.plasticity < 0.05 and item.changed for item in found.candidates)


def ticks(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


def test_time_limit_stops_before_a_candidate_that_would_run_over() -> None:
    clock = ticks(1.0)
    criteria = Criteria(seconds=30.0, reserve=5.0, clock=lambda: next(clock))
    found = search(space(), evaluator(GOAL), GOAL, criteria)
    assert 3 < len(found.candidates) < 40
    assert next(clock) <= 28.0


def test_one_candidate_is_tried_even_when_time_is_up() -> None:
    criteria = Criteria(seconds=1e-9)
    assert len(search(space(), evaluator(GOAL), GOAL, criteria).candidates) == 1


@pytest.mark.parametrize(
    ("seconds", "now", "over"), [(12.0, 9.4, False), (12.0, 9.5, True), (None, 1e9, False)], ids=str
)
def test_time_is_up_when_only_the_proof_is_left(seconds: float | None, now: float, over: bool) -> None:
    """Of 12 seconds 2 are reserved, and half a candidate's 1.0, expected to be 1.15, for the proof."""
    criteria = Criteria(seconds=seconds, reserve=2.0, clock=lambda: now, start=0.0)
    criteria.spend(10, 10.0)
    assert criteria.over() == over


class Watch:
    """A clock that goes on when a pass tells of a layer: by a tenth of a second, and from half a minute on by ten."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def tell(self, what: str, done: int, total: int) -> None:
        self.now += 0.1 if self.now < 30.0 else 10.0


def dawdling(seconds: float) -> tuple[float, list[bool], Evaluator]:
    """Search with candidates of ten layers; give the time it took, and which candidates changed anything."""
    watch = Watch()
    judge = evaluator(GOAL, progress=watch.tell)
    found = search(space(Prune(), Dawdle()), judge, GOAL, Criteria(seconds=seconds, reserve=4.0, clock=watch))
    return watch.now, [item.changed for item in found.candidates], judge


def test_a_candidate_that_takes_much_longer_than_the_others_is_cut_short() -> None:
    """By the next layer at the latest; whole, it would have ended after 130 seconds."""
    now, changed, judge = dawdling(60.0)
    assert 46.0 < now < 66.0
    assert 1 <= judge.cut_short <= 4
    assert judge.failed == 0
    assert sum(changed) > 10


def test_a_limit_that_is_too_short_for_any_candidate_lets_one_end() -> None:
    now, changed, judge = dawdling(4.5)
    assert now == pytest.approx(1.0)
    assert changed == [False, True]
    assert judge.cut_short == 0


@pytest.mark.parametrize(
    ("tried", "spent", "now", "wanted", "room"),
    [
        (0, 0, 99, 4, 4),
        (10, 10, 0, 4, 4),
        (10, 10, 6.5, 4, 2),
        (10, 10, 8.2, 4, 1),
        (10, 10, 8.8, 4, 0),
        (10, 10, 50, 4, 0),
    ],
)
def test_room(tried: int, spent: float, now: float, wanted: int, room: int) -> None:
    criteria = Criteria(seconds=12.0, reserve=2.0, clock=lambda: now, start=0.0)
    criteria.spend(tried, spent)
    assert criteria.room(wanted) == room


def test_budget_and_time_both_bind() -> None:
    criteria = Criteria(budget=11, seconds=100.0, clock=lambda: 0.0)
    criteria.spend(10, 1.0)
    assert criteria.room(4) == 1


def test_an_interrupted_study_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = run(24)
    run(10, judge=evaluator(GOAL, study=Study(tmp_path, {"a": "b"})))
    judge = evaluator(GOAL, study=Study(tmp_path, {"a": "b"}))
    resumed = run(24, judge=judge)
    assert resumed == whole
    assert len(Study(tmp_path, {"a": "b"}).known) == len(whole.candidates)


def test_every_profile_that_was_tried_is_one_of_the_space() -> None:
    of = space()
    found = run(30, of=of)
    genomes = np.random.default_rng(0).random((5, len(of)))
    assert all(isinstance(item, Pass) for genome in genomes for item in of.decode(genome))
    names = {part.split("{")[0] for item in found.candidates for part in item.profile.split(",") if part}
    assert names <= {"toy-prune", "toy-touch"}
    assert format_pipeline(of.decode(of.default)) in {item.profile for item in found.candidates}
