"""Taps: how far back they reach, and which values can be aligned with what a layer writes."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import pytest

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import Geometry, Layer, Layers, find_layers
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.taps import Sizes, Taps, find_taps
from surgery_ir.graph.model import Graph
from tests import harness
from tests.zoo import load as zoo


def observed(graph: Graph, layers: Layers) -> Sequence[Sizes]:
    names = [name for layer in layers for name in (layer.input, layer.output)]
    return observe_shapes(graph, harness.RUNTIME, harness.random_feeds(input_specs(graph), 2, 0), names)


def taps_of(graph: Graph, radius: int) -> Taps:
    layers = find_layers(graph)
    return find_taps(graph, layers, observed(graph, layers), radius)


def spans(taps: Taps, graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """Donors and spans of every layer that has any, by what the layer writes."""
    outputs = {layer.name: layer.output for layer in find_layers(graph)}
    return {outputs[name]: [(tap.donor, tap.span) for tap in found] for name, found in taps.by_layer.items() if found}


CHAIN = """g (float[N,4] x) => (float[N,4] y) <float[4,4] p, float[4,4] q, float[4,4] r, float[4,4] s, float[4] k> {
    a = Gemm(x, p, k)
    b = Relu(a)
    m = MatMul(b, q)
    c = Relu(m)
    d = MatMul(c, r)
    y = MatMul(d, s)
}"""


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (0, {}),
        (1, {"m": [("x", 1)], "d": [("b", 1)], "y": [("c", 1)]}),
        (2, {"m": [("x", 1)], "d": [("b", 1), ("x", 2)], "y": [("c", 1), ("b", 2)]}),
        (3, {"m": [("x", 1)], "d": [("b", 1), ("x", 2)], "y": [("c", 1), ("b", 2), ("x", 3)]}),
        (9, {"m": [("x", 1)], "d": [("b", 1), ("x", 2)], "y": [("c", 1), ("b", 2), ("x", 3)]}),
    ],
)
def test_a_chain(radius: int, expected: dict[str, list[tuple[str, int]]]) -> None:
    graph = harness.graph(CHAIN)
    taps = taps_of(graph, radius)
    assert spans(taps, graph) == expected
    assert taps.reasons.keys() == {name for name, found in taps.by_layer.items() if not found}
    assert taps.reasons["Gemm_0"] == f"no value lies within {radius} layers before it"


def test_a_residual_network() -> None:
    graph = harness.graph("""
        g (float[N,4,6,6] x) => (float[N,4] y)
        <float[4,4,3,3] p, float[4,4,3,3] q, float[4,4,1,1] r, float[4,4,3,3] s, float[4,4] t, float[4] k> {
            a = Conv<pads=[1,1,1,1]>(x, p)
            b = Relu(a)
            c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, q)
            d = Conv<strides=[2,2]>(x, r)
            e = Add(c, d)
            f = Relu(e)
            h = Conv<pads=[1,1,1,1]>(f, s)
            i = Add(h, f)
            j = GlobalAveragePool(i)
            m = Flatten(j)
            y = Gemm(m, t, k)
        }
    """)
    taps = taps_of(graph, 4)
    # the deepest path decides: the shortcut d lies at depth 1 whatever its end adds up to
    assert spans(taps, graph) == {"c": [("x", 1)], "h": [("b", 1), ("x", 2)]}
    assert {tap.layer.geometry for found in taps.by_layer.values() for tap in found} == {
        Geometry((1, 1), (2, 2), (1, 1), (0, 0, 0, 0))
    }
    assert taps.reasons["Gemm_10"] == (
        "no value in reach can be aligned with its output [2, 4]; the nearest, 'f', has shape [2, 4, 3, 3]"
    )


UNET = """
    g (float[N,2,H,W] x) => (float[N,1,H,W] y) <float[3,2,3,3] p, float[4,3,3,3] q, float[5,4,3,3] r, float[5,5,3,3] s,
        float[4,9,3,3] t, float[3,7,3,3] u, float[1,3,1,1] v, float[4] up> {
        a = Conv<pads=[1,1,1,1]>(x, p)
        b = Relu(a)
        c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
        d = Conv<pads=[1,1,1,1]>(c, q)
        e = Relu(d)
        f = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e)
        h = Conv<pads=[1,1,1,1]>(f, r)
        i = Conv<pads=[1,1,1,1]>(h, s)
        j = Resize(i, , up)
        k = Concat<axis=1>(j, e)
        l = Conv<pads=[1,1,1,1]>(k, t)
        m = Resize(l, , up)
        n = Concat<axis=1>(m, b)
        o = Conv<pads=[1,1,1,1]>(n, u)
        y = Conv(o, v)
    }
"""


def test_an_encoder_and_decoder_of_several_resolutions() -> None:
    graph = harness.graph(UNET.replace("H,W", "8,16"), up=np.array([1, 1, 2, 2.0]))
    taps = taps_of(graph, 9)
    found = {
        layer.output: [
            (tap.donor, tap.span, tap.layer.geometry.strides[0])
            for tap in taps.by_layer[layer.name]
            if tap.layer.geometry
        ]
        for layer in find_layers(graph)
    }
    assert found == {
        "a": [],
        "d": [("x", 1, 2)],
        "h": [("c", 1, 2), ("x", 2, 4)],
        "i": [("f", 1, 1), ("c", 2, 2), ("x", 3, 4)],
        "l": [("c", 3, 1), ("x", 4, 2)],  # neither h nor f: they have half its resolution
        "o": [("x", 5, 1)],
        "y": [("n", 1, 1), ("x", 6, 1)],
    }


def test_open_spatial_axes_keep_what_fits_at_every_size() -> None:
    graph = harness.graph(UNET, up=np.array([1, 1, 2, 2.0]))
    layers = find_layers(graph)
    feeds = {"x": np.zeros((2, 2, 8, 16), np.float32)}
    names = [name for layer in layers for name in (layer.input, layer.output)]
    runs = observe_shapes(graph, harness.RUNTIME, feeds, names)
    assert {run["x"][2:] for run in runs} == {(8, 16), (16, 32), (16, 16), (8, 32)}, "odd sizes do not run"
    assert spans(find_taps(graph, layers, runs, 9), graph)["i"] == [("f", 1), ("c", 2), ("x", 3)]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("MaxPool<kernel_shape=[2,2], strides=[2,2]>", {}),  # rounds down, a strided 1×1 Conv rounds up
        ("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>", {"y": [("x", 1)]}),
        ("MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>", {"y": [("x", 1)]}),
        ("MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[2,2,2,2]>", {}),
        ("GlobalAveragePool", {}),
        ("Relu", {"y": [("x", 1)]}),
    ],
)
@pytest.mark.parametrize("size", [6, 7])
def test_odd_sizes_tell_floor_from_ceiling(pool: str, expected: dict[str, list[tuple[str, int]]], size: int) -> None:
    graph = harness.graph(f"""
        g (float[N,3,H,W] x) => (float[N,5,I,J] y) <float[4,3,1,1] v, float[5,4,1,1] w> {{
            a = Conv(x, v)
            b = {pool}(a)
            y = Conv(b, w)
        }}
    """)
    layers = find_layers(graph)
    feeds = {"x": np.zeros((2, 3, size, size), np.float32)}
    runs = observe_shapes(graph, harness.RUNTIME, feeds, ["x", "b", "y"])
    assert len(runs) >= 6
    assert spans(find_taps(graph, layers, runs, 4), graph) == expected
    assert not find_taps(graph, layers, [{**run, "y": (1, *run["y"][1:])} for run in runs], 4).by_layer["Conv_2"]


@pytest.mark.parametrize(
    ("sizes", "stride"),
    [
        ([(8, 8)], 1), ([(8, 4)], 2), ([(7, 4)], 2), ([(7, 3)], 3), ([(8, 5)], None), ([(4, 8)], None),
        ([(5, 2)], 3), ([(5, 2), (6, 2)], None), ([(5, 2), (9, 3)], 3), ([(5, 2), (13, 4)], 4),
        ([(8, 4), (9, 5)], 2), ([(8, 4), (9, 4)], None), ([(7, 1)], 7), ([(7, 1), (9, 1)], None), ([(1, 1)], 1),
        ([(5, 2), (7, 4)], None), ([(0, 0)], None), ([(5, 0)], None),
    ],
)  # fmt: skip
def test_one_stride_serves_every_run(sizes: list[tuple[int, int]], stride: int | None) -> None:
    graph = harness.graph("""
        g (float[N,3,H] x) => (float[N,5,I] y) <float[4,3,1] v, float[5,4,1] w> { a = Conv(x, v) y = Conv(a, w) }
    """)
    runs = [{"x": (2, 3, have), "a": (2, 4, want), "y": (2, 5, want)} for have, want in sizes]
    found = find_taps(graph, find_layers(graph), runs, 1).by_layer["Conv_1"]
    assert [tap.layer.geometry.strides for tap in found if tap.layer.geometry] == ([(stride,)] if stride else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # every group's outputs, all channels of the donor
            """g (float[N,4,5] x) => (float[N,6,5] y) <float[6,4,3] v, float[6,3,1] w> {
                a = Conv<pads=[1,1]>(x, v) y = Conv<group=2>(a, w) }""",
            ("Conv", 6, 4, Geometry((1,), (1,), (1,), (0, 0)), False, True),
        ),
        (  # depthwise, two strides
            """g (float[N,2,4,6,5] x) => (float[N,3,2,6,3] y) <float[3,2,1,1,1] v, float[3,1,3,3,3] w> {
                a = Conv(x, v) y = Conv<group=3, strides=[2,1,2], pads=[1,1,1,1,1,1]>(a, w) }""",
            ("Conv", 3, 2, Geometry((1, 1, 1), (2, 1, 2), (1, 1, 1), (0,) * 6), False, True),
        ),
        (
            """g (float[N,4,6] x) => (float[N,5,3] y) <float[6,4,3] v, float[5,6,1] w> {
                a = Conv<pads=[1,1], strides=[2]>(x, v) y = Conv(a, w) }""",
            ("Conv", 5, 4, Geometry((1,), (2,), (1,), (0, 0)), False, False),
        ),
        (
            """g (float[N,T,4] x) => (float[N,T,7] y) <float[4,6] v, float[6,7] w, float[7] k> {
                a = MatMul(x, v) b = MatMul(a, w) y = Add(b, k) }""",
            ("MatMul", 7, 4, None, True, True),
        ),
        (
            """g (float[N,4] x) => (float[N,7] y) <float[6,4] v, float[7,6] w, float[7] k> {
                a = Gemm<transB=1>(x, v) y = Gemm<transB=1>(a, w, k) }""",
            ("MatMul", 7, 4, None, True, True),
        ),
    ],
)  # fmt: skip
def test_the_virtual_layer(text: str, expected: tuple[object, ...]) -> None:
    graph = harness.graph(text)
    consumer = find_layers(graph).layers[-1]
    (tap,) = taps_of(graph, 1).by_layer[consumer.name]
    layer: Layer = tap.layer
    assert (tap.donor, tap.span, layer.input, layer.groups, layer.bias) == ("x", 1, "x", 1, None)
    assert (layer.op_type, layer.outputs, layer.inputs, layer.geometry, layer.transposed, tap.parallel) == expected
    assert consumer.output == "y"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[4,6] x) => (float[5,6] y) <float[4,4] v, float[5,4] w> { a = MatMul(v, x) y = MatMul(w, a) }",
            "its weights stand on the left of the product",
        ),
        (
            """g (float[N,4] x) => (double[N,7] y) <float[4,6] v, double[6,7] w> {
                a = MatMul(x, v) b = Cast<to=11>(a) y = MatMul(b, w) }""",
            "no value lies within 4 layers before it",
        ),
        (  # the same number of values in another order of axes
            """g (float[N,3,5] x) => (float[N,5,7] y) <float[5,4] v, float[3,7] w> {
                a = MatMul(x, v) b = Transpose<perm=[0,2,1]>(x) c = ReduceMax<keepdims=1>(a) d = Add(b, c)
                y = MatMul(d, w) }""",
            "no value in reach can be aligned with its output [2, 5, 7]; the nearest, 'x', has shape [2, 3, 5]",
        ),
    ],
)
def test_layers_without_taps_say_why(text: str, reason: str) -> None:
    graph = harness.graph(text)
    layers = find_layers(graph)
    taps = find_taps(graph, layers, observed(graph, layers), 4)
    assert taps.reasons.get(layers.layers[-1].name) == reason


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("y = Conv(b, w) } <float[3,3,1] v, float[7,3,1] w>", {"b": (2, 3, 5), "y": (2, 7, 5), "x": (2, 3, 5)}),
        ("y = MatMul(b, w) } <float[3,3,1] v, float[3,7] w>", {"b": (2, 5, 3), "y": (2, 5, 7), "x": (2, 5, 3)}),
    ],
)
def test_a_donor_has_as_many_channels_in_every_run(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    body, weights = text.split(" } ")
    graph = harness.graph(f"g (float[N,I,J] x) => (float[N,K,L] y) {weights} {{ a = Conv(x, v) b = Relu(a) {body} }}")
    layers = find_layers(graph)
    other = shapes | {"x": tuple(4 if size == 3 else size for size in shapes["x"])}
    assert len(find_taps(graph, layers, [shapes], 1).by_layer[layers.layers[-1].name]) == 1
    assert not find_taps(graph, layers, [shapes, other], 1).by_layer[layers.layers[-1].name]


def test_of_equally_near_donors_the_latest_comes_first() -> None:
    graph = harness.graph("""
        g (float[N,4] x) => (float[N,4] y) <float[4,4] p, float[4,4] q, float[4,4] r, float[4,4] s, float[4,4] t> {
            a = MatMul(x, p) b = Relu(a) c = MatMul(b, q) d = Tanh(a) e = MatMul(d, r) f = Add(c, e)
            h = MatMul(f, s) y = MatMul(h, t)
        }
    """)
    assert spans(taps_of(graph, 2), graph)["y"] == [("f", 1), ("d", 2), ("b", 2)]


def test_unknown_shapes_are_a_reason() -> None:
    graph = harness.graph(CHAIN)
    layers = find_layers(graph)
    known = dict.fromkeys("xabcdmy", (2, 4))
    without = find_taps(graph, layers, [known, {name: size for name, size in known.items() if name != "y"}], 9)
    assert without.reasons["MatMul_5"] == "the shape of its output 'y' is not known"
    without = find_taps(graph, layers, [known, {name: size for name, size in known.items() if name != "b"}], 9)
    assert [tap.donor for tap in without.by_layer["MatMul_5"]] == ["c", "x"]


def brute_force(graph: Graph, layers: Layers, radius: int) -> dict[str, set[tuple[str, int]]]:
    """Candidates by longest paths and ancestors of NetworkX."""
    view = graph.view()
    names = {layer.name for layer in layers}
    depth: dict[str, int] = {}
    for node in nx.topological_sort(view.graph):
        depth[node] = max((depth[before] for before in view.graph.predecessors(node)), default=0) + (node in names)
    inputs = {value.name for value in graph.inputs}
    types = {layer.input: graph.initializers[layer.weight].dtype for layer in layers}
    found = {}
    for layer in layers:
        operators = nx.ancestors(view.graph, layer.name) | {layer.name}
        reachable = {name for item in operators for name in view.operator(item).inputs}
        at = {name: 0 if name in inputs else depth.get(view.producer(name) or "", 0) for name in types}
        found[layer.name] = {
            (name, depth[layer.name] - at[name] - 1)
            for name, kind in types.items()
            if name in reachable and name != layer.input and kind == graph.initializers[layer.weight].dtype
            if 1 <= depth[layer.name] - at[name] - 1 <= radius
        }
    return found


@pytest.mark.parametrize("name", ["bert", "densenet", "encoder_decoder", "inception", "swin", "unet", "yolo"])
def test_donors_are_ancestors_within_the_radius(name: str) -> None:
    graph = zoo.load(name)
    layers = find_layers(graph)
    feeds = zoo.feeds(name, 2)
    names = [item for layer in layers for item in (layer.input, layer.output)]
    runs = observe_shapes(graph, harness.RUNTIME, feeds, names)
    everywhere = [dict.fromkeys(run, (2, 3, 3, 3)) for run in runs]  # nothing is refused for its shape
    for radius in (0, 1, 3, 100):
        candidates = brute_force(graph, layers, radius)
        found = find_taps(graph, layers, everywhere, radius).by_layer
        assert {key: {(tap.donor, tap.span) for tap in taps} for key, taps in found.items()} == candidates
        aligned = find_taps(graph, layers, runs, radius).by_layer
        for key, taps in aligned.items():
            assert {(tap.donor, tap.span) for tap in taps} <= candidates[key]
            assert [tap.span for tap in taps] == sorted(tap.span for tap in taps)
        assert any(aligned.values()) == (radius > 0)


def test_values_inside_subgraphs_are_no_donors() -> None:
    graph = harness.graph("""
        g (float[N,4] x, bool c) => (float[N,4] y) <float[4,4] p, float[4,4] q, float[4,4] r> {
            a = MatMul(x, p)
            b = If (c) <
                then_branch = t () => (float[N,4] u) { s = MatMul(a, q) u = MatMul(s, q) },
                else_branch = e () => (float[N,4] v) { v = Neg(a) }
            >
            y = MatMul(b, r)
        }
    """)
    assert spans(taps_of(graph, 9), graph) == {"y": [("x", 1)]}
