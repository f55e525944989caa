"""Running a model over samples: batches of every kind, outputs of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.backends.evaluate import evaluate, find_metric, predict
from surgery_ir.backends.onnxruntime import OnnxRuntimeSession
from surgery_ir.errors import DataError
from tests.harness import RUNTIME, graph


def session(text: str) -> OnnxRuntimeSession:
    loaded = RUNTIME.load(graph(text), threads=1)
    assert isinstance(loaded, OnnxRuntimeSession)
    return loaded


def floats(*shape: int) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


X = floats(7, 3)


@pytest.mark.parametrize("first", ["n", "1", "2", "7", "16"])
def test_every_batch_size_gives_the_same(first: str) -> None:
    loaded = session(f"g (float[{first},3] x) => (float[{first},3] y) {{ y = Neg(x) }}")
    found = predict(loaded, Samples({"x": X}), batch=4)
    assert np.array_equal(found["y"], -X)


@pytest.mark.parametrize("samples", [1, 4, 5, 8])
def test_outputs_of_the_batch_as_a_whole(samples: int) -> None:
    loaded = session("""g (float[n,3] x) => (float s, float[k] m, float[n,3] y) {
        s = ReduceSum<keepdims = 0>(x)
        a = Constant<value = int64[1] {0}>()
        m = ReduceMax<keepdims = 0>(x, a)
        y = Neg(x) }""")
    x = floats(samples, 3)
    found = predict(loaded, Samples({"x": x}), batch=4)
    assert np.array_equal(found["s"], x.sum(1))
    assert np.array_equal(found["m"].reshape(samples, 3), x)
    assert np.array_equal(found["y"].reshape(samples, 3), -x)


def test_fixed_batches_cannot_be_taken_apart() -> None:
    loaded = session("g (float[4,3] x) => (float s) { s = ReduceSum<keepdims = 0>(x) }")
    with pytest.raises(DataError, match="takes 4 samples at once, but its output 's' has no axis of that size"):
        predict(loaded, Samples({"x": X}))


def test_whole_inputs() -> None:
    loaded = session("""g (float[3] x, float gain) => (float[3] y, float s) {
        y = Mul(x, gain) s = ReduceSum<keepdims = 0>(y) }""")
    gain = floats(7)
    found = predict(loaded, Samples({"x": X, "gain": gain}))
    assert np.array_equal(found["y"], X * gain[:, None])
    assert np.array_equal(found["s"], (X * gain[:, None]).sum(1))


def test_a_state_beside_a_batch() -> None:
    loaded = session("""g (float[n,3] x, float[2,n,3] state) => (float[n,3] y, float[2,n,3] next) {
        y = Neg(x) next = Add(state, x) }""")
    state = floats(7, 2, 1, 3)
    found = predict(loaded, Samples({"x": X, "state": state}))
    assert np.array_equal(found["y"], -X)
    assert np.array_equal(found["next"], state + X[:, None, None])


def test_outputs_whose_shape_depends_on_the_sample() -> None:
    loaded = session("g (float[n] x) => (int64[1,k] y) { y = NonZero(x) }")
    with pytest.raises(DataError, match=r"output 'y' has shape \[0\] for one sample and \[1\] for another"):
        predict(loaded, Samples({"x": floats(7)}))


def test_sequences_are_left_out() -> None:
    loaded = session("g (float[n,3] x) => (float[n,3] y, seq(float[n,3]) z) { y = Neg(x) z = SequenceConstruct(x) }")
    assert list(predict(loaded, Samples({"x": X}))) == ["y"]
    loaded = session("g (float[n,3] x) => (seq(float[n,3]) z) { z = SequenceConstruct(x) }")
    with pytest.raises(DataError, match="no output of the model is an array"):
        predict(loaded, Samples({"x": X}))


def test_samples_are_checked_against_the_inputs() -> None:
    loaded = session("g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }")
    with pytest.raises(DataError, match="no array for input 'x'; 'z' is no input"):
        predict(loaded, Samples({"z": X}))


@pytest.mark.parametrize(("metric", "labels"), [("accuracy", np.zeros(7, int)), ("fidelity", None)])
def test_scores(metric: str, labels: NDArray[Any] | None) -> None:
    """The model chooses the first of its columns -x and x - 6 for x up to 3, labels and reference for every x."""
    loaded = session("""g (float[n,1] x) => (float[n,2] y) {
        six = Constant<value = float {6}>() a = Neg(x) b = Sub(x, six) y = Concat<axis = 1>(a, b) }""")
    samples = Samples({"x": floats(7, 1)}, labels)
    reference = {"y": np.stack([np.ones(7), np.zeros(7)], axis=1).astype(np.float32)}
    score = evaluate(loaded, samples, find_metric(metric), reference, batch=3)
    assert (score.name, score.samples) == (metric, 7)
    assert score.value == pytest.approx(4 / 7)
