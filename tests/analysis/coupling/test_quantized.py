"""Quantized operators: integers are sliced like floats where an integer 0 stands for a removed connection."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.constants import contributed, cut_constants, places
from tests.analysis.coupling.sandwich import reason_against
from tests.coupling import frozen, groups

SCALES = """float s = {0.05}, float[1] s1 = {0.05}, uint8 z = {3}, uint8[1] z1 = {3}, int8 none = {0},
    int8 two = {2}, float[8] s8 = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}, int8[8] z8 = {1, 2, 3, 4, 5, 6, 7, 8},
    float[6] s6 = {0.1, 0.2, 0.3, 0.1, 0.2, 0.3}, int8[6] none6 = {0, 0, 0, 0, 0, 0},
    int8[6] some6 = {0, 0, 1, 0, 0, 0}, uint8 middle = {128}, float o = {0.5}"""
NOT_ZERO = "sums over it with integers of which 0 does not stand for zero"


@pytest.mark.parametrize(
    ("found", "nodes", "opset"),
    [
        ("", "q = QuantizeLinear(h, s, z) t = DequantizeLinear(q, s, z)", 10),
        ("", "q = QuantizeLinear(h, s) t = DequantizeLinear(q, s)", 13),
        ("", "q = QuantizeLinear(h, s1, z1) t = DequantizeLinear(q, s1, z1)", 21),
        ("s8.0 s8.0 z8.0 z8.0", "q = QuantizeLinear(h, s8, z8) t = DequantizeLinear(q, s8, z8)", 13),
        (
            "s8.0 s8.0 z8.0 z8.0",
            "q = QuantizeLinear<axis = -1>(h, s8, z8) t = DequantizeLinear<axis = -1>(q, s8, z8)",
            23,
        ),
        ("", "q = ms.QuantizeLinear(h, s, z) t = ms.DequantizeLinear(q, s, z)", 13),
        (
            "s8.0 s8.0 z8.0 z8.0",
            "q = ms.QuantizeLinear<axis = 1>(h, s8, z8) t = ms.DequantizeLinear<axis = 1>(q, s8, z8)",
            13,
        ),
    ],
)
def test_activations(found: str, nodes: str, opset: int) -> None:
    weights = f"{SCALES}, float[6,8] a, float[8,2] b"
    case = contributed("float[N,6] x", weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)", opset)
    assert cut_constants(case) == [f"8: a.1 b.0 {found}".strip()]


def test_channels_of_another_axis_than_the_scales() -> None:
    weights = f"{SCALES}, float[6,8] a, float[8,2] b, float[3] s3 = {{0.1, 0.2, 0.4}}, int8[3] z3"
    nodes = "q = QuantizeLinear(h, s3, z3) t = DequantizeLinear(q, s3, z3)"
    case = contributed("float[N,3,6] x", weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)")
    assert cut_constants(case) == ["8: a.1 b.0"]


@pytest.mark.parametrize(
    ("found", "node", "weights"),
    [
        (["8: a.1 w.0", "6: b.0 w.1"], "t = DequantizeLinear(w, s, two)", "int8[8,6] w"),
        (["8: a.1 w.0", "6: b.0 s6.0 some6.0 w.1"], "t = DequantizeLinear(w, s6, some6)", "int8[8,6] w"),
        (["8: a.1 s8.0 w.0 z8.0", "6: b.0 w.1"], "t = DequantizeLinear<axis = 0>(w, s8, z8)", "int8[8,6] w"),
        (["8: a.1 s8.0 w.0 z8.0", "6: b.0 w.1"], "t = DequantizeLinear<axis = -2>(w, s8, z8)", "int8[8,6] w"),
        (
            ["8: a.1 sb.0 w.0 zb.0"],
            "t = DequantizeLinear<axis = 1, block_size = 3>(w, sb, zb)",
            "int8[8,6] w, float[8,2] sb, int8[8,2] zb",
        ),
    ],
)
def test_weights(found: list[str], node: str, weights: str) -> None:
    """A zero point does not matter: what is masked is the float that it gives."""
    nodes = f"h = MatMul(x, a) {node} m = MatMul(h, t) y = MatMul(m, b)"
    case = contributed("float[N,6] x", f"{SCALES}, {weights}, float[6,8] a, float[6,2] b", nodes)
    assert cut_constants(case) == found


def test_blocks_stay() -> None:
    weights = "float[5,8] a, int8[8,6] w, float[4,6] sb, float[6,2] b"
    nodes = "h = MatMul(x, a) t = DequantizeLinear<axis = 0, block_size = 2>(w, sb) m = MatMul(h, t) y = Relu(m)"
    assert reason_against(contributed("float[N,5] x", weights, nodes)) == (
        "DequantizeLinear 'DequantizeLinear_1' scales it by blocks"
    )


def test_a_scale_of_the_whole_tensor_freezes_it() -> None:
    nodes = "h = MatMul(x, a) q, u, v = DynamicQuantizeLinear(h) t = DequantizeLinear(q, u, v) y = MatMul(t, b)"
    assert reason_against(contributed("float[N,5] x", "float[5,8] a, float[8,2] b", nodes)) == (
        "DynamicQuantizeLinear 'DynamicQuantizeLinear_1' takes its scale from the whole of it"
    )


CONVS = f"""{SCALES}, float[8,2,1,1] a, int8[6,8,1,1] w, uint8[6,8,1,1] wu, int8[6,4,1,1] wg, int32[6] c,
    float[3,6,1,1] b"""


@pytest.mark.parametrize(
    ("found", "node"),
    [
        (["8: a.0 w.1", "6: b.1 w.0"], "t = ConvInteger(q, w, z)"),
        (["8: a.0 w.1", "6: b.1 w.0"], "t = ConvInteger(q, w, z, none)"),
        (["8: a.0 w.1", "6: b.1 w.0"], "t = ConvInteger(q, w)"),
        (["6: b.1 wu.0"], "t = ConvInteger(q, wu, z, middle)"),
        (["4: a.0 wg.1", "3: b.1 wg.0"], "t = ConvInteger<group = 2>(q, wg, z)"),
        (["8: a.0 w.1", "6: b.1 w.0"], "t = QLinearConv(q, s, z, w, o, none, o, z)"),
        (["8: a.0 w.1", "6: b.1 c.0 none6.0 s6.0 w.0"], "t = QLinearConv(q, s, z, w, s6, none6, o, z, c)"),
        (["6: b.1 w.0"], "t = QLinearConv(q, s, z, w, o, two, o, z)"),
        (["6: b.1 wu.0"], "t = QLinearConv(q, s, z, wu, o, middle, o, z)"),
        (
            ["4: a.0 wg.1", "3: b.1 c.0 none6.0 s6.0 wg.0"],
            "t = QLinearConv<group = 2>(q, s, z, wg, s6, none6, o, z, c)",
        ),
    ],
)
def test_convolutions(found: list[str], node: str) -> None:
    nodes = f"h = Conv(x, a) q = QuantizeLinear(h, s, z) {node} f = Cast<to = 1>(t) y = Conv(f, b)"
    case = contributed("float[N,2,5,5] x", CONVS, nodes)
    assert cut_constants(case) == found
    if len(found) == 1:
        assert frozen(groups(case))["Conv_0"].endswith(NOT_ZERO)


@pytest.mark.parametrize(
    ("zero_points", "found"),
    [("none6", ["8: a.0 w.1", "6: b.1 none6.0 w.0"]), ("some6", ["6: b.1 some6.0 w.0"])],
)
def test_zero_points_of_channels(zero_points: str, found: list[str]) -> None:
    """ONNX Runtime's ConvInteger has one for all channels, so that nothing is compared."""
    nodes = f"""h = Conv(x, a) q = QuantizeLinear(h, s, z) t = ConvInteger(q, w, z, {zero_points})
                f = Cast<to = 1>(t) y = Conv(f, b)"""
    case = contributed("float[1,2,5,5] x", f"{CONVS}, int32[1,6,5,5] t", nodes)
    assert places(groups(case), case) == found


@pytest.mark.parametrize(
    ("found", "node"),
    [
        ("8: a.0 b.1 w.0", "t = ConvInteger<group = 8, pads = [1, 1, 1, 1]>(q, w, z)"),
        ("8: a.0 b.1 w.0", "t = QLinearConv<group = 8>(q, s, z, w, o, none, o, z)"),
        ("8: a.0 b.1 c.0 s8.0 w.0 z8.0", "t = QLinearConv<group = 8>(q, s, z, w, s8, z8, o, z, c)"),
    ],
)
def test_depthwise_convolutions_go_with_their_channels(found: str, node: str) -> None:
    """Whatever their zero points: a channel that goes leaves no sum behind."""
    nodes = f"h = Conv(x, a) q = QuantizeLinear(h, s, z) {node} f = Cast<to = 1>(t) y = Conv(f, b)"
    weights = f"{SCALES}, float[8,2,1,1] a, int8[8,1,3,3] w, int32[8] c, float[3,8,1,1] b"
    assert cut_constants(contributed("float[N,2,5,5] x", weights, nodes)) == [found]


def test_groups_go_whole_where_0_does_not_stand_for_zero() -> None:
    nodes = """h = Conv(x, a) q = QuantizeLinear(h, s, z) t = QLinearConv<group = 2>(q, s, z, wg, o, two, o, z)
               f = Cast<to = 1>(t) y = Conv(f, b)"""
    assert cut_constants(contributed("float[N,2,5,5] x", CONVS, nodes)) == ["2: a.0 b.1 wg.0"]


PRODUCTS = f"""{SCALES}, float[5,8] a, float[5,8] e, int8[8,6] w, uint8[8,6] wu, int8[3,8,6] wb, float[6,2] b,
    int8[4,4] left, float[4] s4 = {{0.1, 0.2, 0.3, 0.4}}, int8[4] none4 = {{0, 0, 0, 0}},
    float[1,6] s16 = {{0.1, 0.2, 0.3, 0.1, 0.2, 0.3}}, int8[1,6] none16 = {{0, 0, 0, 0, 0, 0}}"""


@pytest.mark.parametrize(
    ("found", "node"),
    [
        (["8: a.1 w.0", "6: b.0 w.1"], "t = MatMulInteger(q, w)"),
        (["8: a.1 w.0", "6: b.0 w.1"], "t = MatMulInteger(q, w, z)"),
        (["8: a.1 w.0", "6: b.0 w.1"], "t = MatMulInteger(q, w, z, none)"),
        (["8: a.1 w.0", "6: b.0 none6.0 w.1"], "t = MatMulInteger(q, w, z, none6)"),
        (["6: b.0 some6.0 w.1"], "t = MatMulInteger(q, w, z, some6)"),
        (["6: b.0 w.1"], "t = MatMulInteger(q, w, z, two)"),
        (["6: b.0 wu.1"], "t = MatMulInteger(q, wu, z, middle)"),
        (["8: a.1 w.0", "6: b.0 w.1"], "t = QLinearMatMul(q, s, z, w, s, none, o, z)"),
        (["8: a.1 w.0", "6: b.0 none6.0 s6.0 w.1"], "t = QLinearMatMul(q, s, z, w, s6, none6, o, z)"),
        (["6: b.0 s6.0 some6.0 w.1"], "t = QLinearMatMul(q, s, z, w, s6, some6, o, z)"),
        (["8: a.1 wb.1", "6: b.0 wb.2"], "t = QLinearMatMul(q, s, z, wb, s, none, o, z)"),
        (["8: a.1 wb.1", "6: b.0 wb.2"], "t = MatMulInteger(q, wb, z)"),
    ],
)
def test_products_of_matrices(found: list[str], node: str) -> None:
    nodes = f"h = MatMul(x, a) q = QuantizeLinear(h, s, z) {node} f = Cast<to = 1>(t) y = MatMul(f, b)"
    case = contributed("float[N,3,4,5] x", PRODUCTS, nodes)
    assert cut_constants(case) == found
    if len(found) == 1:
        assert frozen(groups(case))["MatMul_0"].endswith(NOT_ZERO)


def test_integers_from_the_left() -> None:
    """The constant multiplies from the left; its rows are what is cut."""
    weights = f"""{SCALES}, float[4,6] c, int8[8,4] w, float[8] r = {{0.1, 0.2, 0.1, 0.4, 0.5, 0.3, 0.2, 0.6}},
        int8[8] zr = {{0, 0, 0, 0, 0, 0, 0, 0}}, float[2,8] b"""
    for node, found in (
        ("t = MatMulInteger(w, q, none, z)", ["4: c.0 w.1", "8: b.1 w.0"]),
        ("t = MatMulInteger(w, q, two, z)", ["8: b.1 w.0"]),
    ):
        nodes = f"h = MatMul(c, x) q = QuantizeLinear(h, s, z) {node} f = Cast<to = 1>(t) y = MatMul(b, f)"
        assert cut_constants(contributed("float[6,3] x", weights, nodes)) == found


@pytest.mark.parametrize("zero_points", ["", ", z, z"])
def test_products_of_two_activations_stay(zero_points: str) -> None:
    nodes = f"""h = MatMul(x, a) k = MatMul(x, e) q = QuantizeLinear(h, s, z) r = QuantizeLinear(k, s, z)
               u = Transpose<perm = [0, 2, 1]>(r) t = MatMulInteger(q, u{zero_points}) y = Cast<to = 1>(t)"""
    assert reason_against(contributed("float[N,4,5] x", PRODUCTS, nodes)).endswith(NOT_ZERO)


def test_rows_and_columns_with_scales_of_their_own() -> None:
    """ONNX Runtime runs neither, so that nothing is compared."""
    weights = f"{PRODUCTS}, float[8,4] c, float[2,8] d, float[8] r8, uint8[8] zr8"
    nodes = """h = MatMul(c, x) q = QuantizeLinear<axis = 0>(h, r8, zr8)
               t = QLinearMatMul(q, r8, zr8, w, s16, none16, o, z) f = DequantizeLinear(t, o, z)
               g = MatMul(d, f) k = MatMul(g, e2) y = Relu(k)"""
    case = contributed("float[4,8] x", f"{weights}, uint8[8,6] t, float[6,2] e2", nodes)
    found = places(groups(case), case)
    assert found == ["8: c.0 d.1 r8.0 r8.0 zr8.0 zr8.0", "6: e2.0 none16.1 s16.1 w.1"]


@pytest.mark.parametrize(
    ("found", "node"),
    [
        ("8: a.1 d.0 u.0", "t = ms.QLinearAdd(q, s, z, u, s, z, s, z)"),
        ("8: a.1 d.0 u.0", "t = ms.QLinearMul(u, s, z, q, s, z, s, z)"),
        ("8: a.1 d.0", "t = ms.QLinearSigmoid(q, s, z, s, z)"),
        ("8: a.1 d.0", "t = ms.QLinearLeakyRelu<alpha = 0.2>(q, s, z, s, z)"),
    ],
)
def test_elementwise(found: str, node: str) -> None:
    nodes = f"h = MatMul(x, a) q = QuantizeLinear(h, s, z) {node} f = DequantizeLinear(t, s, z) y = MatMul(f, d)"
    case = contributed("float[N,4,5] x", f"{PRODUCTS}, float[8,2] d, uint8[8] u", nodes)
    assert cut_constants(case) == [found]
