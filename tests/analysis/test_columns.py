"""W · columns + b must be what the operator itself puts out, at the positions that were picked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery_ir.analysis.columns import Sampler
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.model import Graph
from tests.harness import random_feeds, run, small_graph


def check(graph: Graph, positions: int, seed: int = 0) -> int:
    """Compare one layer with ONNX Runtime; give the number of positions picked."""
    (layer,) = find_layers(graph)
    x = random_feeds(input_specs(graph), 3, seed)["x"]
    y = run(graph, {"x": x})["y"]
    sampler = Sampler(layer, positions)
    assert sampler.output_shape(x.shape) == y.shape
    picked = sampler.pick(x.shape, np.random.default_rng(seed))
    columns, targets = sampler.inputs(x, picked), sampler.targets(y, picked)
    matrix = layer.matrix(graph.array(layer.weight)).astype(np.float64)
    bias = np.zeros(layer.groups * layer.outputs)
    if layer.bias is not None:
        bias = graph.array(layer.bias).reshape(-1).astype(np.float64) * layer.bias_scale
    found = np.einsum("gnd,god->gno", columns.astype(np.float64), matrix) + bias.reshape(layer.groups, 1, -1)
    assert targets.shape == found.shape
    np.testing.assert_allclose(found, targets, atol=1e-5 * max(1.0, float(np.abs(y).max())))
    return len(picked)


@dataclass(frozen=True)
class Convolution:
    """A random Conv and an input that it fits on."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    groups: int
    channels: int
    outputs: int
    bias: bool

    def graph(self) -> Graph:
        weights = [self.groups * self.outputs, self.channels, *self.kernel]
        attributes = [f"group={self.groups}", f"strides={[*self.strides]}", f"dilations={[*self.dilations]}"]
        attributes.append(f'auto_pad="{self.auto_pad}"' if self.auto_pad != "NOTSET" else f"pads={[*self.pads]}")
        shape = ",".join(map(str, [self.groups * self.channels, *self.size]))
        extra = f", float[{weights[0]}] b" if self.bias else ""
        return small_graph(
            f"float[N,{shape}] x | float[{','.join(map(str, weights))}] w{extra} | "
            f"y = Conv<{', '.join(attributes)}>(x, w{', b' if self.bias else ''})"
        )


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    kernel, strides = each(1, 3), each(1, 3)
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    dilations = (1,) * rank if auto_pad.startswith("SAME") else each(1, 3)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    size = tuple(span + extra for span, extra in zip(spans, each(0, 4), strict=True))
    pads = each(0, 2, 2 * rank) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    groups, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Convolution(size, kernel, strides, dilations, pads, auto_pad, groups, channels, outputs, draw(st.booleans()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(convolutions(), st.integers(1, 40))
def test_convolutions(convolution: Convolution, positions: int) -> None:
    check(convolution.graph(), positions)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
def test_an_even_kernel_is_padded_on_the_right_side(auto_pad: str, stride: int, size: int) -> None:
    node = f'y = Conv<auto_pad="{auto_pad}", strides=[{stride},1]>(x, w)'
    check(small_graph(f"float[N,2,{size},5] x | float[3,2,4,2] w | {node}"), 1000)


PRODUCTS = [
    "float[N,6] x | float[6,5] w | y = MatMul(x, w)",
    "float[N,7,6] x | float[6,5] w, float[5] b | m = MatMul(x, w) y = Add(m, b)",
    "float[N,2,7,6] x | float[6,5] w | y = MatMul(x, w)",
    "float[6] x | float[6,5] w | y = MatMul(x, w)",
    "float[N,6,7] x | float[5,6] w | y = MatMul(w, x)",
    "float[N,2,6,7] x | float[5,6] w | y = MatMul(w, x)",
    "float[6,7] x | float[5,6] w | y = MatMul(w, x)",
    "float[N,6] x | float[5,6] w, float[5] b | y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
    "float[N,6] x | float[6,5] w, float[1,5] b | y = Gemm<alpha=-2.0>(x, w, b)",
]


@pytest.mark.parametrize("positions", [1, 5, 100])
@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str, positions: int) -> None:
    check(small_graph(case), positions)


@pytest.mark.parametrize(
    ("case", "total"),
    [
        ("float[N,3,6,5] x | float[4,3,3,3] w | y = Conv(x, w)", 12),
        ("float[N,3,6,5] x | float[4,3,3,3] w | y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)", 9),
        ("float[N,7,6] x | float[6,5] w | y = MatMul(x, w)", 7),
        ("float[N,2,7,6] x | float[6,5] w | y = MatMul(x, w)", 14),
        ("float[N,6,7] x | float[5,6] w | y = MatMul(w, x)", 7),
        ("float[N,6] x | float[6,5] w | y = Gemm(x, w)", 1),
    ],
)
def test_positions_are_bounded_and_none_comes_twice(case: str, total: int) -> None:
    graph = small_graph(case)
    (layer,) = find_layers(graph)
    x = random_feeds(input_specs(graph), 3, seed=0)["x"]
    for positions in (1, 4, total, 100):
        picked = Sampler(layer, positions).pick(x.shape, np.random.default_rng(1))
        assert len(picked) == min(positions, total)
        assert picked.tolist() == sorted(set(picked.tolist()))
        assert 0 <= picked[0] <= picked[-1] < total
    few = Sampler(layer, max(1, total // 2))
    one, same, other = (few.pick(x.shape, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert total < 7 or not np.array_equal(one, other)


def test_a_wrong_pad_would_be_seen() -> None:
    """The comparison above can fail: the columns of another geometry do not fit."""
    graph = small_graph("float[N,2,6] x | float[3,2,3] w | y = Conv<pads=[0,2]>(x, w)")
    other = small_graph("float[N,2,6] x | float[3,2,3] w | y = Conv<pads=[2,0]>(x, w)")
    (layer,) = find_layers(other)
    x = random_feeds(input_specs(graph), 3, 0)["x"]
    picked = np.arange(6)
    found = Sampler(layer, 6).inputs(x, picked) @ layer.matrix(graph.array("w"))[0].T
    assert not np.allclose(found, Sampler(layer, 6).targets(run(graph, {"x": x})["y"], picked), atol=1e-2)


def test_the_element_type_stays() -> None:
    graph = small_graph("float16[N,2,6] x | float16[3,2,3] w | y = Conv(x, w)")
    (layer,) = find_layers(graph)
    assert Sampler(layer, 4).inputs(np.ones((1, 2, 6), np.float16), np.arange(4)).dtype == np.float16


STACKED = [
    ("float[N,6] x | float[6,5] w | y = MatMul(x, w)", (3, 6), (3, 6)),
    ("float[6] x | float[6,5] w | y = MatMul(x, w)", (6,), (1, 6)),
    ("float[6,7] x | float[5,6] w | y = MatMul(w, x)", (6, 7), (1, 6, 7)),
    ("float[N,6,7] x | float[5,6] w | y = MatMul(w, x)", (3, 6, 7), (3, 6, 7)),
    ("float[N,2,6] x | float[3,2,3] w | y = Conv(x, w)", (3, 2, 6), (3, 2, 6)),
]


@pytest.mark.parametrize(("case", "shape", "expected"), STACKED)
def test_what_has_no_axis_of_samples_is_one_sample(
    case: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    (layer,) = find_layers(small_graph(case))
    assert Sampler(layer, 1).stack(np.zeros(shape)).shape == expected
