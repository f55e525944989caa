from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis import statistics
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.runtime import Session
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.statistics import BATCH, input_moments
from surgery_ir.errors import DataError
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.solvers.quadratic import Moments
from tests.harness import RUNTIME, graph, run, small_graph

TEXT = """
g (float[N,2,6,6] x) => (float[N,3] y)
<float[4,2,3,3] w, float[4] b, float[4,2,1,1] v, float[4,3] u, int64[2] axes> {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    c = Conv<group=2, strides=[2,2]>(r, v)
    p = ReduceMean<keepdims=0>(c, axes)
    y = MatMul(p, u)
}
"""
COUNT = BATCH + 7


def example() -> Graph:
    return graph(TEXT, axes=np.array([2, 3]))


def samples(count: int = COUNT) -> Samples:
    rng = np.random.default_rng(0)
    return Samples({"x": (rng.standard_normal((count, 2, 6, 6)) + 1).astype(np.float32)})


@dataclass
class Counting:
    """A runtime that counts what it does."""

    name: str = "counting"
    loaded: list[list[str | None]] = field(default_factory=list)
    runs: int = 0

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        self.loaded.append([value.name for value in graph.outputs])
        inner = RUNTIME.load(graph, threads=1)
        outer = self

        class Counted:
            def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                outer.runs += 1
                return inner.run(feeds)

        return Counted()


def measure(graph: Graph, runtime: Counting | None = None, **options: Any) -> dict[str, tuple[Moments, ...]]:
    found = input_moments(graph, find_layers(graph).layers, samples(), runtime or Counting(), **options)
    return {layer.name: moments for layer, moments in found}


def conv_columns(values: NDArray[Any], kernel: int, stride: int, pad: int) -> NDArray[np.float64]:
    """Cut patches the slow way: (samples · positions, kernel · kernel · channels)."""
    padded = np.pad(values.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    last = padded.shape[2] - kernel + 1
    rows = [
        padded[:, :, i : i + kernel, j : j + kernel].transpose(0, 2, 3, 1).reshape(len(values), -1)
        for i in range(0, last, stride)
        for j in range(0, last, stride)
    ]
    return np.concatenate(rows)


def test_moments_are_those_of_all_rows() -> None:
    found = example()
    values = run(with_outputs(found, ["r", "p"]), dict(samples().feeds))
    measured = measure(found, positions=1000)
    rows = {
        "Conv_0": [conv_columns(samples().feeds["x"], 3, 1, 1)],
        "Conv_2": [conv_columns(values["r"][:, part], 1, 2, 0) for part in (slice(0, 2), slice(2, 4))],
        "MatMul_4": [values["p"].astype(np.float64)],
    }
    assert list(measured) == list(rows)
    for name, groups in rows.items():
        assert len(measured[name]) == len(groups)
        for moments, direct in zip(measured[name], groups, strict=True):
            assert moments.n == len(direct)
            np.testing.assert_allclose(
                moments.second_moment(False), direct.T @ direct / len(direct), rtol=1e-6, atol=1e-9
            )
            np.testing.assert_allclose(moments.x_mean, direct.mean(0), rtol=1e-6, atol=1e-9)


def test_positions_bound_the_rows() -> None:
    measured = measure(example(), positions=5)
    assert {name: [item.n for item in moments] for name, moments in measured.items()} == {
        "Conv_0": [5 * COUNT],
        "Conv_2": [5 * COUNT, 5 * COUNT],
        "MatMul_4": [COUNT],
    }


def test_the_seed_decides_the_positions() -> None:
    one, same, other = (measure(example(), positions=3, seed=seed)["Conv_0"][0] for seed in (1, 1, 2))
    assert np.array_equal(one.second_moment(False), same.second_moment(False))
    assert not np.array_equal(one.second_moment(False), other.second_moment(False))


def test_one_run_serves_all_layers() -> None:
    runtime = Counting()
    measure(example(), runtime)
    assert runtime.loaded[1:] == [["x", "r", "p"]]  # the first looks at one sample's sizes
    assert runtime.runs == 1 + 2


def test_little_memory_splits_the_runs_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together = measure(example(), positions=3)
    monkeypatch.setattr(statistics, "MEMORY", 1)
    runtime = Counting()
    apart = measure(example(), runtime, positions=3)
    assert runtime.loaded[1:] == [["x"], ["r"], ["p"]]
    assert list(apart) == list(together)
    for name, moments in together.items():
        for one, other in zip(moments, apart[name], strict=True):
            assert np.array_equal(one.second_moment(True), other.second_moment(True))


def test_memory_is_filled_before_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = 8 * 18**2 + BATCH * 2 * 36 * 4
    second = 8 * 2 * 2**2 + BATCH * 4 * 36 * 4
    for bound, expected in ((first + second, [["x", "r"], ["p"]]), (first + second - 1, [["x"], ["r", "p"]])):
        monkeypatch.setattr(statistics, "MEMORY", bound)
        runtime = Counting()
        measure(example(), runtime)
        assert runtime.loaded[1:] == expected


def test_progress_counts_samples_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MEMORY", 1)
    told: list[tuple[str, int, int]] = []
    measure(example(), progress=lambda what, done, total: told.append((what, done, total)))
    assert told[0] == ("reading activations", BATCH, 3 * COUNT)
    assert told[-1] == ("reading activations", 3 * COUNT, 3 * COUNT)


def test_repeats_that_fill_a_fixed_batch_do_not_count() -> None:
    free = "g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }"
    data = Samples({"x": np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)})
    moments = []
    for text in (free, free.replace("N", "4")):
        found = graph(text)
        ((_, (item,)),) = input_moments(found, find_layers(found).layers, data, RUNTIME)
        moments.append(item)
    assert [item.n for item in moments] == [10, 10]
    np.testing.assert_allclose(moments[0].second_moment(False), moments[1].second_moment(False))


def test_layers_that_read_the_same_value_share_it() -> None:
    found = small_graph("float[N,3] x | float[3,2] w, float[3,2] v | a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b)")
    runtime = Counting()
    data = Samples({"x": np.ones((2, 3), np.float32)})
    assert len(list(input_moments(found, find_layers(found).layers, data, runtime))) == 2
    assert runtime.loaded[1:] == [["x"]]


def test_no_layers_no_runs() -> None:
    runtime = Counting()
    assert list(input_moments(example(), [], samples(), runtime)) == []
    assert runtime.loaded == []


def test_activations_that_are_not_finite_are_refused() -> None:
    found = graph("g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { l = Log(x) y = MatMul(l, w) }")
    data = Samples({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(
        DataError, match=r"^<memory>: what 'MatMul_1' reads on the samples: the rows hold NaN or infinity$"
    ):
        list(input_moments(found, find_layers(found).layers, data, RUNTIME))
