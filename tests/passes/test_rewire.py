"""Rewire: what is left alone and why, and what is wired to what."""

from __future__ import annotations

import re

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
from surgery_ir.passes.reconnect.rewire import Rewire
from tests.harness import assert_same_structure
from tests.passes.helpers import build, reasons, sample_shape, samples
from tests.passes.wiring import divergence, networks, nonzeros, prune, reconnect, recount
from tests.zoo import load as zoo


def normal(graph: Graph, count: int = 240, seed: int = 0) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, *sample_shape(graph))))


def rewire(small: Graph, dense: Graph, **options: object) -> Outcome:
    """Run on inputs that are independent of one another."""
    given: dict[str, object] = {"data": normal(dense), "selection": normal(dense, 96, seed=1)}
    given |= {name: options.pop(name) for name in ("selection", "data") if name in options}
    return reconnect(Rewire(**options), small, dense, **given)  # type: ignore[arg-type]


def changed(dense: Graph, **weights: NDArray[np.float64]) -> Graph:
    editor = Editor(dense.clone(), "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return editor.graph


# --- an earlier value that explains what is missing

LOST = 3
"""Unit that lost what it reads, so that what the next layer reads of it is of no use to anybody."""


def without(matrix: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Weights without those of the lost unit but for one that is next to nothing."""
    kept = matrix.copy()
    place = [slice(None)] * matrix.ndim
    place[axis] = slice(LOST, LOST + 1)
    kept[tuple(place)] = 0
    return kept


def sparse(outputs: int) -> NDArray[np.float64]:
    """Weights (9, outputs) of which less than a half are there, every third of those that read the lost unit."""
    rng = np.random.default_rng(7)
    kept = rng.random((9, outputs)) < 0.4
    kept[LOST] = np.arange(outputs) % 3 == 0
    return np.asarray(np.where(kept, rng.uniform(1, 2, kept.shape), 0))


SPATIAL = np.zeros((9, 9, 3, 3))
SPATIAL[np.arange(9), np.arange(9), 1, 1] = 1.0
"""A Conv that passes every channel on."""

PLANTED = {
    "MatMul": (
        """net (float[N,9] x) => (float[N,4] y) <float[9,9] w, float[9,4] v> {
            [one] a = MatMul(x, w)
            [two] y = MatMul(a, v)
        }""",
        """net (float[N,9] x) => (float[N,4] y)
        <float[9,9] w, float[9,4] v, int64[1] "two/tap/x/channels", float[1,4] "two/tap/x.weight"> {
            a = MatMul(x, w)
            "y/own" = MatMul(a, v)
            "two/tap/x/picked" = Gather<axis = -1>(x, "two/tap/x/channels")
            "two/tap/x/output" = MatMul("two/tap/x/picked", "two/tap/x.weight")
            y = Add("y/own", "two/tap/x/output")
        }""",
    ),
    "Gemm, merged": (
        """net (float[N,9] x) => (float[N,24] y) <float[9,9] w, float[24,9] v, float[24] c> {
            [one] a = MatMul(x, w)
            [two] y = Gemm<transB = 1>(a, v, c)
        }""",
        """net (float[N,9] x) => (float[N,24] y)
        <float[9,9] w, float[24,10] v, float[24] c, int64[1] "two/tap/x/channels"> {
            a = MatMul(x, w)
            "two/tap/x/picked" = Gather<axis = -1>(x, "two/tap/x/channels")
            "two/joined" = Concat<axis = 1>(a, "two/tap/x/picked")
            y = Gemm<transB = 1>("two/joined", v, c)
        }""",
    ),
    "Conv with strides": (
        """net (float[N,9,6,6] x) => (float[N,12,3,3] y) <float[9,9,3,3] w, float[12,9,1,1] v, float[12] c> {
            [one] a = Conv<pads = [1, 1, 1, 1]>(x, w)
            [two] y = Conv<strides = [2, 2]>(a, v, c)
        }""",
        """net (float[N,9,6,6] x) => (float[N,12,3,3] y)
        <float[9,9,3,3] w, float[9] "w.bias", float[12,9,1,1] v, float[12] c, int64[1] "two/tap/x/channels",
         float[12,1,1,1] "two/tap/x.weight"> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w, "w.bias")
            "y/own" = Conv<strides = [2, 2]>(a, v, c)
            "two/tap/x/picked" = Gather<axis = 1>(x, "two/tap/x/channels")
            "two/tap/x/output" = Conv<strides = [2, 2], kernel_shape = [1, 1]>("two/tap/x/picked", "two/tap/x.weight")
            y = Add("y/own", "two/tap/x/output")
        }""",
    ),
}  # fmt: skip


def planted(case: str) -> tuple[Graph, Graph]:
    """A first layer passes all on, and loses one unit; the second reads some of all. What it misses is an input."""
    text = PLANTED[case][0]
    shape = build(text).array("v").shape
    first = SPATIAL if len(shape) == 4 else np.eye(9)
    second = sparse(shape[1]) if shape[0] == 9 else sparse(shape[0]).T
    dense = build(text, w=first, v=second.reshape(shape))
    return dense, changed(dense, w=without(first, 0 if len(shape) == 4 else 1))


@pytest.mark.parametrize("case", PLANTED)
def test_what_a_layer_misses_is_wired_from_where_it_is_known(case: str) -> None:
    dense, small = planted(case)
    outcome = rewire(small, dense)
    verify(outcome.graph)
    assert_same_structure(outcome.graph, PLANTED[case][1])
    assert outcome.graph.array("two/tap/x/channels").tolist() == [LOST]
    total = connections(outcome.edits)
    outputs = dense.array("c" if "c" in dense.initializers else "v").shape[-1]
    assert total.created == total.pruned == len(range(0, outputs, 3))
    assert total == recount(small, outcome.graph)
    assert nonzeros(outcome.graph) == nonzeros(small)
    data = normal(dense, 64, seed=3)
    assert divergence(small, dense, data) > 0.01
    assert divergence(outcome.graph, dense, data) < 0.05 * divergence(small, dense, data)


def test_donors_are_told_by_what_is_missing_and_not_by_what_is_alike() -> None:
    """Of two earlier values one is what the layer reads already, and loud; the other has what was lost."""
    text = """net (float[N,9] x) => (float[N,12] y) <float[9,9] u, float[9,9] w, float[9,12] v> {
        [zero] z = MatMul(x, u)
        r = Softsign(z)
        [one] a = MatMul(r, w)
        [two] y = MatMul(a, v)
    }"""
    loud = np.diag(np.where(np.arange(9) == LOST, 0.5, 5.0))
    dense = build(text, u=loud, w=np.eye(9), v=sparse(12))
    passing = np.eye(9)
    passing[LOST, LOST] = 0  # nothing is left over that could pay for wiring this layer
    small = changed(dense, u=without(loud, 1), w=passing)
    outcome = rewire(small, dense, donors=1, radius=4)
    read = {name for name in outcome.graph.initializers if "/tap/" in name}
    assert read == {"two/tap/x/channels"}, "x lies two layers before, r one"
    assert outcome.graph.array("two/tap/x/channels").tolist() == [LOST]


@pytest.mark.parametrize(("donors", "most"), [(1, 1), (2, 2)])
def test_a_layer_reads_no_more_new_values_than_it_may(donors: int, most: int) -> None:
    dense, small = networks("chain", 0.8)
    outcome = reconnect(Rewire(donors=donors), small, dense)
    names = [
        node.name or "" for node in outcome.graph.model.graph if node.name and node.name.endswith(("/pick", "/sum"))
    ]
    assert names
    for layer in find_layers(small):
        taps = {name for name in outcome.graph.initializers if name.startswith(f"{layer.name}/tap/")}
        assert len({name.split("/tap/")[1].split("/")[0].split(".")[0] for name in taps}) <= most


# --- how many


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2])
def test_no_more_are_created_than_the_budget_allows(budget: float) -> None:
    dense, small = networks("chain")
    outcome = reconnect(Rewire(budget=budget), small, dense)
    assert nonzeros(outcome.graph) == nonzeros(small)
    for layer in find_layers(small):
        held = np.count_nonzero(small.array(layer.weight))
        lost = held - np.count_nonzero(outcome.graph.array(layer.weight)[: small.array(layer.weight).shape[0]])
        assert lost <= round(budget * held)
    assert (connections(outcome.edits).created > 0) == (budget > 0)


def test_own_weights_do_not_return() -> None:
    dense, small = networks("residual")
    outcome = reconnect(Rewire(), small, dense)
    for layer in find_layers(small):
        was = small.array(layer.weight)
        now = outcome.graph.array(layer.weight)[tuple(slice(size) for size in was.shape)]
        assert not (now != 0)[was == 0].any()
    assert connections(outcome.edits).created > 0


@pytest.mark.parametrize("extra", [0.2, 1.0])
def test_layers_with_donors_grow_by_what_is_allowed(extra: float) -> None:
    dense, small = networks("chain")
    outcome = reconnect(Rewire(extra=extra, donors=3), small, dense)
    was, now = nonzeros(small), nonzeros(outcome.graph)
    first = int(np.count_nonzero(small.array("w1")))
    assert was < now <= first + round((1 + extra) * (was - first)) + 2
    assert connections(outcome.edits) == recount(small, outcome.graph)
    assert divergence(outcome.graph, dense) < divergence(small, dense)


# --- what is left alone

LEFT_ALONE = {
    "a first layer": (
        "net (float[N,9] x) => (float[N,9] y) <float[9,9] w> { [one] y = MatMul(x, w) }",
        {"one": "no value lies within 4 layers before it"},
    ),
    "values of another size": (
        """net (float[N,9] x) => (float[N,3,3] y) <float[9,9] w, float[3,3] v, int64[3] to = {-1, 3, 3}> {
            [one] a = MatMul(x, w)
            b = Reshape(a, to)
            [two] y = MatMul(b, v)
        }""",
        {
            "one": "no value lies within 4 layers before it",
            "two": "no value in reach can be aligned with its output [2, 3, 3]; the nearest, 'x', has shape [2, 9]",
        },
    ),
    "shared weights": (
        """net (float[N,9] x) => (float[N,9] y) <float[9,9] w> { [one] a = MatMul(x, w) [two] y = MatMul(a, w) }""",
        {"one": "its weights are shared with two", "two": "its weights are shared with one"},
    ),
    "weights on the left": (
        """net (float[N,9,4] x) => (float[N,9,4] y) <float[9,9] w, float[9,9] v> {
            [one] a = MatMul(w, x)
            [two] y = MatMul(v, a)
        }""",
        {
            "one": "its weights stand on the left of the product",
            "two": "its weights stand on the left of the product",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone_with_a_reason(case: str) -> None:
    text, expected = LEFT_ALONE[case]
    dense = build(text)
    outcome = rewire(prune(dense, 0.6).graph, dense)
    assert connections(outcome.edits).created == 0
    assert reasons(outcome) == expected


def test_a_layer_that_misses_nothing_that_others_know_keeps_its_connections() -> None:
    dense = build(PLANTED["MatMul"][0], w=np.eye(9), v=sparse(4))
    small = changed(dense, v=0.7 * sparse(4))
    outcome = rewire(small, dense)
    assert reasons(outcome)["two"] == "no connection lowers its error more than the one that would pay for it"
    np.testing.assert_allclose(outcome.graph.array("v"), dense.array("v"), atol=0.02)


def test_taps_that_hurt_on_selection_data_are_undone() -> None:
    """What calibration data miss is silent on selection data, and what pays for it is not."""
    dense, small = planted("MatMul")
    weights = dense.array("v").copy()
    weights[LOST] = 0  # nothing that reads the lost unit can pay
    small = changed(small, v=weights)
    loud = np.where(np.arange(9) == 7, 5.0, 1.0)
    data, selection = normal(dense).feeds["x"] / loud**4, normal(dense, 96, seed=1).feeds["x"] * loud
    selection[:, LOST] = 0
    outcome = rewire(small, dense, data=samples(x=data), selection=samples(x=selection), budget=1.0)
    numbers = (
        r"undone: \d+ new connections do not help on selection data "
        r"\(divergence \S+, predicted gain \S+, measured -\S+\)"
    )
    assert re.fullmatch(numbers, reasons(outcome)["two"])
    assert {node.name for node in outcome.graph.model.graph} == {node.name for node in small.model.graph}
    assert connections(outcome.edits).created == 0
    assert connections(rewire(small, dense, data=samples(x=data), checks=0).edits).created > 0


def test_a_gain_has_to_be_as_large_as_asked() -> None:
    dense, small = networks("residual", 0.8)
    outcomes = [reconnect(Rewire(accept=accept), small, dense) for accept in (0.0, 0.5)]
    free, strict = (connections(outcome.edits).created for outcome in outcomes)
    assert strict < free
    assert any("do not help on selection data" in reason for reason in reasons(outcomes[1]).values())


# --- whole architectures


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_transformers(name: str) -> None:
    dense = zoo.load(name)
    small = prune(dense, 0.5).graph
    data = [Samples(zoo.feeds(name, count, seed)) for count, seed in ((24, 0), (12, 1), (8, 2))]
    outcome = reconnect(Rewire(donors=1, rounds=2), small, dense, data=data[0], selection=data[1])
    verify(outcome.graph)
    assert nonzeros(outcome.graph) == nonzeros(small)
    assert connections(outcome.edits) == recount(small, outcome.graph)
    assert connections(outcome.edits).created > 0
    assert divergence(outcome.graph, dense, data[2]) < divergence(small, dense, data[2])
