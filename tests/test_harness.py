"""The harness itself: every planted fault must be caught, and by the check that is named for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from surgery_ir.errors import BackendError, VerificationError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from tests.harness import assert_equivalent, assert_same_structure, graph

TEXT = """
g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) <float[4,3,3,3] w, float[4] b, float[4,4,1,1] v> {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    c = Conv(r, v)
    y = Sub(c, r)
    z = Neg(a)
}
"""


def as_is() -> Graph:
    return graph(TEXT)


def edited(old: str, new: str) -> Graph:
    assert TEXT.count(old) == 1
    return graph(TEXT.replace(old, new))


def test_the_sound_graph_passes_every_check() -> None:
    verify(as_is())
    assert_equivalent(as_is(), as_is().clone(), tolerance=0)
    assert_same_structure(as_is(), TEXT)


def test_node_order_does_not_matter() -> None:
    lines = TEXT.splitlines()
    assert_same_structure(as_is(), "\n".join([*lines[:3], *reversed(lines[3:-1]), lines[-1]]))


def test_weights_depend_on_name_and_seed() -> None:
    other = graph(TEXT.replace("g (", "other ("))
    assert np.array_equal(as_is().array("w"), other.array("w"))
    assert not np.array_equal(as_is().array("w"), graph(TEXT, seed=1).array("w"))


def test_given_weights_are_taken() -> None:
    assert np.array_equal(graph(TEXT, b=np.arange(4)).array("b"), [0, 1, 2, 3])
    with pytest.raises(AssertionError, match="no initializers are declared for \\['nothing'\\]"):
        graph(TEXT, nothing=np.zeros(4))


def test_equivalence_catches_a_wrong_weight() -> None:
    wrong = as_is()
    weights = wrong.array("w").copy()
    weights[1, 2, 0, 1] += 1e-3
    Editor(wrong, "test").set_weights("w", weights)
    verify(wrong)
    assert_same_structure(wrong, TEXT)
    with pytest.raises(AssertionError, match=r"output 'y', batch of 1: .* instead of"):
        assert_equivalent(wrong, as_is())


def test_equivalence_and_structure_catch_a_wrong_edge() -> None:
    wrong = edited("z = Neg(a)", "z = Neg(r)")
    verify(wrong)
    with pytest.raises(AssertionError, match="output 'z'"):
        assert_equivalent(wrong, as_is())
    with pytest.raises(AssertionError, match=r"operators missing: .*Neg.*'a'"):
        assert_same_structure(wrong, TEXT)


def test_equivalence_and_structure_catch_swapped_inputs() -> None:
    wrong = edited("Sub(c, r)", "Sub(r, c)")
    verify(wrong)
    with pytest.raises(AssertionError, match="output 'y'"):
        assert_equivalent(wrong, as_is())
    with pytest.raises(AssertionError, match="operators missing"):
        assert_same_structure(wrong, TEXT)


def test_structure_compares_the_edges_of_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = as_is()
    view = edited("Sub(c, r)", "Sub(r, c)").view()
    monkeypatch.setattr(sound, "view", lambda: view)
    with pytest.raises(AssertionError, match="edges missing"):
        assert_same_structure(sound, TEXT)


def test_verify_catches_a_stale_shape() -> None:
    sound = edited("float[4,4,1,1] v>", "float[4,4,1,1] v, float[N,4,8,8] c>")
    verify(sound)
    sound.node("Conv_2").outputs[0].shape = ir.Shape(("N", 5, 8, 8))
    with pytest.raises(VerificationError, match="dimension 1"):
        verify(sound)


def test_verify_catches_a_weight_of_another_shape() -> None:
    with pytest.raises(VerificationError, match="Conv_2"):
        verify(edited("float[4,4,1,1] v", "float[4,5,1,1] v"))


def test_equivalence_and_structure_catch_a_dropped_node() -> None:
    text = TEXT.replace("    r = Relu(a)\n", "").replace("(r, v)", "(a, v)").replace("(c, r)", "(c, a)")
    verify(graph(text))
    with pytest.raises(AssertionError, match="output 'y'"):
        assert_equivalent(graph(text), as_is())
    with pytest.raises(AssertionError, match=r"operators missing: .*Relu"):
        assert_same_structure(graph(text), TEXT)


def test_verify_catches_a_node_dropped_without_reconnecting() -> None:
    wrong = as_is()
    node = wrong.node("Relu_1")
    node.outputs[0].replace_all_uses_with(ir.Value(name="r"))
    wrong.model.graph.remove(node, safe=True)
    with pytest.raises(VerificationError, match="reads 'r', which nothing before it writes"):
        verify(wrong)


def test_structure_catches_a_node_too_many() -> None:
    text = TEXT.replace("z = Neg(a)", "d = Neg(a)\n    z = Identity(d)")
    with pytest.raises(AssertionError, match=r"operators missing: .*'Neg'"):
        assert_same_structure(graph(text), TEXT)


def test_equivalence_and_structure_catch_a_renamed_output() -> None:
    wrong = as_is()
    wrong.outputs[1].name = "zz"
    verify(wrong)
    with pytest.raises(AssertionError, match=r"outputs are .*zz.*, not \['y', 'z'\]"):
        assert_equivalent(wrong, as_is())
    with pytest.raises(AssertionError, match="outputs are"):
        assert_same_structure(wrong, TEXT)


def test_equivalence_catches_swapped_outputs() -> None:
    wrong = as_is()
    wrong.model.graph.outputs.reverse()
    verify(wrong)
    with pytest.raises(AssertionError, match="outputs are"):
        assert_equivalent(wrong, as_is())


def test_every_check_catches_a_pad_that_is_off_by_one() -> None:
    wrong = edited("pads=[1,1,1,1]", "pads=[0,1,1,1]")
    with pytest.raises(VerificationError, match=r"'Sub_3' .*\(7\) vs \(8\)"):
        verify(wrong)
    with pytest.raises(AssertionError, match="shape"):
        assert_equivalent(wrong, as_is())
    with pytest.raises(AssertionError, match="operators missing"):
        assert_same_structure(wrong, TEXT)


def test_equivalence_and_structure_catch_a_shifted_pad() -> None:
    wrong = edited("pads=[1,1,1,1]", "pads=[0,1,2,1]")
    verify(wrong)
    with pytest.raises(AssertionError, match="instead of"):
        assert_equivalent(wrong, as_is())
    with pytest.raises(AssertionError, match="operators missing"):
        assert_same_structure(wrong, TEXT)


def test_structure_catches_another_initializer() -> None:
    with pytest.raises(AssertionError, match="initializers are"):
        assert_same_structure(as_is(), TEXT.replace("float[4] b", "float[1,4] b"))


SUBGRAPH = """
g (float[2] x, bool c) => (float[2] y) {
    a = Relu(x)
    b = Neg(x)
    y = If(c) <then_branch = t () => (float[2] p) { p = Exp(a) }, else_branch = e () => (float[2] q) { q = Exp(b) }>
}
"""


def test_structure_compares_subgraphs_and_what_they_capture() -> None:
    assert_same_structure(graph(SUBGRAPH), SUBGRAPH)
    wrong = graph(SUBGRAPH.replace("Exp(a)", "Exp(b)"))
    with pytest.raises(AssertionError, match="operators missing"):
        assert_same_structure(wrong, SUBGRAPH)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2] x) => (float[2] y) { y = Log(x) }", "not finite"),
        ("g (float[2] x) => (float[2] y) { y = Sub(x, x) }", "all 0"),
        ("g (float[2] x) => (float[M] y) <int64[0] i> { y = Gather(x, i) }", "empty"),
    ],
)
def test_outputs_that_compare_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"{reason}.*nothing is compared"):
        assert_equivalent(graph(text), graph(text))


def test_equivalence_feeds_several_batch_sizes() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) <int64[2] s> { y = Reshape(x, s) }"
    sound, only_one = (graph(text, s=np.array(shape)) for shape in ([-1, 2], [1, 2]))
    with pytest.raises(BackendError, match="Reshape"):
        assert_equivalent(only_one, sound)


def test_integers_must_be_equal() -> None:
    text = "g (float[N,64] x) => (int64[N] y) {{ y = ArgMax<axis=1, keepdims=0, select_last_index={last}>(x) }}"
    assert_equivalent(graph(text.format(last=0)), graph(text.format(last=1)))
    shifted = "g (float[N,64] x) => (int64[N] y) <int64 k> { i = ArgMax<axis=1, keepdims=0>(x) y = Add(i, k) }"
    with pytest.raises(AssertionError, match="differs in 1 places"):
        assert_equivalent(graph(shifted, k=np.array(1)), graph(text.format(last=0)))
