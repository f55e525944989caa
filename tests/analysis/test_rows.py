from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.rows import CHECK_EVERY, Rows
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.targets import Target, plan
from surgery_ir.analysis.walk import Walk
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, random_feeds, run, small_graph

BLOCK = "float[N,4] x | float[4,4] a, float[4,4] b | p = MatMul(x, a) q = MatMul(p, b) y = Add(q, p)"


def rows(small: Graph, dense: Graph, target: Target, data: Samples, positions: int = 100) -> Rows:
    wanted = target.total or target.layer.output
    return Rows(
        target, Walk(small, data, RUNTIME, batch=5), Walk(dense, data, RUNTIME, keep=[wanted], batch=5), positions, [0]
    )


def samples(found: Graph, count: int) -> Samples:
    return Samples(random_feeds(input_specs(found), count, seed=0))


def pair(case: str) -> tuple[Graph, Graph]:
    """A dense graph, and one whose weights are halved."""
    dense = small_graph(case)
    small = dense.clone()
    for layer in find_layers(small):
        Editor(small, "test").set_weights(layer.weight, small.array(layer.weight) / 2)
    return small, dense


def test_inputs_are_compressed_and_targets_dense() -> None:
    small, dense = pair(BLOCK)
    target = plan(small, find_layers(small).layers)[-1]
    assert (target.total, target.skip) == ("y", "p")
    data = samples(dense, 11)
    x = data.feeds["x"]
    p, y = x @ dense.array("a"), run(dense, {"x": x})["y"]
    found = list(rows(small, dense, target, data).batches("all"))
    assert [batch.x.shape for batch in found] == [(1, 5, 4), (1, 5, 4), (1, 1, 4)]
    np.testing.assert_allclose(np.concatenate([batch.x[0] for batch in found]), p / 2, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([batch.total[0] for batch in found]), y, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([batch.target[0] for batch in found]), y - p / 2, rtol=1e-4, atol=1e-6)


def test_every_eighth_sample_is_held_out() -> None:
    small, dense = pair(BLOCK)
    data = samples(dense, 3 * CHECK_EVERY + 2)
    source = rows(small, dense, Target(find_layers(small).layers[0]), data)
    parts = {part: np.concatenate([batch.x[0] for batch in source.batches(part)]) for part in ("fit", "check", "all")}
    held_out = np.arange(len(data)) % CHECK_EVERY == CHECK_EVERY - 1
    assert np.array_equal(parts["all"], data.feeds["x"])
    assert np.array_equal(parts["check"], data.feeds["x"][held_out])
    assert np.array_equal(parts["fit"], data.feeds["x"][~held_out])


def test_every_time_the_same_rows() -> None:
    small, dense = pair("float[N,2,6,6] x | float[3,2,3,3] w | y = Conv(x, w)")
    source = rows(small, dense, Target(find_layers(small).layers[0]), samples(dense, 12), positions=4)
    one, other = ([batch.x for batch in source.batches("fit")] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert one[0].shape == (1, 5 * 4, 18)


@pytest.mark.parametrize(
    "case",
    [
        "float[6,7] x | float[5,6] w | y = MatMul(w, x)",
        "float[6] x | float[6,5] w | y = MatMul(x, w)",
    ],
)
def test_products_without_an_axis_of_samples(case: str) -> None:
    small, dense = pair(case)
    x = np.stack([random_feeds(input_specs(dense), 1, seed)["x"] for seed in range(2 * CHECK_EVERY)])
    source = rows(small, dense, Target(find_layers(small).layers[0]), Samples({"x": x}))
    assert source.clash() is None
    assert len(list(source.batches("fit"))) == 2 * CHECK_EVERY - 2
    for batch in source.batches("all"):
        matrix = find_layers(dense).layers[0].matrix(dense.array("w"))[0]
        np.testing.assert_allclose(batch.x[0] @ matrix.T, batch.target[0], rtol=1e-4, atol=1e-5)


def test_a_sum_that_broadcasts_the_layer_is_a_clash() -> None:
    small, dense = pair("float[N,1,4] x, float[N,3,4] z | float[4,4] w | n = Neg(z) q = MatMul(x, w) y = Add(q, n)")
    layer = find_layers(small).layers[0]
    source = rows(small, dense, Target(layer, "y", "n"), samples(dense, 4))
    assert source.clash() == "its output has shape [4, 1, 4], but 'y' of the dense model has [4, 3, 4]"
    assert rows(small, dense, Target(layer), samples(dense, 4)).clash() is None


def test_a_skip_that_the_sum_broadcasts_is_none() -> None:
    small, dense = pair("float[N,3,4] x, float[N,1,4] z | float[4,4] w | n = Neg(z) q = MatMul(x, w) y = Add(q, n)")
    source = rows(small, dense, Target(find_layers(small).layers[0], "y", "n"), samples(dense, 4))
    assert source.clash() is None
    (batch,) = source.batches("all")
    assert batch.skip is not None
    assert batch.skip.shape == batch.total.shape == (1, 12, 4)


def test_release_lets_the_values_go() -> None:
    small, dense = pair(BLOCK)
    source = rows(small, dense, plan(small, find_layers(small).layers)[-1], samples(dense, 5))
    source.release()
    with pytest.raises(KeyError):
        list(source.batches("all"))
