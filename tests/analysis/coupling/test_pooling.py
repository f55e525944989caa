"""Pooling: channels pass, axes under the window do not, and positions of maxima must not leave MaxUnpool."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact

HALVE = "kernel_shape = [2, 2], strides = [2, 2]"
REGIONS = "float[2,4] r = {0.0, 0.0, 3.0, 3.0, 1.0, 2.0, 4.0, 5.0}, int64[2] k = {0, 0}"


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("t = MaxPool<kernel_shape = [2, 2]>(h)", "", 8),
        ("t = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2], ceil_mode = 1>(h)", "", 12),
        ("t = MaxPool<kernel_shape = [2, 2], dilations = [2, 1]>(h)", "", 22),
        (f"t, i = MaxPool<{HALVE}>(h)", "", 12),
        ('t = AveragePool<kernel_shape = [2, 3], auto_pad = "SAME_UPPER">(h)', "", 7),
        ("t = AveragePool<kernel_shape = [2, 3], pads = [1, 0, 0, 1], count_include_pad = 1>(h)", "", 22),
        ("t = LpPool<kernel_shape = [2, 3], p = 3>(h)", "", 11),
        ("t = GlobalAveragePool(h)", "", 21),
        ("t = GlobalMaxPool(h)", "", 21),
        ("t = GlobalLpPool<p = 1>(h)", "", 21),
        (f"p, i = MaxPool<{HALVE}>(h) q = Relu(p) t = MaxUnpool<{HALVE}>(q, i)", "", 9),
        (f"p, i = MaxPool<{HALVE}, storage_order = 1>(h) t = MaxUnpool<{HALVE}>(p, i)", "", 12),
        ("t = RoiAlign<output_height = 2, output_width = 3>(h, r, k)", REGIONS, 10),
        ('t = RoiAlign<output_height = 2, mode = "max">(h, r, k)', REGIONS, 16),
        ("t = MaxRoiPool<pooled_shape = [2, 2]>(h, r)", "float[1,5] r = {0.0, 0.0, 1.0, 4.0, 5.0}", 13),
    ],
)
def test_channels_pass(nodes: str, weights: str, opset: int) -> None:
    coupling = assert_cut_is_exact(between_convs(nodes, weights, opset))
    assert described(coupling) == ["8 a.0 -> b.1"]


def test_a_shape_to_restore_is_rewritten() -> None:
    """The window covers 5 of the 6 rows, so that the shape has to be given."""
    window = "kernel_shape = [3, 3], strides = [2, 2]"
    nodes = f"p, i = MaxPool<{window}>(h) t = MaxUnpool<{window}>(p, i, k)"
    case = between_convs(nodes, "int64[4] k = {1, 8, 6, 6}", batch="1")
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


def test_a_computed_shape_to_restore_is_overridden() -> None:
    nodes = (
        f"p, i = MaxPool<{HALVE}>(h) n = Shape<end = 1>(x) s = Concat<axis = 0>(n, k) t = MaxUnpool<{HALVE}>(p, i, s)"
    )
    coupling = assert_cut_is_exact(between_convs(nodes, "int64[3] k = {8, 6, 6}"))
    assert described(coupling) == ["8 a.0 -> b.1"]


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_an_axis_passes_under_a_window_of_one_element(operator: str) -> None:
    case = between_matmuls(f"t = {operator}<kernel_shape = [2, 1], pads = [1, 0, 0, 0], strides = [2, 1]>(h)")
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]


@pytest.mark.parametrize(
    ("reason", "nodes"),
    [
        ("MaxPool 'MaxPool_1' slides over it", "t = MaxPool<kernel_shape = [1, 3], pads = [0, 1, 0, 1]>(h)"),
        ("MaxPool 'MaxPool_1' slides over it", 't = MaxPool<kernel_shape = [1, 3], auto_pad = "SAME_UPPER">(h)'),
        ("AveragePool 'AveragePool_1' slides over it", "t = AveragePool<kernel_shape = [1, 1], strides = [1, 2]>(h)"),
        ("LpPool 'LpPool_1' slides over it", "t = LpPool<kernel_shape = [1, 1], pads = [0, 0, 0, 1]>(h)"),
        ("LpPool 'LpPool_1' slides over it", "t = LpPool<kernel_shape = [1, 1], pads = [0, 1, 0, 0]>(h)"),
        ("GlobalAveragePool 'GlobalAveragePool_1' takes the mean over it", "p = GlobalAveragePool(h) t = Add(p, h)"),
        ("GlobalMaxPool 'GlobalMaxPool_1' takes the maximum over it", "p = GlobalMaxPool(h) t = Add(p, h)"),
        ("GlobalLpPool 'GlobalLpPool_1' takes the norm over it", "p = GlobalLpPool(h) t = Add(p, h)"),
    ],
)
def test_axes_under_the_window_are_left_alone(reason: str, nodes: str) -> None:
    assert reason_against(between_matmuls(nodes)) == reason


LEAKED = "MaxPool 'MaxPool_1' gives positions counted through the whole tensor"
NO_POOL = "MaxUnpool 'MaxUnpool_2' cannot be looked into: no MaxPool gives its positions"
OTHER_SHAPE = "MaxUnpool 'MaxUnpool_2' cannot be looked into: its positions are those in a tensor of another shape"


@pytest.mark.parametrize(
    ("reason", "nodes", "weights"),
    [
        (LEAKED, f"p, i = MaxPool<{HALVE}>(h) q = Cast<to = 1>(i) t = Add(p, q)", ""),
        (LEAKED, f"p, i = MaxPool<{HALVE}>(h) j = Abs(i) t = MaxUnpool<{HALVE}>(p, j)", ""),
        (LEAKED, f"p, i = MaxPool<{HALVE}>(h) q = Cast<to = 1>(i) r = MaxUnpool<{HALVE}>(q, i) t = Add(r, h)", ""),
        (NO_POOL, f"p = MaxPool<{HALVE}>(h) t = MaxUnpool<{HALVE}>(p, k)", "int64[1,8,3,3] k"),
        (NO_POOL, f"p = AveragePool<{HALVE}>(h) t = MaxUnpool<{HALVE}>(p, x)", ""),
        (
            NO_POOL.replace("_2", "_3"),
            f"p = MaxPool<{HALVE}>(h) i = Slice(k, o, e, s) t = MaxUnpool<{HALVE}>(p, i)",
            "int64[1,8,6,6] k, int64[2] o = {0, 0}, int64[2] e = {3, 3}, int64[2] s = {2, 3}",
        ),
        (
            OTHER_SHAPE,
            "p, i = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(h)"
            " t = MaxUnpool<kernel_shape = [3, 3], strides = [2, 2]>(p, i)",
            "",
        ),
    ],
)
def test_positions_that_a_cut_would_shift_are_left_alone(reason: str, nodes: str, weights: str) -> None:
    assert reason_against(between_convs(nodes, weights, batch="1")) == reason


def test_positions_that_the_model_returns_are_left_alone() -> None:
    case = between_convs(f"t, i = MaxPool<{HALVE}>(h)")
    positions = case.node("MaxPool_1").outputs[1]
    case.model.graph.outputs.append(positions)
    assert reason_against(case) == LEAKED


def test_regions_may_not_be_picked_from_cut_axes() -> None:
    case = between_matmuls("t = RoiAlign<output_width = 8>(h, r, k)", REGIONS)
    assert reason_against(case) == "RoiAlign 'RoiAlign_1' takes regions of it"


def test_samples_that_regions_name_are_left_alone() -> None:
    nodes = "p = Transpose<perm = [1, 0, 2, 3]>(h) q = RoiAlign(p, r, k) t = Transpose<perm = [1, 0, 2, 3]>(q)"
    case = between_convs(nodes, "float[8,4] r, int64[8] k", batch="1")
    assert reason_against(case) == "RoiAlign 'RoiAlign_2' takes samples from it by number"
