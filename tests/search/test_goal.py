"""What a search is asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from surgery_ir.errors import SpecError
from surgery_ir.search.goal import Goal, Target


@pytest.mark.parametrize(
    ("text", "quantity", "relation", "value"),
    [
        ("macs<=0.5", "macs", "<=", 0.5),
        (" size <= 40% ", "size", "<=", 0.4),
        ("plasticity>=0.05", "plasticity", ">=", 0.05),
        ("latency<=1e-1", "latency", "<=", 0.1),
    ],
)
def test_target_is_read(text: str, quantity: str, relation: str, value: float) -> None:
    target = Target.parse(text)
    assert (target.quantity, target.relation) == (quantity, relation)
    assert target.value == pytest.approx(value)
    assert Target.parse(str(target)) == target
    assert target.relative == (quantity != "plasticity")


@pytest.mark.parametrize(
    "text", ["", "macs", "macs<0.5", "macs=0.5", "weight<=0.5", "macs<=x", "macs<=nan", "macs<=-1"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="target"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("text", "value", "excess"),
    [("macs<=0.5", 0.4, 0), ("macs<=0.5", 0.5, 0), ("macs<=0.5", 0.75, 0.5), ("plasticity>=0.1", 0.05, 0.5)],
)
def test_excess_is_relative_to_the_bound(text: str, value: float, excess: float) -> None:
    assert Target.parse(text).excess(value) == pytest.approx(excess)


def test_a_quantity_that_is_no_number_misses_its_target() -> None:
    assert Target.parse("macs<=0.5").excess(math.nan) == math.inf


def test_goal_reads_targets_and_judges_them_with_the_drop() -> None:
    goal = Goal(max_drop=0.02, targets=("macs<=0.5", Target("plasticity", ">=", 0.1)))  # type: ignore[arg-type]
    assert goal.targets == (Target("macs", "<=", 0.5), Target("plasticity", ">=", 0.1))
    assert goal.excesses({"macs": 0.4, "plasticity": 0.2}, 0.02) == (0, 0, 0)
    assert goal.excesses({"macs": 0.75, "plasticity": 0.2}, 0.03) == pytest.approx((0.5, 0.5, 0))
    assert str(goal) == "minimize nonzeros, drop<=0.02, macs<=0.5, plasticity>=0.1"


def test_what_was_not_measured_is_not_judged() -> None:
    assert Goal(targets=(Target.parse("latency<=0.5"),)).excesses({"macs": 0.4}) == (0,)


@pytest.mark.parametrize(
    ("goal", "timed"),
    [(Goal(), False), (Goal("latency"), True), (Goal("size", targets=(Target.parse("latency<=1"),)), True)],
)
def test_latency_is_needed_where_it_counts(goal: Goal, timed: bool) -> None:
    assert goal.needs_latency == timed


@pytest.mark.parametrize("fields", [{"minimize": "weight"}, {"max_drop": -0.1}, {"max_drop": math.nan}])
def test_faulty_goals_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Goal(**fields)
