"""The editor: operators and edges, and rewrites of the whole graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import Edit, connections
from surgery_ir.graph.verify import verify
from tests.graph.edited import TEXT, example, value
from tests.harness import assert_equivalent, assert_same_structure, graph


def test_set_input_rewires_and_extends() -> None:
    found, editor = example()
    node = found.node("Gemm_0")
    editor.set_input(node, 2, None, pruned=4)
    editor.set_input(found.node("Mul_1"), 1, value(found, "h"), created=2)
    assert [item.name if item else None for item in node.inputs] == ["x", "w", None]
    assert editor.edits == [Edit("set-input", "test", "Gemm_0", 4, 0), Edit("set-input", "test", "Mul_1", 0, 2)]
    verify(found)
    short = graph("g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b> { y = Gemm(x, w) }")
    Editor(short, "test").set_input(short.node("Gemm_0"), 2, short.initializers["b"])
    assert_equivalent(
        short, graph("g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b> { y = Gemm(x, w, b) }")
    )


def test_insert_node() -> None:
    found, editor = example()
    node = editor.insert_node(
        "Gemm", [found.inputs[0], found.initializers["w"]], ["h"], before=found.node("Relu_2"),
        attributes={"alpha": 2.0}, name="Relu_2", created=12,
    )  # fmt: skip
    assert (node.name, node.outputs[0].name) == ("Relu_2_1", "h_1")
    assert editor.edits == [Edit("insert-node", "test", "Relu_2_1", 0, 12)]
    other = editor.insert_node("Add", [value(found, "n"), node.outputs[0]], ["sum"], before=found.node("Relu_2"))
    assert other.name == "test/Add"
    editor.set_input(found.node("Relu_2"), 0, other.outputs[0])
    verify(found)
    assert_same_structure(
        found,
        TEXT.replace("r = Relu(n)", "h_1 = Gemm<alpha=2.0>(x, w)\n    sum = Add(n, h_1)\n    r = Relu(sum)"),
    )


def test_remove_node() -> None:
    found = graph(TEXT.replace("r = Relu(n)", "r = Relu(n)\n    dead = Exp(n)"))
    editor = Editor(found, "test")
    with pytest.raises(ValueError, match="Relu_2"):
        editor.remove_node(found.node("Relu_2"))
    editor.remove_node(found.node("Exp_3"), pruned=3)
    assert editor.edits == [Edit("remove-node", "test", "Exp_3", 3, 0)]
    assert_same_structure(found, TEXT)


# --- bypass


def test_bypass_keeps_the_name_of_the_removed_output() -> None:
    found, editor = example()
    editor.bypass(found.node("Mul_1"), value(found, "h"), kind="fold")
    assert editor.edits == [Edit("fold", "test", "Mul_1")]
    assert_same_structure(found, TEXT.replace("h = Gemm", "n = Gemm").replace("    n = Mul(h, s)\n", ""))
    verify(found)


def test_bypass_keeps_the_name_of_the_source_where_others_read_it() -> None:
    found = graph("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { a = Relu(x) b = Neg(a) y = Exp(b) z = Abs(a) }")
    Editor(found, "test").bypass(found.node("Neg_1"), value(found, "a"))
    assert_same_structure(
        found, "g (float[N,3] x) => (float[N,3] y, float[N,3] z) { a = Relu(x) y = Exp(a) z = Abs(a) }"
    )


def test_bypass_of_an_output_of_the_graph_keeps_its_name() -> None:
    found = graph("g (float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Identity(a) }")
    Editor(found, "test").bypass(found.node("Identity_1"), value(found, "a"))
    assert_same_structure(found, "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert_equivalent(found, graph("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))


@pytest.mark.parametrize(
    ("text", "node", "source"),
    [
        ("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }", "Identity_0", "x"),
        (
            "g (float[N,3] x) => (float[N,3] y, float[N,3] z) { a = Relu(x) y = Identity(a) z = Neg(a) }",
            "Identity_1",
            "a",
        ),
        ("g (float[N,3] x) => (float[N,3] a, float[N,3] y) { a = Relu(x) y = Identity(a) }", "Identity_1", "a"),
        ("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { a = Relu(x) z = Neg(a) y = Abs(x) }", "Abs_2", "a"),
    ],
)
def test_bypass_refuses_to_lose_an_output_of_the_graph(text: str, node: str, source: str) -> None:
    found = graph(text)
    editor = Editor(found, "test")
    with pytest.raises(PassError, match=f"test: '{node}' writes an output of the graph and cannot be removed"):
        editor.bypass(found.node(node), {"x": found.inputs[0]}.get(source) or value(found, source))
    assert editor.edits == []
    assert_same_structure(found, text)


def test_bypass_refuses_to_lose_another_output() -> None:
    text = """
        g (float[N,4] x) => (float[N,2] y, float[N,2] z) {
            a, b = Split<axis=1, num_outputs=2>(x)
            y = Neg(a)
            z = Neg(b)
        }
    """
    found = graph(text)
    with pytest.raises(PassError, match="test: another output of 'Split_0' is read"):
        Editor(found, "test").bypass(found.node("Split_0"), found.inputs[0])
    assert_same_structure(found, text)


# --- whole graphs


def remove_unused(model: ir.Model) -> bool:
    return bool(RemoveUnusedNodesPass()(model).modified)


def test_transform_logs_what_disappeared() -> None:
    dead = "d = Gemm(x, u)\n    e = Relu(d)\n    r = Relu(n)"
    found = graph(TEXT.replace("r = Relu(n)", dead).replace("float k", "float k, float[3,5] u"))
    editor = Editor(found, "test")
    editor.transform("remove-dead", remove_unused)
    assert editor.edits == [
        Edit("remove-dead", "test", "Gemm_2"),
        Edit("remove-dead", "test", "Relu_3"),
        Edit("remove-dead", "test", "u", pruned=15),
    ]
    assert_same_structure(found, TEXT)
    editor.transform("remove-dead", remove_unused)
    assert len(editor.edits) == 3


def test_transform_that_only_changes_what_stays_is_logged() -> None:
    _, editor = example()

    def document(model: ir.Model) -> bool:
        model.graph.doc_string = "changed"
        return True

    editor.transform("document", document)
    assert editor.edits == [Edit("document", "test", "graph")]


def test_names_that_a_transform_brought_are_not_given_again() -> None:
    _, editor = example()
    editor.add_initializer("first", np.zeros(1, np.float32))

    def add(model: ir.Model) -> bool:
        model.graph.register_initializer(ir.Value(name="second", const_value=ir.tensor([1.0], name="second")))
        return True

    editor.transform("add", add)
    assert editor.add_initializer("second", np.zeros(1, np.float32)).name == "second_1"


def test_transform_by_a_pass_of_onnx_ir_is_exact() -> None:
    found = graph(TEXT.replace("r = Relu(n)", "i = Identity(n)\n    r = Relu(i)"))
    editor = Editor(found, "test")
    editor.transform("remove-identity", lambda model: bool(IdentityEliminationPass()(model).modified))
    assert editor.edits == [Edit("remove-identity", "test", "Identity_2")]
    assert_same_structure(found, TEXT)
    assert_equivalent(found, graph(TEXT), tolerance=0)


def test_replace_graph_counts_connections_by_name() -> None:
    found = graph(TEXT, w=np.ones((3, 4)), v=np.ones((4, 2)))
    pruned = np.ones((3, 4))
    pruned[0] = 0
    text = TEXT.replace("float[4,2] v", "float[4,4] v, float[4,2] u")
    text = text.replace("y = MatMul(c, v)", "d = MatMul(c, v)\n    y = MatMul(d, u)")
    other = graph(text, w=pruned, v=np.ones((4, 4)), u=np.ones((4, 2)))
    revision = found.revision
    editor = Editor(found, "test")
    editor.replace_graph(other)
    assert editor.edits == [
        Edit("replace", "test", "u", 0, 8),
        Edit("replace", "test", "v", 0, 8),
        Edit("replace", "test", "w", 4, 0),
        Edit("replace", "test", "graph"),
    ]
    assert found.revision > revision
    assert_equivalent(found, other, tolerance=0)


def test_replace_graph_counts_weights_that_are_gone() -> None:
    found, editor = example()
    editor.replace_graph(graph("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    assert connections(editor.edits).pruned == 12 + 8
    assert connections(editor.edits).created == 0
    assert_same_structure(found, "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")


def test_replace_by_constant_keeps_the_name() -> None:
    text = """
        g (float[N,4] x) => (float[N,4] y) <float[4,4] u> {
            a = Transpose(u)
            b = Neg(a)
            m = MatMul(x, b)
            y = MatMul(m, a)
        }
    """
    found = graph(text)
    editor = Editor(found, "test")
    editor.add_initializer("first", np.zeros((), np.float32))
    for name, array in (("a", found.array("u").T), ("b", -found.array("u").T)):
        editor.replace_by_constant(value(found, name), array)
    editor.transform("remove-dead", remove_unused)
    assert_same_structure(
        found,
        "g (float[N,4] x) => (float[N,4] y) <float[4,4] a, float[4,4] b> { m = MatMul(x, b) y = MatMul(m, a) }",
    )
    assert_equivalent(found, graph(text))


def test_slices_count_the_connections_that_go() -> None:
    text = "g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b> { y = Gemm(x, w, b) }"
    found = graph(text, w=np.array([[1, 0, 2, 3], [0, 0, 4, 5], [6, 7, 8, 9.0]]))
    editor = Editor(found, "test")
    editor.slice_weights("w", {0: np.array([0, 2]), 1: np.array([3, 1])})
    editor.slice_weights("b", {0: np.array([3, 1])})
    np.testing.assert_array_equal(found.array("w"), [[3, 0], [9, 7]])
    assert found.initializers["w"].shape == ir.Shape([2, 2])
    assert editor.edits == [Edit("slice", "test", "w", 6, 0), Edit("slice", "test", "b", 0, 0)]


def test_values_know_what_they_kept_over_several_cuts() -> None:
    text = "g (float[N,3] x) => (float[N,8] y) <float[3,8] w> { h = Gemm(x, w) y = Relu(h) }"
    found = graph(text)
    node = found.node("Gemm_0")
    node.outputs[0].shape = ir.Shape(["N", 8])
    editor = Editor(found, "test")
    editor.slice_value(node.outputs[0], 1, np.array([1, 3, 5, 7]))
    copy = found.clone()
    editor.slice_value(node.outputs[0], 1, np.array([0, 2]))
    assert found.cuts["h"][1].tolist() == [1, 5]
    assert copy.cuts["h"][1].tolist() == [1, 3, 5, 7]
    assert str(node.outputs[0].shape) == "[N,2]"


def test_attributes_and_operators_are_rewritten_in_place() -> None:
    found = graph("g (float[N,8] x) => (float[N,2] y) <int64[1] s, int64[1] e, int64[1] a> { y = Slice(x, s, e, a) }",
                  {"s": np.array([2]), "e": np.array([4]), "a": np.array([1])})  # fmt: skip
    editor = Editor(found, "test")
    node = found.node("Slice_0")
    indices = editor.add_initializer("indices", np.array([2, 3]))
    editor.rewrite_node(node, "Gather", [found.inputs[0], indices], {"axis": 1})
    for name in ("s", "e", "a"):
        editor.remove_initializer(name)
    verify(found)
    assert [item.kind for item in editor.edits] == ["add-initializer", "rewrite-node", *["remove-initializer"] * 3]
    expected = graph(
        "g (float[N,8] x) => (float[N,2] y) <int64[2] i> { y = Gather<axis=1>(x, i) }", {"i": np.array([2, 3])}
    )
    assert_equivalent(found, expected)
    editor.set_attributes(node, {"axis": -1})
    assert node.attributes["axis"].as_int() == -1
    assert_equivalent(found, expected)


def test_a_constant_that_is_read_stays() -> None:
    _, editor = example()
    with pytest.raises(PassError, match="'w' is still read"):
        editor.remove_initializer("w")


# --- sums and wider weights


def test_a_sum_takes_over_name_and_readers() -> None:
    text = """
        g (float[N,3] x, bool c) => (float[N,3] h, float[N,3] y) {
            h = Relu(x)
            s = Neg(x)
            a = Tanh(h)
            y = If (c) <
                then_branch = t () => (float[N,3] u) { u = Add(h, a) },
                else_branch = e () => (float[N,3] v) { v = Mul(h, h) }
            >
        }
    """
    found = graph(text)
    found.note_cut("h", 1, np.array([0, 2, 3]))
    found.node("Relu_0").outputs[0].shape = ir.Shape(["N", 3])
    editor = Editor(found, "test")
    total = editor.add_summand(value(found, "h"), value(found, "s"))
    verify(found)
    assert editor.edits == [Edit("reconnect", "test", "h/sum")]
    assert (total.name, str(total.shape), total.dtype) == ("h", "[N,3]", ir.DataType.FLOAT)
    assert found.cuts["h"][1].tolist() == [0, 2, 3]
    wanted = text.replace("h = Relu(x)", "p = Relu(x)").replace("s = Neg(x)", "s = Neg(x)\n h = Add(p, s)")
    assert_equivalent(found, graph(wanted), tolerance=0)
    assert [node.name for node in found.model.graph][:3] == ["Relu_0", "Neg_1", "h/sum"]


def test_several_summands_and_the_value_itself() -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { s = Neg(x) t = Exp(x) y = Relu(x) }"
    found = graph(text)
    editor = Editor(found, "test")
    for summand in (value(found, "t"), found.inputs[0], value(found, "s")):
        editor.add_summand(value(found, "y"), summand)
    editor.add_summand(value(found, "y"), value(found, "y"))
    verify(found)
    names = [node.outputs[0].name for node in found.model.graph]
    assert names == ["s", "t", "y/own", "y/own_1", "y/own_2", "y/own_3", "y"]
    wanted = """g (float[N,3] x) => (float[N,3] y) {
        s = Neg(x) t = Exp(x) r = Relu(x) a = Add(r, t) b = Add(a, x) c = Add(b, s) y = Add(c, c)
    }"""
    assert_equivalent(found, graph(wanted), tolerance=0)


@pytest.mark.parametrize(
    ("text", "target", "summand", "message"),
    [
        ("g (float[N,3] x) => (float[N,3] y) { s = Neg(x) y = Relu(s) }", "x", "s", "no operator .* writes 'x'"),
        ("g (float[N,3] x) => (float[N,3] y) { s = Neg(x) y = Relu(s) }", "s", "y", "'Relu_1' reads 's' before 'y'"),
        (
            "g (float[N,3] x) => (float[N,3] z) { s = Neg(x) y = Relu(s) t = Exp(x) z = Add(y, t) }",
            "s", "t", "'Relu_1' reads 's' before 't' is computed",
        ),
        (
            """g (float[N,3] x, bool c) => (float[N,3] z) { s = Neg(x)
                y = If (c) <then_branch = a () => (float[N,3] u) { u = Exp(s) },
                    else_branch = b () => (float[N,3] v) { v = Abs(x) }>
                t = Exp(x) z = Add(y, t) }""",
            "s", "t", "'If_1' reads 's' before 't' is computed",
        ),
    ],
)  # fmt: skip
def test_sums_that_cannot_be_ordered_are_refused(text: str, target: str, summand: str, message: str) -> None:
    found = graph(text)
    editor = Editor(found, "test")
    with pytest.raises(PassError, match=message):
        editor.add_summand(found.inputs[0] if target == "x" else value(found, target), value(found, summand))
    assert editor.edits == []
    assert_same_structure(found, text)


def test_a_sum_may_come_later_than_the_value() -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { s = Neg(x) t = Exp(x) y = Relu(s) }"
    found = graph(text)
    Editor(found, "test").add_summand(value(found, "s"), value(found, "t"))
    verify(found)
    wanted = "g (float[N,3] x) => (float[N,3] y) { p = Neg(x) t = Exp(x) s = Add(p, t) y = Relu(s) }"
    assert_equivalent(found, graph(wanted), tolerance=0)


def test_wider_weights_count_what_was_created() -> None:
    text = "g (float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b> { y = Gemm(x, w, b) }"
    found = graph(text)
    before = found.array("w")
    editor = Editor(found, "test")
    editor.widen_weights("w", 0, np.array([[1.0, 0, 2, 0]]))
    editor.widen_weights("b", 0, np.ones(2))
    np.testing.assert_array_equal(found.array("w"), np.concatenate([before, [[1, 0, 2, 0]]]))
    assert found.initializers["w"].shape == ir.Shape([4, 4])
    assert found.array("w").dtype == np.float32
    assert editor.edits == [Edit("widen", "test", "w", 0, 2), Edit("widen", "test", "b", 0, 0)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [(np.ones((1, 3)), r"\(1, 3\) cannot be appended"), (np.ones(4), "cannot be appended"),
     (np.full((1, 4), np.inf), "not finite"), (np.full((1, 4), 1e39), "not finite")],
)  # fmt: skip
def test_weights_are_widened_by_what_fits(extra: NDArray[np.float64], message: str) -> None:
    found = graph("g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { y = MatMul(x, w) }")
    editor = Editor(found, "test")
    with pytest.raises(PassError, match=message):
        editor.widen_weights("w", 0, extra)
    assert editor.edits == []


# --- attempts on clones


def test_what_was_tried_on_a_clone_can_be_adopted() -> None:
    """The graph object stays the same one and is what the clone became; edits follow one another; names stay unique."""
    found, editor = example()
    editor.add_initializer("k", np.zeros(2, np.float32))
    ours, revision = list(editor.edits), found.revision
    node, view = found.node("Relu_2"), found.view()
    other = Editor(found.clone(), "test")
    other.set_weights("w", np.zeros_like(found.array("w")))
    name = other.add_initializer("m", np.ones(3, np.float32)).name
    other.graph.note_cut("h", 1, np.array([0, 2]))
    before = found.fingerprint()
    editor.adopt(other)
    assert editor.graph is found
    assert found.fingerprint() == other.graph.fingerprint() != before
    assert editor.edits == [*ours, *other.edits]
    assert found.revision > max(revision, other.graph.revision)
    assert found.view() is not view
    assert found.node("Relu_2") is not node
    assert {key: kept.tolist() for key, kept in found.cuts["h"].items()} == {1: [0, 2]}
    assert name == "m"
    assert editor.add_initializer("m", np.ones(3, np.float32)).name != "m"


def test_a_graph_that_took_over_another_goes_its_own_way() -> None:
    found, editor = example()
    other = Editor(found.clone(), "test")
    other.set_weights("w", np.zeros_like(found.array("w")))
    editor.adopt(other)
    other.graph.note_cut("h", 1, np.array([0]))
    assert "h" not in found.cuts
    editor.set_weights("w", np.ones_like(found.array("w")))
    assert found.array("w").all()
