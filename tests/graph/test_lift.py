"""Loading brings weights to where passes look for them, and changes nothing else."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME, assert_same_structure, graph, proto


def test_constants_become_initializers_of_the_same_name() -> None:
    lifted = graph("""g (float[n,2] x) => (float[n,2] y) {
        w = Constant<value = float[2,2] {1,2,3,4}>()
        s = Constant<value = float {2}>()
        h = MatMul(x, w)
        y = Mul(h, s)
    }""")
    assert_same_structure(
        lifted,
        "g (float[n,2] x) => (float[n,2] y) <float[2,2] w, float s> { h = MatMul(x, w) y = Mul(h, s) }",
    )
    assert lifted.array("w").tolist() == [[1, 2], [3, 4]]
    assert lifted.array("s") == 2


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [
        ("value_float = 2.5", np.array(2.5, np.float32)),
        ("value_floats = [1.0, 2.0]", np.array([1, 2], np.float32)),
        ("value_int = 3", np.array(3)),
        ("value_ints = [1, 2]", np.array([1, 2])),
    ],
)
def test_constants_of_other_kinds_compute_the_same(attribute: str, wanted: np.ndarray) -> None:
    model = proto(f"g (float[n] x) => (float[n] y, float z) {{ z = Constant<{attribute}>() y = Relu(x) }}")
    model.graph.output[1].type.tensor_type.elem_type = 1 if wanted.dtype.kind == "f" else 7
    model.graph.output[1].type.tensor_type.ClearField("shape")
    lifted = Graph.from_proto(model)
    verify(lifted)
    found = RUNTIME.load(lifted).run({"x": np.zeros(1, np.float32)})["z"]
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)


def test_constants_in_branches_stay_apart() -> None:
    text = """g (float[n,2] x, bool c) => (float[n,2] y) {
        y = If (c) <then_branch = t () => (float[n,2] a) { k = Constant<value = float {2}>() a = Mul(x, k) },
                    else_branch = e () => (float[n,2] b) { k = Constant<value = float {3}>() b = Mul(x, k) }> }"""
    lifted = graph(text)
    verify(lifted)
    for condition, factor in ((True, 2), (False, 3)):
        found = RUNTIME.load(lifted).run({"x": np.ones((1, 2), np.float32), "c": np.array(condition)})
        assert found["y"].tolist() == [[factor, factor]]


def test_shared_weights_are_read_directly() -> None:
    lifted = graph("""g (float[n,2] x) => (float[n,2] y) <float[2,2] w> {
        one = Identity(w)
        two = Identity(one)
        h = MatMul(x, one)
        y = MatMul(h, two)
    }""")
    assert_same_structure(
        lifted, "g (float[n,2] x) => (float[n,2] y) <float[2,2] w> { h = MatMul(x, w) y = MatMul(h, w) }"
    )


def test_identities_that_are_outputs_or_no_weights_stay() -> None:
    text = "g (float[n,2] x) => (float[2,2] y, float[n,2] z) <float[2,2] w> { y = Identity(w) z = Identity(x) }"
    assert_same_structure(graph(text), text)


def test_identities_are_followed_into_subgraphs() -> None:
    lifted = graph("""g (float[n,2] x, bool c) => (float[n,2] y) <float[2,2] w> {
        v = Identity(w)
        y = If (c) <then_branch = t () => (float[n,2] a) { a = MatMul(x, v) },
                    else_branch = e () => (float[n,2] b) { b = Identity(x) }> }""")
    verify(lifted)
    assert [node.op_type for node in lifted.model.graph] == ["If"]
    found = RUNTIME.load(lifted).run({"x": np.eye(2, dtype=np.float32), "c": np.array(True)})
    assert np.array_equal(found["y"], lifted.array("w"))


def test_weights_that_a_caller_may_override_are_no_constants() -> None:
    text = "g (float[n,2] x, float[2,2] w) => (float[n,2] y) <float[2,2] w> { y = MatMul(x, w) }"
    assert not graph(text).is_constant(graph(text).initializers["w"])
    old = graph(f'<ir_version: 3, opset_import: ["" : 9]> {text}')
    assert old.is_constant(old.initializers["w"])
    assert [value.name for value in old.inputs] == ["x"]


def test_constants_of_old_files_are_listed_as_inputs() -> None:
    lifted = graph("""<ir_version: 3, opset_import: ["" : 9]> g (float[n,2] x) => (float[n,2] y) {
        w = Constant<value = float[2,2] {1,2,3,4}>() y = MatMul(x, w) }""")
    verify(lifted)
    session = ort.InferenceSession(lifted.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.eye(2, dtype=np.float32)})[0].tolist() == [[1, 2], [3, 4]]


def test_every_node_gets_a_name_of_its_own() -> None:
    model = proto("g (float[n] x) => (float[n] y) { [same] a = Relu(x) [same] b = Abs(a) c = Neg(b) y = Exp(c) }")
    model.graph.node[3].name = "same_1"
    names = [node.name for node in Graph.from_proto(model).model.graph]
    assert names == ["same", "same_2", "Neg_2", "same_1"]
