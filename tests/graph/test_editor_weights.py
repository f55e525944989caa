"""The editor: weights, how their connections are counted, and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor, carries_connections
from surgery_ir.graph.edits import Edit, connections
from surgery_ir.graph.sparse import is_sparse
from surgery_ir.graph.verify import verify
from tests.graph.edited import example, value
from tests.harness import assert_equivalent, graph


@pytest.mark.parametrize(
    ("before", "after", "pruned", "created"),
    [
        ([1, 2, 3, 4], [1, 0, 3, 0], 2, 0),
        ([1, 0, 0, 4], [1, 2, 0, 4], 0, 1),
        ([1, 0, 0, 4], [0, 2, 3, 4], 1, 2),
        ([1, 2, 3, 4], [5, 6, 7, 8], 0, 0),
    ],
)
def test_set_weights_counts_connections(before: list[int], after: list[int], pruned: int, created: int) -> None:
    found = graph(
        "g (float[N,2] x) => (float[N,2] y) <float[2,2] w> { y = MatMul(x, w) }", w=np.reshape(before, (2, 2))
    )
    editor = Editor(found, "test")
    editor.set_weights("w", np.reshape(after, (2, 2)), kind="prune")
    assert editor.edits == [Edit("prune", "test", "w", pruned, created)]
    assert found.array("w").tolist() == np.reshape(after, (2, 2)).tolist()
    assert found.array("w").dtype == np.float32


@pytest.mark.parametrize("name", ["b", "s", "k"])
def test_biases_and_scales_hold_no_connections(name: str) -> None:
    found, editor = example()
    assert not carries_connections(found.initializers[name])
    editor.set_weights(name, np.zeros(found.array(name).shape))
    assert editor.edits == [Edit("set-weights", "test", name, 0, 0)]


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        ("y = Conv(x, w)", "4,3,1,1"),
        ("y = ConvTranspose(x, w)", "3,4,1,1"),
        ("y = MatMul(x, w)", "8,4"),
        ("y = MatMul(w, x)", "4,8"),
    ],
)
def test_weights_hold_connections(node: str, shape: str) -> None:
    found = graph(f"g (float[1,3,8,8] x) => (float[A,B,C,D] y) <float[{shape}] w> {{ {node} }}")
    assert carries_connections(found.initializers["w"])


def test_a_recurrent_layer_holds_connections_in_both_matrices() -> None:
    found = graph("""
        g (float[7,N,3] x) => (float[7,1,N,5] y) <float[1,5,3] w, float[1,5,5] r, float[1,10] b> {
            y = RNN<hidden_size=5>(x, w, r, b)
        }
    """)
    assert [carries_connections(found.initializers[name]) for name in "wrb"] == [True, True, False]


def test_weights_that_only_a_subgraph_reads_hold_connections() -> None:
    found = graph("""
        g (float[2,2] x, bool c) => (float[2,2] y) <float[2,2] w> {
            y = If(c) <
                then_branch = t () => (float[2,2] p) { p = MatMul(x, w) },
                else_branch = e () => (float[2,2] q) { q = Neg(x) }
            >
        }
    """)
    assert carries_connections(found.initializers["w"])


def test_equal_weights_are_no_edit() -> None:
    found, editor = example()
    editor.set_weights("w", found.array("w").copy())
    editor.set_weights("w", found.array("w"))
    assert editor.edits == []
    assert found.revision == 0


def test_scalars_stay_scalars() -> None:
    found, editor = example()
    editor.set_weights("k", np.array(2.5))
    assert found.array("k").shape == ()
    assert float(found.array("k")) == 2.5
    verify(found)


def test_stored_weights_do_not_change_with_the_array_they_came_from() -> None:
    found, editor = example()
    array = np.zeros((3, 4), np.float32)
    editor.set_weights("w", array)
    array[:] = 1
    assert not found.array("w").any()
    with pytest.raises(ValueError, match="read-only"):
        found.array("w")[0, 0] = 1


def test_transposed_arrays_are_stored_in_order() -> None:
    found, editor = example()
    array = np.arange(12, dtype=np.float32).reshape(4, 3).T
    editor.set_weights("w", array)
    constant = editor.add_initializer("extra", array)
    for name in ("w", constant.name or ""):
        assert found.array(name).flags.c_contiguous
        tensor = found.initializers[name].const_value
        assert tensor is not None
        assert np.frombuffer(tensor.tobytes(), np.float32).tolist() == array.ravel().tolist()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 3)), r"'w' has shape \(3, 4\), new values have \(4, 3\)"),
        (np.zeros(12), r"'w' has shape \(3, 4\), new values have \(12,\)"),
        (np.full((3, 4), np.nan), "new values of 'w' are not finite"),
        (np.full((3, 4), -np.inf), "new values of 'w' are not finite"),
        (np.full((3, 4), 1e39), "new values of 'w' are not finite"),  # float32 cannot hold them
    ],
)
def test_unusable_weights_are_refused(array: np.ndarray[Any, Any], reason: str) -> None:
    found, editor = example()
    before = found.fingerprint()
    with pytest.raises(PassError, match=f"^test: {reason}$"):
        editor.set_weights("w", array)
    assert (found.fingerprint(), editor.edits) == (before, [])


def test_infinities_that_were_there_may_stay() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) <float[2] mask> { y = Add(x, mask) }"
    found = graph(text, mask=np.array([0, -np.inf]))
    Editor(found, "test").set_weights("mask", np.array([1, -np.inf]))
    assert found.array("mask").tolist() == [1, -np.inf]


@pytest.mark.parametrize(
    "dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.INT4]
)
def test_the_element_type_stays(dtype: ir.DataType) -> None:
    found, _ = example()
    tensor = ir.Tensor(np.ones(4, dtype.numpy()), dtype=dtype, name="q")
    found.model.graph.register_initializer(ir.Value(name="q", const_value=tensor))
    Editor(found, "test").set_weights("q", np.array([1, 2, 0, 1]))
    assert found.array("q").dtype == dtype.numpy()
    assert found.array("q").astype(int).tolist() == [1, 2, 0, 1]
    tensor_after = found.initializers["q"].const_value
    assert tensor_after is not None
    assert tensor_after.dtype == dtype


def test_bfloat16_weights_count_connections() -> None:
    text = "g (bfloat16[N,2] x) => (bfloat16[N,2] y) <bfloat16[2,2] w> { y = MatMul(x, w) }"
    found = graph(text, w=np.eye(2, dtype=ml_dtypes.bfloat16))
    editor = Editor(found, "test")
    editor.set_weights("w", np.array([[1, 1], [1, 0]]))
    assert connections(editor.edits).pruned == 1
    assert connections(editor.edits).created == 2


def test_text_is_refused() -> None:
    found, editor = example()
    words = ir.StringTensor([b"a"], shape=ir.Shape([1]), name="words")
    found.model.graph.register_initializer(ir.Value(name="words", type=ir.TensorType(words.dtype), const_value=words))
    with pytest.raises(PassError, match="'words' holds text"):
        editor.set_weights("words", np.array([b"b"]))


@pytest.mark.parametrize(
    "use", [lambda editor: editor.set_weights("none", np.zeros(1)), lambda editor: editor.store_sparse("x")]
)
def test_a_name_that_is_no_initializer_is_refused(use: Callable[[Editor], None]) -> None:
    with pytest.raises(PassError, match="test: there is no initializer called"):
        use(example()[1])


# --- clones


def test_clones_share_tensors_until_one_is_edited() -> None:
    found, _ = example()
    copy = found.clone()
    assert all(copy.initializers[name].const_value is value.const_value for name, value in found.initializers.items())
    before = found.fingerprint()
    editor = Editor(copy, "test")
    editor.set_weights("w", np.zeros((3, 4)))
    editor.add_initializer("b", np.zeros(4, np.float32))
    editor.store_sparse("v")
    editor.bypass(copy.node("Mul_3"), value(copy, "r"))
    assert found.fingerprint() == before
    assert found.revision == 0
    assert found.array("w").any()
    assert copy.initializers["b"].const_value is found.initializers["b"].const_value


def test_every_edit_bumps_the_revision() -> None:
    found, editor = example()
    for index in range(3):
        editor.set_weights("w", np.full((3, 4), index + 1))
        assert found.revision == len(editor.edits) == index + 1


# --- constants


def test_added_constants_have_unique_names_and_their_own_shapes() -> None:
    found, editor = example()
    names = [
        editor.add_initializer(name, np.ones((), np.float32)).name for name in ("new", "new", "w", "h", "x", "Gemm_0")
    ]
    assert names == ["new", "new_1", "w_1", "h_1", "x_1", "Gemm_0_1"]
    assert found.array("new").shape == ()
    assert [edit.where for edit in editor.edits] == names
    verify(found)


def test_names_of_subgraphs_are_taken_too() -> None:
    found = graph("""
        g (float[2] x, bool c) => (float[2] y) {
            y = If(c) <
                then_branch = t () => (float[2] p) { a = Exp(x) p = Neg(a) },
                else_branch = e () => (float[2] q) { q = Neg(x) }
            >
        }
    """)
    assert Editor(found, "test").add_initializer("a", np.zeros(2, np.float32)).name == "a_1"


def test_up_to_ir_version_3_constants_are_listed_as_inputs() -> None:
    found = graph("""
        <ir_version: 3, opset_import: ["": 11]>
        g (float[N,3] x, float[3,2] w) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }
    """)
    assert [item.name for item in found.inputs] == ["x"]
    editor = Editor(found, "test")
    editor.set_weights("w", np.ones((3, 2)))
    bias = editor.add_initializer("bias", np.ones(2, np.float32))
    total = editor.insert_node("Add", [value(found, "y"), bias], ["total"], before=found.node("MatMul_0"))
    found.model.graph.remove(total)
    found.model.graph.append(total)
    found.model.graph.outputs[0] = total.outputs[0]
    total.outputs[0].type, total.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 2))
    verify(found)
    assert [item.name for item in found.model.graph.inputs] == ["x", "w", "bias"]
    text = "g (float[N,3] x) => (float[N,2] total) <float[3,2] w, float[2] b> { y = MatMul(x, w) total = Add(y, b) }"
    assert_equivalent(found, graph(text, w=np.ones((3, 2)), b=np.ones(2)))


def test_store_sparse_marks_once() -> None:
    found, editor = example()
    editor.store_sparse("w")
    editor.store_sparse("w")
    assert editor.edits == [Edit("store-sparse", "test", "w")]
    assert is_sparse(found.initializers["w"])
    assert is_sparse(found.clone().initializers["w"])
