from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.runtime import Session
from surgery_ir.errors import BackendError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.cleanup.merge_channels import MergeChannels
from surgery_ir.passes.prune.weights import PruneWeights
from tests.harness import RUNTIME, assert_equivalent
from tests.passes.helpers import apply, build, context, reasons, samples

Planted = Mapping[str, tuple[int, Mapping[int, object]]]
"""By initializer: an axis, and what its indices become: a number, or the index whose values they take."""


class Copy(int):
    """Index whose values another takes."""


def planted(graph: Graph, changes: Planted) -> Graph:
    """A copy with other weights."""
    editor = Editor(graph.clone(), "test")
    for name, (axis, values) in changes.items():
        array = editor.graph.array(name).copy()
        rows = np.moveaxis(array, axis, 0)
        for index, value in values.items():
            rows[index] = rows[value] if isinstance(value, Copy) else value
        editor.set_weights(name, array)
    return editor.graph


def trusting(graph: Graph) -> PassContext:
    """A context in which what a pass does is not compared with what the model did before."""
    return PassContext(reference=graph, runtime=RUNTIME, prove=False)


MLP = """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] c, float[5,4] v, float[4] d, float[4,3] u> {
    a = Gemm(x, w, c) b = Relu(a) e = Gemm(b, v, d) f = Tanh(e) [last] y = Gemm(f, u)
}"""
CNN = """net (float[N,3,6,6] x) => (float[N,3,H,W] y)
    <float[5,3,3,3] w, float[5] c, float[4,5,3,3] v, float[4] d, float[3,4,1,1] u> {
        [first] a = Conv<pads = [1, 1, 1, 1]>(x, w, c) b = Relu(a) [second] e = Conv<PADS>(b, v, d) f = Sigmoid(e)
        [third] y = Conv(f, u)
}"""
PADDED, BARE = CNN.replace("PADS", "pads = [1, 1, 1, 1]"), CNN.replace("PADS", "strides = [1, 1]")
NO_BIAS = """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] c, float[5,3] v> {
    a = Gemm(x, w, c) b = Relu(a) [reader] y = MatMul(b, v)
}"""
SCORES = """net (float[N,3,8] x) => (float[N,3,3] y) <float[8,6] q, float[8,6] k> {
    [query] a = MatMul(x, q) b = MatMul(x, k) c = Transpose<perm = [0, 2, 1]>(b) [scores] y = MatMul(a, c)
}"""
AVERAGE = """net (float[N,6,5,5] x) => (float[N,3,3,3] y) <float[5,6,1,1] w, float[5] c, float[3,5,3,3] v> {
    a = Conv(x, w, c) b = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(a)
    y = Conv(b, v)
}"""
NOTHING = "no unit is dead, constant or equal to another"

LEFT_ALONE: Mapping[str, tuple[str, Planted, str, str]] = {
    "nothing to do": (MLP, {}, "", NOTHING),
    "the last layer": (MLP, {"u": (1, {1: Copy(0)})}, "last", "'y' is an output of the model"),
    "a constant into padding": (
        PADDED, {"w": (0, {2: 0.0}), "c": (0, {2: 1.5})},
        "second", "1 constant units stay: it pads with zeros, and they are other numbers",
    ),
    "a constant without a bias behind": (
        NO_BIAS, {"w": (1, {2: 0.0, 4: 0.0}), "c": (0, {2: 1.5, 4: 2.5})},
        "reader", "2 constant units stay: it has no bias that could take up what they add",
    ),
    "a constant that is not the same at the border": (
        AVERAGE, {"w": (0, {2: 0.0}), "c": (0, {2: 1.5})}, "", NOTHING,
    ),
    "numbers that differ from place to place": (
        """net (float[N,4,6] x) => (float[N,4,3] y) <float[6,5] w, float[4,5] c, float[5,3] v, float[3] d> {
            a = MatMul(x, w) b = Add(a, c) e = MatMul(b, v) y = Add(e, d)
        }""",
        {"w": (1, {2: 0.0})}, "", NOTHING,
    ),
    "equal rows, another bias": (MLP, {"w": (1, {2: Copy(0)})}, "", NOTHING),
    "equal bias, other rows": (MLP, {"c": (0, {2: Copy(0)})}, "", NOTHING),
    "equal factors of a product of computed values": (
        SCORES, {"q": (1, {1: Copy(0)}), "k": (1, {1: Copy(0)})},
        "query", "it has equal units that cannot be merged: MatMul 'scores' sums over products of computed values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, changes, node, reason = LEFT_ALONE[case]
    graph = planted(build(text), changes)
    outcome = apply(MergeChannels(), graph)
    assert not outcome.changed
    assert outcome.graph is graph
    assert reasons(outcome)[node] == reason
    assert not run_pass(MergeChannels(), graph, trusting(graph)).changed


BEFORE_AFTER: Mapping[str, tuple[str, Planted, Mapping[str, tuple[int, ...]]]] = {
    "nobody reads": (MLP, {"v": (0, {1: 0.0, 3: 0.0})}, {"w": (6, 3), "c": (3,), "v": (3, 4)}),
    "nobody reads what is behind": (MLP, {"u": (0, {0: 0.0, 1: 0.0, 2: 0.0})}, {"w": (6, 5), "v": (5, 1), "u": (1, 3)}),
    "nobody reads any": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,3] v, float[6,3] u> {
            a = MatMul(x, w) b = MatMul(a, v) c = MatMul(x, u) y = Add(b, c)
        }""",
        {"v": (0, {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0})}, {"w": (6, 1), "v": (1, 3), "u": (6, 3)},
    ),
    "zero": (MLP, {"w": (1, {2: 0.0}), "c": (0, {2: 0.0})}, {"w": (6, 4), "v": (4, 4)}),
    "cut off by a Relu": (PADDED, {"w": (0, {2: 0.0}), "c": (0, {2: -1.5})}, {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3)}),
    "a number that a bias takes up": (MLP, {"w": (1, {2: 0.0}), "c": (0, {2: 1.5})}, {"w": (6, 4), "v": (4, 4)}),
    "a number that a new bias takes up": (MLP, {"v": (1, {2: 0.0}), "d": (0, {2: 1.5})}, {"v": (5, 3), "u": (3, 3)}),
    "numbers that a Conv takes up": (
        BARE, {"w": (0, {2: 0.0, 3: 0.0}), "c": (0, {2: 1.5, 3: 2.5})}, {"w": (3, 3, 3, 3), "v": (4, 3, 3, 3)},
    ),
    "numbers on both sides of a layer": (
        MLP, {"w": (1, {2: 0.0}), "c": (0, {2: 1.5}), "v": (1, {1: 0.0, 3: 0.0}), "d": (0, {1: 0.5, 3: 2.0})},
        {"w": (6, 4), "v": (4, 2), "u": (2, 3)},
    ),
    "a new bias for a layer that loses rows too": (
        MLP.replace("Gemm(b, v, d)", "Gemm(b, v)").replace("float[4] d, ", ""),
        {"w": (1, {2: 0.0}), "c": (0, {2: 1.5}), "u": (0, {1: 0.0})}, {"w": (6, 4), "v": (4, 3), "u": (3, 3)},
    ),
    "equal": (
        MLP, {"w": (1, {2: Copy(0), 3: Copy(0)}), "c": (0, {2: Copy(0), 3: Copy(0)})}, {"w": (6, 3), "v": (3, 4)},
    ),
    "equal once what they read is": (
        MLP,
        {"w": (1, {2: Copy(0)}), "c": (0, {2: Copy(0)}), "v": (0, {2: 0.0}), "d": (0, {1: Copy(0)}),
         "u": (1, {2: Copy(0)})},
        {"w": (6, 4), "v": (4, 4), "u": (4, 3)},
    ),
    "a row that is a number once its inputs are gone": (
        MLP, {"w": (1, {2: 0.0}), "c": (0, {2: 1.5}), "v": (1, {1: np.array([0, 0, 2.0, 0, 0])})},
        {"w": (6, 4), "v": (4, 3), "u": (3, 3)},
    ),
    "a scale of zero": (
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[5,3,1,1] w, float[5] s, float[5] o, float[5] m, float[5] v1, float[2,5,1,1] u> {
            a = Conv(x, w) b = BatchNormalization(a, s, o, m, v1) c = HardSwish(b) y = Conv(c, u)
        }""",
        {"s": (0, {1: 0.0}), "o": (0, {1: 2.0})}, {"w": (4, 3, 1, 1), "s": (4,), "m": (4,), "u": (2, 4, 1, 1)},
    ),
    "a depthwise Conv that reads zeros": (
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[5,3,1,1] w, float[5,1,3,3] v, float[5] d, float[2,5,1,1] u, float[2] e> {
            a = Conv(x, w) b = Relu(a) c = Conv<group = 5, pads = [1, 1, 1, 1]>(b, v, d) f = Tanh(c) y = Conv(f, u, e)
        }""",
        {"w": (0, {1: 0.0})}, {"w": (4, 3, 1, 1), "v": (4, 1, 3, 3), "u": (2, 4, 1, 1)},
    ),
    "a gate that is shut": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[6,5] v, float[5,3] u> {
            a = MatMul(x, w) b = Tanh(a) c = MatMul(x, v) d = Mul(b, c) y = MatMul(d, u)
        }""",
        {"w": (1, {1: 0.0})}, {"w": (6, 4), "v": (6, 4), "u": (4, 3)},
    ),
    "keys of zero": (SCORES, {"k": (1, {1: 0.0, 4: 0.0})}, {"q": (8, 4), "k": (8, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str) -> None:
    text, changes, shapes = BEFORE_AFTER[case]
    graph = planted(build(text), changes)
    outcome = apply(MergeChannels(), graph)
    assert {name: outcome.graph.array(name).shape for name in shapes} == dict(shapes)
    assert_equivalent(outcome.graph, graph, tolerance=1e-5)
    assert run_pass(MergeChannels(), graph, trusting(graph)).edits == outcome.edits
    again = apply(MergeChannels(), outcome.graph)
    assert not again.changed
    assert again.refusals


def test_what_pruning_has_emptied_goes() -> None:
    graph = build(PADDED, c=np.full(5, -0.5))
    pruned = apply(PruneWeights(ratio=0.6, criterion="magnitude", ends=True, pattern="1x3"), graph).graph
    pruned = planted(pruned, {"w": (0, {0: 0.0, 4: 0.0})})
    result = apply(MergeChannels(), pruned).graph
    assert result.array("w").shape[0] <= 3
    assert_equivalent(result, pruned, tolerance=1e-5)


def test_a_border_that_one_sample_does_not_show() -> None:
    """Of a single pixel, an average that counts its padding is one number; of a larger image it is not."""
    text = AVERAGE.replace("6,5,5] x", "6,H,W] x").replace("3,3,3] y", "3,H,W] y").replace("3,5,3,3", "3,5,1,1")
    graph = planted(build(text), {"w": (0, {2: 0.0}), "c": (0, {2: 1.5})})
    outcome = apply(MergeChannels(), graph, samples(x=np.random.default_rng(0).standard_normal((8, 6, 1, 1))))
    assert not outcome.changed
    assert NOTHING in reasons(outcome).values()


class Wrong:
    """A runtime that shifts what it computes, model by model."""

    name = "wrong"

    def __init__(self) -> None:
        self.loaded = 0

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        session, self.loaded = RUNTIME.load(graph, threads=threads), self.loaded + 1
        shift = np.float32(self.loaded)

        class Shifted:
            def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
                return {name: array + shift for name, array in session.run(feeds).items()}

        return Shifted()


class Broken:
    """A runtime that runs nothing."""

    name = "broken"

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        raise BackendError("it is broken")


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [(Wrong(), "output 'y' would not be the same without its spare units"),
     (Broken(), "that the model computes the same without its spare units cannot be proven: it is broken")],
)  # fmt: skip
def test_what_cannot_be_proven_is_left(runtime: Wrong | Broken, reason: str) -> None:
    graph = planted(build(MLP), {"v": (0, {1: 0.0})})
    outcome = run_pass(MergeChannels(), graph, context(graph, runtime=runtime))
    assert not outcome.changed
    assert reason in reasons(outcome).values()
    assert run_pass(MergeChannels(), graph, trusting(graph)).graph.array("v").shape == (4, 4)


def test_shapes_that_are_not_known_are_a_reason() -> None:
    graph = build(
        "net (float[N,T,4] x) => (float[N,T,2] y, float[M,11,4] z) <float[4,3] w, float[3,2] v, int64[3] s> {"
        " a = MatMul(x, w) y = MatMul(a, v) z = Reshape(x, s) }",
        s=np.array([-1, 11, 4]),
    )
    assert reasons(apply(MergeChannels(), graph))[""].startswith("shapes are not known: ")
