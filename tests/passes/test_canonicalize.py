from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import run_pass
from surgery_ir.passes.cleanup.canonicalize import Canonicalize
from tests.harness import assert_equivalent, assert_same_structure
from tests.passes.helpers import apply, build, context, reasons

PARAMETERS = "float[4] g, float[4] b, float[4] m, float[4] v"
IMAGE = "net (float[N,4,6,6] x) => (float[N,4,4,4] y)"

LEFT_ALONE = {
    "nothing to do": (
        "net (float[N,4] x) => (float[N,4] y) { [relu] y = Relu(x) }",
        {"": "canonical already"},
    ),
    "training mode": (
        f"""{IMAGE} <float[4,4,3,3] w, {PARAMETERS}> {{
            h = Conv(x, w)
            [norm] y, mean, var = BatchNormalization<training_mode = 1>(h, g, b, m, v)
        }}""",
        {"norm": "training mode"},
    ),
    "after a Relu": (
        f"""{IMAGE} <float[4,4,3,3] w, {PARAMETERS}> {{
            h = Conv(x, w)
            r = Relu(h)
            [norm] y = BatchNormalization(r, g, b, m, v)
        }}""",
        {"norm": "its input is written by Relu"},
    ),
    "at the input": (
        f"net (float[N,4] x) => (float[N,4] y) <{PARAMETERS}> {{ [norm] y = BatchNormalization(x, g, b, m, v) }}",
        {"norm": "no Conv or Gemm writes its input"},
    ),
    "convolution read twice": (
        f"""{IMAGE} <float[4,4,3,3] w, {PARAMETERS}> {{
            [conv] h = Conv(x, w)
            [norm] n = BatchNormalization(h, g, b, m, v)
            y = Add(n, h)
        }}""",
        {"norm": "the output of 'conv' is read by others too"},
    ),
    "convolution is an output": (
        f"""net (float[N,4,6,6] x) => (float[N,4,4,4] y, float[N,4,4,4] h) <float[4,4,3,3] w, {PARAMETERS}> {{
            [conv] h = Conv(x, w)
            [norm] y = BatchNormalization(h, g, b, m, v)
        }}""",
        {"norm": "the output of 'conv' is read by others too"},
    ),
    "shared weights": (
        f"""net (float[N,4,6,6] x) => (float[N,4,2,2] y) <float[4,4,3,3] w, {PARAMETERS}> {{
            [one] h = Conv(x, w)
            [norm] n = BatchNormalization(h, g, b, m, v)
            [two] y = Conv(n, w)
        }}""",
        {"norm": "the weights of 'one' are not constant or not its own"},
    ),
    "parameters fed": (
        """net (float[N,4,6,6] x, float[4] m) => (float[N,4,4,4] y)
        <float[4,4,3,3] w, float[4] g, float[4] b, float[4] v> {
            h = Conv(x, w)
            [norm] y = BatchNormalization(h, g, b, m, v)
        }""",
        {"norm": "its parameters are not constant"},
    ),
    "weights fed": (
        f"""net (float[N,4,6,6] x, float[4,4,3,3] w) => (float[N,4,4,4] y) <{PARAMETERS}> {{
            [conv] h = Conv(x, w)
            [norm] y = BatchNormalization(h, g, b, m, v)
        }}""",
        {"norm": "the weights of 'conv' are not constant"},
    ),
    "Gemm adds a matrix": (
        f"""net (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[3,4] c, {PARAMETERS}> {{
            [fc] h = Gemm(x, w, c)
            [norm] y = BatchNormalization(h, g, b, m, v)
        }}""",
        {"norm": "the third input of 'fc' is no vector"},
    ),
    "Gemm ignores its bias": (
        f"""net (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[4] c, {PARAMETERS}> {{
            [fc] h = Gemm<beta = 0.0>(x, w, c)
            [norm] y = BatchNormalization(h, g, b, m, v)
        }}""",
        {"norm": "the bias of 'fc' is multiplied by 0"},
    ),
    "Dropout decided at run time": (
        """net (float[N,4] x, bool flag) => (float[N,4] y) <float ratio = {0.0}> {
            h = Relu(x)
            [drop] d = Dropout(h, ratio, flag)
            y = Neg(d)
        }""",
        {"drop": "decided at run time"},
    ),
    "Dropout in training": (
        """net (float[N,4] x) => (float[N,4] y) <float ratio = {0.0}, bool flag = {1}> {
            h = Relu(x)
            [drop] d = Dropout(h, ratio, flag)
            y = Neg(d)
        }""",
        {"drop": "training mode"},
    ),
    "Dropout with its mask read": (
        """net (float[N,4] x) => (float[N,4] y, bool[N,4] mask) {
            h = Relu(x)
            [drop] d, mask = Dropout(h)
            y = Neg(d)
        }""",
        {"drop": "its mask is read"},
    ),
    "identity of an input": (
        "net (float[N,4] x) => (float[N,4] y) { [same] y = Identity(x) }",
        {"same": "names an output"},
    ),
    "identities of one value, all outputs": (
        """net (float[N,4] x) => (float[N,4] h, float[N,4] y, float[N,4] z) {
            h = Relu(x)
            [one] y = Identity(h)
            [two] z = Identity(h)
        }""",
        {"one": "names an output", "two": "names an output"},
    ),
    "quantised weights": (
        """net (float[N,4] x) => (float[N,3] y) <int8[4,3] q, float scale = {0.1}, int8 zero = {1}> {
            w = DequantizeLinear(q, scale, zero)
            y = MatMul(x, w)
        }""",
        {"": "canonical already"},
    ),
    "a constant that would grow": (
        """net (float[N,1] x) => (float[N,500,500] y)
        <float[1,1] one, int64[3] shape = {1, 500, 500}, int64[1] axes = {2}> {
            [grow] big = Expand(one, shape)
            [deep] x3 = Unsqueeze(x, axes)
            y = Add(x3, big)
        }""",
        {"grow": "larger than what it is made of (1000000 bytes)"},
    ),
    "branches": (
        """net (float[N,4] x, bool flag) => (float[N,4] y) {
            h = Relu(x)
            y = If(flag) <
                then_branch = yes () => (float[N,4] a) { a = Identity(h) },
                else_branch = no () => (float[N,4] b) { n = Neg(h) b = Identity(n) }
            >
        }""",
        {"": "canonical already"},
    ),
    "another domain's operator": (
        """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
        net (float[N,4] x) => (float[N,4] y) <float[4] k> {
            c = com.microsoft.Gelu(k)
            y = Add(x, c)
        }""",
        {"": "canonical already"},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, expected = LEFT_ALONE[case]
    graph = build(text)
    outcome = apply(Canonicalize(), graph)
    assert outcome.graph is graph
    found = reasons(outcome)
    assert found.keys() == expected.keys()
    for node, reason in expected.items():
        assert reason in found[node]


BEFORE_AFTER = {
    "Conv without a bias, and the output keeps its name": (
        f"""{IMAGE} <float[4,4,3,3] "conv.weight", {PARAMETERS}> {{
            h = Conv(x, "conv.weight")
            y = BatchNormalization<epsilon = 0.1>(h, g, b, m, v)
        }}""",
        f"""{IMAGE} <float[4,4,3,3] "conv.weight", float[4] "conv.bias"> {{
            y = Conv(x, "conv.weight", "conv.bias")
        }}""",
    ),
    "Conv with a bias, which keeps its name": (
        f"""{IMAGE} <float[4,4,3,3] "conv.weight", float[4] "conv.bias", {PARAMETERS}> {{
            h = Conv(x, "conv.weight", "conv.bias")
            n = BatchNormalization(h, g, b, m, v)
            y = Relu(n)
        }}""",
        f"""{IMAGE} <float[4,4,3,3] "conv.weight", float[4] "conv.bias"> {{
            n = Conv(x, "conv.weight", "conv.bias")
            y = Relu(n)
        }}""",
    ),
    "Conv whose bias another layer reads": (
        f"""{IMAGE} <float[4,4,1,1] w1, float[4,4,3,3] w2, float[4] c, {PARAMETERS}> {{
            h = Conv(x, w1, c)
            n = BatchNormalization(h, g, b, m, v)
            y = Conv(n, w2, c)
        }}""",
        f"""{IMAGE} <float[4,4,1,1] w1, float[4,4,3,3] w2, float[4] c, float[4] "w1.bias"> {{
            n = Conv(x, w1, "w1.bias")
            y = Conv(n, w2, c)
        }}""",
    ),
    "grouped Conv": (
        f"""{IMAGE} <float[4,2,3,3] w, {PARAMETERS}> {{
            h = Conv<group = 2>(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        f"""{IMAGE} <float[4,2,3,3] w, float[4] "w.bias"> {{ y = Conv<group = 2>(x, w, "w.bias") }}""",
    ),
    "Conv over one axis": (
        f"""net (float[N,3,8] x) => (float[N,4,6] y) <float[4,3,3] w, {PARAMETERS}> {{
            h = Conv(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,3,8] x) => (float[N,4,6] y) <float[4,3,3] w, float[4] "w.bias"> {
            y = Conv(x, w, "w.bias")
        }""",
    ),
    "Conv over three axes": (
        f"""net (float[N,2,3,4,4] x) => (float[N,4,2,3,3] y) <float[4,2,2,2,2] w, {PARAMETERS}> {{
            h = Conv(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,2,3,4,4] x) => (float[N,4,2,3,3] y) <float[4,2,2,2,2] w, float[4] "w.bias"> {
            y = Conv(x, w, "w.bias")
        }""",
    ),
    "two norms in a row": (
        f"""{IMAGE} <float[4,4,3,3] w, {PARAMETERS}> {{
            h = Conv(x, w)
            n = BatchNormalization(h, g, b, m, v)
            y = BatchNormalization(n, b, g, m, v)
        }}""",
        f"""{IMAGE} <float[4,4,3,3] w, float[4] "w.bias"> {{ y = Conv(x, w, "w.bias") }}""",
    ),
    "ConvTranspose": (
        f"""net (float[N,6,4,4] x) => (float[N,4,9,9] y) <float[6,4,3,3] w, float[4] c, {PARAMETERS}> {{
            h = ConvTranspose<strides = [2, 2]>(x, w, c)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,6,4,4] x) => (float[N,4,9,9] y) <float[6,4,3,3] w, float[4] c> {
            y = ConvTranspose<strides = [2, 2]>(x, w, c)
        }""",
    ),
    "grouped ConvTranspose": (
        f"""net (float[N,6,4,4] x) => (float[N,4,6,6] y) <float[6,2,3,3] w, {PARAMETERS}> {{
            h = ConvTranspose<group = 2>(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,6,4,4] x) => (float[N,4,6,6] y) <float[6,2,3,3] w, float[4] "w.bias"> {
            y = ConvTranspose<group = 2>(x, w, "w.bias")
        }""",
    ),
    "Gemm": (
        f"""net (float[N,5] x) => (float[N,4] y) <float[5,4] w, {PARAMETERS}> {{
            h = Gemm(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[4] "w.bias"> { y = Gemm(x, w, "w.bias") }""",
    ),
    "Gemm, transposed and scaled": (
        f"""net (float[N,5] x) => (float[N,4] y) <float[4,5] w, float[4] c, {PARAMETERS}> {{
            h = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,5] x) => (float[N,4] y) <float[4,5] w, float[4] c> {
            y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c)
        }""",
    ),
    "Gemm, one number for all outputs": (
        f"""net (float[N,5] x) => (float[N,4] y) <float[4,5] w, float[1] c, {PARAMETERS}> {{
            h = Gemm<transB = 1, beta = 3.0>(x, w, c)
            y = BatchNormalization(h, g, b, m, v)
        }}""",
        """net (float[N,5] x) => (float[N,4] y) <float[4,5] w, float[4] "w.bias"> {
            y = Gemm<transB = 1, beta = 3.0>(x, w, "w.bias")
        }""",
    ),
    "a chain of constants": (
        """net (float[N,4] x) => (float[N,2,2] y)
        <float[2,2] like, int64 first = {0}, int64[1] batch = {-1}, int64[1] where = {0}> {
            shape = Shape(like)
            rows = Gather(shape, first)
            axis = Unsqueeze(rows, where)
            target = Concat<axis = 0>(batch, axis, axis)
            y = Reshape(x, target)
        }""",
        "net (float[N,4] x) => (float[N,2,2] y) <int64[3] target> { y = Reshape(x, target) }",
    ),
    "weights made of constants, among them two results of one operator": (
        """net (float[N,4] x) => (float[N,3] y) <float[3,8] w> {
            t = Transpose(w)
            a, b = Split<axis = 0, num_outputs = 2>(t)
            h = MatMul(x, a)
            k = MatMul(x, b)
            y = Add(h, k)
        }""",
        """net (float[N,4] x) => (float[N,3] y) <float[4,3] a, float[4,3] b> {
            h = MatMul(x, a)
            k = MatMul(x, b)
            y = Add(h, k)
        }""",
    ),
    "a constant that a branch reads": (
        """net (float[N,4] x, bool flag) => (float[N,4] y) <float[4] k> {
            c = Neg(k)
            y = If(flag) <
                then_branch = yes () => (float[N,4] a) { a = Add(x, c) },
                else_branch = no () => (float[N,4] b) { b = Sub(x, c) }
            >
        }""",
        """net (float[N,4] x, bool flag) => (float[N,4] y) <float[4] c> {
            y = If(flag) <
                then_branch = yes () => (float[N,4] a) { a = Add(x, c) },
                else_branch = no () => (float[N,4] b) { b = Sub(x, c) }
            >
        }""",
    ),
    "constants behind an inactive Dropout": (
        """net (float[N,4] x) => (float[N,4] y) <float[4] k> {
            d = Dropout(k)
            c = Neg(d)
            y = Add(x, c)
        }""",
        "net (float[N,4] x) => (float[N,4] y) <float[4] c> { y = Add(x, c) }",
    ),
    "identities and Dropout": (
        """net (float[N,4] x) => (float[N,4] y) <bool off = {0}> {
            a = Identity(x)
            b = Relu(a)
            c = Identity(b)
            d = Dropout(c, "", off)
            e = Dropout(d)
            f = Neg(e)
            y = Identity(f)
        }""",
        "net (float[N,4] x) => (float[N,4] y) { e = Relu(x) y = Neg(e) }",
    ),
    "a norm behind an identity": (
        f"""{IMAGE} <float[4,4,3,3] w, {PARAMETERS}> {{
            h = Conv(x, w)
            i = Identity(h)
            y = BatchNormalization(i, g, b, m, v)
        }}""",
        f"""{IMAGE} <float[4,4,3,3] w, float[4] "w.bias"> {{ y = Conv(x, w, "w.bias") }}""",
    ),
    "dead code": (
        """net (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] unread> {
            dead = MatMul(x, w)
            deader = Relu(dead)
            y = Neg(x)
        }""",
        "net (float[N,4] x) => (float[N,4] y) { y = Neg(x) }",
    ),
    "dead code beside branches": (
        """net (float[N,4] x, bool flag) => (float[N,4] y) {
            h = Relu(x)
            dead = Exp(h)
            y = If(flag) <
                then_branch = yes () => (float[N,4] a) { a = Identity(h) },
                else_branch = no () => (float[N,4] b) { n = Neg(h) b = Identity(n) }
            >
        }""",
        """net (float[N,4] x, bool flag) => (float[N,4] y) {
            h = Relu(x)
            y = If(flag) <
                then_branch = yes () => (float[N,4] a) { a = Identity(h) },
                else_branch = no () => (float[N,4] b) { n = Neg(h) b = Identity(n) }
            >
        }""",
    ),
    "initializers that are inputs as well": (
        """<ir_version: 3, opset_import: ["" : 9]>
        net (float[N,3,6,6] x, float[4,3,3,3] w, float[4] g, float[4] b, float[4] m, float[4] v)
        => (float[N,4,4,4] y)
        <float[4,3,3,3] w, float[4] g, float[4] b, float[4] m, float[4] v> {
            h = Conv(x, w)
            y = BatchNormalization(h, g, b, m, v)
        }""",
        None,
    ),
}


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str) -> None:
    before, after = BEFORE_AFTER[case]
    graph = build(before)
    outcome = apply(Canonicalize(), graph)
    if after is not None:
        assert_same_structure(outcome.graph, after)
    else:
        assert [node.op_type for node in outcome.graph.model.graph] == ["Conv"]
    assert_equivalent(outcome.graph, graph)
    assert not run_pass(Canonicalize(), outcome.graph, context(graph)).changed


def test_folded_bias_is_the_closed_form() -> None:
    graph = build(
        f"""net (float[N,5] x) => (float[N,4] y) <float[5,4] "fc.weight", float[4] "fc.bias", {PARAMETERS}> {{
            h = Gemm(x, "fc.weight", "fc.bias")
            y = BatchNormalization<epsilon = 0.5>(h, g, b, m, v)
        }}"""
    )
    array = graph.array
    factor = array("g") / np.sqrt(array("v") + 0.5)
    result = apply(Canonicalize(), graph).graph
    assert np.allclose(result.array("fc.weight"), array("fc.weight") * factor, rtol=1e-6)
    assert np.allclose(result.array("fc.bias"), (array("fc.bias") - array("m")) * factor + array("b"), atol=1e-6)


def test_names_and_connections_of_a_fold() -> None:
    graph = build(BEFORE_AFTER["Conv without a bias, and the output keeps its name"][0])
    outcome = apply(Canonicalize(), graph)
    assert {edit.kind for edit in outcome.edits} >= {"fold-batchnorm", "remove-dead"}
    assert sum(edit.pruned + edit.created for edit in outcome.edits) == 0


def test_norm_whose_fold_overflows_is_left_alone() -> None:
    text = """net (float16[N,2] x) => (float16[N,3] y)
    <float16[2,3] w, float16[3] g = {60000, 1, 1}, float16[3] b, float16[3] m, float16[3] v> {
        [fc] h = Gemm(x, w)
        [norm] y = BatchNormalization(h, g, b, m, v)
    }"""
    outcome = apply(Canonicalize(), build(text, v=np.full(3, 1e-4)))
    assert not outcome.changed
    assert reasons(outcome) == {"norm": "folding it into 'fc' would give weights that are not finite"}


def test_dead_channels_fold() -> None:
    graph = build(BEFORE_AFTER["Gemm"][0], v=np.array([0.0, 1.0, 1.0, 0.0]), g=np.array([0.0, 1.0, 0.0, 2.0]))
    outcome = apply(Canonicalize(), graph)
    assert_equivalent(outcome.graph, graph)
    assert sum(edit.pruned for edit in outcome.edits) == 10


def test_random_values_are_not_frozen() -> None:
    graph = build(
        """net (float[N,4] x) => (float[N,4] y) <float[4] like, float half = {0.5}, bool on = {1}> {
            noise = RandomNormalLike(like)
            more = RandomNormal<shape = [4]>()
            dropped = Dropout(like, half, on)
            a = Add(x, noise)
            b = Add(a, more)
            y = Add(b, dropped)
        }"""
    )
    outcome = apply(Canonicalize(), graph)
    assert not outcome.changed
    assert [node.op_type for node in outcome.graph.model.graph][:3] == ["RandomNormalLike", "RandomNormal", "Dropout"]


def test_strings_are_folded() -> None:
    graph = build(
        """net (int64 x) => (string[2] y) <string[3] words = {"one", "two", "three"}, int64[3] order = {2, 1, 0},
        int64[1] zero = {0}, int64[1] one = {1}> {
            turned = Gather(words, order)
            more = Unsqueeze(x, zero)
            end = Add(more, one)
            y = Slice(turned, zero, end)
        }"""
    )
    outcome = apply(Canonicalize(), graph)
    assert [node.op_type for node in outcome.graph.model.graph] == ["Unsqueeze", "Add", "Slice"]
    assert [bytes(item) for item in outcome.graph.array("turned")] == [b"three", b"two", b"one"]
    assert outcome.graph.fingerprint() != graph.fingerprint()
    assert_equivalent(outcome.graph, graph)


def test_sequence_of_constants_is_left_alone() -> None:
    graph = build(
        """net (float[N,2] x, int64 which) => (float[N,2] y) <float[3,2] k> {
            [split] parts = SplitToSequence(k)
            part = SequenceAt(parts, which)
            y = Add(x, part)
        }"""
    )
    outcome = apply(Canonicalize(), graph)
    assert not outcome.changed
    assert reasons(outcome) == {"split": "its constant result is no array"}


def test_what_the_runtime_cannot_compute_is_left_alone() -> None:
    graph = build(
        """net (float[N,2] x) => (float[N,2] y) <int64[1] a = {7}, float[2] k> {
            [far] picked = Gather(k, a)
            y = Add(x, picked)
        }"""
    )
    outcome = apply(Canonicalize(), graph)
    assert not outcome.changed
    assert reasons(outcome)["far"].startswith("constants could not be computed: ")


def test_given_graph_stays_as_it_is() -> None:
    graph: Graph = build(BEFORE_AFTER["Conv with a bias, which keeps its name"][0])
    before = graph.fingerprint()
    assert apply(Canonicalize(), graph).changed
    assert graph.fingerprint() == before
