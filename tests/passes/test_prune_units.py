"""prune-channels, prune-heads and prune-width: which units go, and what that does to the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import PassError
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, PassContext, run_pass
from surgery_ir.passes.prune import proven
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.prune.pace import Pace
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.solvers.allocation import Term
from tests.harness import RUNTIME, run
from tests.passes.helpers import build, correlated, reasons, samples

CONVS = """net (float[N,3,6,6] x) => (float[N,4,2,2] y)
<float[8,3,3,3] w1, float[8] b1, float[12,8,1,1] w2, float[12] b2, float[4,12,3,3] w3> {
    [one] a = Conv(x, w1, b1)
    ra = Relu(a)
    [two] b = Conv(ra, w2, b2)
    rb = Relu(b)
    [three] y = Conv(rb, w3)
}"""

RESIDUAL = """net (float[N,3,6,6] x) => (float[N,4,6,6] y)
<float[8,3,1,1] w1, float[16,8,1,1] w2, float[8,16,1,1] w3, float[4,8,1,1] w4> {
    [one] a = Conv(x, w1)
    [two] b = Conv(a, w2)
    rb = Relu(b)
    [three] c = Conv(rb, w3)
    d = Add(a, c)
    [four] y = Conv(d, w4)
}"""

ATTENTION = """net (float[N,6,8] x) => (float[N,6,5] y)
<float[8,16] wq, float[8,16] wk, float[8,16] wv, float[16,8] wo, float[8,24] u, float[24] c, float[24,5] p,
 int64[4] split, int64[3] merged> {
    [q] q1 = MatMul(x, wq)
    q2 = Reshape(q1, split)
    q4 = Transpose<perm=[0,2,1,3]>(q2)
    [k] k1 = MatMul(x, wk)
    k2 = Reshape(k1, split)
    k4 = Transpose<perm=[0,2,3,1]>(k2)
    [v] v1 = MatMul(x, wv)
    v2 = Reshape(v1, split)
    v4 = Transpose<perm=[0,2,1,3]>(v2)
    s1 = MatMul(q4, k4)
    s2 = Softmax<axis=-1>(s1)
    s3 = MatMul(s2, v4)
    s4 = Transpose<perm=[0,2,1,3]>(s3)
    s5 = Reshape(s4, merged)
    [o] t = MatMul(s5, wo)
    e = Add(x, t)
    [up] f = MatMul(e, u)
    g = Add(f, c)
    h = Gelu(g)
    [down] y = MatMul(h, p)
}"""

SHAPES: Mapping[str, tuple[int, ...]] = {CONVS: (3, 6, 6), RESIDUAL: (3, 6, 6), ATTENTION: (6, 8)}


def model(text: str) -> tuple[Graph, Samples]:
    given = {"split": np.array([0, 0, 4, 4]), "merged": np.array([0, 0, 16])} if text == ATTENTION else {}
    graph = build(text, **given)
    return graph, samples(x=correlated(96, *SHAPES[text]))


def prune(spec: str, graph: Graph, inputs: Samples | None, reference: Graph | None = None) -> Outcome:
    (item,) = parse_pipeline(spec)
    return run_pass(item, graph, PassContext(reference or graph, RUNTIME, inputs))


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {name: graph.array(name).shape for name in graph.initializers if name[0] in "wbupc"}


LEFT_ALONE = [
    (CONVS, "prune-heads", {"": "it has no group of units that this pass could cut"}),
    (CONVS, "prune-width", {"": "it has no group of units that this pass could cut"}),
    (CONVS, "prune-channels{ratio=0.1 multiple=8}", {"one": "its width stays as it is", "two": "its width stays"}),
    (CONVS, "prune-channels{ratio=0.5 multiple=1}", {"three": "'y' is an output of the model"}),
    (CONVS, "prune-channels{ratios=[four:0.5]}", {"": "ratios names groups that the model does not have: four"}),
    (ATTENTION, "prune-width{ratio=0.5 multiple=1}", {"o": "'x' is an input of the model"}),
    (ATTENTION, "prune-heads{ratio=0.5}", {"down": "'y' is an output of the model"}),
]


@pytest.mark.parametrize(("text", "spec", "why"), LEFT_ALONE)
def test_left_alone_with_a_reason(text: str, spec: str, why: Mapping[str, str]) -> None:
    graph, inputs = model(text)
    found = reasons(prune(spec, graph, inputs))
    for node, reason in why.items():
        assert reason in found[node]


@pytest.mark.parametrize("criterion", ["obs", "wanda"])
def test_criteria_that_look_at_activations_need_samples(criterion: str) -> None:
    graph, _ = model(CONVS)
    outcome = prune(f"prune-channels{{criterion={criterion}}}", graph, None)
    assert not outcome.changed
    assert f"criterion {criterion} needs sample inputs: pass --data" in outcome.refusals[0].reason


CUTS = [
    (
        CONVS,
        "prune-channels{ratio=0.5 multiple=1}",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 1, 1), "b2": (6,), "w3": (4, 6, 3, 3)},
    ),
    (
        CONVS,
        "prune-channels{ratio=0.5 multiple=4}",
        {"w1": (4, 3, 3, 3), "w2": (8, 4, 1, 1), "w3": (4, 8, 3, 3)},
    ),
    (
        CONVS,
        "prune-channels{ratio=0.0 multiple=1 ratios=[two:0.75]}",
        {"w1": (8, 3, 3, 3), "w2": (3, 8, 1, 1), "w3": (4, 3, 3, 3)},
    ),
    (
        RESIDUAL,
        "prune-channels{ratio=0.5 multiple=1}",
        {"w1": (4, 3, 1, 1), "w2": (8, 4, 1, 1), "w3": (4, 8, 1, 1), "w4": (4, 4, 1, 1)},
    ),
    (
        ATTENTION,
        "prune-heads{ratio=0.5}",
        {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "u": (8, 24)},
    ),
    (
        ATTENTION,
        "prune-width{ratio=0.5 multiple=1}",
        {"wq": (8, 16), "u": (8, 12), "c": (12,), "p": (12, 5)},
    ),
    (
        ATTENTION,
        "prune-channels{ratio=0.25 multiple=1}",
        {"wq": (8, 12), "wo": (12, 8), "u": (8, 18), "p": (18, 5)},
    ),
]


@pytest.mark.parametrize("criterion", ["obs", "wanda", "magnitude", "random", "fold"])
@pytest.mark.parametrize(("text", "spec", "after"), CUTS)
def test_before_and_after(text: str, spec: str, after: Mapping[str, tuple[int, ...]], criterion: str) -> None:
    graph, inputs = model(text)
    before = shapes(graph)
    outcome = prune(spec.replace("{", f"{{criterion={criterion} "), graph, inputs)
    found = shapes(outcome.graph)
    assert {name: found[name] for name in after} == after
    assert shapes(graph) == before
    removed = sum(np.count_nonzero(graph.array(name)) for name in before if name[0] in "wup") - sum(
        np.count_nonzero(outcome.graph.array(name)) for name in before if name[0] in "wup"
    )
    total = connections(outcome.edits)
    assert total.pruned - total.created == removed > 0
    result = run(outcome.graph, {"x": inputs.feeds["x"][:3]})["y"]
    assert result.shape == run(graph, {"x": inputs.feeds["x"][:3]})["y"].shape


def error(graph: Graph, dense: Graph, inputs: Samples) -> float:
    feeds = dict(inputs.feeds)
    wanted = run(dense, feeds)["y"].astype(np.float64)
    return float(((run(graph, feeds)["y"] - wanted) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize("text", [CONVS, RESIDUAL, ATTENTION])
def test_obs_with_compensation_beats_magnitude_without(text: str) -> None:
    graph, inputs = model(text)
    fresh = samples(x=correlated(64, *SHAPES[text], seed=9))
    errors = [
        error(prune(f"prune-channels{{ratio=0.5 multiple=1 {options}}}", graph, inputs).graph, graph, fresh)
        for options in ("", "compensate=false", "criterion=magnitude compensate=false")
    ]
    assert errors[0] < 0.5 * errors[1]
    assert errors[0] < 0.5 * errors[2]


def test_obs_removes_what_the_others_can_stand_in_for() -> None:
    rng = np.random.default_rng(1)
    w1, w3 = rng.standard_normal((8, 12)), rng.standard_normal((12, 4))
    w1[:, 7] = w1[:, 2]  # a twin, and the largest of all
    w3[7] *= 5
    graph = build(
        "net (float[N,8] x) => (float[N,4] y) <float[8,12] w1, float[12,4] w3> {"
        " [one] a = MatMul(x, w1) r = Relu(a) [two] y = MatMul(r, w3) }",
        w1=w1, w3=w3,
    )  # fmt: skip
    inputs = samples(x=rng.standard_normal((200, 8)))
    outcome = prune("prune-channels{ratio=0.08 multiple=1}", graph, inputs)
    kept = outcome.graph.cuts["r"][1]
    assert len(kept) == 11
    assert {2, 7} - set(kept.tolist())
    assert error(outcome.graph, graph, inputs) < 1e-4


def test_cut_values_know_what_they_kept_of_the_dense_model() -> None:
    graph, inputs = model(CONVS)
    outcome = prune("prune-channels{ratio=0.5 multiple=1 criterion=magnitude compensate=false}", graph, inputs)
    kept = outcome.graph.cuts["a"][1]
    np.testing.assert_array_equal(outcome.graph.array("w1"), graph.array("w1")[kept])
    energy = (graph.array("w1") ** 2).sum(axis=(1, 2, 3)) / (graph.array("w1") ** 2).sum()
    energy += (graph.array("w2") ** 2).sum(axis=(0, 2, 3)) / (graph.array("w2") ** 2).sum()
    assert set(kept.tolist()) == set(np.argsort(energy)[4:].tolist())


BUDGETS = [("macs", 0.6), ("macs", 0.3), ("params", 0.5)]


@pytest.mark.parametrize(("what", "share"), BUDGETS)
@pytest.mark.parametrize("text", [CONVS, RESIDUAL, ATTENTION])
def test_a_budget_is_kept_and_used(text: str, what: str, share: float) -> None:
    graph, inputs = model(text)
    outcome = prune(f"prune-channels{{{what}={share} multiple=1}}", graph, inputs)
    shape = {"x": (1, *SHAPES[text])}
    costs = [getattr(cost(item, shape), what) for item in (outcome.graph, graph)]
    biases = 8 if what == "params" else 0  # that compensation adds to a Conv without one
    assert 0.6 * share <= costs[0] / costs[1] <= share + biases / costs[1]


def test_a_budget_is_a_share_of_the_dense_model_however_often_it_is_cut() -> None:
    graph, inputs = model(CONVS)
    once = prune("prune-channels{macs=0.6 multiple=1}", graph, inputs).graph
    twice = prune("prune-channels{macs=0.6 multiple=1}", once, inputs, reference=graph)
    assert not twice.changed
    less = prune("prune-channels{macs=0.4 multiple=1}", once, inputs, reference=graph)
    shape = {"x": (1, 3, 6, 6)}
    assert 0.3 <= cost(less.graph, shape).macs / cost(graph, shape).macs <= 0.4  # type: ignore[operator]


def test_a_budget_out_of_reach_says_what_is_within() -> None:
    graph, inputs = model(CONVS)
    with pytest.raises(PassError, match=r"^0.01 of the MACs cannot be reached, 0.381 is the least$"):
        prune("prune-channels{macs=0.01 multiple=4}", graph, inputs)


def test_a_pass_is_settled_to_something_that_repeats_it() -> None:
    graph, inputs = model(CONVS)
    first = prune("prune-channels{macs=0.5 multiple=2}", graph, inputs)
    assert first.applied is not None
    again = run_pass(first.applied, graph, PassContext(graph, RUNTIME, inputs))
    assert again.graph.fingerprint() == first.graph.fingerprint()
    assert getattr(first.applied, "macs") is None  # noqa: B009 - the base class has no such option
    assert again.applied == first.applied


def test_widths_are_rounded_to_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "multiple", lambda self, group: 4)
    graph, inputs = model(CONVS)
    outcome = prune("prune-channels{ratio=0.6}", graph, inputs)
    assert outcome.graph.array("w2").shape == (4, 4, 1, 1)


def test_time_is_kept_within_macs_where_widths_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that does not depend on the first width at all has to be saved at the second."""

    def terms(self: Pace, sizes: list[Indices]) -> list[Term]:
        return [Term((1,), sizes[1].astype(np.float64))] if len(sizes) > 1 else [Term((), np.array(12.0))]

    monkeypatch.setattr(Pace, "multiple", lambda self, group: 1)
    monkeypatch.setattr(Pace, "terms", terms)
    graph, inputs = model(CONVS)
    wide = prune("prune-channels{macs=0.6 multiple=1}", graph, inputs).graph.array("w2").shape[0]
    assert wide > 7
    assert prune("prune-channels{macs=0.6}", graph, inputs).graph.array("w2").shape[0] == 6  # 0.58 of 12, whole
    outcome = prune("prune-channels{latency=0.5}", graph, inputs)
    assert outcome.graph.array("w2").shape[0] <= 6
    assert outcome.graph.array("w1").shape[0] == 8


def test_a_cut_that_cannot_be_proven_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = model(CONVS)
    true_cut = cut

    def faulty(editor: object, coupling: object, removed: dict[str, Indices]) -> None:
        """Remove another unit of the first group than is asked for."""
        wrong = {name: (units + 1) % 8 if name == "one" else units for name, units in removed.items()}
        true_cut(editor, coupling, wrong)  # type: ignore[arg-type]

    monkeypatch.setattr(proven, "cut", faulty)
    outcome = prune("prune-channels{ratio=0.5 multiple=1 compensate=false}", graph, inputs)
    assert "cutting it cannot be proven" in reasons(outcome)["one"]
    assert outcome.graph.array("w1").shape == (8, 3, 3, 3)
    assert outcome.graph.array("w2").shape == (6, 8, 1, 1)


def test_folding_keeps_what_twins_do_together() -> None:
    rng = np.random.default_rng(1)
    w1, w3 = rng.standard_normal((8, 12)), rng.standard_normal((12, 4))
    w1[:, 6:] = w1[:, :6]
    graph = build(
        "net (float[N,8] x) => (float[N,4] y) <float[8,12] w1, float[12,4] w3> {"
        " [one] a = MatMul(x, w1) r = Relu(a) [two] y = MatMul(r, w3) }",
        w1=w1, w3=w3,
    )  # fmt: skip
    inputs = samples(x=rng.standard_normal((50, 8)))
    outcome = prune("prune-channels{ratio=0.5 multiple=1 criterion=fold compensate=false}", graph, None)
    assert outcome.graph.array("w1").shape == (8, 6)
    assert error(outcome.graph, graph, inputs) < 1e-10
