"""What the verifier refuses, how it says so, and what it must let pass.

Which declared shapes count as stale, and which domains are known, is in ``test_shapes.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from surgery_ir.errors import ModelError, VerificationError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model
from surgery_ir.graph.verify import check_finite, verify
from tests.harness import graph, run

CHAIN = """
g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b> {
    a = Relu(x)
    h = Gemm(a, w, b)
    m = Neg(h)
    y = Exp(m)
}
"""


def rename_node(graph: Graph) -> None:
    graph.node("Neg_2").name = "Relu_0"


def unname_node(graph: Graph) -> None:
    graph.node("Neg_2").name = ""


def write_twice(graph: Graph) -> None:
    graph.node("Neg_2").outputs[0].name = "a"


def write_an_initializer(graph: Graph) -> None:
    graph.node("Neg_2").outputs[0].name = "w"


def write_an_input(graph: Graph) -> None:
    graph.node("Neg_2").outputs[0].name = "x"


def read_ahead(graph: Graph) -> None:
    graph.node("Relu_0").replace_input_with(0, graph.node("Neg_2").outputs[0])


def read_itself(graph: Graph) -> None:
    graph.node("Neg_2").replace_input_with(0, graph.node("Neg_2").outputs[0])


def read_nothing(graph: Graph) -> None:
    graph.node("Neg_2").replace_input_with(0, ir.Value(name="ghost"))


def forget_output(graph: Graph) -> None:
    graph.model.graph.outputs[0] = ir.Value(name="ghost")


def unknown_operator(graph: Graph) -> None:
    graph.node("Neg_2").op_type = "Nag"


def too_few_inputs(graph: Graph) -> None:
    graph.node("Gemm_1").resize_inputs(1)


def too_many_inputs(graph: Graph) -> None:
    node = graph.node("Neg_2")
    node.resize_inputs(2)
    node.replace_input_with(1, graph.inputs[0])


def missing_required_input(graph: Graph) -> None:
    graph.node("Neg_2").replace_input_with(0, None)


def unknown_attribute(graph: Graph) -> None:
    graph.node("Neg_2").attributes["axis"] = ir.AttrInt64("axis", 1)


def wrong_type_of_attribute(graph: Graph) -> None:
    graph.node("Gemm_1").attributes["transB"] = ir.AttrString("transB", "yes")


def stale_shape(graph: Graph) -> None:
    value = graph.node("Gemm_1").outputs[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 5))


def stale_rank(graph: Graph) -> None:
    graph.outputs[0].shape = ir.Shape(("N", 4, 1))


def stale_type(graph: Graph) -> None:
    graph.outputs[0].type = ir.TensorType(ir.DataType.INT64)


def mixed_types(graph: Graph) -> None:
    graph.inputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def set_weight(name: str, *shape: int) -> Callable[[Graph], None]:
    def plant(graph: Graph) -> None:
        value = graph.initializers[name]
        value.const_value = ir.Tensor(np.ones(shape, np.float32), name=name)
        value.shape = ir.Shape(shape)

    return plant


FAULTS = [
    (rename_node, "the node name 'Relu_0' is empty or not unique", ""),
    (unname_node, "the node name '' is empty or not unique", ""),
    (write_twice, "'Neg_2' (Neg): writes 'a', which is written already", "> a = Neg(h)  [Neg_2]"),
    (write_an_initializer, "'Neg_2' (Neg): writes 'w', which is written already", "> w = Neg(h)  [Neg_2]"),
    (write_an_input, "'Neg_2' (Neg): writes 'x', which is written already", "> x = Neg(h)  [Neg_2]"),
    (read_ahead, "'Relu_0' (Relu): reads 'm', which nothing before it writes", "> a = Relu(m)  [Relu_0]"),
    (read_itself, "'Neg_2' (Neg): reads 'm', which nothing before it writes", "> m = Neg(m)  [Neg_2]"),
    (read_nothing, "'Neg_2' (Neg): reads 'ghost', which nothing before it writes", "> m = Neg(ghost)  [Neg_2]"),
    (forget_output, "nothing writes the output 'ghost'", ""),
    (unknown_operator, "No Op registered for Nag", "> m = Nag(h)  [Neg_2]"),
    (too_few_inputs, "has input size 1 not in range", "> h = Gemm(a)  [Gemm_1]"),
    (too_many_inputs, "has input size 2 not in range", "> m = Neg(h, x)  [Neg_2]"),
    (missing_required_input, "'Neg_2' (Neg): ", "> m = Neg('')  [Neg_2]"),
    (unknown_attribute, "Unrecognized attribute: axis", "> m = Neg(h)  [Neg_2]"),
    (wrong_type_of_attribute, "Mismatched attribute type", "> h = Gemm(a, w, b)  [Gemm_1]"),
    (stale_shape, "'Gemm_1' (Gemm): ", "> h = Gemm(a, w, b)  [Gemm_1]"),
    (stale_rank, "'Exp_3' (Exp): ", "> y = Exp(m)  [Exp_3]"),
    (stale_type, "'Exp_3' (Exp): ", "> y = Exp(m)  [Exp_3]"),
    (mixed_types, "Gemm", "> h = Gemm(a, w, b)  [Gemm_1]"),
    (set_weight("w", 5, 4), "'Gemm_1' (Gemm): ", "> h = Gemm(a, w, b)  [Gemm_1]"),
    (
        set_weight("b", 3),
        "the third input has columns: 3, the weights have outputs: 4",
        "> h = Gemm(a, w, b)  [Gemm_1]",
    ),
]


@pytest.mark.parametrize(("plant", "message", "around"), FAULTS, ids=[row[1][:40] for row in FAULTS])
def test_faults_are_refused_in_one_line(plant: Callable[[Graph], None], message: str, around: str) -> None:
    found = graph(CHAIN)
    verify(found)
    plant(found)
    with pytest.raises(VerificationError) as caught:
        verify(found)
    text = str(caught.value)
    assert text.startswith("<memory>: ")
    assert message in text
    assert "\n" not in text
    lines = caught.value.neighbourhood.splitlines()
    assert [line for line in lines if line.startswith(">")] == ([around] if around else [])


OPERANDS = [
    ("x: 3 channels", "float[N,3,8,8] x", "float[4,5,1,1] w", "y = Conv(x, w)", "channels: 3, the weights read 5"),
    ("groups", "float[N,4,8,8] x", "float[4,4,1,1] w", "y = Conv<group=2>(x, w)", "channels: 4, the weights read 8"),
    ("outputs", "float[N,4,8,8] x", "float[5,2,1,1] w", "y = Conv<group=2>(x, w)", "divided into 2 groups, leaves 1"),
    ("bias", "float[N,3,8] x", "float[4,3,1] w, float[3] b", "y = Conv(x, w, b)", "entries: 3, .* outputs: 4"),
    ("transposed", "float[N,3,8] x", "float[4,3,1] w", "y = ConvTranspose(x, w)", "channels: 3, the weights read 4"),
    ("scale", "float[N,3,8] x", "float[4] s, float[3] b", "y = InstanceNormalization(x, s, b)", "channels: 3"),
    ("last axis", "float[N,3,8] x", "float[3] s", "y = LayerNormalization(x, s)", "axis -1 of the input: 8"),
    ("lstm", "float[7,N,3] x", "float[1,20,4] w, float[1,20,5] r", "y = LSTM<hidden_size=5>(x, w, r)", "features: 3"),
    ("gru", "float[7,N,3] x", "float[1,15,3] w, float[1,16,5] r", "y = GRU<hidden_size=5>(x, w, r)", "rows: 16"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "weights", "node", "message"), [row[1:] for row in OPERANDS], ids=[row[0] for row in OPERANDS]
)
def test_operands_that_do_not_fit_are_refused(inputs: str, weights: str, node: str, message: str) -> None:
    """Neither onnx's shape inference nor loading in ONNX Runtime finds these."""
    found = graph(f"g ({inputs}) => (float[A] y) <{weights}> {{ {node} }}")
    found.outputs[0].shape = None
    with pytest.raises(VerificationError, match=message):
        verify(found)


ACCEPTED = {
    "if": """
        g (float[2] x, bool c) => (float[2] y) <float[2] k> {
            a = Relu(x)
            y = If(c) <
                then_branch = t () => (float[2] p) { p = Mul(a, k) },
                else_branch = e () => (float[2] q) { a2 = Neg(x) q = Exp(a2) }
            >
        }
    """,
    "loop": """
        g (float[2] x, int64 n, bool c) => (float[2] y) {
            y = Loop(n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool more, float[2] u) {
                more = Identity(go)
                u = Add(v, x)
            }>
        }
    """,
    "scan": """
        g (float[2] x, float[5,2] s) => (float[2] y, float[5,2] z) {
            y, z = Scan<num_scan_inputs=1, body = b (float[2] v, float[2] e) => (float[2] u, float[2] o) {
                u = Add(v, e)
                o = Neg(u)
            }>(x, s)
        }
    """,
    "function": """
        <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N,3] x) => (float[N,3] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 21]>
        twice (a) => (b) { b = Add(a, a) }
    """,
    "domain of ONNX Runtime": """
        <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[N,3] x) => (float[N,3] y) { a = com.microsoft.Gelu(x) y = Relu(a) }
    """,
    "sequence": """
        g (float[N,3] x) => (float[N,3] y) <int64 i> { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }
    """,
    "text": "g (string[N] x) => (string[N] y) { y = Identity(x) }",
    "absent inputs and outputs": """
        g (float[7,N,3] x, float h) => (float[1,N,5] y) <float[1,20,3] w, float[1,20,5] r> {
            a = Clip(x, , h)
            , y = LSTM<hidden_size=5>(a, w, r)
        }
    """,
    "constants only": "g () => (float[2] y) <float[2] k> { y = Neg(k) }",
    "no node": "g (float[2] x) => (float[2] x) {}",
    "IR version 3": """
        <ir_version: 3, opset_import: ["" : 9]>
        g (float[N,3] x, float[3,4] w) => (float[N,4] y) <float[3,4] w> { y = MatMul(x, w) }
    """,
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_sound_graphs_are_accepted(kind: str) -> None:
    verify(graph(ACCEPTED[kind]))


def test_operators_of_foreign_domains_are_nobodys_business_here() -> None:
    verify(
        graph("""
        <ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
        g (float[N,3] x) => (float[N,3] y) { a = acme.Magic<size=3>(x, x) y = Relu(a) }
    """)
    )


def test_a_fault_inside_a_subgraph_is_refused() -> None:
    found = graph(ACCEPTED["if"])
    found.node("If_1").attributes["else_branch"].as_graph().node(0).op_type = "Nag"
    with pytest.raises(VerificationError, match="No Op registered for Nag"):
        verify(found)


def capture_ahead(graph: Graph) -> None:
    node = graph.node("Relu_0")
    graph.model.graph.remove(node)
    graph.model.graph.append(node)


def read_ahead_inside(graph: Graph) -> None:
    body = graph.node("If_1").attributes["else_branch"].as_graph()
    body.remove(node := body.node(0))
    body.append(node)


def capture_nothing(graph: Graph) -> None:
    graph.node("If_1").attributes["then_branch"].as_graph().node(0).replace_input_with(0, ir.Value(name="ghost"))


def give_nothing(graph: Graph) -> None:
    graph.node("If_1").attributes["then_branch"].as_graph().outputs[0] = ir.Value(name="ghost")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (capture_ahead, "reads 'a', which nothing before it writes"),
        (read_ahead_inside, "reads 'a2', which nothing before it writes"),
        (capture_nothing, "reads 'ghost', which nothing before it writes"),
        (give_nothing, "nothing writes the output 'ghost'"),
    ],
)
def test_subgraphs_read_only_what_is_there(plant: Callable[[Graph], None], message: str) -> None:
    found = graph(ACCEPTED["if"])
    plant(found)
    with pytest.raises(VerificationError, match=rf"node 'If_1' \(If\): {message}"):
        verify(found)


def test_the_sample_is_accepted(samples_dir: Path) -> None:
    verify(read_model(samples_dir / "fashion_resnet.onnx"))


def test_verifying_changes_nothing() -> None:
    found = graph(CHAIN)
    before = found.fingerprint(), found.to_proto().SerializeToString(deterministic=True)
    verify(found)
    assert (found.fingerprint(), found.to_proto().SerializeToString(deterministic=True)) == before
    assert found.revision == 0


# --- NaN


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_nan_in_weights_is_refused(dtype: str) -> None:
    text = f"g ({dtype}[N,3] x) => ({dtype}[N,4] y) <{dtype}[3,4] w> {{ y = MatMul(x, w) }}"
    weights = np.ones((3, 4))
    check_finite(graph(text, w=weights))
    weights[1, 2] = np.inf
    check_finite(graph(text, w=weights))
    weights[1, 3] = np.nan
    with pytest.raises(ModelError, match=r"^<memory>: initializer 'w' holds NaN, first at flat index 7$"):
        check_finite(graph(text, w=weights))


def test_nan_beyond_the_first_piece_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.graph.verify.CHUNK", 5)
    weights = np.ones((3, 4))
    weights[2, 3] = np.nan
    with pytest.raises(ModelError, match=r"flat index 11$"):
        check_finite(graph("g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { y = MatMul(x, w) }", w=weights))


def test_nan_inside_a_subgraph_is_found() -> None:
    found = graph(
        """
        g (float[2] x, bool c) => (float[2] y) {
            y = If(c) <
                then_branch = t () => (float[2] p) { k = Constant<value = float[2] {1.0, nan}>() p = Mul(x, k) },
                else_branch = e () => (float[2] q) { q = Neg(x) }
            >
        }
    """.replace("nan", "2.0")
    )
    (body,) = (item for item in found.model.graphs() if item.initializers)
    (value,) = body.initializers.values()
    value.const_value = ir.Tensor(np.array([1, np.nan], np.float32), name=value.name)
    with pytest.raises(ModelError, match="NaN"):
        check_finite(found)


def test_integers_and_text_are_not_looked_at() -> None:
    found = graph("g (float[N,3] x) => (float[N,3] y) <int64[2] s> { y = Reshape(x, s) }", s=np.array([-1, 3]))
    check_finite(found)
    assert run(found, {"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)
