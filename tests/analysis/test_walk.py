from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis import walk
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.runtime import Session
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import BackendError, ModelError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, graph, random_feeds, run

RESIDUAL = """
g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,4] e) <float[4,4] w, float[4,4] v, float[4,4] u> {
    a = MatMul(x, w)
    r = Relu(a)
    b = MatMul(r, v)
    s = Add(b, a)
    t, o = Split<axis=1, num_outputs=2>(s)
    m = Concat<axis=1>(o, t)
    q = Mul(m, z)
    y = MatMul(q, u)
    e = Exp(s)
}
"""

BRANCH = """
g (float[N,2] x, bool[N] c) => (float[N,2] y) <float[2] k, float[2,2] w> {
    a = Relu(x)
    b = Neg(x)
    h = ReduceMax<keepdims=0>(c)
    i = If(h) <
        then_branch = t () => (float[N,2] p) { p = Mul(a, k) },
        else_branch = e () => (float[N,2] q) { q = Exp(b) }
    >
    j = MatMul(i, w)
    y = Sub(j, a)
}
"""

COUNT = 10


@dataclass
class Recording:
    """A runtime that counts how often it runs each operator."""

    name: str = "recording"
    executed: Counter[str] = field(default_factory=Counter)
    loads: int = 0
    hidden: frozenset[str] = frozenset()

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        self.loads += 1
        inner = RUNTIME.load(graph, threads=1)
        names = [node.outputs[0].name or "" for node in graph.model.graph]
        outer = self

        class Recorded:
            def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                outer.executed.update(names)
                return {name: array for name, array in inner.run(feeds).items() if name not in outer.hidden}

        return Recorded()


def samples(found: Graph, count: int = COUNT) -> Samples:
    return Samples(random_feeds(input_specs(found), count, seed=0))


def everything(found: Graph) -> dict[str, NDArray[Any]]:
    names = [value.name or "" for node in found.model.graph for value in node.outputs]
    feeds = dict(samples(found).feeds)
    return run(with_outputs(found, names), feeds) | feeds


def joined(walker: Walk, name: str) -> NDArray[Any]:
    return np.concatenate(list(walker.values(name)))


ORDERS = [
    ["r", "s", "y"],
    ["y"],
    ["a"],
    ["a", "e", "y"],
    ["t", "o", "m"],
    ["x", "b", "q", "e"],
]


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
def test_values_are_those_of_a_full_run(order: list[str]) -> None:
    found = graph(RESIDUAL)
    expected = everything(found)
    walker = Walk(found, samples(found), RUNTIME, batch=4)
    for name in order:
        walker.compute([name])
        assert [len(array) for array in walker.values(name)] == [4, 4, 2]
        assert np.array_equal(joined(walker, name), expected[name])


def test_several_values_at_once() -> None:
    found = graph(RESIDUAL)
    expected = everything(found)
    walker = Walk(found, samples(found), RUNTIME)
    walker.compute(["b", "z", "t"])
    for name in ("b", "z", "t"):
        assert np.array_equal(joined(walker, name), expected[name])


def test_every_operator_runs_once_for_every_batch() -> None:
    found = graph(RESIDUAL)
    runtime = Recording()
    walker = Walk(found, samples(found), runtime, batch=4)
    for name in ("a", "r", "s", "m", "q", "y", "e"):
        walker.compute([name])
        walker.forget([name])
    assert runtime.executed == dict.fromkeys("arbstmqye", 3)
    walker.compute([])
    assert runtime.loads == 7


def test_what_is_there_is_not_computed_again() -> None:
    found = graph(RESIDUAL)
    runtime = Recording()
    walker = Walk(found, samples(found), runtime, keep=["r"])
    walker.compute(["s"])
    walker.compute(["r", "s"])
    assert runtime.loads == 1
    assert set(runtime.executed) == {"a", "r", "b", "s"}


def test_only_what_is_needed_runs() -> None:
    found = graph(RESIDUAL)
    runtime = Recording()
    Walk(found, samples(found), runtime).compute(["r"])
    assert set(runtime.executed) == {"a", "r"}


def test_weights_that_change_ahead_of_the_walk_take_effect() -> None:
    found = graph(RESIDUAL)
    expected = everything(found)
    editor = Editor(found, "test")
    walker = Walk(found, samples(found), RUNTIME)
    walker.compute(["r"])
    editor.set_weights("w", np.zeros((4, 4)))  # behind the walk: too late
    editor.set_weights("v", 2 * found.array("v"))  # ahead of it
    walker.compute(["s"])
    np.testing.assert_allclose(joined(walker, "s"), 2 * expected["b"] + expected["a"], rtol=1e-5)


def test_a_bias_that_is_added_ahead_of_the_walk_takes_effect() -> None:
    found = graph("g (float[N,2] x) => (float[N,2] y) <float[2,2] w, float[2,2] v> { a = Gemm(x, w) y = Gemm(a, v) }")
    walker = Walk(found, samples(found), RUNTIME)
    walker.compute(["a"])
    product = joined(walker, "a") @ found.array("v")
    editor = Editor(found, "test")
    editor.set_input(found.node("Gemm_1"), 2, editor.add_initializer("b", np.array([1, 2], np.float32)))
    walker.compute(["y"])
    np.testing.assert_allclose(joined(walker, "y"), product + np.array([1, 2]), rtol=1e-5)


def test_values_go_when_nobody_reads_them_any_more() -> None:
    found = graph(RESIDUAL)
    walker = Walk(found, samples(found), RUNTIME, keep=["b"])
    walker.compute(["r"])
    with pytest.raises(KeyError):
        next(walker.values("x"))  # only the first product reads it
    walker.compute(["s"])
    walker.forget(["r", "s"])
    assert joined(walker, "b").shape == (COUNT, 4)
    assert joined(walker, "s").shape == (COUNT, 4)  # others have yet to read it
    for name in ("r", "a"):
        with pytest.raises(KeyError):
            next(walker.values(name))
    walker.forget(["b"])
    with pytest.raises(KeyError):
        next(walker.values("b"))


def test_a_value_behind_the_walk_that_was_not_kept_is_an_error() -> None:
    found = graph(RESIDUAL)
    walker = Walk(found, samples(found), RUNTIME)
    walker.compute(["y", "e"])
    with pytest.raises(ModelError, match="the cut needs the input 'x'"):
        walker.compute(["r"])


def test_an_unknown_value_is_an_error() -> None:
    found = graph(RESIDUAL)
    with pytest.raises(ModelError, match="there is no value called 'nothing'"):
        Walk(found, samples(found), RUNTIME).compute(["nothing"])


def test_what_subgraphs_capture_is_kept_for_them() -> None:
    found = graph(BRANCH)
    expected = everything(found)
    runtime = Recording()
    walker = Walk(found, samples(found), runtime)
    walker.compute(["a"])
    walker.forget(["a"])
    walker.compute(["i"])
    assert np.array_equal(joined(walker, "i"), expected["i"])
    walker.compute(["y"])
    assert np.array_equal(joined(walker, "y"), expected["y"])
    assert runtime.executed == dict.fromkeys("abhijy", 1)


def test_little_memory_spills_to_disk_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph(RESIDUAL)
    expected = everything(found)
    one_batch = 4 * 4 * 4
    monkeypatch.setattr(walk, "MEMORY", one_batch)
    walker = Walk(found, samples(found), RUNTIME, batch=4)
    for name in ("a", "r", "s", "y"):
        walker.compute([name])
        arrays = list(walker.values(name))
        assert np.array_equal(np.concatenate(arrays), expected[name])
        assert any(isinstance(array, np.memmap) for array in arrays)
    walker = Walk(found, samples(found), RUNTIME, batch=4)
    walker.compute(["a"])
    assert [isinstance(array, np.memmap) for array in walker.values("a")] == [False, True, True]


def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten makes room; the caller's own samples never took any."""
    found = graph("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Neg(a) c = Neg(b) y = Neg(c) }")
    size = COUNT * 4 * 4
    monkeypatch.setattr(walk, "MEMORY", 2 * size)
    walker = Walk(found, samples(found), RUNTIME)
    for name in ("a", "b", "c", "y"):
        walker.compute([name])
        assert not any(isinstance(array, np.memmap) for array in walker.values(name))
        walker.forget([name])
    walker = Walk(found, samples(found), RUNTIME, keep=["a", "b", "c"])
    walker.compute(["c"])
    spilt = [name for name in "abc" if any(isinstance(array, np.memmap) for array in walker.values(name))]
    assert spilt == ["c"]


def test_fixed_batch_sizes_are_filled_and_trimmed() -> None:
    found = graph(RESIDUAL.replace("N", "4"))
    free = graph(RESIDUAL)
    expected = everything(free)
    data = samples(free)
    walker = Walk(found, data, RUNTIME, batch=64)
    for name in ("r", "y"):
        walker.compute([name])
        assert [len(array) for array in walker.values(name)] == [4, 4, 2]
        assert np.array_equal(joined(walker, name), expected[name])


def test_a_sample_may_be_a_whole_input() -> None:
    found = graph("g (float[3,4] x) => (float[3,2] y) <float[4,2] w> { a = Relu(x) y = MatMul(a, w) }")
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    walker = Walk(found, Samples({"x": x}), RUNTIME)
    walker.compute(["a"])
    walker.compute(["y"])
    np.testing.assert_allclose(np.stack(list(walker.values("y"))), np.maximum(x, 0) @ found.array("w"), rtol=1e-5)


SPLIT = """
g (float[N,4] x) => (float[N,2] y) <int64[2] n, int64 i, int64 j, float[2,2] w> {
    s = SplitToSequence<axis=1>(x, n)
    a = SequenceAt(s, i)
    m = MatMul(a, w)
    b = SequenceAt(s, j)
    y = Add(m, b)
}
"""


def test_a_walk_may_stop_amid_sequences_and_text() -> None:
    given = {"n": np.array([2, 2]), "i": np.array(0), "j": np.array(1)}
    found = graph(SPLIT, given)
    runtime = Recording()
    walker = Walk(found, samples(found), runtime, batch=4)
    for name in ("a", "m", "y"):
        walker.compute([name])
    assert np.array_equal(joined(walker, "y"), run(found, dict(samples(found).feeds))["y"])
    assert runtime.executed == dict.fromkeys("samby", 3)
    text = graph("g (float[N,2] x) => (float[N,2] y) { s = Cast<to=8>(x) t = Identity(s) y = Cast<to=1>(t) }")
    walker = Walk(text, samples(text), RUNTIME)
    for name in ("s", "y"):
        walker.compute([name])
    np.testing.assert_allclose(joined(walker, "y"), samples(text).feeds["x"], rtol=1e-3)


def test_a_value_that_the_runtime_does_not_hand_out_is_an_error() -> None:
    found = graph(RESIDUAL)
    walker = Walk(found, samples(found), Recording(hidden=frozenset("r")))
    with pytest.raises(BackendError, match="recording does not hand out the value 'r'"):
        walker.compute(["r"])


# --- looking ahead, growing graphs


def test_a_value_is_kept_as_often_as_it_is_asked_for() -> None:
    found = graph(RESIDUAL)
    walker = Walk(found, samples(found), RUNTIME, keep=["r", "r", "a"])
    walker.compute(["y", "e"])
    for _ in range(2):
        assert joined(walker, "r").shape == (COUNT, 4)
        walker.forget(["r"])
    with pytest.raises(KeyError):
        next(walker.values("r"))
    assert joined(walker, "a").shape == (COUNT, 4)


def test_computing_what_is_kept_already_keeps_it_no_longer() -> None:
    found = graph(RESIDUAL)
    walker = Walk(found, samples(found), RUNTIME, keep=["r"])
    for _ in range(3):
        walker.compute(["r"])
    walker.compute(["y", "e"])
    walker.forget(["r"])
    with pytest.raises(KeyError):
        next(walker.values("r"))


def test_values_that_could_be_are_seen_ahead_of_the_walk() -> None:
    """Weights of the graph, and what the walk holds, stay as they are."""
    found = graph(RESIDUAL)
    expected, fingerprint = everything(found), found.fingerprint()
    runtime = Recording()
    walker = Walk(found, samples(found), runtime, batch=4)
    walker.compute(["r"])
    seen = [*walker.peek("s", {"v": 2 * found.array("v").astype(np.float64)})]
    assert [(len(array), array.dtype.name) for array in seen] == [(4, "float32"), (4, "float32"), (2, "float32")]
    np.testing.assert_allclose(np.concatenate(seen), 2 * expected["b"] + expected["a"], rtol=1e-5, atol=1e-6)
    assert runtime.executed == {"a": 3, "r": 3, "b": 3, "s": 3}, "what has run does not run again"
    np.testing.assert_array_equal(np.concatenate([*walker.peek("s", {})]), expected["s"])
    for name in ("s", "y"):
        walker.compute([name])
        assert np.array_equal(joined(walker, name), expected[name])
    assert found.fingerprint() == fingerprint


def test_looking_ahead_trims_a_batch_that_was_filled() -> None:
    found = graph(RESIDUAL.replace("N", "4"))
    walker = Walk(found, samples(graph(RESIDUAL)), RUNTIME)
    walker.compute(["r"])
    assert [len(array) for array in walker.peek("b", {})] == [4, 4, 2]


def test_operators_that_are_added_behind_the_walk_are_walked() -> None:
    found = graph(RESIDUAL)
    expected = everything(found)
    editor = Editor(found, "test")
    walker = Walk(found, samples(found), RUNTIME, keep=["r", "x"], batch=4)
    walker.compute(["r"])
    donor, layer = found.node("MatMul_0").inputs[0], found.node("MatMul_2")
    assert donor is not None
    extra = editor.add_initializer("k", 3 * np.eye(4, dtype=np.float32))
    tap = editor.insert_node("MatMul", [donor, extra], ["b/tap"], before=layer, name="tap")
    tap.outputs[0].type = donor.type
    editor.add_summand(layer.outputs[0], tap.outputs[0])
    walker.renew()
    walker.compute(["s"])
    wanted = expected["b"] + 3 * expected["x"] + expected["a"]
    np.testing.assert_allclose(joined(walker, "s"), wanted, rtol=1e-5, atol=1e-6)
    walker.forget(["x"])
    with pytest.raises(KeyError):
        next(walker.values("x"))


def test_a_value_that_a_new_operator_reads_stays_until_it_has_run() -> None:
    found = graph(RESIDUAL)
    editor = Editor(found, "test")
    walker = Walk(found, samples(found), RUNTIME, keep=["r"])
    walker.compute(["b"])
    source = found.node("MatMul_2").inputs[0]
    assert source is not None
    new = editor.insert_node("Neg", [source], ["n"], before=found.node("Mul_6"), name="new")
    new.outputs[0].type = source.type
    walker.renew()
    walker.forget(["r"])
    walker.compute(["n"])
    np.testing.assert_array_equal(joined(walker, "n"), -everything(graph(RESIDUAL))["r"])
    with pytest.raises(KeyError):
        next(walker.values("r"))


def test_a_value_that_was_computed_is_widened_with_the_concat_that_wrote_it() -> None:
    """A layer whose Concat has run gets another donor: the value grows, and nothing runs again."""
    text = "g (float[N,2] x) => (float[N,2] y) <float[2,2] w, float[4,2] v> {{ h = Relu(x) a = MatMul(h, w) {} }}"
    found = graph(text.format("c = Concat<axis=-1>(a, h) y = MatMul(c, v)"))
    expected = everything(found)
    editor, runtime = Editor(found, "test"), Recording()
    walker = Walk(found, samples(found), runtime, keep=["h"], batch=4)
    walker.compute(["c"])
    layer, join = found.node("MatMul_3"), found.node("Concat_2")
    donor = found.node("MatMul_1").inputs[0]
    assert donor is not None
    indices = editor.add_initializer("i", np.array([1]))
    picked = editor.insert_node("Gather", [donor, indices], ["p"], before=join, attributes={"axis": -1}, name="pick")
    picked.outputs[0].type = donor.type
    editor.set_input(join, 2, picked.outputs[0])
    editor.widen_weights("v", 0, np.ones((1, 2), np.float32))
    for _ in range(2):
        walker.renew()
    np.testing.assert_array_equal(joined(walker, "c"), np.column_stack([expected["c"], expected["h"][:, 1]]))
    walker.forget(["c"])
    walker.compute([layer.outputs[0].name or ""])
    np.testing.assert_allclose(joined(walker, "y"), expected["y"] + expected["h"][:, 1:], rtol=1e-5, atol=1e-6)
    assert runtime.executed == {"h": 3, "a": 3, "c": 3, "p": 3, "y": 3}
    assert joined(walker, "h").shape == (COUNT, 2)
    for _ in range(2):
        walker.forget(["h"])
    with pytest.raises(KeyError):
        next(walker.values("h"))
