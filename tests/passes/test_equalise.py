from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.reconnect.equalise import LARGEST, equalise
from tests.analysis.coupling.random_graphs import random_model
from tests.harness import RUNTIME, assert_equivalent
from tests.passes.helpers import build
from tests.zoo.load import feeds
from tests.zoo.test_cuts import clean

Ranges = Sequence[tuple[str, int]]
"""Weights, each with the axis along which the units lie."""


def run(graph: Graph, samples: Samples | None = None) -> tuple[Editor, dict[str, list[str]]]:
    """Equalise a copy; give its editor, and the reasons by node."""
    editor = Editor(graph.clone(), "shift")
    refusals = equalise(editor, PassContext(graph, RUNTIME, samples))
    verify(editor.graph)
    reasons: dict[str, list[str]] = {}
    for item in refusals:
        for node in item.nodes or ("",):
            reasons.setdefault(node, []).append(item.reason)
    return editor, reasons


def uneven(graph: Graph, *names: str) -> Graph:
    """A copy whose weights span some powers of ten, and of which a third are pruned."""
    editor = Editor(graph.clone(), "test")
    rng = np.random.default_rng(0)
    for name in names:
        array = graph.array(name)
        factors = 10.0 ** rng.uniform(-0.7, 0.7, array.shape)
        editor.set_weights(name, array * factors * (rng.random(array.shape) > 0.3))
    return editor.graph


def ranges(graph: Graph, weights: Ranges) -> NDArray[np.float64]:
    """Largest magnitude of every unit."""
    arrays = [np.abs(np.moveaxis(graph.array(name).astype(np.float64), axis, 0)) for name, axis in weights]
    found: NDArray[np.float64] = np.max([array.reshape(len(array), -1).max(1) for array in arrays], axis=0)
    return found


def assert_only_scaled(editor: Editor, before: Graph) -> None:
    """No connection came or went."""
    assert all(edit.pruned == edit.created == 0 for edit in editor.edits)
    for name in before.initializers.keys() & editor.graph.initializers.keys():
        old, new = before.array(name), editor.graph.array(name)
        assert old.dtype == new.dtype
        assert np.array_equal(old != 0, new != 0)


def mlp(between: str, declared: str = "", units: int = 5) -> str:
    """Two Gemm around ``between``, which makes b of a."""
    return f"""net (float[N,6] x) => (float[N,3] y)
    <float[6,{units}] w, float[{units}] c, float[{units},3] v, float[3] d {declared}> {{
        [one] a = Gemm(x, w, c) {between} [two] y = Gemm(b, v, d)
    }}"""


def cnn(between: str, declared: str = "", reader: str = "Conv<pads = [1, 1, 1, 1]>(b, v)") -> str:
    """Two Conv around ``between``, which makes b of a."""
    return f"""net (float[N,3,6,6] x) => (float[N,4,H,W] y)
    <float[5,3,3,3] w, float[5] c, float[4,5,3,3] v {declared}> {{
        [one] a = Conv(x, w, c) {between} [two] y = {reader}
    }}"""


LEFT_ALONE: Mapping[str, tuple[str, str, str]] = {
    "not homogeneous": (mlp("[act] b = Tanh(a)"), "one", "Tanh 'act' is not positively homogeneous"),
    "an upper bound": (
        mlp("[act] b = Clip(a, l, h)", ", float l, float h"), "one", "Clip 'act' is not positively homogeneous",
    ),
    "a number for all": (
        mlp("[shift] b = Add(a, s)", ", float[1] s"), "one", "Add 'shift' reads what is not scaled with them",
    ),
    "what is not scaled joins": (
        mlp("[shift] b = Max(a, s)", ", float s"), "one", "Max 'shift' reads what is not scaled with them",
    ),
    "another operator beside": (
        mlp("r = Relu(a) [gate] g = Sigmoid(a) [both] b = Add(r, g)"),
        "one", "Sigmoid 'gate' is not positively homogeneous",
    ),
    "a square": (mlp("[square] b = Mul(a, a)"), "one", "Mul 'square' multiplies them with each other"),
    "a denominator": (mlp("[part] b = Div(s, a)", ", float[5] s"), "one", "Div 'part' divides by them"),
    "a statistic of its own": (
        cnn("[norm] b = InstanceNormalization(a, s, o)", ", float[5] s, float[5] o"),
        "one", "InstanceNormalization 'norm' is not positively homogeneous",
    ),
    "a border that is not 0": (
        cnn("[pad] b = Pad(a, p, n)", ", int64[8] p, float n").replace("Conv<pads = [1, 1, 1, 1]>", "Conv"),
        "one", "Pad 'pad' pads with a number that is not 0",
    ),
    "rounded": (
        mlp("[round] i = Cast<to = 6>(a) b = Cast<to = 1>(i)"), "one",
        "Cast 'round' rounds them, or their type is not known",
    ),
    "positions of maxima": (
        cnn("[pool] m, p = MaxPool<kernel_shape = [2, 2]>(a) b = MaxUnpool<kernel_shape = [2, 2]>(m, p)"),
        "one", "MaxPool 'pool' gives more than their values",
    ),
    "an outer product of both": (
        """net (float[N,3,8] x) => (float[N,3,3] y) <float[8,6] q, float[8,6] k> {
            [query] a = MatMul(x, q) b = MatMul(x, k) c = Transpose<perm = [0, 2, 1]>(b) [scores] y = MatMul(a, c)
        }""",
        "query", "MatMul 'scores' multiplies them with each other",
    ),
    "weights read in two ways": (
        """net (float[N,5] x) => (float[N,5] y) <float[5,5] w> {
            [one] a = MatMul(x, w) b = Relu(a) [two] y = Gemm<transB = 1>(b, w)
        }""",
        "one", "'one' and 'two' share 'w', and read it in different ways",
    ),
    "operators of a vendor": (
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,3] v> {
            [one] a = com.microsoft.FusedMatMul(x, w) b = Relu(a) [two] y = com.microsoft.FusedMatMul(b, v)
        }""",
        "one", "FusedMatMul 'one' is none of ONNX's own operators",
    ),
    "a slope that is computed": (
        mlp("e = MatMul(x, u) [act] b = PRelu(a, e)", ", float[6,5] u"), "one", "PRelu 'act' reads them as an operand",
    ),
    "a bias that is computed": (
        mlp("e = MatMul(x, u) [sum] f = Gemm(x, k, e) b = Add(a, f)", ", float[6,5] u, float[6,5] k"),
        "one", "Gemm 'sum' adds what is computed to them",
    ),
    "a bias of one number": (
        mlp("b = Relu(a)").replace("float[5] c", "float[1] c"),
        "two", "Gemm 'one' adds a number to them that is not one for each",
    ),
    "units beside those of a layer": (
        """net (float[N,6,4] x) => (float[N,3,3] y) <float[5,6] w, float[4,3] u, float[3,5] v> {
            [one] a = MatMul(w, x) [beside] b = MatMul(a, u) y = MatMul(v, b)
        }""",
        "one", "MatMul 'beside' passes them beside its weights",
    ),
    "a product of which neither factor may be scaled": (
        mlp("e = MatMul(x, u) [both] m = Mul(a, e) t = Tanh(m) r = Relu(a) b = Add(t, r)", ", float[6,5] u"),
        "one", "Tanh 'Tanh_3' is not positively homogeneous",
    ),
    "factors of a product that is not homogeneous": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[6,5] u, float[5,3] v, float[5,3] k> {
            [one] a = MatMul(x, w) e = MatMul(x, u) [both] m = Mul(a, e) t = Tanh(m) f = MatMul(t, v)
            g = MatMul(a, k) y = Add(f, g)
        }""",
        "one", "Mul 'both' multiplies them with each other",
    ),
    "weights that another operator reads": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,3] v, float[5,3] k> {
            [one] a = MatMul(x, w) b = Relu(a) e = MatMul(b, v) [other] t = Tanh(w) f = MatMul(x, t) g = MatMul(f, k)
            y = Add(e, g)
        }""",
        "one", "Tanh 'other' is not positively homogeneous",
    ),
    "equal already": (mlp("b = Relu(a)"), "one", "the ranges of its units are equal already"),
    "the last layer": (mlp("b = Relu(a)"), "two", "'y' is an output of the model"),
    "no reader": (
        """net (float[N,6] x) => (float[N] y) <float[6,5] w, float[3,5] v> {
            [one] a = MatMul(x, w) b = Relu(a) y = ReduceSum<keepdims = 0>(b, k)
        }""".replace("float[3,5] v", "int64[1] k"),
        "one", "ReduceSum 'ReduceSum_2' sums over it",
    ),
    "no layer": (
        "net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", "", "there is no layer whose units another layer reads",
    ),
}  # fmt: skip
GIVEN: Mapping[str, Mapping[str, NDArray[np.float64]]] = {
    "an upper bound": {"l": np.array(0.0), "h": np.array(6.0)},
    "a border that is not 0": {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "n": np.array(0.5)},
    "equal already": {"w": np.ones((6, 5)), "v": np.full((5, 3), -1.0)},
    "no reader": {"k": np.array([1])},
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, node, reason = LEFT_ALONE[case]
    graph = build(text, **GIVEN.get(case, {}))
    editor, reasons = run(graph)
    assert reason in reasons[node]
    if case != "the last layer":
        assert not editor.edits


W, V = ("w", 1), ("v", 0)
BEFORE_AFTER: Mapping[str, tuple[str, Sequence[tuple[Ranges, Ranges]]]] = {
    "relu": (mlp("b = Relu(a)"), [([W], [V])]),
    "nothing between": (mlp("b = Identity(a)"), [([W], [V])]),
    "leaky": (mlp("b = LeakyRelu<alpha = 0.3>(a)"), [([W], [V])]),
    "a slope for each": (mlp("b = PRelu(a, s)", ", float[5] s"), [([W], [V])]),
    "a factor for each": (mlp("r = Mul(a, s) b = Div(r, t)", ", float[5] s, float[5] t"), [([W], [V])]),
    "a bias behind": (mlp("r = Relu(a) e = Add(s, r) b = Sub(e, t)", ", float[5] s, float[1,5] t"), [([W], [V])]),
    "a bound of 0": (mlp("b = Max(a, z)", ", float z"), [([W], [V])]),
    "a MatMul with a bias": (
        """net (float[N,4,6] x) => (float[N,4,3] y) <float[6,5] w, float[5] c, float[5,3] v> {
            a = MatMul(x, w) b = Add(a, c) e = Relu(b) y = MatMul(e, v)
        }""",
        [([W], [V])],
    ),
    "weights on the left": (
        """net (float[N,6,4] x) => (float[N,3,4] y) <float[5,6] w, float[5,1] c, float[3,5] v> {
            a = MatMul(w, x) b = Add(a, c) e = Relu(b) y = MatMul(v, e)
        }""",
        [([("w", 0)], [("v", 1)])],
    ),
    "transposed weights": (
        """net (float[N,6] x) => (float[N,3] y) <float[5,6] w, float[5] c, float[3,5] v> {
            a = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c) b = Relu(a) y = Gemm<transB = 1>(b, v)
        }""",
        [([("w", 0)], [("v", 1)])],
    ),
    "convs": (cnn("b = Relu(a)"), [([("w", 0)], [("v", 1)])]),
    "pooled and flattened": (
        """net (float[N,3,6,6] x) => (float[N,2] y) <float[5,3,3,3] w, float[5] c, float[20,2] v> {
            a = Conv(x, w, c) b = Relu(a) e = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b) f = Flatten(e)
            y = Gemm(f, v)
        }""",
        [],
    ),
    "averaged": (cnn(
        "r = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(a) t = Transpose<perm = "
        "[0, 2, 3, 1]>(r) e = Relu(t) b = Transpose<perm = [0, 3, 1, 2]>(e)"
    ), [([("w", 0)], [("v", 1)])]),
    "batch normalisation": (
        cnn("n = BatchNormalization(a, s, o, m, v1) b = Relu(n)", ", float[5] s, float[5] o, float[5] m, float[5] v1"),
        [([("w", 0)], [("v", 1)])],
    ),
    "transposed convs": (
        """net (float[N,3,6,6] x) => (float[N,4,H,W] y) <float[3,5,2,2] w, float[5] c, float[5,4,2,2] v> {
            a = ConvTranspose(x, w, c) b = Relu(a) y = ConvTranspose(b, v)
        }""",
        [([("w", 1)], [("v", 0)])],
    ),
    "two readers": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,3] v, float[5,3] u> {
            a = MatMul(x, w) b = Relu(a) e = MatMul(b, v) f = MatMul(a, u) y = Add(e, f)
        }""",
        [([W], [V, ("u", 0)])],
    ),
    "two writers": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[6,5] u, float[5,3] v> {
            a = MatMul(x, w) e = MatMul(x, u) b = Add(a, e) y = MatMul(b, v)
        }""",
        [([W, ("u", 1)], [V])],
    ),
    "joined units": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] c, float[6,4] u, float[9,3] v> {
            a = Gemm(x, w, c) r = Relu(a) e = MatMul(x, u) t = Tanh(e) j = Concat<axis = 1>(t, r) y = MatMul(j, v)
        }""",
        [],
    ),
    "a chain": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,4] v, float[4,3] u> {
            a = MatMul(x, w) b = Relu(a) e = MatMul(b, v) f = Relu(e) y = MatMul(f, u)
        }""",
        [([W], [V]), ([("v", 1)], [("u", 0)])],
    ),
    "a depthwise conv": (
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[5,3,1,1] w, float[5,1,3,3] v, float[5] d, float[2,5,1,1] u> {
            a = Conv(x, w) b = Relu(a) c = Conv<group = 5, pads = [1, 1, 1, 1]>(b, v, d) e = Relu(c) y = Conv(e, u)
        }""",
        [([("w", 0)], [("v", 0)]), ([("v", 0)], [("u", 1)])],
    ),
    "a depthwise conv with one side only": (
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[5,3,1,1] w, float[5,1,3,3] v, float[5] d, float[2,5,1,1] u> {
            a = Conv(x, w) b = Relu(a) c = Conv<group = 5, pads = [1, 1, 1, 1]>(b, v, d) e = Tanh(c) y = Conv(e, u)
        }""",
        [([("w", 0)], [("v", 0)])],
    ),
    "a residual stream": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] c, float[5,5] u, float[5] d, float[5,3] v> {
            a = Gemm(x, w, c) r = Relu(a) b = Gemm(r, u, d) e = Add(a, b) y = MatMul(e, v)
        }""",
        [([W, ("u", 1)], [("u", 0), V])],
    ),
    "a gated unit": (
        """net (float[N,6] x) => (float[N,3] y) <float[6,5] w, float[6,5] g, float[5,3] v> {
            a = MatMul(x, g) s = Sigmoid(a) b = MatMul(x, w) e = Mul(s, b) y = MatMul(e, v)
        }""",
        [([W], [V])],
    ),
    "values of attention": (
        """net (float[N,4,6] x) => (float[N,4,3] y) <float[6,5] q, float[6,5] k, float[6,5] w, float[5,3] v> {
            a = MatMul(x, q) b = MatMul(x, k) c = Transpose<perm = [0, 2, 1]>(b) s = MatMul(a, c) p = Softmax(s)
            e = MatMul(x, w) f = MatMul(p, e) y = MatMul(f, v)
        }""",
        [([W], [V])],
    ),
    "shared weights": (
        """net (float[N,6] x, float[N,6] z) => (float[N,3] y) <float[6,5] w, float[5] c, float[5] d, float[5,3] v> {
            a = MatMul(x, w) i = Add(a, c) b = Relu(i) e = MatMul(b, v) f = MatMul(z, w) j = Add(d, f) g = Relu(j)
            h = MatMul(g, v) y = Add(e, h)
        }""",
        [([W], [V])],
    ),
    "a bias that others share": (
        """net (float[N,6] x) => (float[N,5] y) <float[6,5] w, float[5] c, float[5,5] v> {
            a = Gemm(x, w, c) b = Relu(a) e = Gemm(b, v, c) y = Relu(e)
        }""",
        [([W], [V])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str) -> None:
    text, balanced = BEFORE_AFTER[case]
    given = {"z": np.zeros(())} if case == "a bound of 0" else {}
    graph = build(text, **given)
    graph = uneven(graph, *(name for name in graph.initializers if graph.array(name).ndim > 1))
    editor, _ = run(graph)
    assert editor.edits
    assert_equivalent(editor.graph, graph, tolerance=1e-5)
    assert_only_scaled(editor, graph)
    for written, read in balanced:
        before = [ranges(graph, item) for item in (written, read)]
        after = [ranges(editor.graph, item) for item in (written, read)]
        assert not np.allclose(before[0], before[1], rtol=0.05)
        assert after[0] == pytest.approx(after[1], rel=0.02)
    again, reasons = run(editor.graph)
    assert not again.edits
    assert "the ranges of its units are equal already" in itertools.chain(*reasons.values())


def test_one_segment_is_scaled_by_the_root_of_the_ratio() -> None:
    graph = uneven(build(mlp("b = Relu(a)")), "w", "v")
    scale = np.sqrt(ranges(graph, [W]) / ranges(graph, [V]))
    result = run(graph)[0].graph
    for name, expected in {
        "w": graph.array("w") / scale, "c": graph.array("c") / scale, "v": graph.array("v") * scale[:, None],
        "d": graph.array("d"),
    }.items():  # fmt: skip
        assert result.array(name) == pytest.approx(expected, rel=1e-4)


def test_dead_units_keep_their_scale_and_almost_dead_ones_stay_bounded() -> None:
    graph = build(mlp("b = Relu(a)"))
    editor = Editor(graph.clone(), "test")
    w, v = graph.array("w").copy(), graph.array("v").copy()
    w[:, 0], v[1], w[:, 2] = 0, 0, 1e-12
    editor.set_weights("w", w)
    editor.set_weights("v", v)
    result = run(editor.graph)[0]
    assert np.array_equal(result.graph.array("v")[0], v[0])
    assert np.array_equal(result.graph.array("w")[:, 1], w[:, 1])
    assert result.graph.array("w")[:, 2] == pytest.approx(w[:, 2] * LARGEST)
    assert_only_scaled(result, editor.graph)


def test_units_that_a_layer_reads_and_writes_are_balanced() -> None:
    text, _ = BEFORE_AFTER["a residual stream"]
    u = np.diag([8.0, 0, 8, 0], 1) + np.diag([0.5, 0, 0.5, 0], -1)
    graph = build(text, w=np.full((6, 5), 0.01), u=u, v=np.full((5, 3), 0.01))
    editor, _ = run(graph)
    written, read = (ranges(editor.graph, item) for item in ([W, ("u", 1)], [("u", 0), V]))
    assert written == pytest.approx(read, rel=0.02)
    assert_equivalent(editor.graph, graph, tolerance=1e-5)
    assert_only_scaled(editor, graph)


def test_half_precision_stays_in_its_range() -> None:
    text = mlp("b = Relu(a)").replace("float", "float16")
    graph = build(text, w=np.full((6, 5), 6e4), c=np.full(5, 6e-8), v=np.full((5, 3), 0.01))
    editor, reasons = run(graph)
    assert not editor.edits
    assert reasons["one"][0] == "'c' holds float16 and would leave their range"


def test_a_weight_that_a_caller_may_override_stays() -> None:
    text = mlp("e = Add(a, s) b = Relu(e)").replace("x)", "x, float[5] s)", 1)
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    text = text.replace("float[5] s", "float[5] s = {1, 2, 3, 4, 5}")
    editor, reasons = run(build(f"{head}{text}"))
    assert not editor.edits
    assert reasons["one"][0] == "a caller may override 's'"


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_compute_the_same(seed: int) -> None:
    graph = Graph.from_proto(random_model(seed))
    editor, reasons = run(graph)
    assert editor.edits or reasons
    assert all(reason.strip() for reason in itertools.chain(*reasons.values()))
    assert_equivalent(editor.graph, graph, tolerance=1e-4)
    assert all(edit.pruned == edit.created == 0 for edit in editor.edits)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v3", "shufflenet_v2", "unet", "densenet", "bert", "llama"])
def test_models_compute_the_same(name: str) -> None:
    graph = clean(name)
    editor, _ = run(graph, Samples(feeds(name, 2)))
    assert editor.edits
    assert_only_scaled(editor, graph)
    inputs = feeds(name, 3)
    wanted, found = (RUNTIME.load(item, threads=1).run(inputs) for item in (graph, editor.graph))
    for key, expected in wanted.items():
        assert found[key] == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))
