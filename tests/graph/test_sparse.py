"""Sparse initializers: densified on reading, encoded again on writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from surgery_ir.errors import ModelError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from surgery_ir.graph.sparse import is_sparse, sparse_nbytes
from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME, proto

TEXT = "g (float[n,40] x) => (float[n,30] y) <float[40,30] w, float[30] b> { h = MatMul(x, w) y = Add(h, b) }"


def weights(dtype: Any = np.float32) -> NDArray[Any]:
    dense = np.zeros((40, 30), dtype)
    dense.flat[[0, 7, 31, 1199]] = [1, -2, 3, 4]
    return dense


def sparsify(tensor: onnx.TensorProto, layout: str) -> onnx.SparseTensorProto:
    dense = numpy_helper.to_array(tensor)
    flat = np.flatnonzero(dense)
    indices = flat if layout == "linear" else np.stack(np.unravel_index(flat, dense.shape), axis=1)
    sparse = onnx.SparseTensorProto(dims=dense.shape)
    sparse.values.CopyFrom(numpy_helper.from_array(dense.reshape(-1)[flat], tensor.name))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), "indices"))
    return sparse


def sparse_model(layout: str = "linear") -> onnx.ModelProto:
    model = proto(TEXT, w=weights())
    model.graph.sparse_initializer.append(sparsify(model.graph.initializer[0], layout))
    del model.graph.initializer[0]
    return model


def outputs(path: Path) -> NDArray[Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, {"x": np.eye(40, dtype=np.float32)})[0]
    return found


@pytest.mark.parametrize("layout", ["linear", "coordinates"])
def test_round_trip(layout: str, tmp_path: Path) -> None:
    model = sparse_model(layout)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    graph = read_model(tmp_path / "model.onnx")
    verify(graph)
    assert np.array_equal(graph.array("w"), weights())
    assert [name for name, value in graph.initializers.items() if is_sparse(value)] == ["w"]
    write_model(graph, tmp_path / "out.onnx")
    back = onnx.load(str(tmp_path / "out.onnx")).graph
    assert [tensor.name for tensor in back.initializer] == ["b"]
    (sparse,) = back.sparse_initializer
    assert (sparse.values.name, list(sparse.dims)) == ("w", [40, 30])
    assert numpy_helper.to_array(sparse.indices).tolist() == [0, 7, 31, 1199]
    assert numpy_helper.to_array(sparse.values).tolist() == [1, -2, 3, 4]
    assert len(model.graph.sparse_initializer) == 1
    wanted = outputs(tmp_path / "model.onnx")
    assert np.array_equal(outputs(tmp_path / "out.onnx"), wanted)
    assert np.array_equal(RUNTIME.load(graph).run({"x": np.eye(40, dtype=np.float32)})["y"], wanted)


def test_a_copy_is_stored_sparsely_on_its_own(tmp_path: Path) -> None:
    graph = Graph.from_proto(proto(TEXT, w=weights()))
    copy = graph.clone()
    Editor(copy, "test").store_sparse("w")
    write_model(graph, tmp_path / "dense.onnx")
    write_model(copy, tmp_path / "sparse.onnx")
    assert graph.fingerprint() != copy.fingerprint()
    saved = (tmp_path / "dense.onnx").stat().st_size - (tmp_path / "sparse.onnx").stat().st_size
    assert 0 <= weights().nbytes - sparse_nbytes(weights()) - saved < 100
    assert np.array_equal(outputs(tmp_path / "sparse.onnx"), outputs(tmp_path / "dense.onnx"))


def test_sparse_initializers_of_models_with_external_data(tmp_path: Path) -> None:
    model = proto(TEXT, w=weights())
    onnx.save_model(model, str(tmp_path / "model.onnx"), save_as_external_data=True, size_threshold=0, location="data")
    graph = read_model(tmp_path / "model.onnx")
    Editor(graph, "test").store_sparse("w")
    (tmp_path / "out").mkdir()
    write_model(graph, tmp_path / "out" / "out.onnx")
    assert len(onnx.load(str(tmp_path / "out" / "out.onnx")).graph.sparse_initializer) == 1
    assert np.array_equal(outputs(tmp_path / "out" / "out.onnx"), outputs(tmp_path / "model.onnx"))


def test_sparse_initializer_of_a_subgraph(tmp_path: Path) -> None:
    model = proto(
        """g (float[n,40] x, bool c) => (float[n,30] y) {
        y = If (c) <then_branch = t () => (float[n,30] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[n,30] b) { b = MatMul(x, w) }> }"""
    )
    body = model.graph.node[0].attribute[0].g
    body.sparse_initializer.append(sparsify(numpy_helper.from_array(weights(), "w"), "linear"))
    model.graph.node[0].attribute[1].g.initializer.append(numpy_helper.from_array(weights() + 1, "w"))
    write_model(Graph.from_proto(model), tmp_path / "out.onnx")
    branches = [attribute.g for attribute in onnx.load(str(tmp_path / "out.onnx")).graph.node[0].attribute]
    assert [(len(body.sparse_initializer), len(body.initializer)) for body in branches] == [(1, 0), (0, 1)]


def faulty(fault: str) -> onnx.ModelProto:
    model = sparse_model("coordinates" if fault.startswith("coordinate") else "linear")
    sparse = model.graph.sparse_initializer[0]
    indices = numpy_helper.to_array(sparse.indices).copy()
    if fault == "index too big":
        indices[-1] = 1200
    elif fault == "negative index":
        indices[0] = -1
    elif fault == "coordinate too big":
        indices[0] = [0, 30]
    elif fault == "count":
        indices = indices[:-1]
    elif fault == "huge":
        sparse.dims[:] = [1 << 40, 1 << 20]
    elif fault == "negative shape":
        sparse.dims[:] = [-40, 30]
    elif fault == "external":
        sparse.values.data_location = TensorProto.EXTERNAL
        sparse.values.external_data.add(key="location", value="/etc/hostname")
    sparse.indices.CopyFrom(numpy_helper.from_array(indices, "indices"))
    return model


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("index too big", r"has an index outside of its shape \[40, 30\]"),
        ("negative index", r"has an index outside of its shape \[40, 30\]"),
        ("coordinate too big", r"has an index outside of its shape \[40, 30\]"),
        ("count", r"has values of shape \(4,\), but indices of shape \(3,\)"),
        ("huge", "cannot be unpacked"),
        ("negative shape", "cannot be unpacked"),
        ("external", "has external data, which is not supported"),
    ],
)
def test_faults(fault: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^<memory>: sparse initializer 'w' .*{message}"):
        Graph.from_proto(faulty(fault))
