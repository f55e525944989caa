"""Element by element: inputs are broadcast, and whatever has the size of the output goes with it."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.coupling.relations import Axis
from surgery_ir.analysis.coupling.rules.elementwise import BROADCAST, UNARY
from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described
from tests.coupling import assert_cut_is_exact, choose, frozen, groups
from tests.harness import graph, small_graph

OPSETS = {"Gelu": 20, "Swish": 24}
POSITIVE = ("Log", "Sqrt", "Acosh", "Reciprocal")
BOUNDED = ("Acos", "Asin", "Atanh", "Tan")
BOOLEAN = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor")
INTEGER = ("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
FLOATS = ("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")


def unary(name: str) -> str:
    """Put the operator ``name`` into its domain and back to floats."""
    if name in POSITIVE:
        return f"p = Softplus(h) q = Add(p, one) t = {name}(q)"
    if name in BOUNDED:
        return f"p = Tanh(h) q = Mul(p, half) t = {name}(q)"
    if name in ("IsInf", "IsNaN"):
        return f"p = {name}(h) q = Cast<to = 1>(p) t = Add(q, h)"
    if name == "Not":
        return "p = Greater(h, half) q = Not(p) t = Cast<to = 1>(q)"
    if name == "BitwiseNot":
        return "p = Softplus(h) q = Cast<to = 6>(p) r = BitwiseNot(q) t = Cast<to = 1>(r)"
    if name == "Cast":
        return "p = Cast<to = 11>(h) t = Cast<to = 1>(p)"
    return f"t = {name}(h)"


@pytest.mark.parametrize("name", UNARY)
def test_what_has_one_input_hands_its_axes_on(name: str) -> None:
    case = between_convs(unary(name), "float one = {1}, float half = {0.5}", OPSETS.get(name, 21))
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


def binary(name: str, other: str) -> str:
    """Apply the operator ``name`` to ``h`` and ``other``, in its domain, and give floats."""
    if name == "Where":
        return f"p = Greater(h, {other}) t = Where(p, h, {other})"
    if name in ("And", "Or", "Xor"):
        return f"p = Greater(h, zero) q = Greater({other}, zero) r = {name}(p, q) u = Cast<to = 1>(r) t = Add(u, h)"
    if name in BOOLEAN:
        return f"p = {name}(h, {other}) u = Cast<to = 1>(p) t = Add(u, h)"
    if name in INTEGER:
        extra = '<direction = "LEFT">' if name == "BitShift" else ""
        whole = " ".join(f"p{x} = Softplus({x}) q{x} = Cast<to = 12>(p{x})" for x in ("h", other))
        return f"{whole} r = {name}{extra}(qh, q{other}) u = Cast<to = 1>(r) t = Add(u, h)"
    if name == "Mod":
        return f"p = Exp({other}) t = Mod<fmod = 1>(h, p)"
    if name == "Div":
        return f"p = Exp({other}) t = Div(h, p)"
    if name == "Pow":
        return f"p = Softplus(h) t = Pow(p, {other})"
    return f"t = {name}(h, {other})"


@pytest.mark.parametrize("name", BROADCAST)
@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("float[8,1,1] s", ["8 a.0 -> b.1"]),
        ("float[1,8,6,6] s", ["8 a.0 -> b.1"]),
        ("float[6] s", ["8 a.0 -> b.1"]),
        ("float s", ["8 a.0 -> b.1"]),
        ("float[1,1,1] s", ["8 a.0 -> b.1"]),
    ],
)
def test_constants_are_broadcast(name: str, shape: str, wanted: list[str]) -> None:
    case = between_convs(binary(name, "s"), f"float zero = {{0}}, {shape}")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == wanted
    on_constant = {span.axis.axis for span in coupling.groups[0].spans if span.axis.value == "s"}
    assert on_constant == {"float[8,1,1] s": {0}, "float[1,8,6,6] s": {1}}.get(shape, set())


@pytest.mark.parametrize("name", BROADCAST)
def test_activations_go_together(name: str) -> None:
    head = "float[N,2,6,6] x | float zero = {0}, float[8,2,1,1] a, float[8,2,1,1] c, float[3,8,1,1] b"
    case = small_graph(f"{head} | h = Conv(x, a) g = Conv(x, c) {binary(name, 'g')} y = Conv(t, b)")
    assert described(assert_cut_is_exact(case)) == ["8 a.0 c.0 -> b.1"]


@pytest.mark.parametrize("name", FLOATS)
def test_a_gate_of_one_pixel_goes_with_the_channels(name: str) -> None:
    head = "float[N,2,6,6] x | float zero = {0}, float[8,2,1,1] a, float[8,2,6,6] c, float[3,8,1,1] b"
    case = small_graph(f"{head} | h = Conv(x, a) g = Conv(x, c) {binary(name, 'g')} y = Conv(t, b)")
    assert described(assert_cut_is_exact(case)) == ["8 a.0 c.0 -> b.1"]


def test_an_axis_of_size_1_goes_with_none() -> None:
    head = "float[N,2,6,6] x | float[8,2,1,1] a, float[1,2,1,1] c, float[3,8,1,1] b"
    case = small_graph(f"{head} | h = Conv(x, a) g = Conv(x, c) t = Mul(h, g) y = Conv(t, b)")
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


def test_the_input_that_is_stretched_stays() -> None:
    """Along an axis of size 1, the output is as wide as the other input, with which it goes."""
    case = between_matmuls(
        "p = Unsqueeze(h, k) q = Mul(p, s) t = ReduceSum<keepdims = 0>(q, k)",
        "float[4,8] s, int64[1] k = {1}",
        middle="",
    )
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["8 a.1 -> b.0"]
    assert [span.axis for span in coupling.groups[0].spans if span.axis.value == "s"] == [Axis("s", 1)]


@pytest.mark.parametrize("nodes", ["t = Clip(h, low, high)", "t = Clip(h, low)", "t = Clip(h, , high)"])
def test_limits_of_a_clip_are_numbers(nodes: str) -> None:
    case = between_convs(nodes, "float low = {-0.1}, float high = {0.2}")
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ("t = Where(m, h, z)", "bool[8,1,1] m, float z = {0.1}"),
        ("t = Where(m, z, h)", "bool[1,8,1,1] m, float[6] z"),
        ("t = Where(m, h, z)", "bool[6,6] m, float[8,1,1] z"),
        ("p = Greater(h, z) t = Where(p, h, z)", "float z = {0.1}"),
    ],
)
def test_conditions_are_broadcast(nodes: str, weights: str) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights))) == ["8 a.0 -> b.1"]


def test_a_vector_that_two_layers_read_is_a_copy_for_each() -> None:
    head = "float[N,4,5] x | float[5,8] a, float[8] p, float[8,8] b, float[8,2] c"
    case = small_graph(f"{head} | h = MatMul(x, a) g = Add(h, p) f = MatMul(g, b) e = Add(f, p) y = MatMul(e, c)")
    coupling = assert_cut_is_exact(case)
    assert described(coupling) == ["8 a.1 -> b.0", "8 b.1 -> c.0"]
    uses = [span.axis.use for group in coupling.groups for span in group.spans if span.axis.value == "p"]
    assert uses == [("Add_1", 1), ("Add_3", 1)]


def test_an_input_of_the_model_freezes_what_is_added_to_it() -> None:
    case = small_graph(
        "float[N,4,8] x, float[N,4,8] z | float[8,8] a, float[8,2] b | h = MatMul(x, a) s = Add(h, z) y = MatMul(s, b)"
    )
    assert frozen(groups(case)) == {
        "MatMul_0": "'z' is an input of the model",
        "MatMul_2": "'y' is an output of the model",
    }


def test_slopes_of_one_channel_each_are_cut_with_it() -> None:
    case = between_convs("t = PRelu(h, s)", "float[8,1,1] s")
    coupling = groups(case)
    removed = choose(coupling, 0.5, 3)
    kept = np.setdiff1d(np.arange(8), removed["Conv_0"])
    assert_cut_is_exact(case, removed=removed)
    masks = coupling.masks(removed)
    np.testing.assert_array_equal(np.flatnonzero(masks[Axis("s", 0)]), kept)


def test_sizes_of_1_that_only_the_batch_has_do_not_matter() -> None:
    case = graph(
        "g (float[1,4,5] x) => (float[] y) <float[5,8] a, float[1,4,8] s, float[8,2] b> "
        "{ h = MatMul(x, a) t = Mul(h, s) y = MatMul(t, b) }"
    )
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]
