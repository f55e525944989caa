"""Skip: what is left alone and why, what is added, and that what is written is what numpy says."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.passes.reconnect.skip import Skip
from surgery_ir.passes.repair.refit import Repair
from tests.harness import assert_same_structure
from tests.passes.helpers import build, reasons, sample_shape, samples
from tests.passes.wiring import NETWORKS, depths, divergence, networks, nonzeros, prune, reconnect, recount

FEW = "no value lies within 4 layers before it"


def normal(graph: Graph, count: int = 240, seed: int = 0) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, *sample_shape(graph))))


def skip(small: Graph, dense: Graph, count: int = 240, **options: object) -> Outcome:
    """Run on inputs that are independent of one another."""
    data, selection = normal(dense, count), normal(dense, 96, seed=1)
    return reconnect(Skip(**options), small, dense, data, selection)  # type: ignore[arg-type]


def unmet(outcome: Outcome, expected: Mapping[str, str]) -> dict[str, str]:
    """Patterns of reasons, by node, that no refusal matches; what repair refuses stands beside them."""
    given = [(node, item.reason) for item in outcome.refusals for node in item.nodes]
    return {
        node: pattern
        for node, pattern in expected.items()
        if not any(name == node and re.fullmatch(pattern, reason) for name, reason in given)
    }


def changed(dense: Graph, **weights: NDArray[np.float64]) -> Graph:
    editor = Editor(dense.clone(), "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return editor.graph


# --- an earlier value of which one combination is what a layer misses

LOST = 3
"""Unit of the first layer that lost all that it reads."""

PLENTY = 960
"""Samples that tell what is missing to a few percent."""

PLANTED = {
    "MatMul": (
        """net (float[N,12] x) => (float[N,10] y) <float[12,12] w, float[12,10] v> {
            [one] a = MatMul(x, w)
            [two] y = MatMul(a, v)
        }""",
        """net (float[N,12] x) => (float[N,10] y)
        <float[12,12] w, float[12,10] v, float[12,1] "two/tap/x/down.weight", float[1,10] "two/tap/x.weight"> {
            a = MatMul(x, w)
            "two/tap/x/down/output" = MatMul(x, "two/tap/x/down.weight")
            "y/own" = MatMul(a, v)
            "two/tap/x/output" = MatMul("two/tap/x/down/output", "two/tap/x.weight")
            y = Add("y/own", "two/tap/x/output")
        }""",
    ),
    "Gemm": (
        """net (float[N,12] x) => (float[N,10] y) <float[12,12] w, float[10,12] v, float[10] c> {
            [one] a = MatMul(x, w)
            [two] y = Gemm<transB = 1>(a, v, c)
        }""",
        """net (float[N,12] x) => (float[N,10] y)
        <float[12,12] w, float[10,12] v, float[10] c, float[12,1] "two/tap/x/down.weight",
         float[1,10] "two/tap/x.weight"> {
            a = MatMul(x, w)
            "two/tap/x/down/output" = MatMul(x, "two/tap/x/down.weight")
            "y/own" = Gemm<transB = 1>(a, v, c)
            "two/tap/x/output" = MatMul("two/tap/x/down/output", "two/tap/x.weight")
            y = Add("y/own", "two/tap/x/output")
        }""",
    ),
    "Conv with strides": (
        """net (float[N,12,6,5] x) => (float[N,10,3,3] y) <float[12,12,3,3] w, float[10,12,1,1] v, float[10] c> {
            [one] a = Conv<pads = [1, 1, 1, 1]>(x, w)
            [two] y = Conv<strides = [2, 2]>(a, v, c)
        }""",
        """net (float[N,12,6,5] x) => (float[N,10,3,3] y)
        <float[12,12,3,3] w, float[10,12,1,1] v, float[10] c,
         float[1,12,1,1] "two/tap/x/down.weight", float[10,1,1,1] "two/tap/x.weight"> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w)
            "two/tap/x/down/output" = Conv<strides = [2, 2], kernel_shape = [1, 1]>(x, "two/tap/x/down.weight")
            "y/own" = Conv<strides = [2, 2]>(a, v, c)
            "two/tap/x/output" = Conv<strides = [1, 1], kernel_shape = [1, 1]>
                ("two/tap/x/down/output", "two/tap/x.weight")
            y = Add("y/own", "two/tap/x/output")
        }""",
    ),
}  # fmt: skip


def planted(case: str) -> tuple[Graph, Graph]:
    """What unit ``LOST`` of the first layer gave, every output of the second one misses; little else matters there.

    Of the weights of the second layer a third are there, a third are worth next to nothing, and a third are gone.
    """
    text, rng = PLANTED[case][0], np.random.default_rng(11)
    like = build(text)
    first, _ = np.linalg.qr(rng.standard_normal((12, 12)))  # no other unit tells anything about what is lost
    second = rng.uniform(1, 2, (10, 12)) * rng.permuted(np.resize([1, 1e-3, 0], (10, 12)), axis=1)
    second[:, LOST] = rng.uniform(1, 2, 10) * np.resize([1, -1], 10)
    lossy = first.copy()
    lossy[LOST] = 0
    if like.array("w").ndim == 4:
        dense, small = (np.zeros((12, 12, 3, 3)) for _ in range(2))
        dense[:, :, 1, 1], small[:, :, 1, 1] = first, lossy
    else:
        dense, small = first.T, lossy.T
    shape = like.array("v").shape
    shaped = second.reshape(shape) if shape[0] == 10 else second.T
    graph = build(text, w=dense, v=shaped)
    return graph, changed(graph, w=small)


@pytest.mark.parametrize("case", PLANTED)
def test_what_a_layer_misses_is_one_combination_of_an_earlier_value(case: str) -> None:
    dense, small = planted(case)
    outcome = skip(small, dense, PLENTY)
    verify(outcome.graph)
    assert_same_structure(outcome.graph, PLANTED[case][1])
    total = connections(outcome.edits)
    assert total.created == total.pruned == 1 * (12 + 10)
    assert total == recount(small, outcome.graph)
    new = {name for name in outcome.graph.initializers if name.startswith("two/tap/")}
    assert sum(int(np.count_nonzero(outcome.graph.array(name))) for name in new) == total.created
    assert nonzeros(outcome.graph) == nonzeros(small)
    data = normal(dense, 64, seed=3)
    repaired = reconnect(Repair(), small, dense, normal(dense)).graph
    assert divergence(repaired, dense, data) > 0.01
    assert divergence(outcome.graph, dense, data) < 0.05 * divergence(repaired, dense, data)


@pytest.mark.parametrize("case", PLANTED)
def test_the_new_layer_is_that_combination(case: str) -> None:
    dense, small = planted(case)
    outcome = skip(small, dense, PLENTY)
    down = outcome.graph.array("two/tap/x/down.weight").astype(np.float64).ravel()
    first = dense.array("w").astype(np.float64)
    lost = first[LOST, :, 1, 1] if first.ndim == 4 else first[:, LOST]
    assert abs(down @ lost) / (np.linalg.norm(down) * np.linalg.norm(lost)) > 0.99


@pytest.mark.parametrize("case", PLANTED)
def test_repair_solves_what_was_added_again(case: str) -> None:
    """The layer and its skip are one equation: where both were spoilt, both come back."""
    dense, small = planted(case)
    graph = skip(small, dense).graph
    good = divergence(graph, dense, normal(dense, 64, seed=3))
    spoilt = changed(graph, v=0.5 * graph.array("v"), **{"two/tap/x.weight": 0.5 * graph.array("two/tap/x.weight")})
    outcome = reconnect(Repair(), spoilt, dense, normal(dense))
    assert reasons(outcome).keys() <= {"one", "two/tap/x/down"}
    assert nonzeros(outcome.graph) == nonzeros(small)
    bad = divergence(spoilt, dense, normal(dense, 64, seed=3))
    assert divergence(outcome.graph, dense, normal(dense, 64, seed=3)) < good + 0.01 * (bad - good)


@pytest.mark.parametrize("case", PLANTED)
@pytest.mark.parametrize("scale", [30.0, 1 / 30])
def test_units_of_measurement_do_not_matter(case: str, scale: float) -> None:
    """What the layers pass on may be large or small: one ridge is for old and new columns alike."""
    data, ratios = normal(planted(case)[0], 64, seed=3), []
    for factor in (1.0, scale):
        dense, small = (changed(item, w=factor * item.array("w"), v=item.array("v") / factor) for item in planted(case))
        before = divergence(reconnect(Repair(), small, dense, normal(dense)).graph, dense, data)
        ratios.append(divergence(skip(small, dense).graph, dense, data) / before)
    assert ratios[1] < max(2 * ratios[0], 0.01)


# --- what is left alone

THREE = """net (float[N,16] x) => (float[N,8] y) <float[16,16] w1, float[16,16] w2, float[16,8] w3> {
    [one] a = MatMul(x, w1)
    b = Relu(a)
    [two] c = MatMul(b, w2)
    d = Relu(c)
    [three] y = MatMul(d, w3)
}"""
TWO = """net (float[N,16] x) => (float[N,8] y) <float[16,16] w1, float[16,8] w2> {
    [one] a = MatMul(x, w1)
    b = Relu(a)
    [two] y = MatMul(b, w2)
}"""
DIVERGED = r"its features have not diverged from the dense ones \(\S+\)"
UNDONE = (
    r"undone: \d+ new connections do not help on selection data "
    r"\(divergence \S+, predicted gain \S+, measured \S+\)"
)

LEFT_ALONE: Mapping[str, tuple[str, Mapping[str, float], Mapping[str, object], Mapping[str, str]]] = {
    "no earlier value": (
        "net (float[N,9] x) => (float[N,9] y) <float[9,9] w> { [one] y = MatMul(x, w) }", {}, {}, {"one": FEW},
    ),
    "no radius": (
        TWO, {}, {"radius": 0},
        {"one": "no earlier value is within the radius", "two": "no earlier value is within the radius"},
    ),
    "values of another size": (
        """net (float[N,9] x) => (float[N,3,3] y) <float[9,9] w, float[3,3] v, int64[3] to = {-1, 3, 3}> {
            [one] a = MatMul(x, w)
            b = Reshape(a, to)
            [two] y = MatMul(b, v)
        }""", {}, {},
        {
            "one": FEW,
            "two": r"no value in reach can be aligned with its output \[2, 3, 3\]; "
            r"the nearest, 'x', has shape \[2, 9\]",
        },
    ),
    "groups": (
        """net (float[N,6,5,5] x) => (float[N,6,5,5] y) <float[6,6,1,1] w, float[6,3,1,1] v> {
            [one] a = Conv(x, w)
            b = Relu(a)
            [two] y = Conv<group = 2>(b, v)
        }""", {}, {}, {"one": FEW, "two": "a convolution with groups gets no bundles"},
    ),
    "no pruned weights": (
        TWO, {"w2": 0.0}, {}, {"one": FEW, "two": "none of its weights is pruned: it has nothing to trade"},
    ),
    "shared weights": (
        """net (float[N,9] x) => (float[N,9] y) <float[9,9] w> { [one] a = MatMul(x, w) [two] y = MatMul(a, w) }""",
        {}, {}, {"one": "its weights are shared with two", "two": "its weights are shared with one"},
    ),
    "not diverged": (TWO, {}, {"divergence": 2.0}, {"one": FEW, "two": DIVERGED}),
    "nothing to pay with": (TWO, {"w2": 0.9}, {}, {"one": FEW, "two": "no bundle lowers its error more than .*"}),
    "nothing left": (TWO, {"w2": 1.0}, {}, {"one": FEW, "two": "no bundle lowers its error more than .*"}),
    "too little gained": (TWO, {}, {"accept": 0.5}, {"one": FEW, "two": UNDONE}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone_with_a_reason(case: str) -> None:
    """Layers that get no skip are what repair makes of them."""
    text, ratios, options, expected = LEFT_ALONE[case]
    dense = build(text)
    small = prune(dense, 0.4, 0, **ratios).graph
    outcome = skip(small, dense, **options)  # type: ignore[arg-type]
    assert connections(outcome.edits).created == 0
    assert unmet(outcome, expected) == {}
    assert_repaired(outcome.graph, reconnect(Repair(), small, dense, normal(dense)).graph)


def assert_repaired(found: Graph, repaired: Graph) -> None:
    assert found.initializers.keys() == repaired.initializers.keys()
    for name in repaired.initializers:
        np.testing.assert_array_equal(found.array(name), repaired.array(name), err_msg=name)


@pytest.mark.parametrize("pattern", ["2:4", "4x1", "1x4"])
def test_patterns_of_sparse_kernels_are_left_alone(pattern: str) -> None:
    dense = build(THREE)
    ratio = {} if pattern == "2:4" else {"ratio": 0.5}
    pruning = PruneWeights(criterion="magnitude", pattern=pattern, ends=True, **ratio)  # type: ignore[arg-type]
    small = reconnect(pruning, dense, dense).graph
    outcome = skip(small, dense)
    reason = f"its zeros follow the pattern {pattern}, which single connections would break"
    assert unmet(outcome, {"one": FEW, "two": reason, "three": reason}) == {}
    assert recount(small, outcome.graph).created == 0
    assert_repaired(outcome.graph, reconnect(Repair(), small, dense, normal(dense)).graph)


def test_layers_that_give_what_the_dense_model_has_are_left_alone() -> None:
    """Those whose features are only somewhat off are told by how much."""
    dense = build(TWO)
    noisy = np.where(np.arange(16)[:, None] == 5, 0.999, 1.0) * dense.array("w1")
    weights = np.where(np.arange(8) % 2, dense.array("w2"), 0)
    dense = changed(dense, w2=weights)
    assert reasons(skip(dense, dense)) == dict.fromkeys(
        ("one", "two"), "what it puts out is what the dense model has already"
    )
    found = reasons(skip(changed(dense, w1=np.where(abs(noisy) < 0.03, 0, noisy)), dense, divergence=0.05))
    assert re.fullmatch(DIVERGED, found["two"])


# --- any network


@pytest.mark.parametrize("network", NETWORKS)
def test_as_many_connections_as_before_and_the_log_is_right(network: str) -> None:
    dense, small = networks(network, 0.5)
    outcome = reconnect(Skip(), small, dense)
    verify(outcome.graph)
    total = connections(outcome.edits)
    assert total == recount(small, outcome.graph)
    assert 0 < total.created <= total.pruned
    assert nonzeros(outcome.graph) <= nonzeros(small)
    repaired = reconnect(Repair(), small, dense).graph
    assert divergence(outcome.graph, dense) < divergence(repaired, dense)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_skips_are_no_longer_and_no_wider_than_they_may_be(radius: int, rank: int) -> None:
    dense, small = networks("attention", 0.3)
    outcome = reconnect(Skip(radius=radius, rank=rank, divergence=0.0), small, dense)
    depth, layers = depths(small), {layer.name: layer for layer in find_layers(small)}
    spans, ranks = [], []
    for name in outcome.graph.initializers:
        if name.endswith("/down.weight"):
            layer, donor = name.removesuffix("/down.weight").split("/tap/")
            spans.append(depth[layers[layer].output] - 1 - depth[donor])
            ranks.append(outcome.graph.array(name).shape[1])
    assert min(spans) >= 1
    assert max(spans) <= radius
    assert (max(spans) > 1) == (radius > 1)
    assert max(ranks) <= rank
    assert (max(ranks) > 1) == (rank > 1)


def test_skips_may_be_added_again() -> None:
    """What was added before is solved with the layer, and may pay."""
    dense, small = networks("residual", 0.5)
    first = reconnect(Skip(), small, dense)
    second = reconnect(Skip(divergence=0.0), first.graph, dense)
    verify(second.graph)
    assert nonzeros(second.graph) <= nonzeros(first.graph) <= nonzeros(small)
    assert connections(second.edits) == recount(first.graph, second.graph)
    selection = samples(x=normal(dense, 48, seed=5).feeds["x"])
    assert np.isfinite(divergence(second.graph, dense, selection))
