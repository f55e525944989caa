from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import Geometry, Layer, find_layers
from surgery_ir.analysis.rows import CHECK_EVERY, Rows
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.targets import Target, plan
from surgery_ir.analysis.walk import Walk
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, random_feeds, run, small_graph

BLOCK = "float[N,4] x | float[4,4] a, float[4,4] b | p = MatMul(x, a) q = MatMul(p, b) y = Add(q, p)"


def rows(small: Graph, dense: Graph, target: Target, data: Samples, positions: int = 100) -> Rows:
    walks = Walk(small, data, RUNTIME, batch=5), Walk(dense, data, RUNTIME, keep=[target.wanted], batch=5)
    return Rows(target, *walks, positions, [0])


def last_target(small: Graph, dense: Graph) -> Target:
    return plan(small, find_layers(small).layers, Cutter(dense).values).targets[-1]


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
    target = last_target(small, dense)
    assert (target.total, target.skips) == ("y", ("p",))
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
    source = rows(small, dense, Target(layer, (), "y", ("n",)), samples(dense, 4))
    assert source.clash() == "its output has shape [4, 1, 4], but 'y' of the dense model has [4, 3, 4]"
    assert rows(small, dense, Target(layer), samples(dense, 4)).clash() is None


def test_a_skip_that_the_sum_broadcasts_is_none() -> None:
    small, dense = pair("float[N,3,4] x, float[N,1,4] z | float[4,4] w | n = Neg(z) q = MatMul(x, w) y = Add(q, n)")
    source = rows(small, dense, Target(find_layers(small).layers[0], (), "y", ("n",)), samples(dense, 4))
    assert source.clash() is None
    (batch,) = source.batches("all")
    assert batch.skip is not None
    assert batch.skip.shape == batch.total.shape == (1, 12, 4)


def test_release_lets_the_values_go() -> None:
    small, dense = pair(BLOCK)
    source = rows(small, dense, last_target(small, dense), samples(dense, 5))
    source.release()
    with pytest.raises(KeyError):
        list(source.batches("all"))


def matrix_tap(name: str, donor: str, channels: int, outputs: int) -> Layer:
    return Layer(
        name=name, op_type="MatMul", weight=f"{name}.w", bias=None, input=donor, output=f"{name}.y", groups=1,
        outputs=outputs, inputs=channels, transposed=True,
    )  # fmt: skip


def with_taps(small: Graph, dense: Graph, target: Target, data: Samples, taps: list[Layer], positions: int) -> Rows:
    reads = [*(tap.input for tap in taps), target.layer.input]
    walks = Walk(small, data, RUNTIME, keep=reads, batch=5), Walk(dense, data, RUNTIME, keep=[target.wanted], batch=5)
    return Rows(target, *walks, positions, [0], taps)


def test_taps_are_further_columns_at_the_same_rows() -> None:
    case = (
        "float[N,3,4] x | float[4,6] a, float[6,4] b, float[4,5] c | p = MatMul(x, a) q = MatMul(p, b) y = MatMul(q, c)"
    )
    small, dense = pair(case)
    data = samples(dense, 12)
    taps = [matrix_tap("t", "x", 4, 5), matrix_tap("u", "p", 6, 5)]
    source = with_taps(small, dense, last_target(small, dense), data, taps, positions=2)
    assert source.columns == 4 + 4 + 6
    assert [part.name for part in source.parts[1:]] == ["t", "u"]
    for batch in source.batches("all"):
        assert batch.x.shape[2] == 14
        q, x, p = np.split(batch.x[0], [4, 8], axis=1)
        np.testing.assert_allclose(x @ small.array("a"), p, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(p @ small.array("b"), q, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(8 * q @ small.array("c"), batch.total[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_group_sees_all_channels_of_a_tap_where_it_strides(groups: int) -> None:
    case = (
        f"float[N,3,7,7] x | float[4,3,3,3] a, float[8,{4 // groups},3,3] b | "
        f"p = Conv<pads=[1,1,1,1]>(x, a) y = Conv<strides=[2,2], pads=[1,1,1,1], group={groups}>(p, b)"
    )
    small, dense = pair(case)
    data = samples(dense, 8)
    geometry = Geometry((1, 1), (2, 2), (1, 1), (0, 0, 0, 0))
    tap = Layer(
        name="t", op_type="Conv", weight="t.w", bias=None, input="x", output="t.y", groups=1, outputs=8, inputs=3,
        geometry=geometry,
    )  # fmt: skip
    source = with_taps(small, dense, last_target(small, dense), data, [tap], positions=100)
    own = 4 // groups * 9
    assert source.columns == own + 3
    found = np.concatenate([batch.x for batch in source.batches("all")], axis=1)
    assert found.shape == (groups, 8 * 16, own + 3)
    wanted = data.feeds["x"][:, :, ::2, ::2].transpose(0, 2, 3, 1).reshape(-1, 3)
    totals = np.concatenate([batch.total for batch in source.batches("all")], axis=1)
    matrix = source.target.layer.matrix(small.array("b"))
    for group, total, weights in zip(found, totals, matrix, strict=True):
        np.testing.assert_allclose(group[:, own:], wanted, rtol=1e-6)
        np.testing.assert_allclose(4 * group[:, :own] @ weights.T, total, rtol=1e-3, atol=1e-5)


def test_existing_taps_of_a_target_come_ahead_of_new_ones() -> None:
    dense = small_graph("float[N,4] x | float[4,6] a, float[6,5] b | p = MatMul(x, a) y = MatMul(p, b)")
    text = "p = MatMul(x, a) z = MatMul(p, b) e = MatMul(x, t) y = Add(z, e)"
    small = small_graph(f"float[N,4] x | float[4,6] a, float[6,5] b, float[4,5] t | {text}")
    target = last_target(small, dense)
    assert [part.weight for part in target.parts] == ["b", "t"]
    source = with_taps(small, dense, target, samples(dense, 8), [matrix_tap("u", "p", 6, 5)], positions=9)
    (first, *_) = source.batches("all")
    p, x, q = np.split(first.x[0], [6, 10], axis=1)
    np.testing.assert_array_equal(p, q)
    np.testing.assert_allclose(x @ small.array("a"), p, rtol=1e-4, atol=1e-6)
    assert first.skip is None
    assert source.clash() is None
