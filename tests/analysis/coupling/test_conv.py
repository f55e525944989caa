"""Convolutions: which channels go together, and which operators keep theirs."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.sandwich import described
from tests.coupling import assert_cut_is_exact, frozen, groups
from tests.harness import small_graph

CUT = {
    "dense": (
        "float[N,3,4,4] x | float[8,3,3,3] a, float[8] p, float[2,8,1,1] b | h = Conv(x, a, p) y = Conv(h, b)",
        ["8 a.0 -> b.1"],
    ),
    "without a bias, strided, dilated, padded": (
        "float[N,3,9,9] x | float[8,3,3,3] a, float[2,8,1,1] b | "
        "h = Conv<strides = [2, 2], dilations = [2, 1], pads = [1, 0, 1, 2]>(x, a) y = Conv(h, b)",
        ["8 a.0 -> b.1"],
    ),
    "along one axis": (
        "float[N,3,9] x | float[8,3,3] a, float[8] p, float[2,8,1] b | h = Conv(x, a, p) y = Conv(h, b)",
        ["8 a.0 -> b.1"],
    ),
    "along three axes": (
        "float[N,3,4,4,4] x | float[8,3,2,2,2] a, float[2,8,1,1,1] b | h = Conv(x, a) y = Conv(h, b)",
        ["8 a.0 -> b.1"],
    ),
    "groups: positions within them": (
        "float[N,3,4,4] x | float[12,3,1,1] a, float[8,3,3,3] b, float[8] p, float[2,8,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 4>(h, b, p) y = Conv(g, c)",
        ["3 a.0 -> b.1", "2 b.0 -> c.1"],
    ),
    "groups: whole ones where a group reads one channel": (
        "float[N,3,4,4] x | float[4,3,1,1] a, float[8,1,3,3] b, float[2,8,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 4>(h, b) y = Conv(g, c)",
        ["4 a.0 b.0 -> c.1"],
    ),
    "groups: whole ones where a group writes one channel": (
        "float[N,3,4,4] x | float[8,3,1,1] a, float[4,2,3,3] b, float[2,4,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 4>(h, b) y = Conv(g, c)",
        ["4 a.0 b.0 -> c.1"],
    ),
    "groups that are read by halves": (  # positions within groups keep to themselves, whole groups do not
        "float[N,3,4,4] x | float[8,3,1,1] a, float[8,4,1,1] b, float[2,8,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 2>(h, b) s = Add(h, g) y = Conv(s, c)",
        ["4 a.0 b.0 -> b.1 c.1"],
    ),
    "depthwise": (
        "float[N,3,4,4] x | float[6,3,1,1] a, float[6,1,3,3] b, float[6] p, float[2,6,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 6>(h, b, p) y = Conv(g, c)",
        ["6 a.0 b.0 -> c.1"],
    ),
    "transposed": (
        "float[N,3,4,4] x | float[3,8,2,2] a, float[8] p, float[8,2,1,1] b | "
        "h = ConvTranspose<strides = [2, 2]>(x, a, p) y = ConvTranspose(h, b)",
        ["8 a.1 -> b.0"],
    ),
    "transposed in groups": (
        "float[N,3,4,4] x | float[8,3,1,1] a, float[8,3,2,2] b, float[6] p, float[2,6,1,1] c | "
        "h = Conv(x, a) g = ConvTranspose<group = 2>(h, b, p) y = Conv(g, c)",
        ["4 a.0 -> b.0", "3 b.1 -> c.1"],
    ),
    "transposed depthwise": (
        "float[N,3,4,4] x | float[6,3,1,1] a, float[6,1,2,2] b, float[2,6,1,1] c | "
        "h = Conv(x, a) g = ConvTranspose<group = 6>(h, b) y = Conv(g, c)",
        ["6 a.0 -> b.0 c.1"],
    ),
    "weights that two inputs are read with": (
        "float[N,3,4,4] x, float[N,3,4,4] z | float[8,3,1,1] a, float[2,8,1,1] b | "
        "h = Conv(x, a) g = Conv(z, a) s = Concat<axis = 2>(h, g) y = Conv(s, b)",
        ["8 a.0 -> b.1"],
    ),
    "a bias that two layers read": (
        "float[N,3,4,4] x | float[8,3,1,1] a, float[8] p, float[8,8,1,1] b, float[2,8,1,1] c | "
        "h = Conv(x, a, p) g = Conv(h, b, p) y = Conv(g, c)",
        ["8 a.0 -> b.1", "8 b.0 -> c.1"],
    ),
    "weights that are computed": (
        "float[N,3,4,4] x | float[3,8,1,1] a, float[2,8,1,1] b | "
        "t = Transpose<perm = [1, 0, 2, 3]>(a) h = Conv(x, t) y = Conv(h, b)",
        ["8 a.1 -> b.1"],
    ),
}


@pytest.mark.parametrize(("case", "wanted"), CUT.values(), ids=CUT)
def test_channels_are_found_and_cut_exactly(case: str, wanted: list[str]) -> None:
    assert described(assert_cut_is_exact(small_graph(case))) == wanted


KEPT = {
    "what the model gives": ("h = Conv(x, a) y = Relu(h)", "Conv_0", "'y' is an output of the model"),
    "what the model gives besides": ("y = Conv(x, a) z = Conv(y, b)", "Conv_0", "'y' is an output of the model"),
    "weights that are read twice over": (
        "h = Conv(x, k) g = Conv(h, k) y = Conv(g, c)",
        "Conv_0",
        "'x' is an input of the model",
    ),
    "a channel for every group": (
        "h = Conv<group = 3>(x, d) y = Conv(h, e)",
        "Conv_0",
        "'x' is an input of the model",
    ),
    "weights that are an output, too": (
        "y = Identity(a) h = Conv(x, a) z = Conv(h, b)",
        "Identity_0",
        "'y' is an output of the model",
    ),
}


@pytest.mark.parametrize(("nodes", "layer", "reason"), KEPT.values(), ids=KEPT)
def test_channels_are_kept_for_a_reason(nodes: str, layer: str, reason: str) -> None:
    weights = (
        "float[8,3,1,1] a, float[2,8,1,1] b, float[3,3,1,1] k, float[2,3,1,1] c, float[3,1,1,1] d, float[2,3,1,1] e"
    )
    read = [item for item in weights.split(", ") if f", {item.split()[1]}" in nodes or f"({item.split()[1]}" in nodes]
    coupling = groups(small_graph(f"float[N,3,4,4] x | {', '.join(read)} | {nodes}"))
    assert frozen(coupling)[layer] == reason


def test_positions_within_groups_that_differ_in_size_are_not_mixed_up() -> None:
    case = (
        "float[N,3,4,4] x | float[12,3,1,1] a, float[6,6,1,1] b, float[6,4,1,1] c, float[2,12,1,1] d | "
        "h = Conv(x, a) f = Conv<group = 2>(h, b) g = Conv<group = 3>(h, c) s = Concat<axis = 1>(f, g) y = Conv(s, d)"
    )
    coupling = assert_cut_is_exact(small_graph(case))
    first = next(group for group in coupling.groups if group.node == "Conv_0")
    assert first.units == 2  # index mod 6 and index mod 4 together are index mod 2


@pytest.mark.parametrize("seed", range(5))
def test_the_number_of_groups_follows(seed: int) -> None:
    case = (
        "float[N,3,4,4] x | float[6,3,1,1] a, float[12,1,3,3] b, float[12] p, float[2,12,1,1] c | "
        "h = Conv(x, a) g = Conv<group = 6>(h, b, p) y = Conv(g, c)"
    )
    assert described(assert_cut_is_exact(small_graph(case), share=0.5, seed=seed)) == ["6 a.0 b.0 -> c.1"]
