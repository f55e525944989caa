"""Taps written into graphs give what numpy says, under the old names, and every connection is in the log."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.taps import Tap, find_taps
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.emission import emit
from tests import harness
from tests.zoo import load as zoo

Feeds = Mapping[str, NDArray[np.generic]]

CONV_1D = """g (float[N,4,T] x) => (float[N,3,U] y) <float[6,4,3] v, float[6,6,3] w, float[3,6,1] u> {
    a = Conv<pads=[1,1], strides=[2]>(x, v)
    b = Relu(a)
    c = Conv<pads=[1,1]>(b, w)
    y = Conv(c, u)
}"""
CONV_2D = """g (float[N,4,8,6] x) => (float[N,8,2,3] z, float[N,8,2,3] y)
    <float[6,4,3,3] v, float[8,6,3,3] w, float[8] k> {
    a = Conv<pads=[1,1,1,1]>(x, v)
    b = Relu(a)
    y = Conv<pads=[1,1,1,1], strides=[4,2]>(b, w, k)
    z = Neg(y)
}"""
CONV_3D = """g (float[N,2,4,4,5] x) => (float[N,3,2,4,5] y) <float[4,2,1,1,1] v, float[3,4,3,3,3] w> {
    a = Conv(x, v)
    b = Tanh(a)
    y = Conv<pads=[1,1,1,1,1,1], strides=[2,1,1]>(b, w)
}"""
GROUPED = """g (float[N,4,6,6] x) => (float[N,8,6,6] y) <float[8,4,1,1] v, float[8,1,3,3] d, float[8,4,1,1] w> {
    a = Conv(x, v)
    b = Conv<group=8, pads=[1,1,1,1]>(a, d)
    c = Relu(b)
    y = Conv<group=2>(c, w)
}"""
MATMUL = """g (float[N,T,5] x) => (float[N,T,9] y) <float[5,6] v, float[6,3] w, float[3] k, float[3,9] u> {
    a = MatMul(x, v)
    b = Relu(a)
    m = MatMul(b, w)
    c = Add(k, m)
    d = Relu(c)
    y = MatMul(d, u)
}"""
BIASED = """g (float[N,T,5] x) => (float[N,T,9] y) <float[5,6] v, float[6,9] w, float[9] k> {
    a = MatMul(x, v)
    b = Relu(a)
    m = MatMul(b, w)
    y = Add(m, k)
}"""
WIDE = """g (float[N,6] x) => (float[N,9] y) <float[6,4] v, float[4] k, float[4,4] w, float[9,4] u, float[9] j> {
    a = Gemm(x, v, k)
    b = Relu(a)
    c = MatMul(b, w)
    d = Relu(c)
    y = Gemm<transB=1, alpha=0.5>(d, u, j)
}"""
POINTWISE = """g (float[N,4,5,5] x) => (float[N,OUT,5,5] y) <float[3,4,3,3] v, float[OUT,3,1,1] w, float[OUT] k> {
    a = Conv<pads=[1,1,1,1]>(x, v)
    b = Relu(a)
    y = Conv(b, w, k)
}"""
STRIDED = POINTWISE.replace("5,5] y", "3,3] y").replace("y = Conv(", "y = Conv<strides=[2,2]>(")
PADDED = """g (float[N,4,7] x) => (float[N,12,3] y) <float[3,4,3] v, float[12,3,1] w> {
    a = Conv<pads=[1,1]>(x, v)
    y = Conv<strides=[3], pads=[1,1]>(a, w)
}"""
SMALLER = """g (float[N,4,6] x) => (float[N,12,3] y) <float[3,4,2] v, float[12,3,1] w> {
    a = Conv(x, v)
    y = Conv<strides=[2]>(a, w)
}"""
SHARED = """g (float[N,6] x) => (float[N,6] y) <float[6,6] w> {
    a = MatMul(x, w)
    b = Relu(a)
    y = MatMul(b, w)
}"""
BARE = """g (float[5] x) => (float[9] y) <float[5,4] v, float[4,9] w> {
    a = MatMul(x, v)
    y = MatMul(a, w)
}"""
OLD = '<ir_version: 4, opset_import: ["" : 7]>\n'


def taps_of(
    graph: Graph, radius: int = 3, feeds: Feeds | None = None
) -> tuple[list[Layer], Mapping[str, tuple[Tap, ...]]]:
    layers = find_layers(graph)
    names = [name for layer in layers for name in (layer.input, layer.output)]
    feeds = feeds if feeds is not None else harness.random_feeds(input_specs(graph), 2, 0)
    return list(layers), find_taps(graph, layers, observe_shapes(graph, harness.RUNTIME, feeds, names), radius).by_layer


def random_weights(tap: Tap, share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights that use ``share`` of the channels, and not all of those everywhere."""
    shape = (tap.layer.outputs, tap.layer.inputs)
    weights = rng.standard_normal(shape) * (rng.random(shape) < 0.7)
    weights[0, 0] = 1.0
    weights[:, max(1, round(share * shape[1])) :] = 0.0
    return weights


def contribution(weights: NDArray[np.float64], tap: Tap, donor: NDArray[np.float64]) -> NDArray[np.float64]:
    if tap.layer.geometry is None:
        return donor @ weights.T
    strided = donor[(slice(None), slice(None), *(slice(None, None, step) for step in tap.layer.geometry.strides))]
    result: NDArray[np.float64] = np.einsum("oc,nc...->no...", weights, strided)
    return result


def weights_in(graph: Graph) -> int:
    return sum(int(np.count_nonzero(graph.array(name))) for name in {layer.weight for layer in find_layers(graph)})


def check(graph: Graph, share: float, feeds: Feeds | None = None) -> tuple[set[str], int]:
    """Write all taps of each layer, one layer at a time; give the ways they were written in, and their number."""
    rng = np.random.default_rng(0)
    layers, taps = taps_of(graph, feeds=feeds)
    feeds = feeds if feeds is not None else harness.random_feeds(input_specs(graph), 3, 1)
    given = [value.name for value in graph.inputs]
    ways, count = set(), 0
    for layer in layers:
        if not taps[layer.name]:
            continue
        donors = [tap.donor for tap in taps[layer.name]]
        seen = dict(feeds) | harness.run(with_outputs(graph, {layer.output, *donors} - set(given)), feeds)
        expected = seen[layer.output].astype(np.float64)
        editor = Editor(graph.clone(), "test")
        created = 0
        for tap in taps[layer.name]:
            weights = random_weights(tap, share, rng)
            stored = weights.astype(graph.array(layer.weight).dtype)
            expected = expected + contribution(weights, tap, seen[tap.donor].astype(np.float64))
            written = emit(editor, layer, tap, weights)
            assert written is not None
            assert written in list(find_layers(editor.graph)), "the layer is not read back as it was given"
            ways.add("merged" if written.name == layer.name else "added")
            ways.add("picked" if editor.graph.model.graph.initializers.get(f"{tap.layer.name}/channels") else "whole")
            created += int(np.count_nonzero(stored))
            count += 1
        verify(editor.graph)
        assert connections(editor.edits).created == created
        assert connections(editor.edits).pruned == 0
        if not layer.sharers:
            assert weights_in(editor.graph) - weights_in(graph) == created
        assert input_specs(editor.graph) == input_specs(graph)
        assert [value.name for value in editor.graph.outputs] == [value.name for value in graph.outputs]
        found = harness.run(with_outputs(editor.graph, [layer.output]), feeds)[layer.output]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
        harness.run(editor.graph, feeds)
    return ways, count


@pytest.mark.parametrize(
    ("text", "share", "ways", "count"),
    [
        (CONV_1D, 1.0, {"added", "whole"}, 3),
        (CONV_1D, 0.5, {"added", "picked"}, 3),
        (CONV_2D, 1.0, {"added", "whole"}, 1),
        (CONV_2D, 0.5, {"added", "picked"}, 1),
        (CONV_3D, 1.0, {"added", "whole"}, 1),
        (GROUPED, 1.0, {"added", "whole"}, 3),
        (GROUPED, 0.25, {"added", "picked"}, 3),
        (MATMUL, 1.0, {"added", "merged", "whole"}, 3),
        (MATMUL, 0.4, {"added", "merged", "picked"}, 3),
        (WIDE, 1.0, {"added", "merged", "whole"}, 3),
        (WIDE, 0.3, {"merged", "picked"}, 3),
        (BIASED, 1.0, {"merged", "whole"}, 1),
        (POINTWISE.replace("OUT", "7"), 1.0, {"merged", "whole"}, 1),  # 2 · (3 + 4) values against 4 · 7
        (POINTWISE.replace("OUT", "3"), 1.0, {"added", "whole"}, 1),
        (POINTWISE.replace("OUT", "3"), 0.5, {"merged", "picked"}, 1),
        (POINTWISE.replace("OUT", "2"), 0.5, {"added", "picked"}, 1),
        (STRIDED.replace("OUT", "14"), 1.0, {"merged", "whole"}, 1),
        (STRIDED.replace("OUT", "13"), 1.0, {"added", "whole"}, 1),
        (PADDED, 1.0, {"added", "whole"}, 1),  # its first output lies on the padding
        (SMALLER, 1.0, {"added", "whole"}, 1),  # 5 and 6 positions cannot be joined, every second of them are 3
        (SHARED, 0.5, {"added", "picked"}, 1),
        (BARE, 1.0, {"merged", "whole"}, 1),
    ],
)  # fmt: skip
def test_a_tap_adds_what_numpy_says(text: str, share: float, ways: set[str], count: int) -> None:
    assert check(harness.graph(text), share) == (ways, count)


@pytest.mark.parametrize(("text", "merged"), [(CONV_2D, False), (MATMUL, False), (WIDE, True), (STRIDED, True)])
def test_opset_7_is_enough(text: str, merged: bool) -> None:
    ways, _ = check(harness.graph(OLD + text.replace("OUT", "14")), 0.5)
    assert ("merged" in ways) == merged
    assert "picked" in ways


@pytest.mark.parametrize("name", ["bert", "densenet", "inception", "mobilenet_v2", "swin", "unet", "yolo"])
def test_taps_of_real_architectures(name: str) -> None:
    ways, count = check(zoo.load(name), 0.4, zoo.feeds(name, 2))
    assert count > 10
    assert "picked" in ways


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_all_taps_of_a_network_at_once(name: str) -> None:
    graph, feeds = zoo.load(name), zoo.feeds(name, 3)
    layers, taps = taps_of(graph, 4, feeds)
    editor, rng = Editor(graph.clone(), "test"), np.random.default_rng(0)
    weights = {tap.layer.name: 0.1 * random_weights(tap, 0.5, rng) for layer in layers for tap in taps[layer.name]}
    for layer in layers:
        for tap in taps[layer.name]:
            emit(editor, layer, tap, weights[tap.layer.name])
    verify(editor.graph)
    names = [layer.output for layer in layers if taps[layer.name]]
    donors = [tap.donor for layer in layers for tap in taps[layer.name]]
    values = harness.run(with_outputs(editor.graph, [*names, *(f"{item}/own" for item in names), *donors]), feeds)
    for layer in layers:
        if taps[layer.name]:
            summands = [contribution(weights[tap.layer.name], tap, values[tap.donor]) for tap in taps[layer.name]]
            expected = values[f"{layer.output}/own"] + np.sum(summands, axis=0)
            np.testing.assert_allclose(values[layer.output], expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def only_tap(text: str) -> tuple[Graph, Layer, Tap]:
    graph = harness.graph(text)
    layers, taps = taps_of(graph)
    (layer,) = [layer for layer in layers if taps[layer.name]]
    (tap,) = taps[layer.name]
    return graph, layer, tap


def test_a_sum_is_written_behind_the_layer() -> None:
    graph, layer, tap = only_tap(CONV_2D)
    weights = np.zeros((8, 4))
    weights[2, 3] = weights[5, 1] = 1.5
    written = emit(Editor(graph, "test"), layer, tap, weights)
    assert written is not None
    assert (written.input, written.inputs, written.outputs) == ("Conv_2/tap/x/picked", 2, 8)
    np.testing.assert_array_equal(graph.array("Conv_2/tap/x/channels"), [1, 3])
    np.testing.assert_array_equal(np.argwhere(graph.array(written.weight)[:, :, 0, 0]), [[2, 1], [5, 0]])
    order = [(node.op_type, node.outputs[0].name) for node in graph.model.graph]
    assert order == [
        ("Conv", "a"), ("Relu", "b"), ("Gather", "Conv_2/tap/x/picked"), ("Conv", "Conv_2/tap/x/output"),
        ("Conv", "y/own"), ("Add", "y"), ("Neg", "z"),
    ]  # fmt: skip


def test_two_taps_share_one_concat() -> None:
    graph = harness.graph(WIDE)
    layers, taps = taps_of(graph)
    editor, layer = Editor(graph, "test"), layers[-1]
    for tap in taps[layer.name]:
        found = emit(editor, layer, tap, np.ones((9, tap.layer.inputs)))
        assert found is not None
        layer = found
    assert [node.op_type for node in graph.model.graph].count("Concat") == 1
    assert layer.inputs == 4 + 4 + 6
    assert graph.array("u").shape == (9, 14)
    assert layer.weight == "u"


def test_no_weights_no_edit() -> None:
    graph, layer, tap = only_tap(CONV_2D)
    editor = Editor(graph, "test")
    assert emit(editor, layer, tap, np.zeros((8, 4))) is None
    assert editor.edits == []


@pytest.mark.parametrize("weights", [np.ones((8, 3)), np.full((8, 4), np.nan), np.full((8, 4), 1e39)])
def test_weights_that_cannot_be_stored_are_refused(weights: NDArray[np.float64]) -> None:
    graph, layer, tap = only_tap(CONV_2D)
    editor = Editor(graph, "test")
    with pytest.raises(PassError, match=re.escape("cannot be written to 'Conv_2/tap/x'")):
        emit(editor, layer, tap, weights)
    assert editor.edits == []


def test_what_is_too_small_for_the_type_is_no_connection() -> None:
    text = re.sub(r"float\[", "float16[", MATMUL)
    graph = harness.graph(text)
    layers, taps = taps_of(graph)
    editor = Editor(graph, "test")
    weights = np.zeros((3, 5))
    weights[0, :2] = 1e-9, 0.5
    (tap,) = taps[layers[1].name]
    assert emit(editor, layers[1], tap, weights) is not None
    assert connections(editor.edits).created == 1
    verify(graph)
