"""Candidates: what is measured, what is kept, what is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.search.candidate import Candidate, pareto_front
from surgery_ir.search.goal import Goal, Target
from surgery_ir.search.study import Study, digest_samples
from tests.recording import RecordingBackend
from tests.search.toys import Crash, Cut, Dawdle, Fail, Prune, Touch, data, evaluator

Pipeline = tuple[Pass, ...]
GOOD: Pipeline = (Prune(ratio=0.2), Touch(scale=1.1))
BAD: Pipeline = (Prune(ratio=0.95, order="worst"),)


def test_candidate_says_what_it_costs_and_how_good_it_is() -> None:
    of = evaluator()
    (found,) = of.evaluate([GOOD])
    assert found.profile == "toy-prune{ratio=0.2},toy-touch{scale=1.1}"
    assert (found.passes, found.samples, found.complete, found.failure) == (2, 400, True, "")
    assert found.quantities["nonzeros"] == 704 - 2 * 51
    assert found.shares["nonzeros"] == pytest.approx(602 / 704)
    assert found.shares["macs"] == 1
    assert found.pruned == 102
    assert found.created == found.plasticity == 0
    assert found.changed
    assert not found.refused
    assert 0 <= found.drop < 0.3
    assert found.error > 0
    assert found.divergence > 0


def test_profiles_are_evaluated_once() -> None:
    of = evaluator()
    first = of.evaluate([GOOD, BAD, GOOD])
    runs = of.networks.runs
    again = of.evaluate([BAD, GOOD])
    assert of.networks.runs == runs
    assert again == [first[1], first[0]]
    assert (of.evaluated, len(of.seen)) == (2, 2)


def test_bad_candidates_are_scored_on_few_samples() -> None:
    (found,) = evaluator().evaluate([BAD])
    assert found.samples == 64
    assert not found.complete
    assert not found.feasible(Goal(max_drop=0.1))


def test_candidates_that_miss_a_target_are_not_scored_to_the_end() -> None:
    goal = Goal(max_drop=1.0, targets=(Target("nonzeros", "<=", 0.1),))
    (found,) = evaluator(goal).evaluate([GOOD])
    assert found.samples == 256
    assert not found.feasible(goal)


def test_a_failing_candidate_is_counted_and_the_others_go_on() -> None:
    of = evaluator()
    failed, good = of.evaluate([(Prune(), Fail()), GOOD])
    assert failed.failure == "PassError: toy-fail: cannot"
    assert not failed.feasible(Goal(max_drop=1.0))
    assert good.complete
    assert (of.evaluated, of.failed) == (2, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_bugs_are_not_swallowed(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        evaluator(workers=workers).evaluate([GOOD, (Crash(),)])


def after(calls: int) -> Callable[[], bool]:
    """Time that is up from the call after so many on."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("calls", [0, 1, 5, 11])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_takes_too_long_is_cut_short_and_counted_as_that(calls: int, workers: int, tmp_path: Path) -> None:
    """The check is made before the passes, at each of the ten layers, and before the result is measured."""
    study = Study(tmp_path, ABOUT)
    of = evaluator(workers=workers, study=study)
    kept, failed = of.evaluate([GOOD, (Fail(),)])
    (cut,) = of.evaluate([(Dawdle(),)], over=after(calls))
    assert cut.failure == "cut short by the time limit"
    assert not cut.feasible(Goal(max_drop=1.0))
    assert (of.evaluated, of.failed, of.cut_short) == (3, 1, 1)
    assert sorted(study.known) == sorted([kept.profile, failed.profile]), "another search may have time for it"


def test_who_is_done_in_time_is_not_cut_short() -> None:
    of = evaluator()
    (found,) = of.evaluate([(Dawdle(),)], over=after(12))
    assert found.complete
    assert of.cut_short == 0


def test_a_round_that_time_ends_leaves_the_rest_of_it_undone() -> None:
    of = evaluator()
    found = of.evaluate([GOOD, (Dawdle(),), BAD], over=after(4))
    assert [bool(item.failure) for item in found] == [False, True, True]
    assert of.cut_short == 2


def test_the_winner_is_proven_however_late_it_is() -> None:
    of = evaluator()
    passes = (Cut(ratio=0.5), Dawdle())
    (cut,) = of.evaluate([passes], over=lambda: True)
    assert cut.failure
    assert of.networks.proven(passes).graph.array("w3").shape == (16, 8)
    assert of.networks.apply(passes).edits
    (found,) = of.evaluate([(Dawdle(),)])
    assert found.complete, "that time was up holds for the profiles that it was said of"


def test_passes_that_change_nothing_are_counted_as_refused() -> None:
    of = evaluator()
    idle, partly = of.evaluate([(Touch(),), (Prune(ratio=0.2), Touch())])
    assert (idle.changed, idle.refused) == (False, True)
    assert (partly.changed, partly.refused) == (True, True)
    assert of.refused == 2


def test_an_unchanged_model_needs_no_margin() -> None:
    (found,) = evaluator(Goal(max_drop=0.0)).evaluate([()])
    assert (found.drop, found.error) == (0, 0)
    assert found.feasible(Goal(max_drop=0.0))


def test_the_margin_is_part_of_the_judgement() -> None:
    found = Candidate("p", drop=0.008, error=0.003, complete=True)
    assert found.bound == pytest.approx(0.011)
    assert not found.feasible(Goal(max_drop=0.01))
    assert found.feasible(Goal(max_drop=0.012))


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_the_same_candidates_in_the_same_order(workers: int) -> None:
    pipelines: list[Pipeline] = [(Prune(ratio=ratio), Touch(scale=1.1)) for ratio in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert evaluator(workers=workers).evaluate(pipelines) == evaluator().evaluate(pipelines)


def test_timed_candidates_are_evaluated_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.01)
    of = evaluator(Goal("latency", max_drop=1.0), workers=3)
    assert of.workers == 1
    (found,) = of.evaluate([GOOD])
    assert found.shares["latency"] > 0


def test_candidates_run_on_the_backend_and_what_they_are_compared_with_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.01)
    recording = RecordingBackend()
    of = evaluator(Goal("latency", max_drop=1.0), backend=recording)
    assert recording.loaded == []
    of.evaluate([GOOD])
    pruned = of.networks.apply(GOOD).graph.fingerprint()
    assert recording.loaded == [(pruned, 0), (pruned, 1)], "it is scored, and timed on one thread"


def test_without_labels_fidelity_is_the_metric() -> None:
    (found,) = evaluator(selection=data(labels=False)).evaluate([GOOD])
    assert found.metric == pytest.approx(1 - found.drop)


def test_pareto_front_holds_what_nothing_beats() -> None:
    def made(name: str, metric: float, nonzeros: float, *, complete: bool = True) -> Candidate:
        return Candidate(name, metric=metric, quantities={"nonzeros": nonzeros, "macs": 9}, complete=complete)

    candidates = [
        made("best", 0.9, 100),
        made("small", 0.5, 10),
        made("beaten", 0.5, 100),
        made("equal", 0.5, 10),
        made("lucky", 1.0, 1, complete=False),
    ]
    assert [item.profile for item in pareto_front(candidates)] == ["best", "small", "equal"]


PLASTIC = Goal(targets=(Target("plasticity", ">=", 0.1),))


@pytest.mark.parametrize(
    ("goal", "front"),
    [(None, ["plastic", "small"]), (Goal(), ["plastic", "small"]), (PLASTIC, ["plastic", "small", "most"])],
    ids=str,
)
def test_plasticity_on_the_front(goal: Goal | None, front: list[str]) -> None:
    def made(name: str, metric: float, nonzeros: float, plasticity: float) -> Candidate:
        return Candidate(name, metric=metric, quantities={"nonzeros": nonzeros}, plasticity=plasticity, complete=True)

    candidates = [
        made("rigid", 0.9, 100, 0.1),  # as good and as small as the next one, but less plastic
        made("plastic", 0.9, 100, 0.2),
        made("small", 0.8, 50, 0.0),
        made("most", 0.8, 100, 0.3),  # worse than "plastic" in all else
        made("worse", 0.7, 100, 0.3),
    ]
    assert [item.profile for item in pareto_front(candidates, goal)] == front


ABOUT = {"model": "m", "seed": "0"}


def test_study_holds_every_candidate_and_resumes(tmp_path: Path) -> None:
    of = evaluator(study=Study(tmp_path / "s", ABOUT))
    first = of.evaluate([GOOD, (Fail(),)])
    rows = (tmp_path / "s" / "candidates.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert json.loads(rows[1])["profile"] == first[0].profile
    again = evaluator(study=Study(tmp_path / "s", ABOUT))
    assert again.evaluate([GOOD, (Fail(),)]) == first
    assert again.networks.runs == 0
    assert (again.evaluated, again.failed) == (2, 1)
    again.evaluate([BAD])
    assert len((tmp_path / "s" / "candidates.jsonl").read_text().splitlines()) == 4


def test_study_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    first = evaluator(study=Study(tmp_path, ABOUT)).evaluate([GOOD])
    path = tmp_path / "candidates.jsonl"
    path.write_text(path.read_text() + '{"profile": "half')
    study = Study(tmp_path, ABOUT)
    assert list(study.known.values()) == first
    study.add(Candidate("other"))
    assert len(Study(tmp_path, ABOUT).known) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"study": {"model": "other", "seed": "0"}}\n', "another model"),
        ('{"study": {"model": "m", "seed": "0"}}\n{"weird": 1}\n', "not a study"),
        ("hello\n", "not a study"),
        ("", "not a study"),
        ("[]\n", "not a study"),
    ],
)
def test_a_study_of_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "candidates.jsonl").write_text(content)
    with pytest.raises(SpecError, match=message):
        Study(tmp_path, ABOUT)


def test_digest_of_samples_sees_values_labels_and_names() -> None:
    plain = data(10, labels=False)
    digests = {digest_samples(item) for item in (plain, data(10), data(10, labels=False, seed=1), plain.take(9))}
    assert len(digests) == 4
    assert digest_samples(data(10)) == digest_samples(data(10))
