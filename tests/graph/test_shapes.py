"""Declared shapes that are wrong are corrected on loading; operators that contradict each other are refused."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from surgery_ir.errors import VerificationError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.shapes import settle_shapes
from surgery_ir.graph.verify import check_operators, verify
from tests.harness import graph, proto

CHAIN = "g (float[2,4] x) => (float[2,4] y) { [one] t = Relu(x) [two] y = Abs(t) }"


def load_in_runtime(model: onnx.ModelProto) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def declare(model: onnx.ModelProto, dims: list[int] | None, name: str = "t") -> onnx.ModelProto:
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


def branch(declared: str) -> onnx.ModelProto:
    return proto(f"""g (float[2,4] x, bool c) => (float[2,4] y) {{
        y = If (c) <then_branch = t () => (float[2,{declared}] a) {{ a = Relu(x) }},
                    else_branch = e () => (float[2,4] b) {{ b = Abs(x) }}> }}""")


STALE = {
    "size": (declare(proto(CHAIN), [2, 5]), ("t",)),
    "rank": (declare(proto(CHAIN), [2, 4, 1]), ("t",)),
    "size of an output": (proto(CHAIN.replace("float[2,4] y", "float[3,4] y")), ("y",)),
    "rank of an output": (proto(CHAIN.replace("float[2,4] y", "float[8] y")), ("y",)),
    "both": (declare(proto(CHAIN.replace("float[2,4] y", "float[3,4] y")), [2, 5]), ("t", "y")),
    "branch": (branch("5"), ("g",)),
}


@pytest.mark.parametrize("kind", STALE)
def test_wrong_shapes_that_runtimes_ignore_are_corrected(kind: str) -> None:
    model, names = STALE[kind]
    load_in_runtime(model)
    loaded = Graph.from_proto(model)
    with pytest.raises(VerificationError, match="Inferred shape and existing shape differ"):
        verify(loaded)
    assert settle_shapes(loaded) == names
    verify(loaded)
    assert [str(value.shape) for value in loaded.outputs] == ["[2,4]"]
    assert settle_shapes(loaded) == ()


FINE = {
    "nothing declared": proto(CHAIN),
    "symbol for a number": proto(CHAIN.replace("float[2,4] y", "float[n,4] y")),
    "number for a symbol": declare(proto(CHAIN.replace("2,4", "n,4")), [7, 4]),
    "no shape": declare(proto(CHAIN), None),
    "branch": branch("4"),
}


@pytest.mark.parametrize("kind", FINE)
def test_shapes_that_do_not_contradict_stay(kind: str) -> None:
    loaded = Graph.from_proto(FINE[kind])
    before = loaded.fingerprint()
    assert settle_shapes(loaded) == ()
    assert loaded.fingerprint() == before
    verify(loaded)


def test_a_missing_type_of_an_output_is_filled_in() -> None:
    model = proto(CHAIN)
    model.graph.output[0].ClearField("type")
    load_in_runtime(model)
    loaded = Graph.from_proto(model)
    assert settle_shapes(loaded) == ("y",)
    verify(loaded)
    assert loaded.outputs[0].dtype == ir.DataType.FLOAT


CONTRADICTIONS = {
    "matrix product": ("<float[5,3] w> { [n] y = MatMul(x, w) }", r"\(MatMul\): Incompatible dimensions"),
    "broadcast": ("<float[3] w> { [n] y = Add(x, w) }", r"\(Add\): Incompatible dimensions"),
    "types": ("<int64[4] w> { [n] y = Add(x, w) }", r"\(Add\): B has inconsistent type tensor\(int64\)"),
    "concatenation": ("<float[3,5] w> { [n] y = Concat<axis = 0>(x, w) }", r"\(Concat\): .*Inferred=5 Declared=4"),
    "normalisation": (
        "<float[3] w> { [n] y = BatchNormalization(x, w, w, w, w) }",
        r"\(BatchNormalization\): Dimension mismatch",
    ),
    "operator": ("{ [n] y = Foo(x) }", r"\(Foo\): No Op registered for Foo"),
    "attribute": ("{ [n] y = Relu<alpha = 1>(x) }", r"\(Relu\): Unrecognized attribute: alpha"),
    "missing attribute": ("{ [n] y = Cast(x) }", r"\(Cast\): Required attribute 'to' is missing"),
    "inputs": ("{ [n] y = Relu(x, x) }", r"\(Relu\): .*input size 2 not in range"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_contradictions_that_runtimes_refuse_too(kind: str) -> None:
    text, message = CONTRADICTIONS[kind]
    model = proto(f"g (float[2,4] x) => (float y) {text}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        load_in_runtime(model)
    loaded = Graph.from_proto(model)
    assert settle_shapes(loaded) == ()
    with pytest.raises(VerificationError, match=f"^<memory>: node 'n' {message}") as caught:
        verify(loaded)
    assert "\n" not in str(caught.value)
    assert "[n]" in caught.value.neighbourhood


def test_a_wrong_shape_beside_a_contradiction_hides_nothing() -> None:
    model = declare(proto("g (float[2,4] x) => (float[2,3] y) <float[5,3] w> { t = Relu(x) y = MatMul(t, w) }"), [2, 5])
    loaded = Graph.from_proto(model)
    assert settle_shapes(loaded) == ()
    with pytest.raises(VerificationError):
        verify(loaded)


def test_what_onnx_cannot_infer_of_its_own_bodies_is_no_fault() -> None:
    verify(graph("g (float[2,3,4,4] x) => (float[2,3,4,4] y) { y = MeanVarianceNormalization(x) }"))


def test_calls_of_functions_are_checked() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2,4] x) => (float[2,3] y) <float[5,3] w> {{ [call] y = local.product({0}) }}
        <opset_import: ["" : 21], domain: "local"> product (a, b) => (c) {{ c = MatMul(a, b) }}"""
    with pytest.raises(VerificationError, match=r"node 'call' \(product\): .*Incompatible dimensions"):
        verify(graph(text.format("x, w")))


@pytest.mark.parametrize(
    ("imports", "operator", "message"),
    [
        (', "com.foo" : 1', "com.foo.Bar", r"node 'n' \(Bar\): there is no operator com\.foo\.Bar"),
        ("", "com.foo.Bar", r"node 'n' \(Bar\): there is no operator com\.foo\.Bar"),
        (', "com.microsoft" : 1', "com.microsoft.Gelu", ""),
        ("", "com.microsoft.Gelu", ""),
    ],
)
def test_domains(imports: str, operator: str, message: str) -> None:
    loaded = graph(f"""<ir_version: 10, opset_import: ["" : 21{imports}]>
        g (float[n] x) => (float[n] y) {{ [n] y = {operator}(x) }}""")
    if not message:
        check_operators(loaded)
        verify(loaded)
        return
    with pytest.raises(VerificationError, match=message):
        check_operators(loaded)


def test_a_graph_needs_no_name() -> None:
    model = proto(CHAIN)
    model.graph.name = ""
    load_in_runtime(model)
    verify(Graph.from_proto(model))
