from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from surgery_ir.analysis.fidelity import Divergence
from surgery_ir.analysis.gradients import Gradient, GradientProvider, gains
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import BackendError, DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from tests.gradients import NumpyGradients
from tests.harness import graph, random_feeds

PROVIDER: GradientProvider = NumpyGradients()
COUNT = 3

IMAGES = """net (double[N,4,7,6] x) => (double[N,3] y) <double[4,4,3,2] w, double[4] c, double[3,4] v, double[3] d> {
    a = Conv<ATTRIBUTES>(x, w, c) b = Relu(a) e = GlobalAveragePool(b) f = Flatten(e) y = Gemm<transB = 1>(f, v, d)
}"""
CASES: Mapping[str, str] = {
    "conv": IMAGES.replace("<ATTRIBUTES>", ""),
    "conv with pads, strides and dilations": IMAGES.replace(
        "ATTRIBUTES", "pads = [2, 0, 1, 3], strides = [2, 3], dilations = [2, 1]"
    ),
    "conv whose stride leaves the border out": IMAGES.replace("ATTRIBUTES", "strides = [3, 4]"),
    "grouped conv": IMAGES.replace("ATTRIBUTES", "group = 2, pads = [1, 1, 1, 1]").replace("[4,4,3,2]", "[4,2,3,2]"),
    "conv without a bias": IMAGES.replace("<ATTRIBUTES>(x, w, c)", "(x, w)").replace("double[4] c, ", ""),
    "conv behind a conv": """net (double[N,2,5,4] x) => (double[N,2] y)
    <double[4,2,2,2] w, double[4] c, double[2,2,3,2] v> {
        a = Conv<pads = [1, 0, 1, 0]>(x, w, c) b = Relu(a)
        e = Conv<group = 2, pads = [1, 2, 0, 1], strides = [1, 2], dilations = [2, 1]>(b, v)
        f = GlobalAveragePool(e) y = Flatten(f)
    }""",
    "gemm with everything": """net (double[N,4] x) => (double[N,3] y)
    <double[5,4] w, double[1,5] c, double[6,5] v, double[3,6] u, double[5,1] k> {
        a = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(x, w, c) b = Relu(a)
        e = Gemm<transA = 1, transB = 1, beta = 0.5>(v, u, k) y = Gemm<alpha = 2.0>(b, e)
    }""",
    "tokens": """net (double[N,5,4] x) => (double[N,5,3] y)
    <double[4,6] w, double[6] c, double[5,1] p, double[6,3] v, double[5,5] l> {
        a = MatMul(x, w) b = Add(c, a) e = Add(b, p) f = Relu(e) g = MatMul(l, f) y = MatMul(g, v)
    }""",
    "a skip that splits and joins": """net (double[N,4] x) => (double[N,2] y)
    <double[4,4] w, double[4,4] v, double[4,2] u, int64[3] s, int64[1] axes> {
        a = MatMul(x, w) b = Relu(a) e = MatMul(b, v) f = Add(e, a) g = Add(f, f) h = Reshape(g, s)
        i = ReduceMean<keepdims = 0>(h, axes) y = MatMul(i, u)
    }""",
    "squared error of a feature map": """net (double[N,2,4,4] x) => (double[N,3,4,4] y) <double[3,2,1,1] w> {
        y = Conv(x, w)
    }""",
    "two outputs of two kinds": """net (double[N,4] x) => (double[N,3] y, double[N,1] z)
    <double[4,5] w, double[5,3] v, double[5,1] u> {
        a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) z = MatMul(b, u)
    }""",
}  # fmt: skip
GIVEN: Mapping[str, Mapping[str, NDArray[np.int64]]] = {
    "a skip that splits and joins": {"s": np.array([0, 4, -1]), "axes": np.array([-1])}
}


def dense(case: str) -> Graph:
    return graph(CASES[case], GIVEN.get(case, {}))


def pruned(dense: Graph) -> Graph:
    """A copy in which every other weight is 0 and all else has changed; none has a Relu at its kink."""
    editor = Editor(dense.clone(), "test")
    rng = np.random.default_rng(1)
    for name in weights(dense):
        array = dense.array(name)
        kept = np.indices(array.shape).sum(0) % 2 if array.ndim > 1 else 1
        editor.set_weights(name, array * kept * rng.uniform(1, 2, array.shape))
    return editor.graph


def weights(graph: Graph) -> list[str]:
    return [name for name in graph.initializers if graph.array(name).dtype.kind == "f"]


def samples(graph: Graph, count: int = COUNT) -> Samples:
    return Samples(random_feeds(input_specs(graph), count, 0))


def outputs(graph: Graph, inputs: Samples) -> dict[str, NDArray[np.float64]]:
    """Run ONNX's own reference implementation: ONNX Runtime has no Conv in float64."""
    names = [value.name or "" for value in graph.outputs]
    return dict(zip(names, ReferenceEvaluator(graph.to_proto()).run(names, dict(inputs.feeds)), strict=True))


def differences(small: Graph, name: str, wanted: Divergence, inputs: Samples) -> NDArray[np.float64]:
    """Central differences of every sample's loss of numbers in float64: (samples, entries of ``name``)."""
    step, columns = 1e-5, []
    array = small.array(name)
    for entry in np.eye(array.size).reshape(-1, *array.shape):
        sides = []
        for sign in (1, -1):
            editor = Editor(small.clone(), "test")
            editor.set_weights(name, array + sign * step * entry)
            sides.append(wanted.shares(outputs(editor.graph, inputs)))
        columns.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_divergence(case: str) -> None:
    whole = dense(case)
    small = pruned(whole)
    inputs = samples(whole)
    wanted = Divergence(outputs(whole, inputs))
    found = PROVIDER.gradients(small, weights(small), inputs, whole)
    assert list(found) == weights(small)
    for name, gradient in found.items():
        expected = differences(small, name, wanted, inputs)
        shape = small.array(name).shape
        scale = np.abs(expected).max() + 1e-3
        assert gradient.mean == pytest.approx(expected.mean(0).reshape(shape), abs=1e-5 * scale)
        assert gradient.fisher == pytest.approx(np.square(expected).mean(0).reshape(shape), abs=1e-5 * scale**2)


def test_pruned_weights_have_gradients() -> None:
    whole = dense("tokens")
    small = pruned(whole)
    gradient = PROVIDER.gradients(small, ["w"], samples(whole), whole)["w"]
    assert np.count_nonzero(gradient.mean[small.array("w") == 0]) > 0


def test_at_the_reference_gradients_vanish() -> None:
    whole = dense("two outputs of two kinds")
    for gradient in PROVIDER.gradients(whole, weights(whole), samples(whole), whole).values():
        assert not gradient.mean.any()
        assert not gradient.fisher.any()


def test_what_no_output_reads_has_a_gradient_of_zero() -> None:
    text = CASES["two outputs of two kinds"].replace("y = Mat", "spare = MatMul(b, t) y = Mat")
    whole = graph(text.replace("double[5,1] u", "double[5,1] u, double[5,2] t"))
    gradient = PROVIDER.gradients(pruned(whole), ["t"], samples(whole), whole)["t"]
    assert gradient.mean.shape == (5, 2)
    assert not gradient.mean.any()


ERRORS: Mapping[str, tuple[str, str]] = {
    "an operator without a derivative": ("y = Softmax(x)", "gradients: Softmax 'one' has no derivative here"),
    "an operator of a vendor": ("y = com.microsoft.Gelu(x)", "gradients: Gelu 'one' has no derivative here"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case: str) -> None:
    nodes, message = ERRORS[case]
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
    whole = graph(f"{head} net (float[N,3] x) => (float[N,3] y) {{ [one] {nodes} }}")
    with pytest.raises(BackendError) as error:
        PROVIDER.gradients(whole, [], samples(whole), whole)
    assert str(error.value) == message


def test_no_samples_are_an_error() -> None:
    whole = dense("tokens")
    with pytest.raises(DataError, match="there are no samples"):
        PROVIDER.gradients(whole, ["w"], samples(whole).take(0), whole)


def test_a_gain_is_what_one_step_along_the_weight_wins() -> None:
    """Of a loss ½ h w² whose curvature is the Fisher diagonal, the step to its minimum wins all of it."""
    h, w = 0.8, np.array([[0.0, 0.5], [-1.0, 2.0]])
    found = gains(Gradient(h * w, np.full(w.shape, h - 0.3)), damping=0.3)
    assert found == pytest.approx(0.5 * h * np.square(w))
    assert found.shape == w.shape


def test_gains_grow_with_the_gradient_and_shrink_with_spread_and_damping() -> None:
    gradient = Gradient(np.array([0.0, 1.0, -2.0, 2.0]), np.array([0.0, 2.0, 5.0, 9.0]))
    found = gains(gradient, 1e-3)
    assert found[0] == 0.0
    assert found[2] > found[1]
    assert found[2] > found[3]
    assert (gains(gradient, 1.0) <= found).all()
    assert (found <= 0.5).all()


@pytest.mark.parametrize("damping", [0.0, -1.0, np.nan])
def test_a_damping_that_is_not_positive_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="damping must be positive"):
        gains(Gradient(np.ones(2), np.ones(2)), damping)


def test_moments_have_to_fit_each_other() -> None:
    with pytest.raises(ValueError, match="shape"):
        Gradient(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="negative"):
        Gradient(np.ones(2), np.array([1.0, -1.0]))
