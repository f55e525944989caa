"""Weights of LSTM, GRU and RNN, which go by magnitude."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, run_pass
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.report.attribution import connections_by_layer
from tests.harness import run
from tests.passes.helpers import apply, build, context, correlated, reasons, samples, zeros

CELL = "net (float[5,N,8] x) => (float[5,1,N,4] y)"
LSTM = f"{CELL} <float[1,16,8] w, float[1,16,4] r, float[1,32] b> {{ [rnn] y = LSTM<hidden_size = 4>(x, w, r, b) }}"

MODEL = """net (float[5,N,6] x) => (float[5,N,3] y)
    <float[6,8] p, float[1,16,8] w, float[1,16,4] r, float[1,32] b, float[4,8] q, float[8,3] c, int64[1] one = {1}> {
    [into] h = MatMul(x, p)
    [rnn] s = LSTM<hidden_size = 4>(h, w, r, b)
    t = Squeeze(s, one)
    [between] u = MatMul(t, q)
    v = Relu(u)
    [out] y = MatMul(v, c)
}"""
"""A recurrent operator that is neither first nor last."""

CELLS = {
    "LSTM": LSTM,
    "GRU": f"{CELL} <float[1,12,8] w, float[1,12,4] r> {{ [rnn] y = GRU<hidden_size = 4>(x, w, r) }}",
    "RNN": f"{CELL} <float[1,4,8] w, float[1,4,4] r> {{ [rnn] y = RNN<hidden_size = 4>(x, w, r) }}",
    "bidirectional": """net (float[5,N,8] x) => (float[5,2,N,4] y) <float[2,16,8] w, float[2,16,4] r, float[2,32] b> {
        [rnn] y = LSTM<hidden_size = 4, direction = "bidirectional">(x, w, r, b)
    }""",
    "peepholes": f"""{CELL} <float[1,16,8] w, float[1,16,4] r, float[1,32] b, float[1,12] i> {{
        [rnn] y = LSTM<hidden_size = 4>(x, w, r, b, , , , i)
    }}""",
    "half": """net (float16[5,N,8] x) => (float16[5,1,N,4] y) <float16[1,16,8] w, float16[1,16,4] r> {
        [rnn] y = LSTM<hidden_size = 4>(x, w, r)
    }""",
}

DENSE = "first and last layers are left dense (ends=true prunes them)"
HINT = "operator LSTM has no rule for criterion {}; criterion=magnitude prunes it"


def prune(graph: Graph, **options: object) -> Outcome:
    return apply(PruneWeights(**({"criterion": "magnitude"} | options)), graph)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.25, 0.9])
@pytest.mark.parametrize("case", CELLS)
def test_each_matrix_loses_its_smallest_weights_and_nothing_else(case: str, ratio: float) -> None:
    graph = build(CELLS[case], r=10 * build(CELLS[case]).array("r"))  # larger than W, with which it must not compete
    outcome = prune(graph, ratio=ratio, ends=True)
    assert not outcome.refusals
    for name in graph.initializers:
        before, after = graph.array(name), outcome.graph.array(name)
        lost = after != before
        assert after.dtype == before.dtype
        assert np.count_nonzero(lost) == (int(ratio * before.size + 0.5) if name in "wr" else 0), name
        assert np.all(after[lost] == 0)
        if lost.any():
            assert np.abs(before[lost]).max() <= np.abs(before[~lost]).min(), name
    total = connections(outcome.edits)
    assert (total.pruned, total.created) == (zeros(outcome.graph, "w") + zeros(outcome.graph, "r"), 0)
    assert connections_by_layer(outcome.edits, graph, outcome.graph) == {"rnn": total}
    fed = {"x": np.random.default_rng(0).standard_normal((5, 3, 8)).astype(graph.array("w").dtype)}
    assert np.isfinite(run(outcome.graph, fed)["y"]).all()


@pytest.mark.parametrize("case", CELLS)
def test_patterns_run_along_the_rows_of_a_direction(case: str) -> None:
    graph = build(CELLS[case])
    halved = prune(graph, pattern="2:4", ends=True).graph
    blocked = prune(graph, pattern="4x1", ends=True).graph
    for name in ("w", "r"):
        rows = halved.array(name).reshape(-1, 4)
        assert np.all(np.count_nonzero(rows, axis=1) == 2)
        blocks = blocked.array(name).reshape(-1, 4, graph.array(name).shape[-1])
        counts = np.count_nonzero(blocks, axis=1)
        assert set(np.unique(counts)) == {0, 4}
        assert np.count_nonzero(counts) == counts.size // 2


def test_directions_of_an_operator_compete() -> None:
    weights = np.random.default_rng(0).uniform(0.5, 1.0, (2, 16, 8))
    weights[0] *= 0.1
    after = prune(build(CELLS["bidirectional"], w=weights), ratio=0.5, ends=True).graph.array("w")
    assert not after[0].any()
    assert after[1].all()


SPARSE = np.where(np.arange(128).reshape(1, 16, 8) % 4 == 0, 0.0, np.random.default_rng(2).standard_normal((1, 16, 8)))

PRUNED: Mapping[str, tuple[dict[str, object], dict[str, int], dict[str, str]]] = {
    "in the middle": ({}, {"p": 0, "w": 64, "r": 32, "q": 16, "c": 0}, {"into": DENSE, "out": DENSE}),
    "everything": ({"ends": True}, {"p": 24, "w": 64, "r": 32, "q": 16, "c": 12}, {}),
    "by name": (
        {"ratios": {"rnn": 0.25}},
        {"p": 0, "w": 32, "r": 16, "q": 16, "c": 0},
        {"into": DENSE, "out": DENSE},
    ),
    "only the others": (
        {"ratios": {"rnn": 0.0}},
        {"p": 0, "w": 0, "r": 0, "q": 16, "c": 0},
        {
            "into": DENSE,
            "out": DENSE,
            "rnn": "R: it has as many zeros already as are asked for",
        },
    ),
    "without compensation": (
        {"compensate": False},
        {"p": 0, "w": 64, "r": 32, "q": 16, "c": 0},
        {"into": DENSE, "out": DENSE},
    ),
    "global, but for the one named": (
        {"allocation": "global", "ratios": {"rnn": 0.75}},
        {"p": 0, "w": 96, "r": 48, "q": 16, "c": 0},
        {"into": DENSE, "out": DENSE},
    ),
}


@pytest.mark.parametrize("case", PRUNED)
def test_options_hold_for_it_as_for_other_layers(case: str) -> None:
    options, expected, why = PRUNED[case]
    outcome = prune(build(MODEL), **options)
    assert {name: zeros(outcome.graph, name) for name in expected} == expected
    assert np.array_equal(outcome.graph.array("b"), build(MODEL).array("b"))
    assert reasons(outcome) == why


def test_one_threshold_over_its_matrices_and_the_layers() -> None:
    after = prune(build(MODEL, r=np.full((1, 16, 4), 9.0)), allocation="global", ratio=0.5).graph
    assert zeros(after, "r") == 0
    assert zeros(after, "w") + zeros(after, "q") == (128 + 64 + 32) // 2


def test_zeros_are_kept_and_count() -> None:
    outcome = prune(build(LSTM, w=SPARSE), ratio=0.5, ends=True)
    assert zeros(outcome.graph, "w") == 64
    assert np.all(outcome.graph.array("w")[SPARSE == 0] == 0)
    assert connections(outcome.edits).pruned == 32 + 32
    again = prune(outcome.graph, ratio=0.5, ends=True)
    assert again.graph is outcome.graph
    assert [item.reason for item in again.refusals] == [
        f"{role}: it has as many zeros already as are asked for" for role in "WR"
    ]


def test_a_layer_behind_it_is_not_the_first() -> None:
    text = """net (float[5,N,8] x) => (float[5,1,N,3] y)
        <float[1,16,8] w, float[1,16,4] r, float[4,8] q, float[8,3] c> {
        [rnn] s = LSTM<hidden_size = 4>(x, w, r)
        [between] u = MatMul(s, q)
        [out] y = MatMul(u, c)
    }"""
    graph = build(text)
    outcome = prune(graph)
    assert [zeros(outcome.graph, name) for name in "wrqc"] == [0, 0, 16, 0]
    assert reasons(outcome) == {"rnn": DENSE, "out": DENSE}
    inputs = samples(x=correlated(5, 6, 8))
    measured = run_pass(PruneWeights(criterion="obs"), graph, context(graph, inputs))
    assert reasons(measured) == {"rnn": HINT.format("obs"), "between": DENSE, "out": DENSE}


ENDS: dict[str, object] = {"ends": True}

LEFT_ALONE: Mapping[str, tuple[str, dict[str, object], list[str]]] = {
    "first and last": (LSTM, {}, [DENSE]),
    "obs": (LSTM, ENDS | {"criterion": "obs"}, [HINT.format("obs")]),
    "obs, by name": (LSTM, {"criterion": "obs", "ratios": {"rnn": 0.5}}, [HINT.format("obs")]),
    "wanda": (LSTM, ENDS | {"criterion": "wanda"}, [HINT.format("wanda")]),
    "N:M that divides neither": (
        LSTM,
        ENDS | {"pattern": "1:3"},
        ["W: its 8 input channels are no multiple of 3", "R: its 4 input channels are no multiple of 3"],
    ),
    "blocks that divide neither": (
        LSTM,
        ENDS | {"pattern": "3x1"},
        [
            "W: 16 outputs and 8 input channels do not divide into 3x1",
            "R: 16 outputs and 4 input channels do not divide into 3x1",
        ],
    ),
    "computed R": (
        f"{CELL} <float[1,16,8] w, float[1,16,4] r> {{ t = Tanh(r) [rnn] y = LSTM<hidden_size = 4>(x, w, t) }}",
        ENDS,
        ["its R is computed or given by the caller, not a constant"],
    ),
    "W that the caller gives": (
        """net (float[5,N,8] x, float[1,16,8] w) => (float[5,1,N,4] y) <float[1,16,4] r> {
            [rnn] y = LSTM<hidden_size = 4>(x, w, r)
        }""",
        ENDS,
        ["its W is computed or given by the caller, not a constant"],
    ),
    "W that the caller may give": (
        """net (float[5,N,8] x, float[1,16,8] w) => (float[5,1,N,4] y) <float[1,16,8] w, float[1,16,4] r> {
            [rnn] y = LSTM<hidden_size = 4>(x, w, r)
        }""",
        ENDS,
        ["its W is computed or given by the caller, not a constant"],
    ),
    "computed W, where no criterion would do": (
        f"{CELL} <float[1,16,8] w, float[1,16,4] r> {{ t = Tanh(w) [rnn] y = LSTM<hidden_size = 4>(x, t, r) }}",
        ENDS | {"criterion": "obs"},
        ["its W is computed or given by the caller, not a constant"],
    ),
    "R that is a result": (
        """net (float[5,N,8] x) => (float[5,1,N,4] y, float[1,16,4] r) <float[1,16,8] w, float[1,16,4] r> {
            [rnn] y = LSTM<hidden_size = 4>(x, w, r)
        }""",
        ENDS,
        ["its R is an output of the graph"],
    ),
    "weights of two operators": (
        """net (float[5,N,8] x) => (float[5,1,N,8] z)
            <float[1,32,8] w, float[1,32,8] r, float[1,32,8] s, int64[1] one = {1}> {
            [rnn] a = LSTM<hidden_size = 8>(x, w, r)
            b = Squeeze(a, one)
            [next] z = LSTM<hidden_size = 8>(b, s, r)
        }""",
        ENDS,
        ["its R is also read by LSTM 'next'", "its R is also read by LSTM 'rnn'"],
    ),
    "one matrix in both places": (
        """net (float[5,N,8] x) => (float[5,1,N,8] y) <float[1,32,8] w> { [rnn] y = LSTM<hidden_size = 8>(x, w, w) }""",
        ENDS,
        ["its W is also read by LSTM 'rnn'"],
    ),
    "inside a branch": (
        """net (float[5,N,8] x, bool flag) => (float[5,1,N,4] y) <float[1,16,8] w, float[1,16,4] r, float[1,16,4] s> {
            [branch] y = If(flag) <
                then_branch = yes () => (float[5,1,N,4] a) { a = LSTM<hidden_size = 4>(x, w, r) },
                else_branch = no () => (float[5,1,N,4] c) { c = LSTM<hidden_size = 4>(x, w, s) }
            >
        }""",
        ENDS,
        ["its subgraph holds 2 operators with weights; subgraphs are left alone"],
    ),
    "another domain": (
        """<ir_version: 10, opset_import: ["": 21, "acme": 1]>
        net (float[5,N,8] x) => (float[5,1,N,4] y) <float[1,16,8] w, float[1,16,4] r> {
            [rnn] y = acme.LSTM(x, w, r)
        }""",
        ENDS,
        ["operator acme.LSTM has no rule"],
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, options, expected = LEFT_ALONE[case]
    graph = build(text)
    pass_ = PruneWeights(**({"criterion": "magnitude"} | options))  # type: ignore[arg-type]
    outcome = run_pass(pass_, graph, context(graph, samples(x=correlated(5, 6, 8))))
    assert outcome.graph is graph
    assert [item.reason for item in outcome.refusals] == expected


def test_a_pattern_may_fit_one_matrix_only() -> None:
    text = "net (float[5,N,3] x) => (float[5,1,N,4] y) <float[1,16,3] w, float[1,16,4] r> "
    outcome = prune(build(text + "{ [rnn] y = LSTM<hidden_size = 4>(x, w, r) }"), pattern="2:4", ends=True)
    assert (zeros(outcome.graph, "w"), zeros(outcome.graph, "r")) == (0, 32)
    assert reasons(outcome) == {"rnn": "W: its 3 input channels are no multiple of 4"}
