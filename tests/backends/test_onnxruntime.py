"""ONNX Runtime: it computes what the file says, takes every weight, writes nothing, and complains in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.errors import BackendError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model
from tests.harness import graph, proto

BACKEND = OnnxRuntimeBackend()
X = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)

CONVNET = """g (float[n,3,8,8] x) => (float[n,10] y)
    <float[16,3,3,3] w, float[16] s, float[16] o, float[16] m, float[16] v, float[16,10] d, float[10] b> {
    c = Conv<pads = [1,1,1,1]>(x, w)
    n = BatchNormalization(c, s, o, m, v)
    r = Relu(n)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm(f, d, b)
}"""


def direct(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], optimize: bool) -> NDArray[Any]:
    """What ONNX Runtime itself makes of the file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, feeds)[0]
    return found


@pytest.mark.parametrize("optimize", [True, False])
def test_the_same_bits_as_the_file(optimize: bool) -> None:
    model = proto(CONVNET, v=np.ones(16))
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    session = OnnxRuntimeBackend(optimize=optimize).load(Graph.from_proto(model), threads=1)
    assert session.output_names == ("y",)
    assert session.run(feeds)["y"].tobytes() == direct(model, feeds, optimize).tobytes()


WIRINGS: dict[str, tuple[str, int]] = {
    "plain": ("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }", 10),
    "only a dead node": ("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = Relu(x) z = Neg(w) }", 10),
    "nobody": ("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = Relu(x) }", 10),
    "an output": ("g (float[n,64] x) => (float[n,64] y, float[64,64] w) <float[64,64] w> { y = Relu(x) }", 10),
    "a fold": ("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { t = Transpose(w) y = MatMul(x, t) }", 10),
    "a default": ("g (float[n,64] x, float[64,64] w) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }", 10),
    "an old input": ("g (float[n,64] x, float[64,64] w) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }", 3),
    "a branch": (
        """g (float[n,64] x) => (float[n,64] y) <float[64,64] w, bool c> {
        y = If (c) <then_branch = t () => (float[n,64] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[n,64] b) { b = Neg(x) }> }""",
        10,
    ),
}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_weights_arrive_whoever_reads_them(wiring: str) -> None:
    text, ir_version = WIRINGS[wiring]
    opset = 9 if ir_version == 3 else 21
    model = proto(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> {text}')
    found = BACKEND.load(Graph.from_proto(model), threads=1).run({"x": X})["y"]
    assert np.array_equal(found, direct(model, {"x": X}, optimize=True))


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.float16, np.float64, np.bool_, np.int8, np.uint64],
)
def test_weights_of_every_type_arrive(dtype: Any) -> None:
    weights = (np.arange(64 * 64).reshape(64, 64) % 3).astype(dtype)
    text = "g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { v = Cast<to = 1>(w) y = MatMul(x, v) }"
    model = proto(text)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    found = BACKEND.load(Graph.from_proto(model), threads=1).run({"x": X})["y"]
    assert np.allclose(found, X @ weights.astype(np.float32), atol=1e-4)


def test_sparse_weights_arrive() -> None:
    loaded = graph("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }")
    wanted = BACKEND.load(loaded, threads=1).run({"x": X})["y"]
    Editor(loaded, "test").store_sparse("w")
    assert np.array_equal(BACKEND.load(loaded, threads=1).run({"x": X})["y"], wanted)
    assert "sparse_initializer" in str(loaded.to_proto().graph)


def test_a_loaded_graph_may_be_edited_and_forgotten() -> None:
    loaded = graph("g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }")
    session = BACKEND.load(loaded, threads=1)
    wanted = session.run({"x": X})["y"]
    Editor(loaded, "test").set_weights("w", np.zeros((64, 64)))
    assert not BACKEND.load(loaded, threads=1).run({"x": X})["y"].any()
    del loaded
    assert np.array_equal(session.run({"x": X})["y"], wanted)


def test_external_data_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = proto(CONVNET, v=np.ones(16))
    feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
    wanted = direct(model, feeds, optimize=True)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=0, location="weights.bin")
    before = sorted(os.listdir(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = read_model(path)
    assert np.array_equal(BACKEND.load(loaded, threads=1).run(feeds)["y"], wanted)
    assert os.listdir(tmp_path / "elsewhere") == []
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "elsewhere"])


def test_strings_and_sequences_come_out() -> None:
    loaded = graph("g (string[n] x) => (string[n] y, seq(string[n]) z) { y = Identity(x) z = SequenceConstruct(x, x) }")
    found = BACKEND.load(loaded).run({"x": np.array(["a", "bc"])})
    assert found["y"].tolist() == ["a", "bc"]
    assert [item.tolist() for item in found["z"]] == [["a", "bc"]] * 2


REFUSED = {
    "operator": (
        "g (float[n] x) => (float[n] y) { [node] y = Foo(x) }",
        r'In Node, \("node", Foo, "", -1\) .* No Op registered for Foo',
    ),
    "shapes": (
        "g (float[2,4] x) => (float[2,3] y) <float[3,3] w> { [node] y = MatMul(x, w) }",
        r"Node \(node\) Op \(MatMul\) Incompatible dimensions",
    ),
    "opset": (
        '<ir_version: 8, opset_import: ["" : 99]> g (float[n] x) => (float[n] y) { y = Relu(x) }',
        "ONNX Runtime only .guarantees. support",
    ),
    "input type": (
        "g (bfloat16[n] x) => (float[n] y) { y = Cast<to = 1>(x) }",
        "ONNX Runtime cannot be fed input 'x' of type bfloat16",
    ),
    "output type": (
        "g (float[n] x) => (bfloat16[n] y) { y = Cast<to = 16>(x) }",
        "ONNX Runtime gives no output of the model as an array",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_are_refused(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, message = REFUSED[kind]
    with pytest.raises(BackendError, match=message) as caught:
        BACKEND.load(graph(text))
    assert_one_clean_line(str(caught.value))
    assert capfd.readouterr() == ("", "")


FAILING: dict[str, tuple[str, dict[str, NDArray[Any]], str]] = {
    "reshape": (
        "g (float[n,4] x, int64[2] s) => (float[a,b] y) { [node] y = Reshape(x, s) }",
        {"x": np.ones((2, 4), np.float32), "s": np.array([3, 3])},
        r"failed: Reshape 'node': The input tensor cannot be reshaped .*\{2,4\}, requested shape:\{3,3\}",
    ),
    "product": (
        "g (float[n,k] x, float[k,m] z) => (float[n,m] y) { [node] y = MatMul(x, z) }",
        {"x": np.ones((2, 4), np.float32), "z": np.ones((3, 4), np.float32)},
        "failed: MatMul 'node': MatMul dimension mismatch",
    ),
    "index": (
        "g (float[n,k] x, int64[m] z) => (float[m,k] y) { [node] y = Gather(x, z) }",
        {"x": np.ones((2, 4), np.float32), "z": np.array([7])},
        "failed: Gather 'node': indices element out of data bounds, idx=7",
    ),
    "shape of a feed": (
        "g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }",
        {"x": np.ones((2, 5), np.float32)},
        "Got invalid dimensions for input: x .* index: 1 Got: 5 Expected: 4",
    ),
    "type of a feed": (
        "g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }",
        {"x": np.ones((2, 4))},
        r"Unexpected input data type. Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)",
    ),
    "missing feed": ("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", {}, r"\['x'\]\) are missing"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_runs_that_fail(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, feeds, message = FAILING[kind]
    session = BACKEND.load(graph(text))
    with pytest.raises(BackendError, match=message) as caught:
        session.run(feeds)
    assert_one_clean_line(str(caught.value))
    assert capfd.readouterr() == ("", "")


def assert_one_clean_line(text: str) -> None:
    assert text.startswith("<memory>: ONNX Runtime ")
    for noise in ("\n", "ONNXRuntimeError", ".cc:", ".h:", "onnxruntime::", "Status Message", "ShapeInferenceError"):
        assert noise not in text
