"""Shift: what is left alone and why, and what moves from where to where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, run_pass
from surgery_ir.passes.reconnect.balance import Balance
from surgery_ir.passes.reconnect.shift import Shift
from surgery_ir.passes.repair.refit import Repair
from tests.harness import assert_equivalent
from tests.passes.helpers import build, sample_shape, samples
from tests.passes.wiring import NETWORKS, context, divergence, inputs, networks, nonzeros, prune, reconnect, recount

TWO = """net (float[N,12] x) => (float[N,12,1,1] y) <float[12,12] a, float[12,12] b, int64[2] axes = {2, 3}> {
    [cheap] p = MatMul(x, a)
    [dear] q = MatMul(x, b)
    d = Sub(p, q)
    y = Unsqueeze(d, axes)
}"""
"""Two layers that read the same and whose difference counts: no class scores, so that errors are squared."""


def normal(graph: Graph, count: int = 160, seed: int = 0) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, *sample_shape(graph))))


def two(quiet: float = 0.05, text: str = TWO) -> tuple[Graph, Graph]:
    """Of the cheap layer nothing depends on much; both have lost half of their weights at random."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, (12, 12)) * rng.choice([-1, 1], (12, 12))
    dense = build(text, a=quiet * weights, b=weights[::-1])
    return dense, prune(dense, 0.5).graph


def counts(graph: Graph, *names: str) -> list[int]:
    return [int(np.count_nonzero(graph.array(name))) for name in names]


def run(small: Graph, dense: Graph, selection: Samples | None = None, **options: object) -> Outcome:
    return reconnect(Shift(**options), small, dense, normal(dense), selection or normal(dense, 96, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_nonzeros_move_to_where_an_error_costs_most(strength: float) -> None:
    dense, small = two()
    outcome = run(small, dense, strength=strength)
    before, after = counts(small, "a", "b"), counts(outcome.graph, "a", "b")
    assert sum(after) == sum(before)
    assert after[1] > before[1]
    total = connections(outcome.edits)
    assert total == recount(small, outcome.graph)
    assert total.created == after[1] - before[1]
    data = normal(dense, 64, seed=3)
    repaired = reconnect(Repair(), small, dense, normal(dense)).graph
    assert divergence(outcome.graph, dense, data) < divergence(repaired, dense, data)


def test_more_strength_moves_more() -> None:
    dense, small = two()
    moved = [counts(run(small, dense, strength=strength).graph, "b")[0] for strength in (0.2, 0.5, 1.0)]
    assert moved == sorted(set(moved))


def test_a_layer_keeps_a_share_of_what_it_has() -> None:
    dense, small = two(quiet=1e-4)
    outcome = run(small, dense, strength=1.0)
    (before,), (after,) = counts(small, "a"), counts(outcome.graph, "a")
    assert 0.1 * before <= after < 0.5 * before


@pytest.mark.parametrize("gain", [1.0, 20.0])
def test_layers_that_are_alike_keep_what_they_have(gain: float) -> None:
    """What an error costs at the outputs counts, not how large it is: what is quiet may be amplified later."""
    text = TWO.replace("{2, 3}>", f"{{2, 3}}, float g = {{{gain}}}>")
    text = text.replace("[cheap] p", "[cheap] o").replace("[dear]", "p = Mul(o, g) [dear]")
    dense, small = two(1 / gain, text)
    before, after = counts(small, "a", "b"), counts(run(small, dense).graph, "a", "b")
    assert sum(after) == sum(before)
    assert abs(after[0] - before[0]) < 0.1 * before[0]


# --- what is left alone

NOTHING = "no two layers have nonzeros that they could trade"


@pytest.mark.parametrize("network", ["residual", "attention"])
def test_without_strength_it_is_repair(network: str) -> None:
    dense, small = networks(network)
    outcome = reconnect(Shift(strength=0.0), small, dense)
    assert outcome.graph.fingerprint() == reconnect(Repair(), small, dense).graph.fingerprint()
    assert NOTHING in [item.reason for item in outcome.refusals]
    assert connections(outcome.edits).created == 0


@pytest.mark.parametrize(
    "ratios", [{"w1": 0.6, "w2": 0, "w3": 0, "w4": 0}, {"w1": 1.0, "w2": 1.0, "w3": 0, "w4": 0}], ids=["one", "empty"]
)
def test_a_single_layer_has_nobody_to_trade_with(ratios: dict[str, float]) -> None:
    dense = build(NETWORKS["chain"])
    small = prune(dense, 0.7, 0, **ratios).graph
    outcome = reconnect(Shift(), small, dense)
    assert NOTHING in [item.reason for item in outcome.refusals]
    assert nonzeros(outcome.graph) == nonzeros(small)
    assert connections(outcome.edits).created == 0


def test_a_move_that_hurts_on_selection_data_is_undone() -> None:
    """On calibration data the inputs of one layer are all the same, so that one weight would do; elsewhere not."""
    mask = np.arange(12)[:, None] < 6
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, (12, 12)) * rng.choice([-1, 1], (12, 12))
    dense = build(TWO, a=np.where(mask, weights, 0), b=np.where(mask, 0, weights[::-1]))
    small = prune(dense, 0.3).graph
    data, selection = (normal(dense, count, seed) for count, seed in ((160, 0), (96, 1)))
    alike = np.where(mask[:, 0], data.feeds["x"][:, :1], data.feeds["x"])
    ctx = context(dense, data=samples(x=alike), selection=selection)
    outcome = run_pass(Shift(strength=1.0), small, ctx)
    (reason,) = (item.reason for item in outcome.refusals if item.reason.startswith("undone"))
    start = "undone: shifting nonzeros gives a divergence of "
    assert reason.startswith(start)
    numbers = reason.removeprefix(start).split()
    assert numbers[1:6] == ["on", "selection", "data,", "repair", "alone"]
    assert float(numbers[0]) >= float(numbers[6])
    assert outcome.graph.fingerprint() == run_pass(Repair(), small, ctx).graph.fingerprint()
    assert connections(outcome.edits).created == 0


def test_it_never_ends_above_repair_on_selection_data() -> None:
    for network in ("chain", "attention"):
        dense, small = networks(network, 0.6)
        selection = inputs(dense, 64, seed=1)
        found, repaired = (reconnect(item, small, dense).graph for item in (Shift(strength=1.0), Repair()))
        assert divergence(found, dense, selection) <= divergence(repaired, dense, selection) * (1 + 1e-9)


# --- the counts themselves


def test_counts_go_where_curve_and_price_say() -> None:
    """The second layer's weights are worth the same each, the first one's nothing beyond the tenth."""
    steep, flat = np.linspace(1, 0, 40), np.where(np.arange(40) < 10, 1 - np.arange(40) / 10, 0)
    balance = Balance({"a": flat, "b": steep}, {"a": 1.0, "b": 1.0}, {"a": 20, "b": 20})
    assert balance.moved(0.0) == {"a": 20, "b": 20}
    moved = balance.moved(1.0)
    assert sum(moved.values()) == 40
    assert 7 <= moved["a"] <= 12
    half = balance.moved(0.5)
    assert half["a"] == pytest.approx((20 + moved["a"]) / 2, abs=1)
    dear = replace(balance, prices={"a": 1e-9, "b": 1.0}).moved(1.0)
    assert dear["a"] == 2, "a tenth of what it has stays"


# --- scales


def test_scales_change_no_output() -> None:
    dense = build(NETWORKS["residual"])
    outcome = reconnect(Shift(move="scale"), dense, dense)
    assert outcome.changed
    assert_equivalent(outcome.graph, dense, tolerance=1e-5)
    assert connections(outcome.edits) == recount(dense, outcome.graph)
