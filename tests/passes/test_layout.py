"""cancel-transposes: what it leaves alone and why, and graphs before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.shapes import infer_shapes
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.cleanup.layout import CancelTransposes
from tests.harness import assert_equivalent, assert_same_structure, graph, random_feeds, run
from tests.passes.helpers import apply, reasons
from tests.passes.layouts import random_graphs

LAST = "perm = [0,2,3,1]"
FIRST = "perm = [0,3,1,2]"

NUMBERS = {
    "flat": np.array([-1, 48]),
    "hw": np.array([1, 2]),
    "channels": np.array([3]),
    "picked": np.array([3, 1]),
    "pads": np.array([0, 1, 0, 0, 0, 0, 2, 0]),
    "starts": np.array([1, 0]),
    "ends": np.array([4, 2]),
    "steps": np.array([2, 1]),
    "tokens": np.array([0, 16, 3]),
    "heads": np.array([0, 4, 4, 3]),
    "repeats": np.array([1, 2, 1, 3]),
    "wide": np.array([1, 1, 3]),
    "front": np.array([1]),
    "batch": np.array([0]),
    "image": np.array([2, 3]),
    "pixels": np.array([16, 3]),
    "scales": np.array([1, 2, 3, 1]),
}


def build(text: str) -> Graph:
    return graph(text, {name: array for name, array in NUMBERS.items() if f" {name}" in text.split("{")[0]})


def transposes(found: Graph) -> int:
    return sum(node.op_type == "Transpose" for node in found.model.graph)


LEFT_ALONE = {
    "none there": (
        "net (float[N,4] x) => (float[N,4] y) { [relu] y = Relu(x) }",
        {"": "there is no Transpose"},
    ),
    "input of the graph and Conv": (
        f"""net (float[N,4,4,3] x) => (float[N,5,4,4] y) <float[5,3,1,1] w> {{
            [turn] a = Transpose<{FIRST}>(x)
            [conv] y = Conv(a, w)
        }}""",
        {"turn": "'x', which it reads, is an input of the graph, and Conv 'conv' has its axes in fixed places"},
    ),
    "output of the graph": (
        f"""net (float[N,3,4,4] x) => (float[N,4,4,5] y) <float[5,3,1,1] w> {{
            [conv] a = Conv(x, w)
            [turn] y = Transpose<{LAST}>(a)
        }}""",
        {"turn": "Conv 'conv' has its axes in fixed places, and what it writes is an output of the graph"},
    ),
    "nothing to gain": (
        f"""net (float[N,3,4,4] x) => (float[N,4,4,5] y) <float[5,3,1,1] w> {{
            a = Conv(x, w)
            [turn] b = Transpose<{LAST}>(a)
            [relu] y = Relu(b)
        }}""",
        {"turn": "moving it past Relu 'relu' would save nothing"},
    ),
    "MatMul reads the last axis": (
        f"""net (float[N,3,4,4] x) => (float[N,4,4,5] y) <float[3,5] w> {{
            [turn] a = Transpose<{LAST}>(x)
            [product] y = MatMul(a, w)
        }}""",
        {"turn": "MatMul 'product' has its axes in fixed places"},
    ),
    "an operand of lower rank": (
        f"""net (float[N,3,4,4] x, float[3] v) => (float[N,3,4,4] y) {{
            [one] a = Transpose<{LAST}>(x)
            [sum] b = Add(a, v)
            [two] y = Transpose<{FIRST}>(b)
        }}""",
        {"one": "Add 'sum' has its axes in fixed places", "two": "Add 'sum' has its axes in fixed places"},
    ),
    "a matrix and its transpose": (
        """net (float[4,4] x) => (float[4,4] y) {
            [turn] a = Transpose(x)
            [sum] y = Add(x, a)
        }""",
        {"turn": "'x', which it reads, is an input of the graph"},
    ),
    "attention": (
        """net (float[N,6,4] x) => (float[N,6,6] y) {
            a = Relu(x)
            [turn] b = Transpose<perm = [0,2,1]>(a)
            y = MatMul(a, b)
        }""",
        {"turn": "MatMul"},
    ),
    "constant input": (
        """net (float[N,4] x) => (float[N,3] y) <float[3,4] w> {
            [turn] v = Transpose(w)
            y = MatMul(x, v)
        }""",
        {"turn": "its input is constant"},
    ),
    "a subgraph reads it": (
        f"""net (float[N,4,4,3] x, bool flag) => (float[N,4,4,3] y) {{
            [one] a = Transpose<{FIRST}>(x)
            b = If(flag) <
                then_branch = yes () => (float[N,3,4,4] c) {{ c = Relu(a) }},
                else_branch = no () => (float[N,3,4,4] d) {{ d = Neg(a) }}
            >
            [two] y = Transpose<{LAST}>(b)
        }}""",
        {"one": "a subgraph reads its output", "two": "output of the graph"},
    ),
    "a Reshape cuts across": (
        """net (float[N,3,4,4] x) => (float[N,16,3] y) <int64[3] tokens> {
            [one] a = Transpose<perm = [0,3,2,1]>(x)
            [cut] y = Reshape(a, tokens)
        }""",
        {"one": "Reshape 'cut'"},
    ),
    "a Reshape merges what would not lie together": (
        """net (float[N,4,3,4] x) => (float[N,16,3] y) <int64[3] tokens> {
            [turn] a = Transpose<perm = [0,1,3,2]>(x)
            [merge] y = Reshape(a, tokens)
        }""",
        {"turn": "Reshape 'merge' has its axes in fixed places"},
    ),
    "channels are the second axis": (
        f"""net (float[N,4,3,3] x) => (float[N,4,3,3] y) <float[3] g, float[3] b, float[3] m, float[3] v> {{
            [one] a = Transpose<{LAST}>(x)
            [norm] n = BatchNormalization(a, g, b, m, v)
            [two] y = Transpose<{FIRST}>(n)
        }}""",
        {"one": "BatchNormalization 'norm' has", "two": "BatchNormalization 'norm' has"},
    ),
    "the last axis is normalised": (
        """net (float[N,3,3] x) => (float[N,3,3] y) <float[3] g> {
            [one] a = Transpose<perm = [0,2,1]>(x)
            [norm] n = LayerNormalization(a, g)
            [two] y = Transpose<perm = [0,2,1]>(n)
        }""",
        {"one": "LayerNormalization 'norm' has", "two": "LayerNormalization 'norm' has"},
    ),
    "Softmax of several axes at once": (
        """<ir_version: 7, opset_import: ["" : 12]>
        net (float[N,3,4] x) => (float[N,3,4] y) {
            [one] a = Transpose<perm = [0,2,1]>(x)
            [soft] s = Softmax<axis = 1>(a)
            [two] y = Transpose<perm = [0,2,1]>(s)
        }""",
        {"one": "Softmax 'soft' flattens what follows its axis", "two": "Softmax 'soft' flattens"},
    ),
    "two small Transposes are less than a large one": (
        f"""net (float[N,3,4,4] x) => (float[N,1,1,3] y, float[N,1,1,3] z) <int64[2] image> {{
            a = ReduceMax<keepdims = 1>(x, image)
            b = ReduceMin<keepdims = 1>(x, image)
            [one] y = Transpose<{LAST}>(a)
            [two] z = Transpose<{LAST}>(b)
        }}""",
        {"one": "would save nothing", "two": "would save nothing"},
    ),
    "a subgraph reads what lies between": (
        f"""net (float[N,3,4,4] x, bool flag) => (float[N,3,4,4] y, float[N,4,4,3] z) {{
            [one] a = Transpose<{LAST}>(x)
            [relu] b = Relu(a)
            [two] y = Transpose<{FIRST}>(b)
            z = If(flag) <
                then_branch = yes () => (float[N,4,4,3] c) {{ c = Relu(b) }},
                else_branch = no () => (float[N,4,4,3] d) {{ d = Neg(b) }}
            >
        }}""",
        {"one": "Relu 'relu' writes what a subgraph reads", "two": "Relu 'relu' writes what a subgraph reads"},
    ),
    "the batch is not in front of the features": (
        """net (float[3,N,16] x) => (float[N,5] y) <int64[2] flat, float[48,5] w> {
            [turn] a = Transpose<perm = [1,0,2]>(x)
            b = Reshape(a, flat)
            y = MatMul(b, w)
        }""",
        {"turn": "'x', which it reads, is an input of the graph, and Reshape"},
    ),
    "quantised by block": (
        f"""net (float[N,4,4,2] x, float[N,2,4,2] s) => (float[N,4,4,2] y) {{
            [one] a = Transpose<{FIRST}>(x)
            [quantise] q = QuantizeLinear<axis = 2, block_size = 2, output_dtype = 3>(a, s)
            [two] p = Transpose<{LAST}>(q)
            y = Cast<to = 1>(p)
        }}""",
        {"one": "has scales by block", "two": "QuantizeLinear"},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, expected = LEFT_ALONE[case]
    found = build(text)
    outcome = apply(CancelTransposes(), found)
    assert outcome.graph is found
    given = reasons(outcome)
    assert given.keys() == expected.keys()
    for node, reason in expected.items():
        assert reason in given[node]


BEFORE_AFTER = {
    "a chain with a bias": (
        f"""net (float[N,3,4,4] x) => (float[N,2,4,4] y) <float[5,3,1,1] w, float[2,5,1,1] v, float[5] b> {{
            c = Conv(x, w)
            d = Transpose<{LAST}>(c)
            e = Add(d, b)
            f = Relu(e)
            g = Transpose<{FIRST}>(f)
            y = Conv(g, v)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[5,3,1,1] w, float[2,5,1,1] v, float[5,1,1] "b/permuted"> {
            c = Conv(x, w)
            "e/permuted" = Add(c, "b/permuted")
            g = Relu("e/permuted")
            y = Conv(g, v)
        }""",
    ),
    "a residual connection": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3,3,1,1] w> {{
            a = Conv(x, w)
            b = Transpose<{LAST}>(a)
            c = Relu(b)
            d = Transpose<{FIRST}>(c)
            e = Conv(d, w)
            f = Transpose<{LAST}>(e)
            g = Add(c, f)
            h = Transpose<{FIRST}>(g)
            y = Conv(h, w)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3,3,1,1] w> {
            a = Conv(x, w)
            d = Relu(a)
            e = Conv(d, w)
            h = Add(d, e)
            y = Conv(h, w)
        }""",
    ),
    "squeeze and excite": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y) <int64[2] hw> {{
            a = Transpose<{LAST}>(x)
            b = ReduceMean<keepdims = 1>(a, hw)
            c = Sigmoid(b)
            d = Mul(a, c)
            y = Transpose<{FIRST}>(d)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y) <int64[2] "hw/permuted"> {
            "b/permuted" = ReduceMean<keepdims = 1>(x, "hw/permuted")
            "c/permuted" = Sigmoid("b/permuted")
            y = Mul(x, "c/permuted")
        }""",
    ),
    "axes that are dropped": (
        f"""net (float[N,3,4,4] x) => (float[N,3] y) <int64[2] hw> {{
            a = Transpose<{LAST}>(x)
            y = ReduceMax<keepdims = 0>(a, hw)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3] y) <int64[2] "hw/permuted"> {
            y = ReduceMax<keepdims = 0>(x, "hw/permuted")
        }""",
    ),
    "concatenated with a constant, and split": (
        f"""net (float[1,3,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z) <float[1,4,4,1] k> {{
            a = Transpose<{LAST}>(x)
            b = Concat<axis = -1>(a, k)
            c, d = Split<axis = 3, num_outputs = 2>(b)
            y = Transpose<{FIRST}>(c)
            z = Transpose<{FIRST}>(d)
        }}""",
        """net (float[1,3,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z) <float[1,1,4,4] "k/permuted"> {
            "b/permuted" = Concat<axis = 1>(x, "k/permuted")
            y, z = Split<axis = 1, num_outputs = 2>("b/permuted")
        }""",
    ),
    "padded, sliced and tiled": (
        f"""net (float[N,3,4,4] x) => (float[N,9,4,2] y)
        <int64[8] pads, int64[2] starts, int64[2] ends, int64[2] hw, int64[2] steps, int64[4] repeats> {{
            a = Transpose<{LAST}>(x)
            b = Pad(a, pads)
            c = Slice(b, starts, ends, hw, steps)
            d = Tile(c, repeats)
            y = Transpose<{FIRST}>(d)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,9,4,2] y)
        <int64[8] "pads/permuted", int64[2] starts, int64[2] ends, int64[2] "hw/permuted", int64[2] steps,
         int64[4] "repeats/permuted"> {
            "b/permuted" = Pad(x, "pads/permuted")
            "c/permuted" = Slice("b/permuted", starts, ends, "hw/permuted", steps)
            y = Tile("c/permuted", "repeats/permuted")
        }""",
    ),
    "softmax and normalisation along an axis": (
        """net (float[N,3,5] x) => (float[N,3,5] y) {
            a = Transpose<perm = [0,2,1]>(x)
            b = Softmax<axis = -1>(a)
            c = LpNormalization<axis = 1>(b)
            y = Transpose<perm = [0,2,1]>(c)
        }""",
        """net (float[N,3,5] x) => (float[N,3,5] y) {
            "b/permuted" = Softmax<axis = 1>(x)
            y = LpNormalization<axis = 2>("b/permuted")
        }""",
    ),
    "time in front": (
        """net (float[N,6,4] x) => (float[N,6,3] y) <float[4,3] w, float[3] s> {
            a = Transpose<perm = [1,0,2]>(x)
            b = MatMul(a, w)
            c = LayerNormalization(b, s)
            y = Transpose<perm = [1,0,2]>(c)
        }""",
        """net (float[N,6,4] x) => (float[N,6,3] y) <float[4,3] w, float[3] s> {
            "b/permuted" = MatMul(x, w)
            y = LayerNormalization("b/permuted", s)
        }""",
    ),
    "weights behind a Reshape": (
        f"""net (float[N,3,4,4] x) => (float[N,5] y) <int64[2] flat, float[48,5] "fc.weight", float[5] "fc.bias"> {{
            a = Transpose<{LAST}>(x)
            b = Reshape(a, flat)
            c = Relu(b)
            d = MatMul(c, "fc.weight")
            y = Add(d, "fc.bias")
        }}""",
        """net (float[N,3,4,4] x) => (float[N,5] y)
        <int64[2] flat, float[48,5] "fc.weight/permuted", float[5] "fc.bias"> {
            "b/permuted" = Reshape(x, flat)
            "c/permuted" = Relu("b/permuted")
            d = MatMul("c/permuted", "fc.weight/permuted")
            y = Add(d, "fc.bias")
        }""",
    ),
    "weights behind a Flatten": (
        f"""net (float[N,3,4,4] x) => (float[N,5] y) <float[5,48] w, float[5] c> {{
            a = Transpose<{LAST}>(x)
            b = Flatten(a)
            y = Gemm<transB = 1>(b, w, c)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,5] y) <float[5,48] "w/permuted", float[5] c> {
            "b/permuted" = Flatten(x)
            y = Gemm<transB = 1>("b/permuted", "w/permuted", c)
        }""",
    ),
    "sizes that are measured": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y, int64[2] s) <int64[2] picked> {{
            a = Transpose<{LAST}>(x)
            b = Relu(a)
            m = Shape(b)
            s = Gather(m, picked)
            y = Transpose<{FIRST}>(b)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y, int64[2] s) <int64[2] "picked/permuted"> {
            y = Relu(x)
            "m/permuted" = Shape(y)
            s = Gather("m/permuted", "picked/permuted")
        }""",
    ),
    "sizes that are measured and read as they are": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y, int64[3] s) {{
            a = Transpose<{LAST}>(x)
            b = Relu(a)
            s = Shape<start = 1>(b)
            y = Transpose<{FIRST}>(b)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y, int64[3] s) <int64[3] "s/places"> {
            y = Relu(x)
            "s/permuted" = Shape(y)
            s = Gather<axis = 0>("s/permuted", "s/places")
        }""",
    ),
    "axes merged, split and inserted": (
        """net (float[N,3,4,4] x) => (float[N,3,4,4,1] y) <int64[3] tokens, int64[4] heads, int64[1] front> {
            a = Transpose<perm = [0,2,3,1]>(x)
            b = Reshape(a, tokens)
            c = Exp(b)
            d = Reshape(c, heads)
            e = Unsqueeze(d, front)
            y = Transpose<perm = [0,4,2,3,1]>(e)
        }""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4,1] y)
        <int64[3] "tokens/permuted", int64[4] "heads/permuted", int64[1] "front/permuted"> {
            "b/permuted" = Reshape(x, "tokens/permuted")
            "c/permuted" = Exp("b/permuted")
            "d/permuted" = Reshape("c/permuted", "heads/permuted")
            y = Unsqueeze("d/permuted", "front/permuted")
        }""",
    ),
    "a shape that is computed": (
        """net (float[N,3,4,4] x) => (float[N,3,16] y) <int64[1] batch, int64[2] pixels> {
            a = Transpose<perm = [0,2,3,1]>(x)
            b = Relu(a)
            s = Shape(b)
            n = Gather(s, batch)
            t = Concat<axis = 0>(n, pixels)
            c = Reshape(b, t)
            y = Transpose<perm = [0,2,1]>(c)
        }""",
        None,
    ),
    "a Transpose moves to where tensors are smaller": (
        f"""net (float[N,3,4,4] x) => (float[N,1,1,3] y) <int64[2] hw> {{
            a = Transpose<{LAST}>(x)
            y = ReduceSum<keepdims = 1>(a, hw)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,1,1,3] y) <int64[2] "hw/permuted"> {
            "y/permuted" = ReduceSum<keepdims = 1>(x, "hw/permuted")
            y = Transpose<perm = [0,2,3,1]>("y/permuted")
        }""",
    ),
    "pairs that nothing stands between, twice the same, and one that nobody reads": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,4,4,3] z) {{
            a = Transpose<{LAST}>(x)
            b = Transpose<{FIRST}>(a)
            c = Transpose(a)
            d = Relu(b)
            e = Transpose<{LAST}>(x)
            f = Neg(a)
            g = Exp(e)
            z = Add(f, g)
            y = Relu(d)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,4,4,3] z) {
            a = Transpose<perm = [0,2,3,1]>(x)
            d = Relu(x)
            f = Neg(a)
            g = Exp(a)
            z = Add(f, g)
            y = Relu(d)
        }""",
    ),
    "quantised along channels": (
        f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3] s, float[3] b, int8[3] o> {{
            a = Transpose<{LAST}>(x)
            p = QuantizeLinear<axis = -1>(a, s, o)
            q = DequantizeLinear<axis = 3>(p, s, o)
            c = PRelu(q, b)
            y = Transpose<{FIRST}>(c)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3] s, float[3,1,1] "b/permuted", int8[3] o> {
            "p/permuted" = QuantizeLinear<axis = 1>(x, s, o)
            "q/permuted" = DequantizeLinear<axis = 1>("p/permuted", s, o)
            y = PRelu("q/permuted", "b/permuted")
        }""",
    ),
    "rows of an axis": (
        f"""net (float[N,3,4,4] x) => (int64[N,4] y) <int64 one = {{1}}, int64[1] front, int64[4] scales> {{
            a = Transpose<{LAST}>(x)
            b = Gather<axis = 2>(a, one)
            c = Unsqueeze(b, front)
            d = Squeeze(c, front)
            y = ArgMax<axis = -1, keepdims = 0>(d)
        }}""",
        None,
    ),
    "enlarged": (
        f"""net (float[N,3,4,4] x) => (float[N,3,8,12] y) <float[4] scales> {{
            a = Transpose<{LAST}>(x)
            b = Resize<mode = "nearest">(a, , scales)
            y = Transpose<{FIRST}>(b)
        }}""",
        """net (float[N,3,4,4] x) => (float[N,3,8,12] y) <float[4] "scales/permuted"> {
            y = Resize<mode = "nearest">(x, , "scales/permuted")
        }""",
    ),
}


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str) -> None:
    before, after = BEFORE_AFTER[case]
    found = build(before)
    outcome = apply(CancelTransposes(), found)
    assert_equivalent(outcome.graph, found, tolerance=1e-6)
    if after is not None:
        assert_same_structure(outcome.graph, after)
    assert transposes(outcome.graph) <= ("moves to" in case or "stands between" in case)
    assert not apply(CancelTransposes(), outcome.graph).changed, "whatever pays is done at once"
    total = connections(outcome.edits)
    assert (total.pruned, total.created) == (0, 0), "permuted weights are neither pruned nor created"


def test_weights_stay_where_they_may_not_be_permuted() -> None:
    text, _ = BEFORE_AFTER["weights behind a Reshape"]
    found = build(text)
    outcome = apply(CancelTransposes(absorb=False), found)
    assert outcome.graph is found
    assert "Reshape" in outcome.refusals[0].reason


def moved_bytes(found: Graph) -> int:
    """Bytes that all Transposes move for one sample."""
    sizes = infer_shapes(found)
    moved = [node.outputs[0].name or "" for node in found.model.graph if node.op_type == "Transpose"]
    return sum(math.prod(size or 1 for size in sizes[name]) for name in moved)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graphs_compute_the_same_with_no_more_transposes(found: Graph) -> None:
    outcome = apply(CancelTransposes(), found)
    if outcome.changed:
        expected = run_both(found, outcome.graph)
        for before, after in expected:
            assert before.shape == after.shape
            scale = max(float(np.abs(before).max()), 1.0)  # what is summed in another order is about 1
            np.testing.assert_allclose(after, before, rtol=0, atol=5e-6 * scale)
        assert transposes(outcome.graph) <= transposes(found)
        assert moved_bytes(outcome.graph) <= moved_bytes(found)


def run_both(found: Graph, other: Graph) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for batch in (1, 3):
        feeds = random_feeds(input_specs(found), batch, seed=0)
        before, after = run(found, feeds), run(other, feeds)
        assert before.keys() == after.keys()
        yield from ((before[name], after[name]) for name in before)
