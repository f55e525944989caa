"""Probes: what they hold, and that a runtime takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from surgery_ir.analysis.layers import Geometry, find_layers
from surgery_ir.analysis.probe import Kind, Probe, kind_of
from surgery_ir.analysis.shapes import infer_shapes
from tests.harness import RUNTIME, small_graph

SQUARE = Geometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("case", "options", "kind"),
    [
        (
            "float[N,6,9,8] x | float[4,6,3,2] w | y = Conv<strides=[2,1], pads=[1,0,2,1]>(x, w)",
            {},
            Kind("Conv", 1, (9, 8), Geometry((3, 2), (2, 1), (1, 1), (1, 0, 2, 1))),
        ),
        (
            "float[N,6,8] x | float[6,3,3] w | y = Conv<group=2>(x, w)",
            {},
            Kind("Conv", 1, (8,), Geometry((3,), (1,), (1,), (0, 0)), groups=2),
        ),
        (
            "float[N,6,8] x | float[6,3,3] w | y = Conv<group=2>(x, w)",
            {"whole_groups": True},
            Kind("Conv", 1, (8,), Geometry((3,), (1,), (1,), (0, 0)), group_shape=(3, 3)),
        ),
        (
            "float[N,6,8] x | float[12,1,3] w | y = Conv<group=6>(x, w)",
            {},
            Kind("Conv", 1, (8,), Geometry((3,), (1,), (1,), (0, 0)), group_shape=(1, 2)),
        ),
        (
            "float[N,1,8] x | float[12,1,3] w | y = Conv(x, w)",
            {"fed": True},
            Kind("Conv", 1, (8,), Geometry((3,), (1,), (1,), (0, 0)), fed=True),
        ),
        ("float[N,3] x | float[4,3] w | y = Gemm<transB=1>(x, w)", {}, Kind("Gemm", 1)),
        ("float[N,3] x | float[3,4] w | y = Gemm(x, w)", {}, Kind("Gemm", 1, transposed=True)),
        (
            "double[N,5,7,3] x | double[3,4] w | y = MatMul(x, w)",
            {"dtype": ir.DataType.DOUBLE},
            Kind("MatMul", 35, transposed=True, dtype=ir.DataType.DOUBLE),
        ),
        ("float[N,5,3,7] x | float[4,3] w | y = MatMul(w, x)", {}, Kind("MatMul", 5, (7,), left=True)),
    ],
)
def test_kinds(case: str, options: dict[str, Any], kind: Kind) -> None:
    graph = small_graph(case)
    (layer,) = find_layers(graph)
    assert kind_of(layer, infer_shapes(graph), **options) == kind


def test_the_batch_is_that_of_the_shapes() -> None:
    graph = small_graph("float[N,3,8,8] x | float[4,3,3,3] w | y = Conv(x, w)")
    (layer,) = find_layers(graph)
    kind = kind_of(layer, infer_shapes(graph, {"x": (64, 3, 8, 8)}))
    assert kind is not None
    assert kind.rows == 64


@pytest.mark.parametrize("shapes", [{}, {"x": (1, 3, None, 8)}])
def test_a_layer_of_unknown_size_is_of_no_kind(shapes: dict[str, tuple[int | None, ...]]) -> None:
    (layer,) = find_layers(small_graph("float[N,3,H,W] x | float[4,3,3,3] w | y = Conv(x, w)"))
    assert kind_of(layer, shapes) is None


@pytest.mark.parametrize(
    ("kind", "widths", "sizes"),
    [
        (Kind("Conv", 2, (8,), Geometry((3,), (2,), (1,), (1, 1))), (5, 7), (1, 15, 7)),
        (Kind("Conv", 2, (8, 6), SQUARE), (5, 7), (1, 45, 7)),
        (Kind("Conv", 2, (1, 1), Geometry((1, 1), (2, 2), (1, 1), (0,) * 4)), (5, 7), (1, 5, 7)),
        (Kind("Conv", 1, (4, 5, 6), Geometry((1, 3, 3), (1,) * 3, (1, 2, 1), (0, 2, 1) * 2)), (5, 7), (1, 45, 7)),
        (Kind("Conv", 2, (9, 9), Geometry((3, 3), (2, 2), (1, 1), (0,) * 4, "SAME_UPPER")), (5, 7), (1, 45, 7)),
        (Kind("Conv", 2, (8, 8), SQUARE, groups=3), (5, 7), (3, 45, 7)),
        (Kind("Conv", 2, (8, 8), SQUARE, group_shape=(1, 2)), (5, 5), (5, 9, 2)),
        (Kind("Conv", 2, (8, 8), SQUARE, fed=True), (5, 7), (1, 45, 7)),
        (Kind("Conv", 2, (8, 8), SQUARE, dtype=ir.DataType.FLOAT16), (5, 7), (1, 45, 7)),
        (Kind("Gemm", 3), (5, 7), (1, 5, 7)),
        (Kind("Gemm", 3, transposed=True), (5, 7), (1, 5, 7)),
        (Kind("Gemm", 3, dtype=ir.DataType.DOUBLE), (5, 7), (1, 5, 7)),
        (Kind("MatMul", 3, transposed=True), (5, 7), (1, 5, 7)),
        (Kind("MatMul", 3, (4,), left=True), (5, 7), (1, 5, 7)),
    ],
)
def test_probes_hold_the_layer_and_run(kind: Kind, widths: tuple[int, int], sizes: tuple[int, int, int]) -> None:
    probe = Probe(kind, *widths)
    graph, feeds = probe.build()
    layer = list(find_layers(graph))[-1]
    assert (layer.op_type, layer.groups, layer.inputs, layer.outputs) == (kind.op_type, *sizes)
    assert (layer.geometry, layer.transposed, layer.left) == (kind.geometry, kind.transposed, kind.left)
    assert probe.weights == layer.size
    for tried, known in ((graph, feeds), probe.carrier().build()):
        (result,) = RUNTIME.load(tried, threads=1).run(known).values()
        assert result.dtype == kind.dtype.numpy()
        assert np.isfinite(result.astype(np.float64)).all()
    seen = infer_shapes(graph)[layer.input]
    read = kind_of(
        layer, infer_shapes(graph), whole_groups=kind.group_shape is not None, fed=kind.fed, dtype=kind.dtype
    )
    assert None not in seen
    assert read == kind


def test_neighbours_leave_a_pixel_to_read() -> None:
    graph, feeds = Probe(Kind("Conv", 2, (8, 6), SQUARE), 5, 7).build()
    assert {name: array.shape for name, array in feeds.items()} == {"x": (2, 1, 8, 6)}
    assert [node.op_type for node in graph.model.graph] == ["Conv", "Conv", "Relu", "MaxPool"]
    (result,) = RUNTIME.load(graph, threads=1).run(feeds).values()
    assert result.shape == (2, 7, 1, 1)


def test_a_fed_layer_reads_the_feed() -> None:
    graph, feeds = Probe(Kind("Conv", 2, (8, 6), SQUARE, fed=True), 3, 7).build()
    assert feeds["x"].shape == (2, 3, 8, 6)
    assert [node.op_type for node in graph.model.graph] == ["Conv", "Relu", "MaxPool"]


def test_carriers_are_shared_by_the_layers_that_they_carry() -> None:
    one, other = (Probe(Kind("Conv", 2, (8, 6), SQUARE), 5, width) for width in (7, 8))
    strided = Kind("Conv", 2, (8, 6), Geometry((1, 1), (2, 2), (1, 1), (0,) * 4))
    assert one.carrier() == other.carrier() == Probe(strided, 16, 3).carrier()
    assert one.carrier() != Probe(one.kind, 17, 7).carrier()
    assert Probe(Kind("Gemm", 3), 5, 7).carrier() == Probe(Kind("MatMul", 9), 6, 8).carrier()


def test_probes_are_the_same_every_time() -> None:
    probe = Probe(Kind("Conv", 2, (8, 6), SQUARE), 5, 7)
    (one, fed), (other, too) = probe.build(), probe.build()
    assert one.fingerprint() == other.fingerprint()
    assert np.array_equal(fed["x"], too["x"])
    assert one.fingerprint() != probe.build(seed=1)[0].fingerprint()
