"""Who gets which samples, and which passes a search chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError, SpecError
from surgery_ir.passes import registry
from surgery_ir.passes.base import Pass
from surgery_ir.passes.spec import create, parse_pipeline, plain_options
from surgery_ir.search import pool as pools
from surgery_ir.search.dealing import Roles, deal, load_samples, replayed_parts
from surgery_ir.search.goal import Goal, Target
from surgery_ir.search.pool import budgets, default_pool, patterns, read_pool, weight_units
from surgery_ir.search.space import Space
from tests.search.toys import data, net

NET = net()
MAIN, CHOSEN, LAST = data(100, labels=False), data(60, seed=1), data(50, seed=2)


def rows(samples: Samples) -> set[bytes]:
    return {row.tobytes() for row in samples.feeds["x"]}


def sizes(roles: Roles) -> tuple[int, int, int]:
    return len(roles.calibration), len(roles.selection), len(roles.report)


@pytest.mark.parametrize(
    ("selection", "report", "expected", "shares"),
    [
        (None, None, (40, 40, 20), (0.4, 0.4, 0.2)),
        (None, LAST, (50, 50, 50), (0.5, 0.5)),
        (CHOSEN, None, (100, 30, 30), ()),
        (CHOSEN, LAST, (100, 60, 50), ()),
    ],
)
def test_parts(
    selection: Samples | None, report: Samples | None, expected: tuple[int, int, int], shares: tuple[float, ...]
) -> None:
    roles = deal(NET, MAIN, selection, report, None, 3)
    assert sizes(roles) == expected
    assert roles.shares == shares
    parts = [rows(roles.calibration), rows(roles.selection), rows(roles.report)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    again = replayed_parts(MAIN, selection, roles.shares, roles.selection_shares, 3)
    for part, wanted in zip(again, (roles.calibration, roles.selection), strict=True):
        assert part is not None
        assert np.array_equal(part.feeds["x"], wanted.feeds["x"])


def test_seed_decides_who_gets_what() -> None:
    one, other = (deal(NET, MAIN, None, None, None, seed) for seed in (0, 1))
    assert rows(one.calibration) != rows(other.calibration)


def test_labels_are_wanted_somewhere_but_not_everywhere(tmp_path: Path) -> None:
    np.savez(tmp_path / "main.npz", x=MAIN.feeds["x"])
    np.savez(tmp_path / "chosen.npz", x=CHOSEN.feeds["x"], label=np.zeros(len(CHOSEN), np.int64))
    roles = deal(NET, tmp_path / "main.npz", tmp_path / "chosen.npz", None, "label", 0)
    assert roles.calibration.labels is None
    assert roles.selection.labels is not None
    with pytest.raises(DataError, match="no array called 'label'"):
        deal(NET, tmp_path / "main.npz", None, None, "label", 0)


def test_arrays_may_be_given_as_they_are() -> None:
    found = load_samples({"x": MAIN.feeds["x"], "label": np.arange(len(MAIN))}, "label", NET)
    assert list(found.feeds) == ["x"]
    assert found.labels is not None
    assert np.array_equal(found.labels, np.arange(len(MAIN)))


@pytest.mark.parametrize("count", [1, 7, 20])
def test_too_few_samples_are_refused(count: int) -> None:
    with pytest.raises(DataError, match="samples"):
        deal(NET, MAIN.take(count), None, None, None, 0)


def test_every_set_must_fit_the_model() -> None:
    wrong = Samples({"x": np.zeros((50, 9), np.float32)})
    for main, selection, report in ((wrong, None, None), (MAIN, wrong, None), (MAIN, None, wrong)):
        with pytest.raises(DataError, match=r"axis 1 is 9"):
            deal(NET, main, selection, report, None, 0)


def test_an_archive_of_labels_alone_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", label=np.zeros(9))
    with pytest.raises(DataError, match="no array for any input"):
        load_samples(tmp_path / "d.npz", "label", NET)


def _reconnecting(title: str) -> type[Pass]:
    @dataclass(frozen=True)
    class Reconnecting(Pass):
        name: ClassVar[str] = title
        serves: ClassVar[frozenset[str]] = frozenset({"metric"})

    Reconnecting.__module__ = f"surgery_ir.passes.reconnect.{title}"
    return Reconnecting


@pytest.fixture
def reconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let passes that reconnect be there, whatever they can do."""
    known = {**registry.builtin_passes(), **{name: _reconnecting(name) for name in ("reconnect", "regrow", "skip")}}
    for module in (registry, pools):
        monkeypatch.setattr(module, "builtin_passes", lambda: known)


def test_default_pool_prunes_before_it_repairs_and_runs_no_code() -> None:
    pool = default_pool(Goal())
    names = [item.name for item in pool]
    assert names.index("prune-weights") < names.index("repair")
    assert not {"canonicalize", "graphsurgeon", "store-sparse"} & set(names)
    assert not any(item.runs_code for item in pool)


@pytest.mark.parametrize(
    ("goal", "names"),
    [
        (Goal(), ["prune-weights", "reconnect", "repair"]),
        (Goal("nonzeros", targets=(Target("plasticity", ">=", 0.1),)), ["prune-weights", "reconnect", "repair"]),
        (Goal("macs"), ["drop-layers", "prune-channels", "reconnect", "repair"]),
        (Goal("latency"), ["drop-layers", "prune-channels", "reconnect", "repair"]),
        (Goal("size"), ["drop-layers", "prune-channels", "prune-weights", "reconnect", "repair", "store-sparse"]),
        (Goal(targets=(Target("macs", "<=", 0.5),)), ["prune-channels", "prune-weights", "reconnect", "repair"]),
        (Goal(targets=(Target("latency", "<=", 0.5),)), ["prune-channels", "prune-weights", "reconnect", "repair"]),
        (Goal("macs", targets=(Target("nonzeros", "<=", 0.1),)), [
            "drop-layers", "prune-channels", "prune-weights", "reconnect", "repair",
        ]),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("reconnecting")
def test_default_pool_holds_what_serves_the_goal(goal: Goal, names: list[str]) -> None:
    assert [item.name for item in default_pool(goal)] == names


@pytest.mark.parametrize(
    ("goal", "added"),
    [
        (Goal("latency"), {"prune-weights"}),
        (Goal("macs", targets=(Target("latency", "<=", 0.5),)), {"prune-weights"}),
        (Goal("macs"), set()),
        (Goal("nonzeros"), set()),
        (Goal("size"), set()),
    ],
    ids=str,
)
def test_zeros_serve_latency_where_the_runtime_skips_them(goal: Goal, added: set[str]) -> None:
    names = [item.name for item in default_pool(goal, sparse_speedup=True)]
    assert set(names) - {item.name for item in default_pool(goal)} == added
    assert names == sorted(names, key=[item.name for item in default_pool(Goal("size"))].index)


@pytest.mark.parametrize(
    ("goal", "preferred", "tried"),
    [
        (Goal("latency"), ("4x1", "1x4"), {"pattern": ("4x1", "1x4")}),
        (Goal(targets=(Target("latency", "<=", 0.5),)), ("4x1",), {"pattern": ("4x1",)}),
        (Goal("latency"), (), {}),
        (Goal("nonzeros"), ("4x1", "1x4"), {}),
    ],
    ids=str,
)
def test_patterns_are_tried_where_time_counts(
    goal: Goal, preferred: tuple[str, ...], tried: dict[str, tuple[str, ...]]
) -> None:
    assert patterns(goal, preferred) == tried


@pytest.mark.parametrize(
    ("minimize", "targets", "budget"),
    [
        ("nonzeros", ["macs<=0.5"], {"macs": 0.5}),
        ("nonzeros", ["macs<=0.5", "macs<=0.4", "params<=0.6"], {"macs": 0.4, "params": 0.6}),
        ("nonzeros", ["macs>=0.5", "latency<=0.5"], {}),
        ("macs", ["macs<=0.5"], {}),
        ("size", ["macs<=0.5"], {}),
    ],
)
def test_a_pass_that_is_there_for_a_target_is_set_to_it(
    minimize: Any, targets: list[str], budget: dict[str, float]
) -> None:
    pool = default_pool(Goal(minimize, targets=targets))  # type: ignore[arg-type]
    (found,) = [plain_options(item) for item in pool if item.name == "prune-channels"]
    assert {name: found[name] for name in ("macs", "params", "latency") if name in found} == budget


@pytest.mark.parametrize(
    ("goal", "name", "option"),
    [
        (Goal("macs"), "prune-channels", "macs"),
        (Goal("latency"), "prune-channels", "latency"),
        (Goal("size"), "prune-channels", "params"),
        (Goal("nonzeros"), "prune-channels", "params"),
        (Goal("nonzeros", targets=(Target("macs", "<=", 0.5),)), "prune-channels", "macs"),
        (Goal("nonzeros", targets=(Target("latency", "<=", 0.5),)), "prune-channels", "latency"),
        (Goal("macs", targets=(Target("size", "<=", 0.5),)), "prune-channels", "macs"),
        (Goal("macs"), "prune-weights", "macs"),
    ],
    ids=str,
)
def test_the_budget_is_of_what_the_goal_asks_of_the_pass(goal: Goal, name: str, option: str) -> None:
    assert budgets(goal)(create(name, {}))[0] == option


@pytest.mark.parametrize(
    ("goal", "text", "expected"),
    [
        (Goal("macs"), "prune-channels,repair", "prune-channels{compensate=false multiple=8},repair"),
        (Goal("latency"), "prune-channels,repair", "prune-channels{compensate=false},repair"),
        (Goal("macs"), "prune-channels{multiple=4}", "prune-channels{multiple=4}"),
        (Goal("macs"), "prune-heads,repair-statistics", "prune-heads{multiple=8},repair-statistics"),
    ],
    ids=str,
)
def test_what_a_search_need_not_decide(goal: Goal, text: str, expected: str) -> None:
    assert read_pool(text, goal) == parse_pipeline(expected)


@pytest.mark.usefixtures("reconnecting")
@pytest.mark.parametrize(
    ("text", "compensates"),
    [
        ("prune-weights", None),
        ("prune-weights,repair", False),
        ("prune-weights,reconnect", False),
        ("prune-weights,reconnect,repair", False),
        ("prune-channels{macs=0.5},reconnect", False),
    ],
)
def test_pruning_leaves_the_weights_to_what_follows(text: str, compensates: bool | None) -> None:
    first = read_pool(text, Goal())[0]
    assert plain_options(first).get("compensate") is compensates


@pytest.mark.usefixtures("reconnecting")
def test_a_search_starts_with_repair_and_tries_to_reconnect_instead() -> None:
    space = Space(default_pool(Goal()))
    assert [item.name for item in space.decode(space.default)] == ["prune-weights", "repair"]
    tried = [[item.name for item in space.decode(genome)] for genome in space.variations(space.default)]
    assert tried[:2] == [["prune-weights", "reconnect"], 2 * ["prune-weights", "reconnect"]]


@pytest.mark.parametrize("goal", [Goal("size"), Goal(targets=(Target("size", "<=", 0.5),))])
def test_where_bytes_count_storage_is_searched_and_comes_last(goal: Goal) -> None:
    assert [item.name for item in default_pool(goal)][-1] == "store-sparse"


def test_a_pool_may_be_written_down() -> None:
    pool = read_pool("canonicalize,prune-weights{pattern=2:4},repair", Goal())
    assert pool == parse_pipeline("prune-weights{pattern=2:4 compensate=false},repair")
    assert read_pool("prune-weights", Goal()) == parse_pipeline("prune-weights")
    with pytest.raises(SpecError):
        read_pool("prune-wights", Goal())


def test_first_and_last_layers_are_no_units() -> None:
    assert set(weight_units(NET).values()) == {256}
    assert len(weight_units(NET)) == 2
