"""Shapes at several sizes: which sizes are tried, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.runtime import Session
from surgery_ir.errors import BackendError
from surgery_ir.graph.model import Graph
from tests import harness

BATCH_ONLY = "g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }"
FIXED = BATCH_ONLY.replace("N", "2")
SEQUENCE = "g (float[N,T] x, float[N,T] m) => (float[N,T] y) { a = Mul(x, m) y = Relu(a) }"
TWO = "g (float[N,S] x, float[N,T] m) => (float[N,T] y) { a = ReduceSum<keepdims=1>(x) y = Mul(a, m) }"
TIED = "g (float[N,S] x, float[N,T] m) => (float[N,T] y) { y = Mul(x, m) }"
NAMELESS = "g (float[?,?] x) => (float[?,?] y) { y = Relu(x) }"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FIXED, [(2, 3)]),
        (BATCH_ONLY, [(2, 3), (3, 3)]),
        (SEQUENCE, [(2, 5), (3, 6), (3, 4), (3, 8), (3, 10), (3, 11), (4, 5), (2, 6), (2, 10)]),
        (NAMELESS.replace("?", "K"), [(2, 5), (3, 6), (3, 4), (3, 8), (3, 10), (3, 11), (4, 5), (2, 6), (2, 10)]),
        (NAMELESS, [(2, 5), (3, 6), (3, 4), (3, 8), (3, 10), (3, 11), (4, 5), (2, 6), (2, 10)]),
    ],
)
def test_sizes_of_open_axes(text: str, expected: list[tuple[int, int]]) -> None:
    graph = harness.graph(text)
    shape = (2, 3) if text in (FIXED, BATCH_ONLY) else (2, 5)
    runs = observe_shapes(
        graph, harness.RUNTIME, {value.name or "": np.ones(shape, np.float32) for value in graph.inputs}, ["x", "y"]
    )
    found = [run["x"] for run in runs]
    assert found[0] == expected[0]
    assert set(expected) <= set(found) <= {*expected, (3, 5)}
    assert len(set(found)) == len(found)
    assert all(run["y"] == (*run["x"][:1], 2) if shape == (2, 3) else run["y"] == run["x"] for run in runs)


def test_axes_of_equal_size_are_told_apart() -> None:
    feeds = {"x": np.ones((2, 5), np.float32), "m": np.ones((2, 5), np.float32)}
    runs = observe_shapes(harness.graph(TWO), harness.RUNTIME, feeds, ["x", "y"])
    assert any(run["x"] != run["y"] for run in runs)
    runs = observe_shapes(harness.graph(TIED), harness.RUNTIME, feeds, ["x"])
    assert len(runs) > 5
    assert all(run["x"] == run["y"] for run in runs), "sizes with which the model does not run count for nothing"


def test_what_the_model_does_not_take_is_left_out() -> None:
    text = "g (float[N,T] x) => (float[N,R,4] y) <int64[3] s> { y = Reshape(x, s) }"
    graph = harness.graph(text, s=np.array([0, -1, 4]))
    runs = observe_shapes(graph, harness.RUNTIME, {"x": np.ones((2, 8), np.float32)}, ["x", "y"])
    assert {run["x"] for run in runs} == {(2, 8), (3, 16), (3, 8), (4, 8), (2, 16)}


def test_no_size_is_tried_twice_or_empty() -> None:
    graph = harness.graph(NAMELESS)
    runs = observe_shapes(graph, harness.RUNTIME, {"x": np.ones((2, 1), np.float32)}, ["x"])
    assert sorted(run["x"] for run in runs) == [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4), (4, 1)]


def test_samples_that_do_not_run_are_an_error() -> None:
    graph = harness.graph(BATCH_ONLY)
    with pytest.raises(BackendError):
        observe_shapes(graph, harness.RUNTIME, {"x": np.ones((2, 4), np.float32)}, ["y"])


def test_other_sizes_hold_the_values_of_the_samples() -> None:
    seen: list[NDArray[Any]] = []

    class Watching:
        name = "watching"

        def load(self, graph: Graph, *, threads: int = 0) -> Session:
            session = harness.RUNTIME.load(graph, threads=threads)

            class Watched:
                def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                    seen.append(feeds["i"])
                    return session.run(feeds)

            return Watched()

    graph = harness.graph("g (int32[N,T] i) => (float[N,T,3] y) <float[5,3] w> { y = Gather(w, i) }")
    observe_shapes(graph, Watching(), {"i": np.array([[1, 2, 3], [4, 0, 2]], np.int32)}, ["y"])
    (more,) = [array for array in seen if array.shape == (3, 4)]
    assert more.tolist() == [[1, 2, 3, 1], [4, 0, 2, 4], [1, 2, 3, 1]]
    assert more.dtype == np.int32
