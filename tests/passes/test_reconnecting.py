"""What all passes that reconnect have in common: budgets, logs, reach, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import onnx_ir as ir
import pytest

from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.edits import Edit, connections, plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import Outcome, Pass
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.passes.reconnect.reconnect import Reconnect
from surgery_ir.passes.reconnect.regrow import Regrow
from surgery_ir.passes.reconnect.rewire import Rewire
from surgery_ir.passes.reconnect.shift import Shift
from surgery_ir.passes.repair.refit import Repair
from tests.passes.helpers import build
from tests.passes.wiring import (
    NETWORKS,
    context,
    depths,
    divergence,
    networks,
    nonzeros,
    prune,
    reconnect,
    recount,
)

PASSES: Mapping[str, Pass] = {item.name: item for item in (Regrow(), Rewire(), Shift(), Reconnect(), Repair())}
RECONNECTING = [name for name in PASSES if name != "repair"]


@cache
def done(name: str, network: str) -> tuple[Graph, Graph, Outcome]:
    """The dense network, the pruned one, and what a pass made of it."""
    dense, small = networks(network)
    return dense, small, reconnect(PASSES[name], small, dense)


COSTLY = ["residual", "attention", "grouped and depthwise"]
CASES = [(name, network) for name in ("regrow", "rewire") for network in NETWORKS]
CASES += [(name, network) for name in ("shift", "reconnect") for network in COSTLY]


@pytest.mark.parametrize(("name", "network"), CASES)
def test_as_many_connections_as_before_and_the_log_is_right(name: str, network: str) -> None:
    dense, small, outcome = done(name, network)
    assert nonzeros(outcome.graph) == nonzeros(small)
    total = connections(outcome.edits)
    assert total == recount(small, outcome.graph)
    assert total.created == total.pruned
    assert total.created > 0 or name == "shift"
    verify(outcome.graph)
    assert divergence(outcome.graph, dense) < 0.95 * divergence(small, dense)


@pytest.mark.parametrize("network", COSTLY)
def test_reconnecting_beats_repair_of_the_same_connections(network: str) -> None:
    """On data that nothing was fitted or selected on; a shift that does not help leaves repair alone."""
    dense, _, repaired = done("repair", network)
    limits = {"regrow": 0.7, "shift": 1.05, "reconnect": 0.7, "rewire": 1.0}
    before = divergence(repaired.graph, dense)
    found = {name: divergence(done(name, network)[2].graph, dense) / before for name in RECONNECTING}
    assert {name: ratio for name, ratio in found.items() if ratio >= limits[name]} == {}


@pytest.mark.parametrize("name", RECONNECTING)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    dense, small = networks("attention")
    outcome, again = done(name, "attention")[2], reconnect(PASSES[name], small, dense)
    first, second = (item.graph.to_proto().SerializeToString(deterministic=True) for item in (outcome, again))
    assert first == second
    assert (again.edits, again.refusals) == (outcome.edits, outcome.refusals)


# --- reach


def new_edges(before: Graph, after: Graph) -> Iterator[tuple[str, str]]:
    """Donor and consumer's output of every connection across layers, both values of the graph before."""
    known = {name for operator in before.view().operators() for name in operator.outputs}
    known |= {value.name or "" for value in before.inputs}
    old = {node.name for node in before.model.graph}

    def consumer(value: ir.Value) -> str:
        while value.name not in known:
            (use,) = value.uses()
            (value,) = use.node.outputs
        return value.name or ""

    def donor(value: ir.Value | None) -> str:
        while value is not None and value.name not in known:
            producer = value.producer()
            assert producer is not None
            assert producer.op_type == "Gather"
            value = producer.inputs[0]
        assert value is not None
        return value.name or ""

    for node in after.model.graph:
        if node.name in old:
            continue
        if node.op_type in ("Conv", "MatMul"):
            yield donor(node.inputs[0]), consumer(node.outputs[0])
        elif node.op_type == "Concat":
            for value in node.inputs[1:]:
                yield donor(value), consumer(node.outputs[0])


REACH: list[tuple[Rewire | Reconnect, str]] = [
    (Rewire(radius=radius), network) for radius in (1, 3) for network in ("chain", "residual", "U-Net")
]
REACH += [(Reconnect(radius=1), "chain")]


@pytest.mark.parametrize(("pass_", "network"), REACH)
def test_connections_jump_over_no_more_layers_than_the_radius(pass_: Rewire | Reconnect, network: str) -> None:
    dense, small = networks(network, 0.8)
    outcome = reconnect(pass_, small, dense)
    depth = depths(small)
    found = [depth[reader] - 1 - depth[donor] for donor, reader in new_edges(small, outcome.graph)]
    assert found
    assert min(found) >= 1
    assert max(found) <= pass_.radius
    assert max(found) > 1 or pass_.radius == 1


INSIDE: list[tuple[Pass, str]] = [(Rewire(radius=0), network) for network in ("chain", "residual", "U-Net")]
INSIDE += [(Reconnect(radius=0), network) for network in ("chain", "residual", "U-Net")]
INSIDE += [(Reconnect(criteria="gradient"), "chain"), (Reconnect(radius=0, criteria="correlation"), "chain")]


@pytest.mark.parametrize(("pass_", "network"), INSIDE)
def test_a_radius_of_0_creates_nothing_across_layers(pass_: Pass, network: str) -> None:
    dense, small = networks(network)
    outcome = reconnect(pass_, small, dense)
    assert [node.name for node in outcome.graph.model.graph] == [node.name for node in small.model.graph]
    for layer in find_layers(small):
        assert outcome.graph.array(layer.weight).shape == small.array(layer.weight).shape
    created = connections(outcome.edits).created
    if isinstance(pass_, Rewire):
        assert created == 0
    elif isinstance(pass_, Reconnect) and "gradient" in pass_.criteria:
        assert created > 0


# --- what is left alone

PATTERNS = {
    "2:4": "its zeros follow the pattern 2:4, which single connections would break",
    "4x1": "its zeros follow the pattern 4x1, which single connections would break",
    "1x4": "its zeros follow the pattern 1x4, which single connections would break",
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("make", [Regrow, Rewire, Reconnect, Shift])
def test_patterns_of_sparse_kernels_are_left_alone(make: type[Pass], pattern: str) -> None:
    """Weights are still re-solved."""
    dense = build(
        """net (float[N,16] x) => (float[N,8] y) <float[16,16] w1, float[16,16] w2, float[16,8] w3> {
            [one] a = MatMul(x, w1)
            b = Relu(a)
            [two] c = MatMul(b, w2)
            d = Relu(c)
            [three] y = MatMul(d, w3)
        }"""
    )
    ctx = {} if pattern == "2:4" else {"ratio": 0.5}
    small = reconnect(
        PruneWeights(criterion="magnitude", pattern=pattern, ends=True, **ctx),  # type: ignore[arg-type]
        dense, dense,
    ).graph  # fmt: skip
    outcome = reconnect(make(), small, dense)
    total = connections(outcome.edits)
    assert (total.created, total.pruned) == (0, 0)
    assert recount(small, outcome.graph) == total
    if make is not Shift:
        found = {node: item.reason for item in outcome.refusals for node in item.nodes}
        expected = dict.fromkeys(("one", "two", "three"), PATTERNS[pattern])
        assert {name: found[name] for name in expected} == expected
    assert divergence(outcome.graph, dense) < divergence(small, dense)


@pytest.mark.parametrize("name", RECONNECTING)
def test_a_dense_model_has_nothing_to_reconnect(name: str) -> None:
    dense = build(NETWORKS["chain"])
    outcome = reconnect(PASSES[name], dense, dense)
    assert not outcome.changed
    assert all(item.reason for item in outcome.refusals)


@pytest.mark.parametrize("name", RECONNECTING)
def test_shared_weights_are_left_alone_and_others_are_not(name: str) -> None:
    dense = build("""net (float[N,12] x) => (float[N,6] y) <float[12,12] s, float[12,14] w, float[14,6] v> {
        [a] h = MatMul(x, s)
        i = Relu(h)
        [b] j = MatMul(i, s)
        k = Relu(j)
        [c] l = MatMul(k, w)
        m = Relu(l)
        [d] y = MatMul(m, v)
    }""")
    small = prune(dense, 0.6, s=0.3).graph
    outcome = reconnect(PASSES[name], small, dense)
    found = {node: item.reason for item in outcome.refusals for node in item.nodes}
    assert found["a"] == "its weights are shared with b"
    assert found["b"] == "its weights are shared with a"
    assert (outcome.graph.array("s") == small.array("s")).all()
    assert connections(outcome.edits).created > 0 or name == "shift"
    assert nonzeros(outcome.graph) == nonzeros(small)


@pytest.mark.parametrize("name", RECONNECTING)
def test_without_samples_nothing_is_done(name: str) -> None:
    dense, small = networks("chain")
    outcome = reconnect(PASSES[name], small, dense, samples=None)
    assert not outcome.changed
    assert [item.reason for item in outcome.refusals] == ["needs sample inputs: pass --data"]


@pytest.mark.parametrize("name", RECONNECTING)
def test_without_selection_samples_held_out_ones_judge(name: str) -> None:
    dense, small = networks("chain")
    outcome = reconnect(PASSES[name], small, dense, selection=None)
    assert nonzeros(outcome.graph) == nonzeros(small)
    assert divergence(outcome.graph, dense) < divergence(small, dense)


# --- layers that hardly have room


@pytest.mark.parametrize(
    ("name", "network"),
    [("regrow", "chain"), ("rewire", "chain"), *((name, "grouped and depthwise") for name in RECONNECTING)],
)
def test_almost_dense_layers_beside_almost_empty_ones(name: str, network: str) -> None:
    dense = build(NETWORKS[network])
    ratios = {"w1": 0.02, "w2": 0.05, "w3": 0.9, "w4": 0.95}
    small = prune(dense, 0.7, 0, **ratios).graph
    outcome = reconnect(PASSES[name], small, dense)
    assert nonzeros(outcome.graph) == nonzeros(small)
    assert connections(outcome.edits) == recount(small, outcome.graph)


@pytest.mark.parametrize("name", RECONNECTING)
def test_layers_that_lost_everything_do_no_harm(name: str) -> None:
    dense = build(NETWORKS["chain"])
    small = prune(dense, 0.5, w3=1.0).graph
    outcome = reconnect(PASSES[name], small, dense)
    assert nonzeros(outcome.graph) == nonzeros(small)


# --- passes compose


def test_passes_compose_in_any_order_and_number() -> None:
    dense = build(NETWORKS["attention"])
    ctx, found = context(dense), dense
    edits: list[Edit] = []
    steps: list[Pass] = [
        PruneWeights(ratio=0.6), Regrow(), PruneWeights(ratio=0.75), Rewire(), Repair(), Rewire(radius=2), Repair(),
        Regrow(), Reconnect(shift=0.0),
    ]  # fmt: skip
    budgets, errors = [], []
    for step in steps:
        outcome = reconnect(step, found, dense, cache=ctx.cache)
        assert connections(outcome.edits) == recount(found, outcome.graph), step.name
        found = outcome.graph
        edits += outcome.edits
        verify(found)
        budgets.append(nonzeros(found))
        errors.append(divergence(found, dense))
    assert budgets[0] == budgets[1] > budgets[2] == budgets[-1]
    assert len(set(budgets[2:])) == 1
    assert errors[1] < errors[0]
    assert errors[-1] < errors[2]
    assert any("/tap/" in name for name in found.initializers), "there are taps"
    total = connections(edits)
    assert plasticity(edits) == total.created / total.pruned > 0


def test_repair_after_rewiring_solves_taps_together_with_their_layer() -> None:
    dense, small = networks("residual", 0.8)
    wired = reconnect(Rewire(), small, dense).graph
    taps = {layer.name: layer.weight for layer in find_layers(wired)}.items() - {
        layer.name: layer.weight for layer in find_layers(small)
    }.items()
    assert taps
    spoilt = prune(wired, 0.0)
    for _, weight in taps:
        spoilt.set_weights(weight, 1.5 * wired.array(weight))
    repaired = reconnect(Repair(), spoilt.graph, dense)
    assert nonzeros(repaired.graph) == nonzeros(wired)
    assert not {node for item in repaired.refusals for node in item.nodes} & {name for name, _ in taps}
    ahead = divergence(spoilt.graph, dense)
    assert divergence(repaired.graph, dense) < 0.5 * ahead
    again = reconnect(Repair(), wired, dense)
    assert divergence(again.graph, dense) < 1.1 * divergence(wired, dense)
