"""Models of every kind find their frontend; what cannot be used is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from surgery_ir.errors import ModelError, SpecError
from surgery_ir.frontends.base import Frontend
from surgery_ir.frontends.load import BUILT_IN, load_model
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, assert_equivalent, proto
from tests.plugins import install

TEXT = "g (float[n,4] x) => (float[n,4] y) <float[4,4] w, float[4] b> { h = MatMul(x, w) [last] y = Add(h, b) }"


def as_path(folder: Path) -> str:
    onnx.save_model(proto(TEXT), str(folder / "model.onnx"))
    return str(folder / "model.onnx")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "text path": as_path,
    "path": lambda folder: Path(as_path(folder)),
    "upper case": lambda folder: Path(as_path(folder)).rename(folder / "M.ONNX"),
    "proto": lambda folder: proto(TEXT),
    "graph": lambda folder: Graph.from_proto(proto(TEXT)),
    "graphsurgeon": lambda folder: gs.import_onnx(proto(TEXT)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    lowered = load_model(SOURCES[kind](tmp_path))
    assert_equivalent(lowered.graph, Graph.from_proto(proto(TEXT)), tolerance=0)
    assert {binding.initializer: binding.parameters for binding in lowered.bindings} == {"w": ("w",), "b": ("b",)}
    assert lowered.restated == ()


def test_a_graph_is_not_shared_with_its_owner() -> None:
    graph = Graph.from_proto(proto(TEXT))
    lowered = load_model(graph)
    assert lowered.graph is not graph
    assert lowered.graph.fingerprint() == graph.fingerprint()


def test_the_frontends_are_frontends() -> None:
    assert all(isinstance(frontend, Frontend) for frontend in BUILT_IN)


def test_a_graphsurgeon_graph_may_be_out_of_order() -> None:
    graph = gs.import_onnx(proto(TEXT))
    graph.nodes.reverse()
    assert_equivalent(load_model(graph).graph, Graph.from_proto(proto(TEXT)), tolerance=0)


def test_a_graphsurgeon_graph_that_cannot_be_exported() -> None:
    graph = gs.import_onnx(proto(TEXT))
    graph.nodes[0].attrs["what"] = object()
    with pytest.raises(ModelError, match=r"^<graphsurgeon>: the graph cannot be exported: ") as caught:
        load_model(graph)
    assert "\n" not in str(caught.value)


def test_graphsurgeon_is_not_imported_for_others(tmp_path: Path) -> None:
    code = (
        "import sys; from surgery_ir.frontends.load import load_model; "
        f"load_model({as_path(tmp_path)!r}); assert 'onnx_graphsurgeon' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_shapes_that_were_corrected_are_named() -> None:
    model = proto(TEXT)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 5]))
    assert load_model(model).restated == ("h",)


def nan_weight() -> onnx.ModelProto:
    weights = np.ones((4, 4))
    weights[1, 2] = np.nan
    return proto(TEXT, w=weights)


def refused(text: str) -> onnx.ModelProto:
    return proto(f"g (float[n,4] x) => (float[n,4] y) {text}")


BAD_MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "NaN": (nan_weight, "initializer 'w' holds NaN, first at flat index 6"),
    "operator": (lambda: refused("{ [a] y = Foo(x) }"), r"node 'a' \(Foo\): No Op registered for Foo"),
    "domain": (lambda: refused("{ [a] y = com.foo.Bar(x) }"), r"node 'a' \(Bar\): there is no operator com\.foo\.Bar"),
    "shapes": (
        lambda: refused("<float[3,4] w> { [a] y = MatMul(x, w) }"),
        r"node 'a' \(MatMul\): Incompatible dimensions",
    ),
    "types": (lambda: refused("<int64[4] w> { [a] y = Add(x, w) }"), r"node 'a' \(Add\): B has inconsistent type"),
    "cycle": (lambda: refused("{ [a] h = Add(x, y) y = Neg(h) }"), "the nodes form a cycle, which node 'a'"),
    "dangling": (lambda: refused("{ [a] y = Neg(q) }"), r"node 'a' \(Neg\) reads 'q', which nothing writes"),
    "twice": (
        lambda: refused("{ y = Neg(x) [a] y = Abs(x) }"),
        r"node 'a' \(Abs\) writes 'y', which is written already",
    ),
    "two inputs of one name": (
        lambda: proto("g (float[n,4] x, float[n,4] x) => (float[n,4] y) { y = Neg(x) }"),
        "single static assignment",
    ),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_models_that_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = BAD_MODELS[kind]
    path = tmp_path / "model.onnx"
    onnx.save_model(make(), str(path))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


ODD_MODELS: dict[str, str] = {
    "control flow": """g (float[n,4] x, bool c) => (float[n,4] y) {
        y = If (c) <then_branch = t () => (float[n,4] a) { a = Neg(x) },
                    else_branch = e () => (float[n,4] b) { b = Abs(x) }> }""",
    "recurrence": """g (float[5,n,4] x) => (float[5,1,n,3] y) <float[1,12,4] w, float[1,12,3] r> {
        y = LSTM<hidden_size = 3>(x, w, r) }""",
    "integers": """g (uint8[n,4] x) => (int32[n,3] y) <uint8[4,3] w> { y = MatMulInteger(x, w) }""",
    "contributed": """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[n,4] x) => (float[n,4] y) { y = com.microsoft.Gelu(x) }""",
    "function": """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[n,4] x) => (float[n,4] y) { y = own.f(x) }
        <opset_import: ["" : 17], domain: "own"> f (a) => (b) { b = Neg(a) }""",
    "unsorted": "g (float[n,4] x) => (float[n,4] y) { y = Neg(a) a = Abs(x) }",
    "input as output": "g (float[n,4] x) => (float[n,4] x) { }",
    "weight as output": "g (float[n,4] x) => (float[n,4] y, float[4] w) <float[4] w> { y = Add(x, w) }",
    "one name for two nodes": "g (float[n,4] x) => (float[n,4] y) { [a] h = Neg(x) [a] y = Abs(h) }",
    "open shape": "g (float[n,4] x) => (float[m,k] y) { s = Constant<value_ints = [-1, 2]>() y = Reshape(x, s) }",
}


@pytest.mark.parametrize("kind", ODD_MODELS)
def test_models_that_nothing_can_be_done_with_come_through(kind: str) -> None:
    model = proto(ODD_MODELS[kind])
    lowered = load_model(model)
    assert lowered.restated == ()
    if kind != "one name for two nodes":
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    RUNTIME.load(lowered.graph)
    again = load_model(lowered.graph.to_proto())
    assert again.graph.fingerprint() == lowered.graph.fingerprint()
    assert_equivalent(again.graph, lowered.graph, tolerance=0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "model.caffemodel",
            "model.caffemodel: this kind of file cannot be read; what can be read is .onnx files, onnx.ModelProto,",
        ),
        ("model", "model: a path without a suffix cannot be read"),
        (3, "builtins.int cannot be read"),
        (np.zeros(3), "numpy.ndarray cannot be read"),
        ("absent.onnx", "absent.onnx: no such file"),
    ],
)
def test_sources_that_nothing_reads(source: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(source)
    assert str(caught.value).startswith(message)


GOOD = """
from surgery_ir.frontends.base import check
from surgery_ir.graph.model import Graph
from onnx import parser

class plugin:
    reads = ".net files"

    def accepts(self, source):
        return str(source).endswith(".net")

    def load(self, source, request):
        return check(Graph.from_proto(parser.parse_model(source.read_text())))
"""

GROUP = "surgery_ir.frontends"


def test_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "net", GOOD)
    (tmp_path / "model.net").write_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    assert [node.op_type for node in load_model(tmp_path / "model.net").graph.model.graph] == ["Neg"]
    with pytest.raises(ModelError, match=r"package\.module:function, \.net files$"):
        load_model("model.caffemodel")


def test_plugins_are_not_imported_for_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "broken", "raise SystemError('imported')")
    load_model(as_path(tmp_path))
    with pytest.raises(SpecError, match="the frontend 'broken' cannot be loaded: SystemError: imported"):
        load_model("model.caffemodel")


def test_a_plugin_that_is_no_frontend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "broken", "plugin = dict")
    with pytest.raises(SpecError, match=r"the frontend 'broken' \(dict\) lacks reads, accepts or load"):
        load_model("model.caffemodel")
