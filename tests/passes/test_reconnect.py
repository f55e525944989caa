"""Reconnect: a policy, its fields, and what it never does."""

from __future__ import annotations

import pytest

from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.reconnect.reconnect import Reconnect
from surgery_ir.passes.repair.refit import Repair
from tests.passes.wiring import divergence, inputs, networks, nonzeros, reconnect, recount


def own(outcome: Outcome, small: Graph) -> int:
    """Weights of the layers themselves that returned."""
    count = 0
    for name in small.initializers:
        was, now = small.array(name), outcome.graph.array(name)
        if was.ndim > 1:
            part = now[tuple(slice(size) for size in was.shape)]
            count += int(((part != 0) & (was == 0)).sum())
    return count


@pytest.mark.parametrize(
    ("options", "returns", "wires"),
    [
        ({}, True, True),
        ({"criteria": "gradient"}, True, False),
        ({"criteria": "correlation"}, False, True),
        ({"radius": 0}, True, False),
        ({"shift": 0.0}, True, True),
    ],
)
def test_criteria_say_what_may_be_created(options: dict[str, object], returns: bool, wires: bool) -> None:
    dense, small = networks("chain", 0.8)
    outcome = reconnect(Reconnect(**{"shift": 0.0} | options), small, dense)  # type: ignore[arg-type]
    created = connections(outcome.edits).created
    assert created > 0
    assert (own(outcome, small) > 0) == returns
    assert (created > own(outcome, small)) == wires
    assert nonzeros(outcome.graph) == nonzeros(small)


@pytest.mark.parametrize("per", ["pruned", "nonzeros"])
@pytest.mark.parametrize("budget", [0.0, 0.05])
def test_no_more_are_created_than_the_budget_allows(per: str, budget: float) -> None:
    dense, small = networks("chain", 0.8)
    outcome = reconnect(Reconnect(shift=0.0, budget=budget, per=per), small, dense)  # type: ignore[arg-type]
    held = nonzeros(small)
    size = sum(small.array(name).size for name in ("w1", "w2", "w3", "w4"))
    share = (size - held) if per == "pruned" else held
    created = connections(outcome.edits).created
    assert created <= budget * share + 2
    assert (created > 0) == (budget > 0)


@pytest.mark.parametrize(("network", "seed"), [("chain", 0), ("chain", 2), ("a batch of four", 1)])
def test_it_never_ends_above_repair_on_selection_data(network: str, seed: int) -> None:
    dense, small = networks(network, 0.5 + 0.2 * seed, seed)
    selection = inputs(dense, 64, seed=1)
    found, repaired = (reconnect(item, small, dense).graph for item in (Reconnect(), Repair()))
    assert divergence(found, dense, selection) <= divergence(repaired, dense, selection) * (1 + 1e-9)


def test_what_does_not_help_on_selection_data_is_undone_layer_by_layer() -> None:
    """Nothing may stay that does not win half of what is lost."""
    dense, small = networks("residual", 0.8)
    outcome = reconnect(Reconnect(accept=0.5, shift=0.0, criteria="correlation"), small, dense)
    free = reconnect(Reconnect(shift=0.0, criteria="correlation"), small, dense)
    assert connections(outcome.edits).created < connections(free.edits).created
    reasons = [item.reason for item in outcome.refusals]
    assert any("do not help on selection data (divergence" in reason for reason in reasons)


def test_the_log_is_that_of_the_attempt_that_was_kept() -> None:
    """Attempts that were undone leave no edits behind."""
    for shift in (0.0, 1.0):
        dense, small = networks("a batch of four", 0.8)
        outcome = reconnect(Reconnect(shift=shift), small, dense)
        assert connections(outcome.edits) == recount(small, outcome.graph)
        assert len({edit.where for edit in outcome.edits}) <= len(outcome.edits)
        undone = [item for item in outcome.refusals if item.reason.startswith("undone") and not item.nodes]
        assert all("divergence of" in item.reason for item in undone)
