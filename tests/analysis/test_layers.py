from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import Geometry, Layer, find_layers
from surgery_ir.graph.serialize import read_model
from tests.harness import graph, random_feeds, run, small_graph


def only(case: str) -> Layer:
    (layer,) = find_layers(small_graph(case))
    return layer


# --- what is read


CONVS = [
    ("float[N,3,8] x | float[4,3,5] w | y = Conv(x, w)", (1, 4, 15), Geometry((5,), (1,), (1,), (0, 0)), 3),
    (
        "float[N,6,9,8] x | float[4,6,3,2] w,float[4] b | y=Conv<strides=[2,1],dilations=[1,2],pads=[1,0,2,1]>(x,w,b)",
        (1, 4, 36),
        Geometry((3, 2), (2, 1), (1, 2), (1, 0, 2, 1)),
        6,
    ),
    (
        "float[N,2,5,5,5] x | float[4,2,1,3,3] w | y = Conv(x, w)",
        (1, 4, 18),
        Geometry((1, 3, 3), (1, 1, 1), (1, 1, 1), (0,) * 6),
        2,
    ),
    (
        "float[N,6,8,8] x | float[4,3,3,3] w | y = Conv<group=2>(x, w)",
        (2, 2, 27),
        Geometry((3, 3), (1, 1), (1, 1), (0,) * 4),
        3,
    ),
    (
        "float[N,6,8,8] x | float[6,1,3,3] w | y = Conv<group=6>(x, w)",
        (6, 1, 9),
        Geometry((3, 3), (1, 1), (1, 1), (0,) * 4),
        1,
    ),
    (
        'float[N,3,8,8] x | float[4,3,3,3] w | y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        (1, 4, 27),
        Geometry((3, 3), (2, 2), (1, 1), (0,) * 4, "SAME_UPPER"),
        3,
    ),
]


@pytest.mark.parametrize(("case", "sizes", "geometry", "channels"), CONVS)
def test_convolutions(case: str, sizes: tuple[int, int, int], geometry: Geometry, channels: int) -> None:
    layer = only(case)
    assert (layer.groups, layer.outputs, layer.inputs) == sizes
    assert layer.geometry == geometry
    assert layer.channels == channels
    assert layer.size == np.prod(sizes)
    assert (layer.name, layer.op_type, layer.input, layer.output, layer.weight) == ("Conv_0", "Conv", "x", "y", "w")
    assert layer.bias == ("b" if "float[4] b" in case else None)
    assert layer.takes_bias


def test_columns_of_a_convolution_run_over_the_kernel_with_channels_fastest() -> None:
    layer = only("float[N,3,8,8] x | float[4,3,2,2] w | y = Conv(x, w)")
    stored = np.arange(4 * 3 * 2 * 2).reshape(4, 3, 2, 2)
    assert layer.matrix(stored)[0, 1].tolist() == [
        stored[1, c, i, j] for i in range(2) for j in range(2) for c in range(3)
    ]


PRODUCTS = [
    ("float[N,6] x | float[6,5] w | y = Gemm(x, w)", None, (1.0, 1.0)),
    ("float[N,6] x | float[5,6] w | y = Gemm<transB=1>(x, w)", None, (1.0, 1.0)),
    ("float[N,6] x | float[6,5] w, float[5] b | y = Gemm(x, w, b)", "b", (1.0, 1.0)),
    ("float[N,6] x | float[6,5] w, float[1,5] b | y = Gemm(x, w, b)", "b", (1.0, 1.0)),
    ("float[N,6] x | float[5,6] w, float[5] b | y = Gemm<alpha=2.0, beta=0.5, transB=1>(x, w, b)", "b", (2.0, 0.5)),
    ("float[N,6] x | float[6,5] w, float[5] b | y = Gemm<alpha=-0.5>(x, w, b)", "b", (-0.5, 1.0)),
    ("float[N,7,6] x | float[6,5] w | y = MatMul(x, w)", None, (1.0, 1.0)),
    ("float[N,7,6] x | float[6,5] w, float[5] b | m = MatMul(x, w) y = Add(m, b)", "b", (1.0, 1.0)),
    ("float[N,7,6] x | float[6,5] w, float[1,5] b | m = MatMul(x, w) y = Add(b, m)", "b", (1.0, 1.0)),
    ("float[N,6,7] x | float[5,6] w | y = MatMul(w, x)", None, (1.0, 1.0)),
]


@pytest.mark.parametrize(("case", "bias", "factors"), PRODUCTS)
def test_products(case: str, bias: str | None, factors: tuple[float, float]) -> None:
    layer = only(case)
    assert (layer.groups, layer.outputs, layer.inputs, layer.channels) == (1, 5, 6, 6)
    assert (layer.bias, layer.output, layer.geometry) == (bias, "y", None)
    assert (layer.scale, layer.bias_scale) == factors
    assert layer.takes_bias == (layer.op_type == "Gemm" or bias is not None)


@pytest.mark.parametrize("case", [row[0] for row in PRODUCTS])
def test_the_matrix_of_a_product_is_what_it_multiplies_by(case: str) -> None:
    found = small_graph(case)
    (layer,) = find_layers(found)
    matrix = layer.matrix(found.array("w"))[0].astype(np.float64)
    bias = found.array("b").reshape(-1).astype(np.float64) * layer.bias_scale if layer.bias else np.zeros(5)
    x = random_feeds(input_specs(found), 3, seed=0)["x"]
    expected = np.swapaxes(np.swapaxes(x, -1, -2) @ matrix.T, -1, -2) if layer.left else x @ matrix.T + bias
    np.testing.assert_allclose(run(found, {"x": x})["y"], expected, atol=1e-5)


ADDS_THAT_ARE_NO_BIAS = [
    "float[N,7,6] x, float[5] z | float[6,5] w | m = MatMul(x, w) y = Add(m, z)",
    "float[N,7,6] x | float[6,5] w, float[7,1] b | m = MatMul(x, w) y = Add(m, b)",
    "float[N,7,6] x | float[6,5] w, float b | m = MatMul(x, w) y = Add(m, b)",
    "float[N,6] x | float[6,5] w, float[1,1,5] b | m = MatMul(x, w) y = Add(m, b)",
    "float[N,7,6] x | float[6,5] w, float[5] b | m = MatMul(x, w) a = Add(m, b) y = Mul(a, b)",
    "float[N,7,6] x | float[6,5] w, float[5] b | m = MatMul(x, w) a = Add(m, b) y = Mul(a, m)",
]


@pytest.mark.parametrize("case", ADDS_THAT_ARE_NO_BIAS)
def test_an_add_that_is_no_bias(case: str) -> None:
    layer = only(case)
    assert (layer.bias, layer.output, layer.takes_bias) == (None, "m", False)


def test_shared_weights_name_their_sharers() -> None:
    found = find_layers(
        graph("""
        g (float[N,6] x) => (float[N,6] y) <float[6,6] w> {
            a = MatMul(x, w)
            r = Relu(a)
            y = MatMul(r, w)
        }
    """)
    )
    assert [layer.sharers for layer in found] == [("MatMul_2",), ("MatMul_0",)]


def test_weights_shared_with_a_subgraph() -> None:
    (layer,) = find_layers(
        graph("""
        g (float[N,6] x, bool c) => (float[N,6] y) <float[6,6] w> {
            a = MatMul(x, w)
            y = If(c) <
                then_branch = t () => (float[N,6] p) { p = MatMul(a, w) },
                else_branch = e () => (float[N,6] q) { q = Neg(a) }
            >
        }
    """)
    )
    assert len(layer.sharers) == 1


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_element_types(dtype: str) -> None:
    layer = only(f"{dtype}[N,6] x | {dtype}[6,5] w | y = MatMul(x, w)")
    assert layer.size == 30


# --- the matrix form


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    if draw(st.booleans()):
        groups, outputs, channels = (draw(st.integers(1, 4)) for _ in range(3))
        kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        geometry = Geometry(kernel, (1,) * len(kernel), (1,) * len(kernel), (0,) * 2 * len(kernel))
        inputs = channels * int(np.prod(kernel))
        return Layer("l", "Conv", "w", None, "x", "y", groups, outputs, inputs, geometry)
    outputs, inputs = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from([1.0, -2.0, 0.5]))
    return Layer("l", "Gemm", "w", None, "x", "y", 1, outputs, inputs, transposed=draw(st.booleans()), scale=scale)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_matrix_and_array_are_inverse(layer: Layer) -> None:
    matrix = np.random.default_rng(0).standard_normal((layer.groups, layer.outputs, layer.inputs))
    stored = layer.array(matrix)
    assert stored.size == matrix.size
    assert np.array_equal(layer.matrix(stored), matrix)
    assert np.array_equal(layer.array(layer.matrix(stored)), stored)


# --- ends


def test_first_and_last_layers() -> None:
    found = find_layers(
        graph("""
        g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,4] u)
        <float[4,4] a, float[4,4] b, float[4,4] c, float[4,4] d, float[4,4] e> {
            p = MatMul(x, a)
            q = MatMul(z, b)
            r = Add(p, q)
            s = MatMul(r, c)
            y = MatMul(s, d)
            n = Neg(s)
            u = MatMul(n, e)
        }
    """)
    )
    assert found.first == {"MatMul_0", "MatMul_1"}
    assert found.last == {"MatMul_4", "MatMul_6"}


def test_a_single_layer_is_first_and_last() -> None:
    found = find_layers(graph("g (float[N,4] x) => (float[N,4] y) <float[4,4] w> { y = MatMul(x, w) }"))
    assert found.first == found.last == {"MatMul_0"}


def test_ends_are_seen_through_subgraphs() -> None:
    found = find_layers(
        graph("""
        g (float[N,4] x, bool c) => (float[N,4] y) <float[4,4] a, float[4,4] b> {
            p = MatMul(x, a)
            i = If(c) <
                then_branch = t () => (float[N,4] o) { o = Exp(p) },
                else_branch = e () => (float[N,4] q) { q = Neg(p) }
            >
            y = MatMul(i, b)
        }
    """)
    )
    assert found.first == {"MatMul_0"}
    assert found.last == {"MatMul_2"}


def test_the_sample(samples_dir: Path) -> None:
    found = find_layers(read_model(samples_dir / "fashion_resnet.onnx"))
    assert found.skipped == ()
    assert len(found.first) == len(found.last) == 1
    assert {layer.op_type for layer in found} == {"Conv", "Gemm"}
    operators = read_model(samples_dir / "fashion_resnet.onnx").view().operators()
    assert [layer.name for layer in found] == [item.name for item in operators if item.op_type in ("Conv", "Gemm")]
