"""Which branches there are, and what each can be replaced by."""

from __future__ import annotations

import pytest

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.shapes import infer_shapes
from surgery_ir.passes.prune.branches import Branch, find_branches, runs
from surgery_ir.passes.prune.replacements import replacements
from tests.passes.helpers import build

MLP = "h = MatMul(s, w1) f = MatMul(h, w2)"
WEIGHTS = "float[8,8] w0, float[8,16] w1, float[16,8] w2, float[8,8] w3"


def described(branch: Branch) -> str:
    return f"{branch.total}: {branch.entry} -> {branch.kept} without {' '.join(sorted(branch.removed))}"


FOUND: dict[str, tuple[str, list[str]]] = {
    "the skip is the shorter side": (
        """s = Relu(x) [a] h = MatMul(s, w1) [b] f = MatMul(h, w2) [c] g = Relu(s) [d] k = Relu(g)
        t = Add(f, k) [e] u = MatMul(t, w3) y = Add(u, t)""",
        ["t: s -> k without a b", "y: t -> t without e"],
    ),
    "a layer on either side: the one with more weights goes": (
        """s = Relu(x) [a] e = MatMul(s, w0) [d] f = Relu(e)
        [b] h = MatMul(s, w1) [c] k = MatMul(h, w2) y = Add(k, f)""",
        ["y: s -> f without b c"],
    ),
    "the shorter skip stays, however few weights go": (
        "s = Relu(x) [a] f = MatMul(s, w0) [b] h = MatMul(f, w3) [c] y = Add(f, h)",
        ["y: f -> f without b"],
    ),
    "two operators on the skip path": (
        "s = Relu(x) [a] h = MatMul(s, w1) [b] f = MatMul(h, w2) k1 = Sigmoid(s) k2 = Tanh(k1) y = Add(k2, f)",
        ["y: s -> k2 without a b"],
    ),
    "what only the branch needs goes with it": (
        "s = Relu(x) [a] m = Sigmoid(x) [b] h = MatMul(s, w0) [c] f = Mul(h, m) y = Add(s, f)",
        ["y: s -> s without a b c"],
    ),
    "what others need stays": (
        "s = Relu(x) m = Sigmoid(x) [b] h = MatMul(s, w0) [c] f = Mul(h, m) t = Add(s, f) y = Mul(t, m)",
        ["t: s -> s without b c"],
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_branches(case: str) -> None:
    body, expected = FOUND[case]
    found, _ = find_branches(build(f"net (float[N,8] x) => (float[N,8] y) <{WEIGHTS}> {{ {body} }}"))
    assert [described(branch) for branch in found] == expected


RUNS: dict[str, tuple[str, list[str]]] = {
    "one behind the other": (
        "s = Relu(x) f = MatMul(s, w0) t = Add(s, f) g = MatMul(t, w3) u = Add(t, g) y = Relu(u)",
        ["s -> u, 2"],
    ),
    "two operators between": (
        """s = Relu(x) f = MatMul(s, w0) t = Add(s, f) t1 = Relu(t) t2 = Tanh(t1)
        g = MatMul(t2, w3) u = Add(t2, g) y = Relu(u)""",
        ["s -> u, 2"],
    ),
    "three": (
        """s = Relu(x) f = MatMul(s, w0) t = Add(s, f) g = MatMul(t, w3) u = Add(t, g)
        h = MatMul(u, w0) v = Add(u, h) y = Relu(v)""",
        ["s -> u, 2", "s -> v, 3", "t -> v, 2"],
    ),
    "the sum between is read elsewhere": (
        "s = Relu(x) f = MatMul(s, w0) t = Add(s, f) g = MatMul(t, w3) u = Add(t, g) y = Mul(u, t)",
        [],
    ),
    "a projection on the second skip": (
        "s = Relu(x) f = MatMul(s, w0) t = Add(s, f) g = MatMul(t, w3) k = Relu(t) u = Add(k, g) y = Relu(u)",
        [],
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs(case: str) -> None:
    body, expected = RUNS[case]
    graph = build(f"net (float[N,8] x) => (float[N,8] y) <{WEIGHTS}> {{ {body} }}")
    branches, _ = find_branches(graph)
    found = list(runs(graph, branches, 3))
    assert sorted(f"{item.kept} -> {item.total}, {item.length}" for item in found) == expected
    assert list(runs(graph, branches, 1)) == []
    assert len(list(runs(graph, branches, 2))) == sum(item.length == 2 for item in found)


WAYS: dict[str, tuple[str, str, set[str]]] = {
    "nothing around is linear": ("y", f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Tanh(t)", {"own", "identity"}),
    "from an input to an output": ("y", "h = MatMul(x, w1) f = MatMul(h, w2) y = Add(x, f)", {"own"}),
    "to an output": ("y", f"s = Sigmoid(x) {MLP} y = Add(s, f)", {"own", "identity"}),
    "to an output, and the input is read elsewhere": (
        "y, float[N,8] z",
        f"s = Sigmoid(x) {MLP} y = Add(s, f) z = Relu(s)",
        {"own"},
    ),
    "a layer ahead": ("y", f"s = Gemm(x, w0) {MLP} t = Add(s, f) y = Tanh(t)", {"own", "identity", "writer s"}),
    "a layer ahead that has no bias": (
        "y",
        f"s = MatMul(x, w0) {MLP} t = Add(s, f) y = Tanh(t)",
        {"own", "identity", "writer s without b"},
    ),
    "a layer ahead whose output is read elsewhere": (
        "y",
        f"s = Gemm(x, w0) {MLP} t = Add(s, f) u = Tanh(s) y = Mul(t, u)",
        {"own", "identity"},
    ),
    "a layer ahead whose output is an output": (
        "y, float[N,8] s",
        f"s = Gemm(x, w0) {MLP} t = Add(s, f) y = Tanh(t)",
        {"own", "identity"},
    ),
    "a layer ahead that shares its weights": (
        "y, float[N,8] z",
        f"s = Gemm(x, w0) {MLP} t = Add(s, f) y = Tanh(t) z = Gemm(x, w0)",
        {"own", "identity"},
    ),
    "a sum ahead": (
        "y",
        f"m = Gemm(x, w0) n = Tanh(x) s = Add(m, n) {MLP} t = Add(s, f) y = Tanh(t)",
        {"own", "identity", "writer m past n"},
    ),
    "a sum ahead whose summand is read elsewhere": (
        "y",
        f"m = Gemm(x, w0) n = Tanh(m) s = Add(m, n) {MLP} t = Add(s, f) y = Tanh(t)",
        {"own", "identity"},
    ),
    "a sum ahead whose summand is an output": (
        "y, float[N,8] m",
        f"m = Gemm(x, w0) n = Tanh(x) s = Add(m, n) {MLP} t = Add(s, f) y = Tanh(t)",
        {"own", "identity"},
    ),
    "Relu on both sides": (
        "y",
        f"z = Gemm(x, w0) s = Relu(z) {MLP} t = Add(s, f) y = Relu(t)",
        {"own", "identity for Relu_1", "writer z for Relu_1"},
    ),
    "Relu on both sides, and what is ahead is read elsewhere": (
        "y, float[N,8] u",
        f"z = Gemm(x, w0) s = Relu(z) {MLP} t = Add(s, f) y = Relu(t) u = Tanh(z)",
        {"own", "identity"},
    ),
    "Relu on both sides, and the first is read elsewhere": (
        "y, float[N,8] u",
        f"z = Gemm(x, w0) s = Relu(z) {MLP} t = Add(s, f) y = Relu(t) u = Tanh(s)",
        {"own", "identity"},
    ),
    "Relu and something else behind": (
        "y, float[N,8] u",
        f"z = Gemm(x, w0) s = Relu(z) {MLP} t = Add(s, f) y = Relu(t) u = Tanh(t)",
        {"own", "identity"},
    ),
    "layers behind": (
        "y, float[N,8] z",
        f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Gemm(t, w0) z = Gemm(t, w3)",
        {"own", "identity", "readers"},
    ),
    "layers behind, one without a bias": (
        "y, float[N,8] z",
        f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Gemm(t, w0) z = MatMul(t, w3)",
        {"own", "identity", "readers without b"},
    ),
    "layers and something else behind": (
        "y, float[N,8] z",
        f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Gemm(t, w0) z = Tanh(t)",
        {"own", "identity"},
    ),
    "a layer behind what is an output": (
        "y, float[N,8] t",
        f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Gemm(t, w0)",
        {"own", "identity"},
    ),
    "layers behind that share their weights": (
        "y, float[N,8] z",
        f"s = Sigmoid(x) {MLP} t = Add(s, f) y = Gemm(t, w0) z = Gemm(t, w0)",
        {"own", "identity"},
    ),
}


@pytest.mark.parametrize("case", WAYS)
def test_replacements(case: str) -> None:
    outputs, body, expected = WAYS[case]
    assert ways(f"net (float[N,8] x) => (float[N,8] {outputs}) <{WEIGHTS}> {{ {body} }}", "h") == expected


IMAGE = "float[N,4,6,6]"
CONVS = "float[4,4,1,1] w1, float[4,4,3,3] w2, float[4,2,1,1] w3, float[6,6] w4"
POINTWISE = "s = Sigmoid(x) h = Conv(s, w1) f = Relu(h) t = Add(s, f)"

IMAGES: dict[str, tuple[str, str, set[str]]] = {
    "a pointwise Conv behind": (f"{IMAGE} y", f"{POINTWISE} y = Conv(t, w1)", {"own", "identity"}),
    "a Conv behind": ("float[N,4,4,4] y", f"{POINTWISE} y = Conv(t, w2)", {"own", "identity", "readers"}),
    "a Conv behind that pads": (
        f"{IMAGE} y",
        f"{POINTWISE} y = Conv<pads = [1, 1, 1, 1]>(t, w2)",
        {"own", "identity", "readers without b"},
    ),
    "a Conv behind that pads by itself": (
        f"{IMAGE} y",
        f'{POINTWISE} y = Conv<auto_pad = "SAME_UPPER">(t, w2)',
        {"own", "identity", "readers without b"},
    ),
    "a grouped Conv behind": (f"{IMAGE} y", f"{POINTWISE} y = Conv<group = 2>(t, w3)", {"own", "identity"}),
    "a product behind that reads another axis": (f"{IMAGE} y", f"{POINTWISE} y = MatMul(t, w4)", {"own", "identity"}),
    "a product ahead that writes another axis": (
        f"{IMAGE} y",
        "s = MatMul(x, w4) h = Conv(s, w1) f = Relu(h) t = Add(s, f) y = Tanh(t)",
        {"own", "identity", "writer s without b on axis 3"},
    ),
    "a Conv ahead": (
        f"{IMAGE} y",
        "s = Conv<pads = [1, 1, 1, 1]>(x, w2) h = Conv(s, w1) f = Relu(h) t = Add(s, f) y = Tanh(t)",
        {"own", "identity", "writer s"},
    ),
    "a grouped Conv ahead": (
        f"{IMAGE} y",
        "s = Conv<group = 2>(x, w3) h = Conv(s, w1) f = Relu(h) t = Add(s, f) y = Tanh(t)",
        {"own", "identity"},
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_replacements_of_images(case: str) -> None:
    outputs, body, expected = IMAGES[case]
    assert ways(f"net ({IMAGE} x) => ({outputs}) <{CONVS}> {{ {body} }}", "h", axis=1) == expected


def ways(text: str, inside: str, axis: int = 1) -> set[str]:
    """What the branch that computes ``inside`` can be replaced by."""
    graph = build(text)
    branches, _ = find_branches(graph)
    producer = graph.view().producer(inside)
    (branch,) = [item for item in branches if producer in item.removed]
    found = replacements(graph, branch, tuple(find_layers(graph)), infer_shapes(graph))
    assert not isinstance(found, str)
    texts = []
    for way in found:
        text = way.kind + (f" {way.source}" if way.kind == "writer" else "")
        text += f" past {way.rest}" if way.rest is not None else ""
        text += "" if way.bias else " without b"
        text += f" for {way.relu}" if way.relu is not None else ""
        texts.append(text + (f" on axis {way.axis}" if way.axis != axis else ""))
    assert len(set(texts)) == len(texts)
    return set(texts)
