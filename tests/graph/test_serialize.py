"""Files: what must survive reading and writing, and what must be refused on the way in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from surgery_ir.errors import ModelError, OutputError
from surgery_ir.graph import serialize
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME, proto

MLP = "g (float[n,4] x) => (float[n,2] y) <float[4,300] w, float[300,2] v> { h = MatMul(x, w) y = MatMul(h, v) }"


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def save_external(model: onnx.ModelProto, folder: Path, threshold: int = 0) -> Path:
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=threshold)
    onnx.save_model(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def raw_weights(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    return {
        tensor.name: (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        for tensor in model.graph.initializer
    }


def round_trip(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    write_model(read_model(save(model, folder)), folder / "out.onnx")
    return onnx.load(str(folder / "out.onnx"))


def everything() -> onnx.ModelProto:
    """A model that uses every field beside the operators."""
    model = proto(MLP)
    model.ir_version = 9
    model.producer_name, model.producer_version = "maker", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "what it is"
    helper.set_model_props(model, {"author": "somebody", "note": "a\nb"})
    model.graph.doc_string = "the graph"
    model.graph.metadata_props.add(key="graph", value="1")
    model.graph.node[0].name = "first"
    model.graph.node[0].doc_string = "a node"
    model.graph.node[0].metadata_props.add(key="node", value="2")
    model.graph.input[0].doc_string = "an input"
    model.graph.initializer[0].doc_string = "a weight"
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 300]))
    annotation = model.graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="v")
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "step", [], []))
    return model


def test_what_a_file_says_beside_operators_survives(tmp_path: Path) -> None:
    model = everything()
    back = round_trip(model, tmp_path)
    assert raw_weights(back) == raw_weights(model)
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(back, field) == getattr(model, field), field
    assert list(back.opset_import) == list(model.opset_import)
    assert list(back.metadata_props) == list(model.metadata_props)
    assert list(back.training_info) == list(model.training_info)
    graph, wanted = back.graph, model.graph
    assert (graph.name, graph.doc_string) == (wanted.name, wanted.doc_string)
    assert list(graph.metadata_props) == list(wanted.metadata_props)
    assert list(graph.quantization_annotation) == list(wanted.quantization_annotation)
    assert list(graph.input) == list(wanted.input)
    assert list(graph.output) == list(wanted.output)
    wanted.node[0].ClearField("domain")  # the parser writes it though it is empty
    assert graph.node[0] == wanted.node[0]
    assert graph.initializer[0].doc_string == "a weight"
    assert "h" in {value.name for value in graph.value_info}


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 9), (4, 11), (8, 17), (10, 21), (11, 23)])
def test_versions_survive(ir_version: int, opset: int, tmp_path: Path) -> None:
    inputs = "float[n,4] x" + (", float[4,300] w" if ir_version == 3 else "")
    text = f"g ({inputs}) => (float[n,300] y) <float[4,300] w> {{ y = MatMul(x, w) }}"
    model = proto(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> {text}')
    back = round_trip(model, tmp_path)
    assert (back.ir_version, back.opset_import[0].version) == (ir_version, opset)
    assert [value.name for value in back.graph.input] == [value.name for value in model.graph.input]
    verify(read_model(tmp_path / "out.onnx"))


def integers(dtype: Any) -> NDArray[Any]:
    return np.arange(3 * 801).reshape(3, 801).astype(np.int8).astype(dtype)


TYPES: dict[str, NDArray[Any]] = {
    "int4": (np.arange(2403) % 15 - 7).reshape(3, 801).astype(ml_dtypes.int4),
    "uint4": (np.arange(2403) % 16).reshape(3, 801).astype(ml_dtypes.uint4),
    "float4": (np.arange(2403) % 4).reshape(3, 801).astype(ml_dtypes.float4_e2m1fn),
    **{
        np.dtype(dtype).name: integers(dtype)
        for dtype in (
            ml_dtypes.bfloat16,
            ml_dtypes.float8_e4m3fn,
            ml_dtypes.float8_e4m3fnuz,
            ml_dtypes.float8_e5m2,
            ml_dtypes.float8_e5m2fnuz,
            np.float16,
            np.float64,
            np.complex64,
            np.bool_,
            np.int8,
            np.uint16,
            np.int64,
            np.uint64,
        )
    },
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "nan payload": np.array([0x7FC12345, 0xFF812345, 0x80000000, 0x7F800000], np.uint32).view(np.float32),
}


@pytest.mark.parametrize("external", [False, True], ids=["inside", "external"])
@pytest.mark.parametrize("kind", TYPES)
def test_types_that_nobody_understands_pass_through(kind: str, external: bool, tmp_path: Path) -> None:
    model = proto('<ir_version: 11, opset_import: ["" : 23]> g (float[n] x) => (float[n] y) { y = Relu(x) }')
    model.graph.initializer.append(numpy_helper.from_array(TYPES[kind], "w"))
    wanted = model.graph.initializer[0].raw_data
    path = save_external(model, tmp_path) if external else save(model, tmp_path)
    graph = read_model(path)
    write_model(graph, tmp_path / "out.onnx")
    (back,) = onnx.load(str(tmp_path / "out.onnx")).graph.initializer
    assert (back.data_type, list(back.dims)) == (model.graph.initializer[0].data_type, list(TYPES[kind].shape))
    assert back.raw_data == wanted
    assert graph.array("w").tobytes() == TYPES[kind].tobytes()


def test_strings_pass_through(tmp_path: Path) -> None:
    model = proto("g (string[n] x) => (string[n] y) { y = Identity(x) }")
    model.graph.initializer.append(
        onnx.TensorProto(name="s", data_type=TensorProto.STRING, dims=[2], string_data=[b"a\xff", b""])
    )
    assert round_trip(model, tmp_path).graph.initializer[0].string_data == [b"a\xff", b""]


@pytest.mark.parametrize("field", ["float_data", "int32_data", "int64_data", "double_data"])
def test_values_in_typed_fields_survive(field: str, tmp_path: Path) -> None:
    kind = {"float_data": 1, "int32_data": 10, "int64_data": 7, "double_data": 11}[field]
    model = proto("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.initializer.append(helper.make_tensor("w", kind, [400], np.arange(400)))
    assert getattr(model.graph.initializer[0], field)
    assert raw_weights(round_trip(model, tmp_path)) == raw_weights(model)


SUBGRAPHS = """g (float[n,4] x, bool c) => (float[n,4] y) <float[4,4] outer> {
    y = If (c) <
        then_branch = t () => (float[n,4] a) <float[4,4] inner = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,2}>
            { h = MatMul(x, inner) a = MatMul(h, outer) },
        else_branch = e () => (float[n,4] b) { s = Constant<value = float[4] {1,2,3,4}>() b = Mul(x, s) }
    >
}"""

FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[n,4] x) => (float[n,4] y) { y = local.twice <alpha = 0.5> (x) }
<opset_import: ["" : 21], domain: "local"> twice <alpha> (a) => (b) {
    k = Constant<value = float[4] {1,2,3,4}>() s = Mul(a, k) b = LeakyRelu<alpha: float = @alpha>(s) }"""

LOOP = """g (float[4] x, int64 trips, bool go) => (float[4] y) {
    y = Loop (trips, go, x) < body = b (int64 i, bool before, float[4] state) => (bool after, float[4] next) {
        after = Identity(before) next = Add(state, state) } > }"""


@pytest.mark.parametrize(
    ("text", "feeds"),
    [
        (SUBGRAPHS, {"x": np.ones((2, 4), np.float32), "c": np.array(True)}),
        (SUBGRAPHS, {"x": np.ones((2, 4), np.float32), "c": np.array(False)}),
        (FUNCTIONS, {"x": -np.ones((2, 4), np.float32)}),
        (LOOP, {"x": np.ones(4, np.float32), "trips": np.array(3), "go": np.array(True)}),
    ],
    ids=["then", "else", "function", "loop"],
)
def test_subgraphs_and_functions_survive(text: str, feeds: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    import onnxruntime as ort

    path = save(proto(text), tmp_path)
    wanted = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    graph = read_model(path)
    verify(graph)
    write_model(graph, tmp_path / "out.onnx")
    back = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"]).run(None, feeds)
    here = RUNTIME.load(graph).run(feeds)
    assert wanted[0].tobytes() == back[0].tobytes() == here["y"].tobytes()
    assert graph.fingerprint() == read_model(tmp_path / "out.onnx").fingerprint()


def test_external_data_stay_external_and_mapped(tmp_path: Path) -> None:
    model = proto(MLP)
    wanted = raw_weights(model)
    graph = read_model(save_external(model, tmp_path))
    assert isinstance(graph.array("w").base, np.ndarray)
    (tmp_path / "out").mkdir()
    write_model(graph, tmp_path / "out" / "small.onnx")
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert (tmp_path / "out" / "small.onnx").stat().st_size < 1000
    assert raw_weights(onnx.load(str(tmp_path / "out" / "small.onnx"))) == wanted
    assert read_model(tmp_path / "out" / "small.onnx").fingerprint() == graph.fingerprint()
    assert raw_weights(graph.to_proto()) == wanted


def test_big_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "SINGLE_FILE_LIMIT", 1000)
    model = proto(SUBGRAPHS.replace("float[4,4] outer", "float[4,4] outer, float[400,4] big"))
    graph = Graph.from_proto(model)
    write_model(graph, tmp_path / "out.onnx")
    assert len(list(tmp_path.glob("out-*.data"))) == 1
    assert read_model(tmp_path / "out.onnx").fingerprint() == graph.fingerprint()


def test_writing_again_leaves_one_pair_of_files(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    first = read_model(save_external(proto(MLP), tmp_path / "source"))
    second = Graph.from_proto(proto(MLP, seed=1))
    other = tmp_path / "out-12345678.data"
    other.write_bytes(b"not ours to delete")
    write_model(first, tmp_path / "out.onnx")
    write_model(first, tmp_path / "out.onnx")
    assert len(list(tmp_path.glob("out-*.data"))) == 2
    write_model(second, tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-12345678.data", "out.onnx", "source"]
    assert raw_weights(onnx.load(str(tmp_path / "out.onnx"))) == raw_weights(proto(MLP, seed=1))


@pytest.mark.parametrize("external", [False, True], ids=["inside", "external"])
@pytest.mark.parametrize("fault", ["disk full", "interrupted"])
def test_failed_write_leaves_what_was_there(
    fault: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    model = proto(MLP)
    graph = read_model(save_external(model, tmp_path / "source")) if external else Graph.from_proto(model)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"what was there")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device") if fault == "disk full" else KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError if fault == "disk full" else KeyboardInterrupt) as caught:
        write_model(graph, folder / "model.onnx")
    assert fault == "interrupted" or "No space left on device" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == b"what was there"


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/out\.onnx: cannot be written: No such file or directory"):
        write_model(Graph.from_proto(proto(MLP)), tmp_path / "nowhere" / "out.onnx")


def truncated(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data[: len(data) // 2]


NO_MODELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "truncated": (lambda: truncated(proto(MLP)), "truncated or corrupt"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    "text": (lambda: b"import torch\nprint('hello')\n", "not an ONNX model"),
    "zeros": (lambda: bytes(100), "not an ONNX model"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), "not an ONNX model"),
    "another protobuf": (lambda: proto(MLP).graph.SerializeToString(), "not an ONNX model"),
    "no graph": (lambda: onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    "no opset": (lambda: onnx.ModelProto(ir_version=8, graph=proto(MLP).graph).SerializeToString(), "opset"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_files_that_are_no_models(kind: str, tmp_path: Path) -> None:
    make, message = NO_MODELS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(make())
    with pytest.raises(ModelError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        read_model(tmp_path)


def entry(key: str, value: str) -> Callable[[Path], None]:
    """Have every external tensor say ``value`` for ``key``."""

    def change(folder: Path) -> None:
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        for tensor in model.graph.initializer:
            for item in tensor.external_data:
                item.value = value.format(folder=folder) if item.key == key else item.value
        save(model, folder)

    return change


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of the data file."""

    def change(folder: Path) -> None:
        (folder / "weights.bin").unlink()
        make(folder / "weights.bin")

    return change


OUTSIDE = "the path .* leaves the model's folder"
MISSING = r"the file 'weights\.bin' is missing"

EXTERNAL_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "parent": (entry("location", "../secret.bin"), OUTSIDE),
    "hidden parent": (entry("location", "sub/../../secret.bin"), OUTSIDE),
    "absolute": (entry("location", "{folder}/../secret.bin"), OUTSIDE),
    "absolute inside": (entry("location", "{folder}/weights.bin"), OUTSIDE),
    "link": (replaced(lambda file: file.symlink_to(file.parent.parent / "secret.bin")), OUTSIDE),
    "hard link": (replaced(lambda file: file.hardlink_to(file.parent.parent / "secret.bin")), "hard links"),
    "loop": (replaced(lambda file: file.symlink_to(file)), f"{MISSING}|cannot be used"),
    "folder": (replaced(lambda file: file.mkdir()), MISSING),
    "missing": (replaced(lambda file: None), MISSING),
    "too short": (
        replaced(lambda file: file.write_bytes(bytes(7199))),
        r"bytes 4800 to 7200 are needed, but 'weights\.bin' has 7199",
    ),
    "wrong length": (entry("length", "8"), "8 bytes are given, but type and shape need 4800"),
    "negative offset": (entry("offset", "-8"), "offset must be non-negative, got -8"),
    "no number": (entry("offset", "many"), "many"),
    "nul": (entry("location", "a\0b"), "cannot be used"),
    "nothing": (entry("location", ""), "leaves the model's folder|is missing|location"),
}


@pytest.mark.parametrize("fault", EXTERNAL_FAULTS)
def test_external_data_that_must_not_be_read(fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(proto(MLP), folder)
    (tmp_path / "secret.bin").write_bytes((folder / "weights.bin").read_bytes())
    change, message = EXTERNAL_FAULTS[fault]
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_links_inside_of_the_folder_are_fine(tmp_path: Path) -> None:
    path = save_external(proto(MLP), tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    assert read_model(path).array("v").shape == (300, 2)


@pytest.mark.parametrize("where", ["then branch", "attribute", "function"])
def test_external_data_are_checked_wherever_they_hide(where: str, tmp_path: Path) -> None:
    model = proto({"then branch": SUBGRAPHS, "attribute": SUBGRAPHS, "function": FUNCTIONS}[where])
    if where == "then branch":
        tensor = model.graph.node[0].attribute[0].g.initializer[0]
    elif where == "attribute":
        tensor = model.graph.node[0].attribute[1].g.node[0].attribute[0].t
    else:
        tensor = model.functions[0].node[0].attribute[0].t
    tensor.name = tensor.name or "w"
    tensor.raw_data = numpy_helper.to_array(tensor).tobytes()
    del tensor.float_data[:]
    wanted = tensor.raw_data
    (tmp_path / "weights.bin").write_bytes(wanted)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    graph = read_model(save(model, tmp_path))
    assert wanted in graph.to_proto().SerializeToString()
    RUNTIME.load(graph)
    tensor.external_data[0].value = "../weights.bin"
    with pytest.raises(ModelError, match="leaves the model's folder"):
        read_model(save(model, tmp_path))


def test_a_model_in_memory_has_no_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_external(proto(MLP), tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"external data of 'w' are in 'weights\.bin'; give the path"):
        Graph.from_proto(onnx.load(str(path), load_external_data=False))
    assert read_model("model.onnx").array("w").shape == (4, 300)


def test_relative_paths_hold_when_the_working_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_external(proto(MLP), tmp_path)
    monkeypatch.chdir(tmp_path)
    graph = read_model("model.onnx")
    monkeypatch.chdir("/")
    assert graph.array("v").shape == (300, 2)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"dims": [5, 300]}, r"the values of 'w' do not fit its type and shape: .*\(5,300\)"),
        ({"dims": [-4, -300]}, "the values of 'w' do not fit its type and shape"),
        ({"data_type": 0}, "the values of 'w' do not fit its type and shape: .*UNDEFINED"),
        ({"data_type": 99}, "99 is not a valid DataType"),
        ({"raw_data": b""}, "the values of 'w' do not fit its type and shape"),
    ],
)
def test_weights_that_contradict_themselves(fault: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = proto(MLP)
    for field, value in fault.items():
        if field == "dims":
            model.graph.initializer[0].dims[:] = value
        else:
            setattr(model.graph.initializer[0], field, value)
    with pytest.raises(ModelError, match=message):
        read_model(save(model, tmp_path))


def test_reading_does_not_touch_the_file(tmp_path: Path) -> None:
    path = save_external(proto(MLP), tmp_path)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    RUNTIME.load(read_model(path))
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before
