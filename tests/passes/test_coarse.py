"""Channels and skips in networks that were cut: units pay, and what does not help is undone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import Outcome, Pass, run_pass
from surgery_ir.passes.coupled import find_coupling
from surgery_ir.passes.payment import macs_of
from surgery_ir.passes.prune.channels import PruneChannels
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.reconnect.coarse import NEUTRAL
from surgery_ir.passes.reconnect.reconnect import Reconnect
from surgery_ir.passes.reconnect.rewire import Rewire
from surgery_ir.passes.reconnect.shift import Shift
from surgery_ir.passes.reconnect.skip import Skip
from surgery_ir.passes.repair.refit import Repair
from tests.passes.helpers import build, samples
from tests.passes.wiring import (
    NETWORKS,
    context,
    divergence,
    inputs,
    networks,
    nonzeros,
    prune,
    reconnect,
    recount,
)

PASSES: Mapping[str, Pass] = {
    "skip": Skip(),
    "skip of rank 1": Skip(rank=1),
    "rewire by channel": Rewire(granularity="channel"),
    "reconnect by channel": Reconnect(granularity="channel"),
    "reconnect by layer": Reconnect(granularity="layer"),
}
BY_CHANNEL = ["rewire by channel", "reconnect by channel"]
BY_LAYER = ["skip", "skip of rank 1", "reconnect by layer"]

# --- a network that lost what an earlier value knows

CARRIED = """net (float[N,8] x) => (float[N,8] y)
<float[8,32] w1, float[32] c1, float[32,32] w2, float[32] c2, float[32,8] w3, float[8] c3> {
    [one] a = Gemm(x, w1, c1)
    b = Relu(a)
    [two] c = Gemm(b, w2, c2)
    d = Relu(c)
    [three] y = Gemm(d, w3, c3)
}"""
LOST = [0, 1, 30, 31]


def carried() -> tuple[Graph, Graph]:
    """Two units of each hidden layer carry a combination of the inputs to the outputs; those are cut."""
    rng = np.random.default_rng(0)
    w1, w2, w3 = (scale * rng.normal(size=shape) for scale, shape in ((0.3, (8, 32)), (0.2, (32, 32)), (0.02, (32, 8))))
    direction = rng.normal(size=8)
    direction /= np.linalg.norm(direction)
    effect = rng.uniform(1, 2, 8) * np.resize([1, -1], 8)
    for unit, sign in ((0, 1.0), (1, -1.0)):
        w1[:, unit], w3[unit] = sign * direction, sign * effect
        w2[unit], w2[:, unit] = 0.01, 0.01
    w2[0, 0] = w2[1, 1] = 1.0
    hidden = np.full(32, 0.1)
    dense = build(CARRIED, w1=w1, w2=w2, w3=w3, c1=hidden, c2=hidden, c3=np.zeros(8))
    editor, coupling = Editor(dense.clone(), "cut"), find_coupling(dense, context(dense))
    cut(editor, coupling, {group.name: LOST for group in coupling.groups})
    return dense, editor.graph


def normal(count: int, seed: int) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, 8)))


def wired(pass_: Pass, small: Graph, dense: Graph) -> Outcome:
    return reconnect(pass_, small, dense, normal(400, 0), normal(128, 1))


@pytest.mark.parametrize("name", PASSES)
def test_what_was_cut_is_had_from_where_it_is_known(name: str) -> None:
    """At no more multiplications, for which the units that matter least are given up."""
    dense, small = carried()
    outcome = wired(PASSES[name], small, dense)
    verify(outcome.graph)
    ctx = context(dense)
    assert macs_of(small, ctx) * 0.85 < macs_of(outcome.graph, ctx) <= macs_of(small, ctx)
    assert nonzeros(outcome.graph) <= nonzeros(small)
    total = connections(outcome.edits)
    assert 0 < total.created < total.pruned
    assert total.created - total.pruned == nonzeros(outcome.graph) - nonzeros(small)
    repaired = wired(Repair(), small, dense).graph
    data = normal(128, 3)
    assert divergence(repaired, dense, data) < divergence(small, dense, data)
    assert divergence(outcome.graph, dense, data) < 0.5 * divergence(repaired, dense, data)


@pytest.mark.parametrize(("names", "maps"), [(BY_CHANNEL, False), (BY_LAYER, True)])
def test_channels_are_read_as_they_are_and_skips_are_maps_of_low_rank(names: list[str], maps: bool) -> None:
    dense, small = carried()
    for name in names:
        outcome = wired(PASSES[name], small, dense)
        new = set(outcome.graph.initializers) - set(small.initializers)
        assert new
        assert any(item.endswith("/down.weight") for item in new) == maps
        ranks = [outcome.graph.array(item).shape[1] for item in new if item.endswith("/down.weight")]
        assert max(ranks, default=0) <= (1 if name == "skip of rank 1" else 4)


def test_repair_composes_with_what_units_paid_for() -> None:
    """What is left was solved after the payment: there is nothing to repair, unless it is spoilt."""
    dense, small = carried()
    graph = wired(Skip(), small, dense).graph
    again = wired(Repair(), graph, dense)
    verify(again.graph)
    assert nonzeros(again.graph) == nonzeros(graph)
    data = normal(128, 3)
    assert divergence(again.graph, dense, data) == pytest.approx(divergence(graph, dense, data), rel=0.1)
    spoilt = Editor(graph.clone(), "test")
    spoilt.set_weights("three/tap/x.weight", 0 * graph.array("three/tap/x.weight") + 0.1)
    bad = divergence(spoilt.graph, dense, data)
    assert divergence(wired(Repair(), spoilt.graph, dense).graph, dense, data) < 0.5 * bad


# --- networks that have nothing to gain

CUT = [(name, network) for name in ("skip", "rewire by channel") for network in ("chain", "residual", "U-Net")]


@pytest.mark.parametrize(("name", "network"), CUT)
def test_never_more_multiplications_and_never_worse_than_repair(name: str, network: str) -> None:
    dense = build(NETWORKS[network])
    small = run_pass(PruneChannels(ratio=0.5, multiple=1), dense, context(dense)).graph
    outcome, repaired = reconnect(PASSES[name], small, dense), reconnect(Repair(), small, dense)
    verify(outcome.graph)
    ctx = context(dense)
    assert macs_of(outcome.graph, ctx) <= NEUTRAL * macs_of(small, ctx)
    selection = ctx.selection
    assert divergence(outcome.graph, dense, selection) <= divergence(repaired.graph, dense, selection) * (1 + 1e-9)
    undone = [item for item in outcome.refusals if item.reason.startswith("undone") and not item.nodes]
    created = connections(outcome.edits).created
    assert (created == 0) == bool(undone)
    if not created:
        assert_repaired(outcome, repaired)


def assert_repaired(outcome: Outcome, repaired: Outcome) -> None:
    """Weight by weight, what repair gives; and nothing is logged that was undone."""
    assert [node.name for node in outcome.graph.model.graph] == [node.name for node in repaired.graph.model.graph]
    assert outcome.graph.initializers.keys() == repaired.graph.initializers.keys()
    for name in repaired.graph.initializers:
        np.testing.assert_array_equal(outcome.graph.array(name), repaired.graph.array(name), err_msg=name)
    assert connections(outcome.edits) == connections(repaired.edits)
    assert [edit.where for edit in outcome.edits] == [edit.where for edit in repaired.edits]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("chain", r"undone: adding skips gives a divergence of \S+ on selection data, repair alone \S+"),
        ("residual", r"undone: nothing can pay for it: \S+ of the MACs cannot be reached, \S+ is the least"),
    ],
)
def test_it_is_said_why_a_skip_was_undone(network: str, reason: str) -> None:
    dense = build(NETWORKS[network])
    small = run_pass(PruneChannels(ratio=0.5, multiple=1), dense, context(dense)).graph
    outcome = reconnect(Skip(), small, dense)
    (undone,) = [item.reason for item in outcome.refusals if not item.nodes]
    assert re.fullmatch(reason, undone)


def test_a_network_without_layers() -> None:
    dense = build("net (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")
    outcome = wired(Skip(), dense, dense)
    assert not outcome.changed
    assert [item.reason for item in outcome.refusals] == ["there is no layer with constant weights"]


SHARED = """net (float[N,9] x) => (float[N,9] y) <float[9,9] w> {
    [one] a = MatMul(x, w)
    [two] y = MatMul(a, w)
}"""


@pytest.mark.parametrize("name", ["skip", "rewire by channel", "reconnect by layer"])
def test_a_network_all_of_whose_layers_refuse(name: str) -> None:
    dense = build(SHARED)
    small = prune(dense, 0.5).graph
    outcome = reconnect(PASSES[name], small, dense)
    assert not outcome.changed
    assert {item.reason for item in outcome.refusals} == {
        "its weights are shared with one", "its weights are shared with two"
    }  # fmt: skip
    few = replace(context(dense, data=inputs(dense, 5)), selection=None)
    with pytest.raises(DataError, match="there are no samples to judge by"):
        run_pass(PASSES[name], small, few)


@pytest.mark.parametrize("pass_", [Skip(), Shift(), Reconnect()], ids=lambda item: item.name)
def test_a_dense_model_that_overflows_on_selection_data_cannot_judge(pass_: Pass) -> None:
    """Nothing is won where nothing can be measured, and repair stays."""
    dense = build("""net (float[N,12] x) => (float[N,6] y) <float[12,16] w1, float[16,14] w2, float[14,6] w3> {
        [one] a = MatMul(x, w1)
        s = Mul(a, a)
        b = Sqrt(s)
        c = Sqrt(x)
        [two] d = MatMul(b, w2)
        e = Tanh(d)
        [three] f = MatMul(e, w3)
        g = ReduceSum<keepdims = 1>(c)
        y = Add(f, g)
    }""")
    small = prune(dense, 0.5).graph
    data = samples(x=np.abs(np.random.default_rng(0).standard_normal((160, 12))))
    selection = samples(x=np.random.default_rng(1).standard_normal((32, 12)))
    outcome, repaired = (reconnect(item, small, dense, data, selection) for item in (pass_, Repair()))
    assert_repaired(outcome, repaired)


# --- pruned weights: every layer pays for itself


SPARSE = [(name, network) for name in (*BY_CHANNEL, "reconnect by layer") for network in ("chain", "attention")]
SPARSE += [("rewire by channel", "grouped and depthwise")]


@pytest.mark.parametrize(("name", "network"), SPARSE)
def test_layers_pay_with_their_own_weights_where_those_are_pruned(name: str, network: str) -> None:
    dense, small = networks(network, 0.5)
    outcome = reconnect(PASSES[name], small, dense)
    verify(outcome.graph)
    total = connections(outcome.edits)
    assert total == recount(small, outcome.graph)
    assert 0 < total.created <= total.pruned
    for layer in find_layers(small):
        mine = {item for item in outcome.graph.initializers if item.startswith(f"{layer.name}/tap/")}
        held = [nonzero(outcome.graph, item) for item in (layer.weight, *mine) if not item.endswith("/channels")]
        assert sum(held) <= nonzero(small, layer.weight)


def nonzero(graph: Graph, name: str) -> int:
    return int(np.count_nonzero(graph.array(name)))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_no_more_channels_are_read_than_allowed_and_all_outputs_read_them(channels: int) -> None:
    dense, small = networks("attention", 0.3)
    outcome = reconnect(Rewire(granularity="channel", channels=channels), small, dense)
    taps = [name for name in outcome.graph.initializers if name.endswith(".weight") and "/tap/" in name]
    assert taps
    widths = []
    for name in taps:
        weights = outcome.graph.array(name)  # (channels, outputs)
        assert (weights != 0).any(axis=1).all()
        assert (weights != 0).all()
        widths.append(len(weights))
    assert max(widths) <= channels
    assert (max(widths) > 1) == (channels > 1)


@pytest.mark.parametrize("budget", [0.0, 0.1, 1.0])
def test_a_layer_gets_no_more_connections_than_the_budget_allows(budget: float) -> None:
    dense, small = networks("attention", 0.3)
    outcome = reconnect(Rewire(granularity="channel", budget=budget), small, dense)
    most = 0.0
    for layer in find_layers(small):
        taps = [item for item in outcome.graph.initializers if item.startswith(f"{layer.name}/tap/")]
        share = sum(nonzero(outcome.graph, name) for name in taps if not name.endswith("/channels"))
        most = max(most, share / nonzero(small, layer.weight))
    assert most <= budget + 0.005
    assert (most > 0) == (budget > 0)
    assert (most > 0.1) == (budget == 1.0)


@pytest.mark.parametrize("name", ["skip", "rewire by channel"])
def test_what_may_not_diverge_that_far_is_repaired_alone(name: str) -> None:
    dense, small = networks("chain", 0.5)
    pass_ = Skip(divergence=2.0) if name == "skip" else Rewire(granularity="channel", accept=0.5, radius=0)
    outcome = reconnect(pass_, small, dense)
    assert_repaired(outcome, reconnect(Repair(), small, dense))
