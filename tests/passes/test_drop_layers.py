"""What drop-layers leaves alone, and graphs before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgery_ir.analysis.samples import Samples
from surgery_ir.passes.prune.layers import DropLayers
from surgery_ir.passes.repair.refit import Repair
from tests.harness import assert_equivalent, assert_same_structure, run
from tests.passes.dropping import LINEAR_BRANCH, LINEAR_CONVOLUTIONS, POSTPONED, drop, error, inputs, mlp
from tests.passes.helpers import apply, build, reasons, samples
from tests.zoo.load import feeds, load

# --- left alone

LINEAR = "h = MatMul(x, w1) f = MatMul(h, w2)"

LEFT_ALONE: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "nothing is added": (
        "net (float[N,8] x) => (float[N,8] y) <float[8,8] w> { h = MatMul(x, w) y = Relu(h) }",
        {},
        {"": "there is no residual branch"},
    ),
    "what is added is constant": (
        "net (float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8] c> { h = MatMul(x, w) y = Add(h, c) }",
        {},
        {"": "there is no residual branch"},
    ),
    "two inputs meet": (
        """net (float[N,8] x, float[N,8] z) => (float[N,8] y) <float[8,8] w> {
            h = MatMul(x, w) [sum] y = Add(z, h)
        }""",
        {},
        {"sum": "no side of the sum branches off the other"},
    ),
    "the branch holds no weights": (
        "net (float[N,8] x) => (float[N,8] y) { h = Sigmoid(x) [sum] y = Add(x, h) }",
        {},
        {"sum": "no layer with weights lies on the branch"},
    ),
    "the branch has a side exit": (
        """net (float[N,8] x) => (float[N,8] y, float[N,8] f) <float[8,8] w1, float[8,8] w2> {
            h = MatMul(x, w1) f = MatMul(h, w2) [sum] y = Add(x, f)
        }""",
        {},
        {"sum": "what lies on the branch is read elsewhere too"},
    ),
    "a subgraph lies on the branch": (
        """net (float[N,8] x, bool b) => (float[N,8] y) <float[8,8] w> {
            h = MatMul(x, w)
            f = If(b) <
                then_branch = t () => (float[N,8] p) { p = Relu(h) },
                else_branch = e () => (float[N,8] q) { q = Neg(h) }
            >
            [sum] y = Add(x, f)
        }""",
        {},
        {"sum": "operators with subgraphs lie on the branch"},
    ),
    "the sum broadcasts": (
        """net (float[N,1,8] x) => (float[N,3,8] y) <float[3,1] w1, float[8,8] w2> {
            h = MatMul(w1, x) f = MatMul(h, w2) [sum] y = Add(x, f)
        }""",
        {},
        {"sum": "its input and its output are not known to have the same shape"},
    ),
    "one axis": (
        f"net (float[8] x) => (float[8] y) <float[8,9] w1, float[9,8] w2> {{ {LINEAR} [sum] y = Add(x, f) }}",
        {},
        {"sum": "its output has no axis of features"},
    ),
    "the map is no cheaper": (
        f"net (float[N,8] x) => (float[N,8] y) <float[8,4] w1, float[4,8] w2> {{ {LINEAR} [sum] y = Add(x, f) }}",
        {},
        {"sum": "a linear map costs as much as it does"},
    ),
    "the map is not good enough": (
        f"""net (float[N,8] x) => (float[N,8] y) <{mlp("a", "x", 24)[0]}> {{ {mlp("a", "x", 24)[1]} y = Tanh(ay) }}""",
        {"most": 0.001},
        {"a": "its linear map leaves a relative error of "},
    ),
    "the share is less than half a branch": (
        f"""net (float[N,8] x) => (float[N,8] y) <{mlp("a", "x", 24)[0]}> {{ {mlp("a", "x", 24)[1]} y = Tanh(ay) }}""",
        {"count": None, "ratio": 0.4},
        {"": "a share of 0.4 of 1 residual branches is none"},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, options, expected = LEFT_ALONE[case]
    graph = build(text)
    given = inputs(graph)
    if case == "one axis":
        given = samples(x=np.random.default_rng(0).standard_normal((64, 8)))
    elif len(graph.inputs) == 2:
        other = np.zeros(256, bool) if graph.inputs[1].name == "b" else given.feeds["x"]
        given = Samples({"x": given.feeds["x"], graph.inputs[1].name or "": other})
    outcome = drop(graph, given, **options)
    assert not outcome.changed
    found = reasons(outcome)
    assert found.keys() == expected.keys()
    for node, reason in expected.items():
        assert found[node].startswith(reason)


# --- before and after: branches that are linear, so that their map is exact

SPATIAL = "float[N,4,5,5]"

CASES: dict[str, tuple[str, str]] = {
    "a MatMul and an Add of their own": (
        LINEAR_BRANCH,
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] "t/map.weight", float[8] "t/map.bias"> {
            s = Sigmoid(x)
            "t/map/product" = MatMul(s, "t/map.weight")
            t = Add("t/map/product", "t/map.bias")
            y = Tanh(t)
        }""",
    ),
    "a pointwise Conv of its own": (
        LINEAR_CONVOLUTIONS,
        f"""net ({SPATIAL} x) => ({SPATIAL} y) <float[4,4,1,1] "t/map.weight", float[4] "t/map.bias"> {{
            s = Sigmoid(x)
            t = Conv(s, "t/map.weight", "t/map.bias")
            y = Tanh(t)
        }}""",
    ),
    "between an input and an output": (
        """net (float[N,8] x) => (float[N,8] y) <float[8,16] w1, float[16,8] w2> {
            h = MatMul(x, w1) f = MatMul(h, w2) y = Add(x, f)
        }""",
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] "y/map.weight", float[8] "y/map.bias"> {
            "y/map/product" = MatMul(x, "y/map.weight") y = Add("y/map/product", "y/map.bias")
        }""",
    ),
    "merged into the MatMul ahead": (
        """net (float[N,6] x) => (float[N,8] y) <float[6,8] w0, float[8] c, float[8,16] w1, float[16,8] w2> {
            p = MatMul(x, w0) s = Add(p, c) h = MatMul(s, w1) f = MatMul(h, w2) t = Add(s, f) y = Tanh(t)
        }""",
        """net (float[N,6] x) => (float[N,8] y) <float[6,8] w0, float[8] c> {
            p = MatMul(x, w0) t = Add(p, c) y = Tanh(t)
        }""",
    ),
    "merged into the Gemm ahead": (
        """net (float[N,6] x) => (float[N,8] y) <float[8,6] w0, float[8] c, float[8,16] w1, float[16,8] w2> {
            s = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w0, c)
            h = MatMul(s, w1) f = MatMul(h, w2) t = Add(s, f) y = Tanh(t)
        }""",
        """net (float[N,6] x) => (float[N,8] y) <float[8,6] w0, float[8] c> {
            t = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w0, c) y = Tanh(t)
        }""",
    ),
    "merged into the projection": (
        """net (float[N,3,8,8] x) => (float[N,3,4,4] y) <float[3,3,1,1] w0, float[3,3,1,1] w1, float[3,3,1,1] w2> {
            s = Sigmoid(x)
            h = Conv<strides = [2, 2]>(s, w1)
            f = Conv(h, w2)
            k = Conv<strides = [2, 2]>(s, w0)
            t = Add(f, k)
            y = Tanh(t)
        }""",
        """net (float[N,3,8,8] x) => (float[N,3,4,4] y) <float[3,3,1,1] w0, float[3] "w0.bias"> {
            s = Sigmoid(x)
            t = Conv<strides = [2, 2]>(s, w0, "w0.bias")
            y = Tanh(t)
        }""",
    ),
    "merged into the layers behind": (
        """net (float[N,8] x) => (float[N,3] y, float[N,5] z)
        <float[8,16] w1, float[16] b, float[16,8] w2, float[3,8] w3, float[8,5] w4, float[5] c> {
            s = Sigmoid(x)
            h = Gemm(s, w1, b)
            f = MatMul(h, w2)
            t = Add(s, f)
            y = Gemm<transB = 1>(t, w3)
            z = Gemm<alpha = 2.0>(t, w4, c)
        }""",
        """net (float[N,8] x) => (float[N,3] y, float[N,5] z)
        <float[3,8] w3, float[3] "w3.bias", float[8,5] w4, float[5] c> {
            s = Sigmoid(x)
            y = Gemm<transB = 1>(s, w3, "w3.bias")
            z = Gemm<alpha = 2.0>(s, w4, c)
        }""",
    ),
    "merged into a Conv behind": (
        f"""net ({SPATIAL} x) => (float[N,3,3,3] y)
        <float[16,4,1,1] w1, float[16] b, float[4,16,1,1] w2, float[3,4,3,3] w3> {{
            s = Sigmoid(x) h = Conv(s, w1, b) f = Conv(h, w2) t = Add(s, f) y = Conv(t, w3)
        }}""",
        f"""net ({SPATIAL} x) => (float[N,3,3,3] y) <float[3,4,3,3] w3, float[3] "w3.bias"> {{
            s = Sigmoid(x) y = Conv(s, w3, "w3.bias")
        }}""",
    ),
    "not merged into a Conv that pads, because of b": (
        f"""net ({SPATIAL} x) => (float[N,3,5,5] y)
        <float[16,4,1,1] w1, float[16] b, float[4,16,1,1] w2, float[3,4,3,3] w3> {{
            s = Sigmoid(x) h = Conv(s, w1, b) f = Conv(h, w2) t = Add(s, f) y = Conv<pads = [1, 1, 1, 1]>(t, w3)
        }}""",
        f"""net ({SPATIAL} x) => (float[N,3,5,5] y)
        <float[4,4,1,1] "t/map.weight", float[4] "t/map.bias", float[3,4,3,3] w3> {{
            s = Sigmoid(x) t = Conv(s, "t/map.weight", "t/map.bias") y = Conv<pads = [1, 1, 1, 1]>(t, w3)
        }}""",
    ),
    "a run": (
        """net (float[N,8] x) => (float[N,8] y) <float[8,16] w1, float[16,8] w2, float[8,16] w3, float[16,8] w4> {
            s = Sigmoid(x)
            h = MatMul(s, w1) f = MatMul(h, w2) t = Add(f, s)
            i = MatMul(t, w3) g = MatMul(i, w4) u = Add(t, g)
            y = Tanh(u)
        }""",
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] "u/map.weight", float[8] "u/map.bias"> {
            s = Sigmoid(x)
            "u/map/product" = MatMul(s, "u/map.weight")
            u = Add("u/map/product", "u/map.bias")
            y = Tanh(u)
        }""",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_before_and_after(case: str) -> None:
    before, after = CASES[case]
    dense = build(before)
    outcome = drop(dense, count=2 if case == "a run" else 1, span=2, most=0.001)
    assert_same_structure(outcome.graph, after)
    assert_equivalent(outcome.graph, dense, tolerance=1e-3)


def test_of_two_relus_in_a_row_one_goes() -> None:
    """Relu(Relu(z)) is Relu(z): the map goes into the layer ahead, which now writes y, and repair finds its target."""
    dense = build(POSTPONED.format("float", 4))
    outcome = drop(dense, ridge=10.0)
    assert_same_structure(
        outcome.graph,
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] w0, float[8] c> { t = Gemm(x, w0, c) y = Relu(t) }""",
    )
    held_out = inputs(dense, seed=1)
    repaired = apply(Repair(), outcome.graph, inputs(dense), reference=dense)
    assert error(repaired.graph, dense, held_out, "y") < 0.8 * error(outcome.graph, dense, held_out, "y")


def test_a_branch_that_does_nothing_goes_without_a_map() -> None:
    dense = build(POSTPONED.format("float", 24), w2=np.zeros((24, 8)))
    outcome = drop(dense, ridge=0.01)
    assert np.array_equal(outcome.graph.array("w0"), dense.array("w0"))
    assert_equivalent(outcome.graph, dense)


TRANSFORMER = """net (float[N,3,8] x) => (float[N,3,8] y)
<float[8,24] w1, float[24,8] w2, float[8] c, float[8,4] w3, float[4,8] w4, float[8] g> {
    e = Sigmoid(x)
    n = LayerNormalization(e, g)
    h = MatMul(n, w1)
    r = Relu(h)
    p = MatMul(r, w2)
    f = Add(p, c)
    s = Add(e, f)
    n2 = LayerNormalization(s, g)
    h2 = MatMul(n2, w3)
    r2 = Relu(h2)
    f2 = MatMul(r2, w4)
    [last] t = Add(s, f2)
    y = LayerNormalization(t, g)
}"""


def test_the_map_goes_into_the_last_layer_of_the_branch_ahead() -> None:
    dense = build(TRANSFORMER, g=np.ones(8))
    outcome = drop(dense)
    assert_same_structure(
        outcome.graph,
        """net (float[N,3,8] x) => (float[N,3,8] y) <float[8,24] w1, float[24,8] w2, float[8] c, float[8] g> {
            e = Sigmoid(x)
            n = LayerNormalization(e, g)
            h = MatMul(n, w1)
            r = Relu(h)
            p = MatMul(r, w2)
            f = Add(p, c)
            t = Add(e, f)
            y = LayerNormalization(t, g)
        }""",
    )
    given, held_out = inputs(dense), inputs(dense, seed=1)
    bypassed = build(TRANSFORMER, g=np.ones(8), w4=np.zeros((4, 8)))
    dropped = error(outcome.graph, dense, held_out, "t")
    assert dropped < 0.8 * error(bypassed, dense, held_out, "t")
    assert error(apply(Repair(), outcome.graph, given, reference=dense).graph, dense, held_out, "t") < dropped


# --- networks


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("resnet", 1),
        ("resnet__raw", 1),
        ("resnet_bottleneck", 1),
        ("convnext", 1),
        ("mobilenet_v2__unfolded", 1),
        ("tcn", 1),
        ("bert", 2),
        ("gpt__unfolded", 2),
        ("llama", 2),
        ("keras_vit", 2),
        ("swin", -1),
        ("encoder_decoder", 2),
    ],
)
def test_networks_lose_branches_and_run(name: str, axis: int) -> None:
    dense = load(name)
    outcome = apply(DropLayers(count=3, span=2, most=10.0), dense, Samples(feeds(name, 16)))
    assert outcome.changed
    assert len(list(outcome.graph.model.graph)) < len(list(dense.model.graph))
    wanted, found = (run(item, feeds(name, 2)) for item in (dense, outcome.graph))
    for key, value in wanted.items():
        assert found[key].shape == value.shape
        assert np.isfinite(found[key]).all()
    maps = [
        node for node in outcome.graph.model.graph if any("/map" in (item.name or "") for item in node.inputs if item)
    ]
    assert all((node.op_type == "Conv") == (axis == 1) for node in maps)
