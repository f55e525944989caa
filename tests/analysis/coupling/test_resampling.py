"""Resize, Pad, GridSample and DepthToSpace: channels pass where they keep their places."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact

WHOLE = ["8 a.0 -> b.1"]
SCALES = "float[4] k = {1.0, 1.0, 0.5, 2.0}"
REGION = "float[8] r = {0.0, 0.0, 0.1, 0.2, 1.0, 1.0, 0.8, 0.9}"
NO_REGION = "float[0] r"


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ('t = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]>(h)', "", 7),
        ('t = Upsample<mode = "linear">(h, k)', "float[4] k = {1.0, 1.0, 2.0, 2.0}", 9),
        ('t = Resize<mode = "linear">(h, k)', SCALES, 10),
        ('t = Resize<mode = "linear">(h, r, k)', f"{NO_REGION}, {SCALES}", 11),
        ('t = Resize<mode = "cubic">(h, , k)', SCALES, 13),
        ('t = Resize<mode = "linear", axes = [3, 2], antialias = 1>(h, , k)', "float[2] k = {0.5, 1.0}", 19),
        ('t = Resize<mode = "linear", axes = [2, 3]>(h, , , k)', "int64[2] k = {3, 9}", 18),
        ("t = Resize<axes = [-1, -3]>(h, , , k)", "int64[2] k = {9, 8}", 19),
        (
            't = Resize<mode = "linear", axes = [3, 2], keep_aspect_ratio_policy = "not_larger">(h, , , k)',
            "int64[2] k = {4, 5}",
            19,
        ),
        (
            't = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(h, r, k)',
            f"{REGION}, {SCALES}",
            13,
        ),
        (
            't = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor">(h, r, k)',
            f"{NO_REGION}, {SCALES}",
            11,
        ),
        ('t = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(h, r, k)', f"{NO_REGION}, {SCALES}", 11),
        ('t = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 2], mode = "reflect">(h)', "", 2),
        ("t = Pad(h, k)", "int64[8] k = {0, 0, 1, 1, 0, 0, 1, 2}", 11),
        ("t = Pad(h, k, v)", "int64[8] k = {0, 0, 1, -1, 0, 0, 0, 2}, float v", 13),
        ('t = Pad<mode = "edge">(h, k, , s)', "int64[4] k = {2, 0, 1, 0}, int64[2] s = {-1, 1}", 18),
        ('t = Pad<mode = "wrap">(h, k, , s)', "int64[2] k = {2, 1}, int64[1] s = {2}", 19),
        ("g = Transpose<perm = [0, 2, 3, 1]>(x) t = GridSample(h, g)", "", 16),
        ('g = Transpose<perm = [0, 2, 3, 1]>(x) t = GridSample<mode = "cubic">(h, g)', "", 22),
    ],
)
def test_channels_pass(nodes: str, weights: str, opset: int) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights, opset))) == WHOLE


@pytest.mark.parametrize(
    "transformation", ["align_corners", "asymmetric", "half_pixel_symmetric", "pytorch_half_pixel"]
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_channels_pass_however_positions_are_found(mode: str, transformation: str) -> None:
    nodes = f't = Resize<mode = "{mode}", coordinate_transformation_mode = "{transformation}">(h, , k)'
    assert described(assert_cut_is_exact(between_convs(nodes, SCALES, 19))) == WHOLE


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ('t = Resize<mode = "cubic">(h, r, s, k)', f"{NO_REGION}, float[0] s, int64[4] k = {{1, 8, 3, 9}}", 11),
        ('t = Resize<mode = "nearest">(h, , , k)', "int64[4] k = {1, 8, 12, 9}", 21),
    ],
)
def test_sizes_are_rewritten(nodes: str, weights: str, opset: int) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights, opset, batch="1"))) == WHOLE


@pytest.mark.parametrize(
    "nodes",
    [
        "n = Shape<end = 1>(x) k = Concat<axis = 0>(n, c) t = Resize(h, , , k)",
        "n = Shape<end = 1>(x) k = Concat<axis = 0>(c, n) t = Resize<axes = [1, 2, 3, 0]>(h, , , k)",
        "n = Shape<end = 2>(h) e = Slice(c, o, q) k = Concat<axis = 0>(n, e) t = Resize(h, , , k)",
    ],
)
def test_computed_sizes_are_overridden(nodes: str) -> None:
    coupling = assert_cut_is_exact(between_convs(nodes, "int64[3] c = {8, 12, 9}, int64[1] o = {1}, int64[1] q = {3}"))
    assert described(coupling) == WHOLE


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        (
            "n = Shape<start = 1>(h) f = Cast<to = 1>(n) q = Div(c, f) k = Concat<axis = 0>(e, q) t = Resize(h, , k)",
            "float[3] c = {8.0, 12.0, 9.0}, float[1] e = {1.0}",
            15,
        ),
        (
            "n = Shape(h) f = Cast<to = 1>(n) g = Gather(f, i) q = Div(c, g)"
            " k = Concat<axis = 0>(e, q) t = Upsample(h, k)",
            "float[3] c = {8.0, 12.0, 12.0}, float[1] e = {1.0}, int64[3] i = {1, 2, 3}",
            9,
        ),
    ],
)
def test_scales_computed_from_sizes_stay_what_they_were(nodes: str, weights: str, opset: int) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights, opset))) == WHOLE


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (  # up to 8 channels, whatever is left of them
            "n = Shape<start = 1, end = 2>(h) m = Sub(e, n) k = Concat<axis = 0>(z, m, o) t = Pad(h, k)",
            "int64[1] e = {8}, int64[1] z = {0}, int64[6] o = {1, 1, 0, 0, 1, 2}",
        ),
        (
            "n = Shape<start = 1, end = 2>(h) m = Sub(n, e) k = Concat<axis = 0>(m, o) t = Pad(h, k, , s)",
            "int64[1] e = {8}, int64[3] o = {1, 0, 2}, int64[2] s = {-3, 3}",
        ),
        (
            "n = Shape<start = 2, end = 3>(x) k = Concat<axis = 0>(z, n, z, n) t = Pad(h, k, , s)",
            "int64[1] z = {0}, int64[2] s = {1, -1}",
        ),
    ],
)
def test_computed_pads_of_nothing_stay_so(nodes: str, weights: str) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights))) == WHOLE


def test_volumes_are_sampled() -> None:
    """Coordinates are the input's own channels."""
    nodes = "v = Unsqueeze(h, d) p = Transpose<perm = [0, 2, 3, 1]>(x) q = Concat<axis = 3>(p, e) "
    nodes += "g = Unsqueeze(q, f) u = GridSample(v, g) t = Squeeze(u, d)"
    weights = "int64[1] d = {2}, int64[1] f = {1}, float[1,6,6,1] e"
    assert described(assert_cut_is_exact(between_convs(nodes, weights, 20, batch="1"))) == WHOLE


@pytest.mark.parametrize(
    ("units", "read", "nodes", "opset"),
    [
        (2, 2, "t = DepthToSpace<blocksize = 2>(h)", 1),
        (2, 2, 't = DepthToSpace<blocksize = 2, mode = "DCR">(h)', 11),
        (2, 2, 't = DepthToSpace<blocksize = 2, mode = "CRD">(h)', 13),
        (8, 32, "t = SpaceToDepth<blocksize = 2>(h)", 1),
        (8, 72, "t = SpaceToDepth<blocksize = 3>(h)", 13),
    ],
)
def test_a_channel_goes_with_all_its_places_in_a_block(units: int, read: int, nodes: str, opset: int) -> None:
    coupling = assert_cut_is_exact(between_convs(nodes, opset=opset, read=read))
    assert described(coupling) == [f"{units} a.0 -> b.1"]
    by_weight = {span.axis.value: span.indices for span in coupling.groups[0].spans if span.weight}
    assert (by_weight["a"].shape, by_weight["b"].shape) == ((units, 8 // units), (units, read // units))


RESIZED = "Resize 'Resize_1' resizes it"


@pytest.mark.parametrize(
    ("reason", "nodes", "weights", "opset"),
    [
        (RESIZED, "t = Resize(h, , k)", "float[4] k = {1.0, 2.0, 1.0, 1.0}", 13),
        (RESIZED, "t = Resize(h, , , k)", "int64[4] k = {1, 4, 6, 6}", 13),
        (RESIZED, "t = Resize<axes = [-3]>(h, , , k)", "int64[1] k = {4}", 18),
        (RESIZED, "t = Resize<axes = [1]>(h, , k)", "float[1] k = {0.5}", 18),
        (
            RESIZED,
            't = Resize<axes = [1, 2], keep_aspect_ratio_policy = "not_smaller">(h, , , k)',
            "int64[2] k = {8, 6}",
            18,
        ),
        (
            RESIZED,
            't = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "ceil">(h, r, k)',
            f"{NO_REGION}, {SCALES}",
            11,
        ),
        (
            RESIZED,
            't = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(h, r, k)',
            f"float[8] r = {{0.0, 0.5, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0}}, {SCALES}",
            13,
        ),
        (
            RESIZED,
            't = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(h, r, k)',
            f"float[8] r = {{0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 1.0, 1.0}}, {SCALES}",
            13,
        ),
        (
            "Resize 'Resize_2' cannot be looked into: the value of its operand 'q' is not known",
            'q = RandomUniformLike(r) t = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(h, q, k)',
            f"{REGION}, {SCALES}",
            13,
        ),
        (
            "Resize 'Resize_4' cannot be looked into: the value of its operand 'k' is not known",
            "m = ReduceMax<keepdims = 0>(x) o = Sub(m, m) k = Add(c, o) t = Resize(h, , k)",
            "float[4] c = {1.0, 1.0, 2.0, 2.0}",
            13,
        ),
        (
            "Upsample 'Upsample_4' cannot be looked into: the value of its operand 'k' is not known",
            "m = ReduceMax<keepdims = 0>(x) o = Sub(m, m) k = Add(c, o) t = Upsample(h, k)",
            "float[4] c = {1.0, 1.0, 2.0, 2.0}",
            9,
        ),
        (
            "Resize 'Resize_5' cannot be looked into: the value of its operand 'k' is not known",
            "m = ReduceMax<keepdims = 0>(x) o = Sub(m, m) p = Cast<to = 7>(o) k = Add(c, p) t = Resize(h, , , k)",
            "int64[4] c = {1, 8, 12, 12}",
            13,
        ),
        ("Upsample 'Upsample_1' resizes it", "t = Upsample<scales = [1.0, 2.0, 1.0, 1.0]>(h)", "", 7),
        ("Upsample 'Upsample_1' resizes it", "t = Upsample(h, k)", "float[4] k = {1.0, 2.0, 1.0, 1.0}", 9),
        (
            "Upsample 'Upsample_1' cannot be looked into: it has no input 1",
            "t = Upsample<width_scale = 2.0, height_scale = 2.0>(h)",
            "",
            1,
        ),
        (  # by nothing, but for this sample only
            "Pad 'Pad_4' pads it",
            "n = Shape<start = 2, end = 3>(h) m = Sub(n, e) k = Concat<axis = 0>(z, m) t = Pad(h, k, , s)",
            "int64[1] e = {6}, int64[1] z = {0}, int64[1] s = {1}",
            18,
        ),
        (
            "Pad 'Pad_4' pads it",
            "n = Shape<start = 2, end = 3>(h) m = Sub(n, e) k = Concat<axis = 0>(m, z) t = Pad(h, k, , s)",
            "int64[1] e = {6}, int64[1] z = {0}, int64[1] s = {1}",
            18,
        ),
        (
            "Resize 'Resize_4' resizes it",
            "n = Shape<start = 2, end = 3>(x) m = Add(n, e) k = Concat<axis = 0>(m, n) "
            "t = Resize<axes = [1, 2]>(h, , , k)",
            "int64[1] e = {2}",
            18,
        ),
        (
            "Resize 'Resize_5' resizes it",
            "n = Shape<start = 2, end = 3>(x) m = Sub(n, e) f = Cast<to = 1>(m) k = Concat<axis = 0>(f, c)"
            " t = Resize<axes = [1, 2]>(h, , k)",
            "int64[1] e = {5}, float[1] c = {2.0}",
            18,
        ),
        ("Pad 'Pad_1' pads it", "t = Pad<pads = [0, 1, 0, 0, 0, 0, 0, 0]>(h)", "", 2),
        ("Pad 'Pad_1' pads it", "t = Pad(h, k)", "int64[8] k = {0, 0, 0, 0, 0, 2, 0, 0}", 13),
        ("Pad 'Pad_1' pads it", "t = Pad(h, k)", "int64[8] k = {0, -1, 0, 0, 0, 1, 0, 0}", 13),
        ("Pad 'Pad_1' pads it", "t = Pad(h, k, , s)", "int64[4] k = {0, 1, 0, 0}, int64[2] s = {2, -3}", 18),
        (
            "Pad 'Pad_5' cannot be looked into: the value of its operand 'k' is not known",
            "m = ReduceMax<keepdims = 0>(x) o = Sub(m, m) p = Cast<to = 7>(o) k = Add(c, p) t = Pad(h, k)",
            "int64[8] c = {0, 0, 1, 1, 0, 0, 0, 0}",
            13,
        ),
    ],
)
def test_channels_that_lose_their_places_are_left_alone(reason: str, nodes: str, weights: str, opset: int) -> None:
    assert reason_against(between_convs(nodes, weights, opset)) == reason


@pytest.mark.parametrize(
    ("reason", "nodes", "weights"),
    [
        (
            "GridSample 'GridSample_1' samples it between its elements",
            "t = GridSample(h, g)",
            "float[2,4,8,2] g",
        ),
        (
            "DepthToSpace 'DepthToSpace_2' moves blocks of it",
            "p = Concat<axis = 1>(h, h, h, h) q = DepthToSpace<blocksize = 2>(p) t = MatMul(q, c)",
            "float[16,8] c",
        ),
        (
            "SpaceToDepth 'SpaceToDepth_1' moves blocks of it",
            "q = SpaceToDepth<blocksize = 2>(h) t = MatMul(q, c)",
            "float[4,8] c",
        ),
    ],
)
def test_columns_that_lose_their_places_are_left_alone(reason: str, nodes: str, weights: str) -> None:
    assert reason_against(between_matmuls(nodes, weights)) == reason
