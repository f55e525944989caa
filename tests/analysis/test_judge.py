"""The judge against runs of whole models, in which the value is replaced by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import divergence
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.judge import Judge
from surgery_ir.analysis.runtime import Session
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import BackendError, DataError, ModelError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, graph, random_feeds, run

Array = NDArray[Any]

RESIDUAL = """
g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,1] e, float[N,4] o)
<float[4,4] w, float[4,4] v, float[4,1] u> {
    a = MatMul(x, w)
    r = Relu(a)
    b = MatMul(r, v)
    s = Add(b, a)
    y = Mul(s, z)
    e = MatMul(r, u)
    o = Neg(z)
}
"""

COUNT = 150  # two batches and a part of one


@dataclass
class Recording:
    """A runtime that notes the inputs and outputs of what it loads, and how often that runs."""

    name: str = "recording"
    loaded: list[tuple[list[str | None], list[str | None]]] = field(default_factory=list)
    runs: int = 0

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        self.loaded.append(([value.name for value in graph.inputs], [value.name for value in graph.outputs]))
        inner, outer = RUNTIME.load(graph, threads=1), self

        class Recorded:
            def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
                outer.runs += 1
                return inner.run(feeds)

        return Recorded()


def samples(found: Graph, count: int = COUNT) -> Samples:
    return Samples(random_feeds(input_specs(found), count, seed=0))


def walked(judge: Judge, name: str, found: Graph | None = None) -> Iterator[Array]:
    walk = Walk(found or judge.reference, judge.samples, RUNTIME, keep=[name])
    walk.compute([name])
    return walk.values(name)


def changed(found: Graph, **weights: Array) -> Graph:
    copy = found.clone()
    editor = Editor(copy, "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return copy


def compute(found: Graph, replaced: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of RESIDUAL from what is given: the inputs and values that stand in for computed ones."""
    x, z = replaced["x"], replaced["z"]
    w, v, u = (found.array(name).astype(np.float64) for name in "wvu")
    a = replaced.get("a", x @ w)
    r = replaced.get("r", np.maximum(a, 0))
    s = replaced.get("s", r @ v + a)
    y = replaced.get("y", s * z)
    return {"y": y, "e": r @ u, "o": -z}


def test_a_whole_model() -> None:
    found = graph(RESIDUAL)
    other = changed(found, v=0.5 * found.array("v"))
    data = samples(found)
    judge = Judge(found, data, RUNTIME)
    feeds = dict(data.feeds)
    assert judge.whole(other) == pytest.approx(divergence(run(other, feeds), run(found, feeds)), rel=1e-6)
    assert judge.whole(found) == pytest.approx(0.0, abs=1e-10)


def test_only_the_first_samples_count() -> None:
    found = graph(RESIDUAL)
    other = changed(found, v=0.5 * found.array("v"))
    data = samples(found)
    judge = Judge(found, data, RUNTIME, limit=70)
    feeds = {name: array[:70] for name, array in data.feeds.items()}
    assert len(judge.samples) == 70
    assert judge.whole(other) == pytest.approx(divergence(run(other, feeds), run(found, feeds)), rel=1e-6)
    assert len(Judge(found, data, RUNTIME).samples) == COUNT


@pytest.mark.parametrize("name", ["a", "r", "s", "y", "z"])
def test_a_value_that_is_replaced(name: str) -> None:
    found = graph(RESIDUAL)
    judge = Judge(found, samples(found), RUNTIME)
    arrays = [array + np.float32(0.3) * np.sin(7 * array) for array in walked(judge, name)]
    feeds = judge.samples.feeds
    wanted = divergence(compute(found, {**feeds, name: np.concatenate(arrays)}), compute(found, feeds))
    assert wanted > 1e-3
    assert judge.patched(name, arrays) == pytest.approx(wanted, rel=1e-5)
    assert judge.patched(name, iter(arrays)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["a", "r", "s", "y", "e", "o", "z"])
def test_the_dense_value_changes_nothing(name: str) -> None:
    found = graph(RESIDUAL)
    judge = Judge(found, samples(found), RUNTIME)
    assert judge.patched(name, walked(judge, name)) == pytest.approx(0.0, abs=1e-10)


def test_values_of_a_changed_model() -> None:
    """Where everything behind the value is dense in the changed model too, that is the whole model's divergence."""
    found = graph(RESIDUAL)
    judge = Judge(found, samples(found), RUNTIME)
    other = changed(found, v=0.5 * found.array("v"))
    assert judge.patched("s", walked(judge, "s", other)) == pytest.approx(judge.whole(other), rel=1e-6)


def test_only_what_depends_on_the_value_is_computed() -> None:
    found = graph(RESIDUAL)
    runtime = Recording()
    judge = Judge(found, samples(found), runtime)
    judge.patched("s", walked(judge, "s"))
    judge.patched("r", walked(judge, "r"))
    judge.patched("o", walked(judge, "o"))
    assert runtime.loaded == [(["x", "z"], ["y", "e", "o"]), (["z", "s"], ["y"]), (["x", "z", "r"], ["y", "e"])]
    assert runtime.runs == 9


def test_the_reference_runs_once() -> None:
    found = graph(RESIDUAL)
    runtime = Recording()
    judge = Judge(found, samples(found), runtime)
    assert runtime.loaded == []
    for _ in range(2):
        judge.whole(found)
    assert len(runtime.loaded) == 3


def test_a_batch_size_that_the_model_fixes() -> None:
    fixed, free = graph(RESIDUAL.replace("[N", "[8")), graph(RESIDUAL)
    data = samples(free, 29)
    judge, plain = Judge(fixed, data, RUNTIME), Judge(free, data, RUNTIME)
    for name in ("r", "s", "y", "z"):
        arrays = [1.5 * array for array in walked(judge, name)]
        assert [len(array) for array in arrays] == [8, 8, 8, 5]
        wanted = plain.patched(name, [np.concatenate(arrays)])
        assert wanted > 1e-3
        assert judge.patched(name, arrays) == pytest.approx(wanted, rel=1e-5)
    other = {"v": np.zeros((4, 4))}
    assert judge.whole(changed(fixed, **other)) == pytest.approx(plain.whole(changed(free, **other)), rel=1e-5)


def test_a_value_without_axis_of_samples_is_not_filled_up() -> None:
    """The last batch holds 4 samples, as many as the transposed value has rows."""
    found = graph("g (float[8,4] x) => (float[8,4] y) { t = Transpose(x) s = Mul(t, t) y = Transpose(s) }")
    data = samples(found, 8)
    x = np.concatenate([data.feeds["x"], data.feeds["x"][:4]])
    judge = Judge(found, Samples({"x": x}), RUNTIME)
    arrays = [2 * array for array in walked(judge, "s")]
    assert [array.shape for array in arrays] == [(4, 8), (4, 8)]
    assert judge.patched("s", arrays) == pytest.approx(divergence({"y": 2 * x**2}, {"y": x**2}), rel=1e-5)


def test_a_sample_may_be_a_whole_input() -> None:
    found = graph("g (float[3,4] x) => (float[3,2] y) <float[4,2] w> { a = Relu(x) y = MatMul(a, w) }")
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    judge = Judge(found, Samples({"x": x}), RUNTIME)
    arrays = [1.5 * array for array in walked(judge, "a")]
    y = np.maximum(x, 0) @ found.array("w")
    wanted = divergence({"y": 1.5 * y}, {"y": y})
    assert judge.patched("a", arrays) == pytest.approx(wanted, rel=1e-5)
    assert judge.whole(changed(found, w=1.5 * found.array("w"))) == pytest.approx(wanted, rel=1e-5)


STATE = """
g (float[N,4] x) => (float[N,3] y, float[4,N,1] t, float m) <float[4,3] w, float k, int64[1] last> {
    a = Mul(x, k)
    y = MatMul(a, w)
    b = Transpose(a)
    t = Unsqueeze(b, last)
    m = ReduceMax<keepdims=0>(t)
}
"""


@pytest.mark.parametrize(("size", "count"), [("N", 100), ("N", 128), ("8", 20)])
def test_outputs_without_axis_of_samples_are_compared_batch_by_batch(size: str, count: int) -> None:
    """Repeats that fill a fixed batch are left out where an output can tell them apart, as ``y`` can."""
    found = graph(STATE.replace("[N", f"[{size}").replace(",N", f",{size}"), k=np.array(1.0), last=np.array([2]))
    x = random_feeds(input_specs(graph(STATE, last=np.array([2]))), count, seed=0)["x"]
    other = changed(found, k=np.array(1.2))
    step = 64 if size == "N" else int(size)
    wanted = 0.0
    for start in range(0, count, step):
        part = x[start : start + step]
        feeds = {"x": part if size == "N" else part[np.arange(step).clip(max=len(part) - 1)]}
        one, two = ({n: a.astype(np.float64) for n, a in run(item, feeds).items()} for item in (other, found))
        t = two["t"]
        assert one["m"] != two["m"]
        distances = [
            divergence({"y": one["y"][: len(part)]}, {"y": two["y"][: len(part)]}),
            np.square(one["t"] - t).mean() / t.var(),
            1.0,  # a single number cannot be nearer or farther, only other
        ]
        wanted += len(part) / count * float(np.mean(distances))
    judge = Judge(found, Samples({"x": x}), RUNTIME)
    assert judge.whole(other) == pytest.approx(wanted, rel=1e-5)
    assert judge.patched("a", walked(judge, "a", other)) == pytest.approx(wanted, rel=1e-5)
    assert judge.patched("t", walked(judge, "t")) == pytest.approx(0.0, abs=1e-10)


def test_samples_of_different_shapes() -> None:
    found = graph("g (float[N,4] x) => (int64[2,M] y, float[N,4] z) { y = NonZero(x) z = Neg(x) }")
    x = np.ones((3, 1, 4), np.float32)
    x[1, 0, 2] = 0
    judge = Judge(found, Samples({"x": x}), RUNTIME)
    assert judge.whole(found) == pytest.approx(0.0, abs=1e-10)
    assert judge.patched("z", [2 * array for array in walked(judge, "z")]) > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "o"])
def test_values_that_are_not_finite(value: float, name: str) -> None:
    found = graph("g (float[N,4] x) => (float[N,4] y, float[N,4] o) { a = Neg(x) y = Relu(a) o = Exp(x) }")
    judge = Judge(found, samples(found), RUNTIME)
    arrays = [array.copy() for array in walked(judge, name)]
    arrays[1][3, 2] = value
    assert judge.patched(name, arrays) == np.inf


def test_outputs_that_are_not_finite() -> None:
    found = graph("g (float[N,1] x) => (float[N,1] y) { a = Neg(x) y = Exp(a) }")
    judge = Judge(found, samples(found), RUNTIME)
    assert judge.patched("a", [1000 + array for array in walked(judge, "a")]) == np.inf


def test_values_of_less_precision() -> None:
    found = graph("g (float[N,4] x) => (float[N,4] y) { a = Cast<to=10>(x) y = Cast<to=1>(a) }")
    judge = Judge(found, samples(found), RUNTIME)
    arrays = list(walked(judge, "a"))
    assert arrays[0].dtype == np.float16
    assert judge.patched("a", arrays) == pytest.approx(0.0, abs=1e-10)
    y = np.concatenate(arrays).astype(np.float64)
    wanted = divergence({"y": 1.5 * y}, {"y": y})
    assert judge.patched("a", [np.float16(1.5) * array for array in arrays]) == pytest.approx(wanted, rel=1e-2)


def test_what_a_subgraph_captures_is_a_way_to_an_output() -> None:
    found = graph("""
        g (float[N,2] x, bool[N] c) => (float[N,2] y) {
            a = Relu(x)
            h = ReduceMax<keepdims=0>(c)
            y = If(h) <
                then_branch = t () => (float[N,2] p) { p = Neg(a) },
                else_branch = e () => (float[N,2] q) { q = Exp(a) }
            >
        }
    """)
    judge = Judge(found, samples(found), RUNTIME)
    assert judge.patched("a", [2 * array for array in walked(judge, "a")]) > 1e-2


def test_mistakes_are_told_in_one_line() -> None:
    found = graph(RESIDUAL)
    judge = Judge(found, samples(found), RUNTIME)
    with pytest.raises(ModelError, match="there is no value called 'nothing'"):
        judge.patched("nothing", [])
    with pytest.raises(ValueError, match="shorter"):
        judge.patched("r", list(walked(judge, "r"))[:2])
    with pytest.raises(BackendError):
        judge.patched("r", [array[:, :3] for array in walked(judge, "r")])
    with pytest.raises(BackendError):
        judge.patched("r", [array.astype(np.float64) for array in walked(judge, "r")])
    other = graph(RESIDUAL.replace("float[N,1] e", "float[N,2] e").replace("float[4,1] u", "float[4,2] u"))
    with pytest.raises(DataError, match=r"outputs cannot be compared: .*\(64, 2\)"):
        judge.whole(other)
