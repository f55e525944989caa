"""Regrow: what is left alone and why, and what comes back for what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.gradients import Gradient
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.reconnect.regrow import Regrow
from tests.gradients import NumpyGradients
from tests.passes.helpers import build, reasons, sample_shape, samples
from tests.passes.wiring import NETWORKS, divergence, networks, nonzeros, prune, reconnect, recount


def normal(graph: Graph, count: int = 200, seed: int = 0) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, *sample_shape(graph))))


def regrow(small: Graph, dense: Graph, **options: object) -> Outcome:
    """Run on inputs that are independent of one another."""
    given: dict[str, object] = {"data": normal(dense), "selection": normal(dense, 96, seed=1)}
    given |= {name: options.pop(name) for name in ("selection", "gradients", "data") if name in options}
    return reconnect(Regrow(**options), small, dense, **given)  # type: ignore[arg-type]


def swapped(dense: Graph, name: str, seed: int = 0) -> Graph:
    """A copy that keeps as many of the weights that do nothing as there are of those that do."""
    editor, weights = Editor(dense.clone(), "prune"), dense.array(name)
    rng = np.random.default_rng(seed)
    keep = np.zeros(weights.shape, bool)
    keep.flat[rng.permutation(np.flatnonzero(np.abs(weights) < 0.5))[: np.count_nonzero(np.abs(weights) >= 0.5)]] = True
    editor.set_weights(name, np.where(keep, weights, 0))
    return editor.graph


def planted(shape: tuple[int, ...], share: float = 0.3, seed: int = 0) -> NDArray[np.float64]:
    """Weights of which a share is large, and of which the others are next to nothing, but not zero."""
    rng = np.random.default_rng(seed)
    large = rng.random(shape) < share
    signs = rng.choice([-1.0, 1.0], shape)
    return np.asarray(signs * np.where(large, 1.0 + rng.random(shape), 1e-3))


PLANTED = {
    "Gemm": ("net (float[N,10] x) => (float[N,8] y) <float[10,8] w, float[8] c> { [layer] y = Gemm(x, w, c) }", ()),
    "transposed Gemm": (
        "net (float[N,10] x) => (float[N,8] y) <float[8,10] w> { [layer] y = Gemm<transB = 1, alpha = 2.0>(x, w) }", ()
    ),
    "MatMul": ("net (float[N,5,10] x) => (float[N,5,8] y) <float[10,8] w> { [layer] y = MatMul(x, w) }", ()),
    "MatMul from the left": (
        "net (float[N,10,5] x) => (float[N,8,5] y) <float[8,10] w> { [layer] y = MatMul(w, x) }", ()
    ),
    "Conv": ("net (float[N,3,6,6] x) => (float[N,6,4,4] y) <float[6,3,3,3] w> { [layer] y = Conv(x, w) }", ()),
    "grouped Conv": (
        """net (float[N,6,5,5] x) => (float[N,8,5,5] y) <float[8,3,3,3] w> {
            [layer] y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w)
        }""",
        (2,),
    ),
    "depthwise Conv": (
        """net (float[N,4,6,6] x) => (float[N,8,6,6] y) <float[8,1,3,3] w> {
            [layer] y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)
        }""",
        (4,),
    ),
    "Conv over one axis": (
        "net (float[N,4,12] x) => (float[N,6,5] y) <float[6,4,3] w> { [layer] y = Conv<strides = [2]>(x, w) }", ()
    ),
    "a batch of one": ("net (float[1,10] x) => (float[1,8] y) <float[10,8] w> { [layer] y = MatMul(x, w) }", ()),
    "ahead of a Relu": (
        "net (float[N,10] x) => (float[N,8] y) <float[10,8] w> { [layer] h = MatMul(x, w) y = Relu(h) }", ()
    ),
}  # fmt: skip
"""A layer, and its groups where it has several."""


@pytest.mark.parametrize("case", PLANTED)
def test_weights_that_matter_come_back_for_those_that_do_not(case: str) -> None:
    """Before: kept weights are next to nothing. After: exactly the large ones are kept."""
    text, groups = PLANTED[case]
    shape = build(text).array("w").shape
    weights = planted(shape)
    if groups:  # counts of groups are kept: as many large ones in each
        parts = weights.reshape(*groups, -1)
        for part in parts:
            part[:] = planted(part.shape, share=0.0)
            part[:: 4 - len(shape) % 2] = 1.5
    dense = build(text, w=weights)
    large = np.abs(weights) > 0.5
    small = swapped_by_group(dense, "w", groups) if groups else swapped(dense, "w")
    outcome = regrow(small, dense)
    assert not outcome.refusals
    assert np.array_equal(outcome.graph.array("w") != 0, large)
    assert connections(outcome.edits) == recount(small, outcome.graph)
    assert connections(outcome.edits).created == np.count_nonzero(large)
    data = normal(dense, 64, seed=3)
    assert divergence(outcome.graph, dense, data) < 1e-3 * divergence(small, dense, data)


def swapped_by_group(dense: Graph, name: str, groups: tuple[int, ...]) -> Graph:
    editor, weights = Editor(dense.clone(), "prune"), dense.array(name).copy()
    for part in weights.reshape(*groups, -1):
        large = np.abs(part) > 0.5
        kept = np.flatnonzero(~large)[: np.count_nonzero(large)]
        part[np.setdiff1d(np.arange(part.size), kept)] = 0
    editor.set_weights(name, weights)
    return editor.graph


def test_what_is_best_already_stays() -> None:
    """Only the weights that are kept matter, but their values are wrong: they are re-solved."""
    text = PLANTED["Gemm"][0]
    weights = planted((10, 8))
    dense = build(text, w=np.where(np.abs(weights) > 0.5, weights, 0))
    editor = Editor(dense.clone(), "test")
    editor.set_weights("w", 0.7 * dense.array("w"))
    outcome = regrow(editor.graph, dense)
    assert reasons(outcome) == {"layer": "no connection lowers its error more than the one that would pay for it"}
    np.testing.assert_allclose(outcome.graph.array("w"), dense.array("w"), atol=0.02)
    assert connections(outcome.edits).created == 0


def spoil(dense: Graph, **weights: NDArray[Any]) -> Graph:
    editor = Editor(dense.clone(), "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return editor.graph


def test_layers_that_lost_nothing_have_nothing_to_trade() -> None:
    """One that does what the dense model does is not even looked at; those behind a loss are re-solved."""
    dense = build(NETWORKS["chain"])
    small = prune(dense, 0.0, w2=0.5).graph
    outcome = regrow(small, dense)
    found = reasons(outcome)
    assert found.keys() == {"one", "three", "four"}
    assert found["one"] == "what it puts out is what the dense model has already"
    assert found["three"] == found["four"] == "none of its weights is pruned: it has nothing to trade"
    assert (outcome.graph.array("w1") == dense.array("w1")).all()
    assert (outcome.graph.array("w3") != dense.array("w3")).any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("net (float[N,8] x) => (float[N,8] y) { y = Relu(x) }", "there is no layer with constant weights"),
        (
            "net (float[N,8,2] x) => (float[N,8,4] y) <float[8,8,3] w> { [layer] y = ConvTranspose(x, w) }",
            "operator ConvTranspose has no rule for layers",
        ),
    ],
)
def test_graphs_without_layers_are_left_alone(text: str, reason: str) -> None:
    dense = build(text)
    outcome = regrow(dense, dense)
    assert not outcome.changed
    assert [item.reason[:30] for item in outcome.refusals] == [reason[:30]]


# --- acceptance

THREE = "net (float[N,3] x) => (float[N,3] y) <float[3,3] w> { [layer] y = MatMul(x, w) }"


def one_for_another(**options: object) -> Outcome:
    """Each output needs the first input most, and has the second; selection lacks the first."""
    weights = np.array([[1.0, -1.0, 1.1], [0.8, 0.9, -0.7], [0.0, 0.0, 0.0]])
    dense = build(THREE, w=weights)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)) * [5.0, 1.0, 1.0]
    y = rng.standard_normal((96, 3)) * [0.01, 1.0, 1.0]
    small = spoil(dense, w=weights * [[0], [1], [1]])
    return regrow(small, dense, **{"data": samples(x=x), "selection": samples(x=y)} | options)


def test_swaps_that_hurt_on_selection_data_are_undone() -> None:
    outcome = one_for_another()
    assert connections(outcome.edits).created == 0
    (refusal,) = outcome.refusals
    assert refusal.nodes == ("layer",)
    numbers = (
        r"undone: 3 new connections do not help on selection data "
        r"\(divergence \S+, predicted gain \S+, measured -\S+\)"
    )
    assert re.fullmatch(numbers, refusal.reason)


def test_held_out_rows_alone_may_judge() -> None:
    outcome = one_for_another(checks=0)
    assert not outcome.refusals
    assert outcome.graph.array("w")[0].all()
    assert connections(outcome.edits).created == 3


@pytest.mark.parametrize(("accept", "created"), [(0.0, True), (0.5, False)])
def test_a_gain_has_to_be_as_large_as_asked(accept: float, created: bool) -> None:
    """Of three inputs of about the same weight two are kept: another choice brings something, but not half of all."""
    weights = np.array([[1.1, 1.3, 1.4], [1.3, 1.4, 1.1], [1.4, 1.1, 1.3]]).reshape(3, 3, 1, 1)
    dense = build(
        "net (float[N,3,2,2] x) => (float[N,3,2,2] y) <float[3,3,1,1] w> { [layer] y = Conv(x, w) }", w=weights
    )
    small = spoil(dense, w=np.where(weights > 1.35, 0, weights))
    outcome = regrow(small, dense, accept=accept)
    assert (connections(outcome.edits).created > 0) == created
    assert bool(outcome.refusals) != created
    if not created:
        assert "do not help on selection data (divergence" in outcome.refusals[0].reason


def test_swaps_that_fit_noise_are_undone() -> None:
    """Inputs that have nothing to do with the targets, and hardly more rows than columns."""
    text = """net (float[N,32] x) => (float[N,4] y) <int8[32,32] q, float s = {0.1}, int8 z = {0}, float[32,4] w> {
        d = DequantizeLinear(q, s, z)
        [frozen] h = MatMul(x, d)
        n = Sin(h)
        [fitted] y = MatMul(n, w)
    }"""
    rng = np.random.default_rng(0)
    dense, other = (build(text, q=rng.integers(-50, 50, (32, 32))) for _ in range(2))
    small = spoil(other, w=dense.array("w") * (rng.random((32, 4)) < 0.5))
    outcome = regrow(small, dense, data=normal(dense, 40), ridge=0.0)
    assert connections(outcome.edits).created == 0
    assert "new connections do not lower its error on held-out rows" in reasons(outcome)["fitted"]


# --- how many


@pytest.mark.parametrize("budget", [0.0, 0.03, 0.1])
def test_no_more_return_than_the_budget_allows(budget: float) -> None:
    dense, small = networks("chain")
    outcome = reconnect(Regrow(budget=budget), small, dense)
    assert nonzeros(outcome.graph) == nonzeros(small)
    for name in ("w1", "w2", "w3", "w4"):
        was, now = small.array(name) != 0, outcome.graph.array(name) != 0
        assert np.count_nonzero(now & ~was) <= round(budget * np.count_nonzero(~was))
    created = connections(outcome.edits).created
    assert created > 0 or budget == 0
    full = connections(reconnect(Regrow(), small, dense).edits).created
    assert created < full


@pytest.mark.parametrize("extra", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("network", ["chain", "grouped and depthwise"])
def test_layers_grow_by_what_is_allowed_and_no_further_than_they_have_room(network: str, extra: float) -> None:
    dense = build(NETWORKS[network])
    small = prune(dense, 0.6, w2=0.3).graph
    outcome = reconnect(Regrow(extra=extra), small, dense)
    grown = [name for name in dense.initializers if name.startswith("w")]
    for name in grown:
        size = dense.array(name).size
        was, now = (int(np.count_nonzero(item.array(name))) for item in (small, outcome.graph))
        wanted = round((1 + extra) * was)
        assert was < now <= min(size, wanted), name
        assert now == wanted or wanted > 0.9 * size, "what never was active gets no connections"
    assert connections(outcome.edits) == recount(small, outcome.graph)
    assert divergence(outcome.graph, dense) < divergence(reconnect(Regrow(), small, dense).graph, dense)


def test_groups_share_what_is_created_by_what_they_have_and_have_room_for() -> None:
    dense = build(PLANTED["depthwise Conv"][0])
    weights = dense.array("w").copy()
    weights.reshape(4, -1)[1:, 6:] = 0  # the first group is dense
    small = spoil(dense, w=weights)
    outcome = reconnect(Regrow(extra=0.5), small, dense)
    counts = np.count_nonzero(outcome.graph.array("w").reshape(4, -1), axis=1)
    assert counts.sum() == round(1.5 * (18 + 3 * 6))
    assert counts[0] == 18
    assert (counts[1:] == 12).all()


# --- gradients of the task


@dataclass
class Told:
    """Gradients that say which weights to take."""

    wanted: Mapping[str, NDArray[np.float64]]
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def gradients(
        self, graph: Graph, names: Sequence[str], samples: Samples, reference: Graph
    ) -> Mapping[str, Gradient]:
        self.asked.append(tuple(names))
        return {
            name: Gradient(self.wanted.get(name, np.zeros(graph.array(name).shape)), np.ones(graph.array(name).shape))
            for name in names
        }


def test_the_task_is_asked_for_where_something_can_answer() -> None:
    dense, small = networks("chain")
    outcome = reconnect(Regrow(criterion="task"), small, dense)
    assert not outcome.changed
    assert [item.reason for item in outcome.refusals] == [
        "criterion task needs gradients of the task's loss, which only a framework supplies"
    ]


def test_the_gradient_of_the_task_says_what_returns() -> None:
    """Three weights would help each output; the one returns first that the task asks for, though others help more."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (10, 8))
    dense = build(PLANTED["Gemm"][0], w=signs * [[2.0], [1.5], [1.0], [1e-3], *[[0.0]] * 6])
    held = np.arange(10)[:, None] == np.where(np.arange(8) % 2, 3, 4)
    small = spoil(dense, w=np.where(held, 1e-3, 0))
    for asked in (1, 2):
        wanted = np.zeros((10, 8))
        wanted[asked] = 0.5
        told = Told({"w": wanted})
        outcome = regrow(small, dense, criterion="task", gradients=told, rounds=1, checks=0)
        assert told.asked == [("w",)]
        came = np.argwhere((outcome.graph.array("w") != 0) & (small.array("w") == 0))
        assert len(came) >= 4
        assert set(came[:, 0]) == {asked}
    outcome = regrow(small, dense, rounds=1, checks=0)
    assert set(np.argwhere((outcome.graph.array("w") != 0) & (small.array("w") == 0))[:, 0]) == {0}


@pytest.mark.parametrize("network", ["chain", "grouped and depthwise"])
def test_gradients_of_a_real_loss(network: str) -> None:
    text = NETWORKS[network].replace("Tanh", "Relu")
    dense = build(text)
    small = prune(dense, 0.7).graph
    data = normal(dense, 24, seed=5)
    outcome = reconnect(Regrow(criterion="task"), small, dense, gradients=NumpyGradients(), data=data)
    assert nonzeros(outcome.graph) == nonzeros(small)
    assert connections(outcome.edits) == recount(small, outcome.graph)
    assert connections(outcome.edits).created > 0
    assert divergence(outcome.graph, dense) < divergence(small, dense)
