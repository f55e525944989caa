"""Recurrent layers: hidden units go with all their gates, in both directions and in every state."""

from __future__ import annotations

import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.constants import cut_constants, places
from tests.analysis.coupling.sandwich import described
from tests.coupling import assert_cut_is_exact, frozen, groups
from tests.harness import graph

ALL_GATES = "8 w.1 r.1 -> r.2 k.0"
READ_FORWARD = "s = Squeeze(h, one) y = MatMul(s, k)"
READ_BOTH = "s = Transpose<perm = [0, 2, 1, 3]>(h) f = Reshape(s, flat) y = MatMul(f, k)"


def layer(nodes: str, gates: int, directions: int = 1, opset: int = 21, inputs: str = "", weights: str = "") -> Graph:
    """Put ``nodes`` over ``x`` (time, batch, 3); hidden size 8; ``k`` reads the directions after each other."""
    rows = gates * 8
    return graph(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[T,N,3] x{inputs}) => (float[] y)
        <float[{directions},{rows},3] w, float[{directions},{rows},8] r, float[{directions},{2 * rows}] b,
         float[{directions},24] p, float[{directions},1,8] i, float[{directions},1,8] c, float[{directions * 8},2] k,
         int64[1] one = {{1}}, int64[1] zero = {{0}}, int64[3] flat = {{0, 0, -1}}{weights}> {{ {nodes} }}"""
    )


@pytest.mark.parametrize(
    ("gates", "nodes"),
    [
        (4, f"h = LSTM<hidden_size = 8>(x, w, r) {READ_FORWARD}"),
        (4, f"h, n, m = LSTM<hidden_size = 8>(x, w, r, b) {READ_FORWARD}"),
        (4, f"h = LSTM<hidden_size = 8>(x, w, r, b, , , , p) {READ_FORWARD}"),
        (4, f'h = LSTM<hidden_size = 8, direction = "reverse", clip = 0.5>(x, w, r, b) {READ_FORWARD}'),
        (4, f"h = LSTM<hidden_size = 8, input_forget = 1>(x, w, r, b) {READ_FORWARD}"),
        (4, f'h = LSTM<hidden_size = 8, activations = ["Sigmoid", "Tanh", "Relu"]>(x, w, r, b) {READ_FORWARD}'),
        (3, f"h = GRU<hidden_size = 8>(x, w, r, b) {READ_FORWARD}"),
        (3, f"h = GRU<hidden_size = 8, linear_before_reset = 1>(x, w, r, b) {READ_FORWARD}"),
        (3, f"h = GRU<hidden_size = 8, linear_before_reset = 1>(x, w, r) {READ_FORWARD}"),
        (1, f"h = RNN<hidden_size = 8>(x, w, r, b) {READ_FORWARD}"),
        (1, f'h = RNN<hidden_size = 8, activations = ["Relu"]>(x, w, r) {READ_FORWARD}'),
        (4, "h, n, m = LSTM<hidden_size = 8>(x, w, r, b) s = Squeeze(n, zero) y = MatMul(s, k)"),
        (4, "h, n, m = LSTM<hidden_size = 8>(x, w, r, b) a = Add(n, m) s = Squeeze(a, zero) y = MatMul(s, k)"),
        (3, "  , n = GRU<hidden_size = 8>(x, w, r, b) s = Squeeze(n, zero) y = MatMul(s, k)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("opset", [14, 22])
def test_units_go_with_all_their_gates(gates: int, nodes: str, opset: int) -> None:
    assert described(assert_cut_is_exact(layer(nodes, gates, opset=opset))) == [ALL_GATES]


@pytest.mark.parametrize(
    ("gates", "operator", "more"), [(4, "LSTM", ", , , , p"), (3, "GRU", ""), (3, "GRU", ", , , "), (1, "RNN", "")]
)
def test_a_unit_goes_in_both_directions(gates: int, operator: str, more: str) -> None:
    nodes = f'h = {operator}<hidden_size = 8, direction = "bidirectional">(x, w, r, b{more}) {READ_BOTH}'
    coupling = assert_cut_is_exact(layer(nodes, gates, 2))
    assert described(coupling) == [ALL_GATES]
    assert coupling.groups[0].read[1].indices.tolist() == [[unit, unit + 8] for unit in range(8)]


def test_opset_7_reads_without_operands_for_axes() -> None:
    nodes = "h = LSTM<hidden_size = 8>(x, w, r, b) s = Squeeze<axes = [1]>(h) y = MatMul(s, k)"
    assert described(assert_cut_is_exact(layer(nodes, 4, opset=7))) == [ALL_GATES]


def test_initial_states_go_with_the_units() -> None:
    """They are constants here, for a batch of one."""
    case = graph(
        """g (float[T,1,3] x) => (float[] y)
        <float[1,32,3] w, float[1,32,8] r, float[1,64] b, float[1,1,8] i, float[1,1,8] c, float[8,2] k,
         int64[1] one = {1}> { h = LSTM<hidden_size = 8>(x, w, r, b, , i, c) s = Squeeze(h, one) y = MatMul(s, k) }"""
    )
    coupling = assert_cut_is_exact(case)
    assert {(span.axis.value, span.axis.axis) for span in coupling.groups[0].spans} >= {("i", 2), ("c", 2)}


def test_states_that_a_layer_writes_are_cut_in_that_layer() -> None:
    nodes = """e = MatMul(z, q) i0 = Unsqueeze(e, zero) h = GRU<hidden_size = 8>(x, w, r, b, l, i0)
               s = Squeeze(h, one) y = MatMul(s, k)"""
    inputs = ", float[5,4] z, int32[5] l"
    coupling = assert_cut_is_exact(layer(nodes, 3, inputs=inputs, weights=", float[4,8] q"))
    assert described(coupling) == ["8 q.1 w.1 r.1 -> r.2 k.0"]


def test_a_layer_behind_another_reads_fewer_features() -> None:
    nodes = """h = LSTM<hidden_size = 8>(x, w, r, b) s = Squeeze(h, one) o, m = GRU<hidden_size = 6>(s, v, u)
               t = Squeeze(m, zero) y = MatMul(t, j)"""
    weights = ", float[1,18,8] v, float[1,18,6] u, float[6,2] j"
    coupling = assert_cut_is_exact(layer(nodes, 4, weights=weights))
    assert described(coupling) == ["8 w.1 r.1 -> r.2 v.2", "6 v.1 u.1 -> u.2 j.0"]


def test_features_of_the_input_are_those_of_the_layer_ahead() -> None:
    nodes = f"e = MatMul(x, q) h = RNN<hidden_size = 8>(e, w, r, b) {READ_FORWARD}"
    coupling = assert_cut_is_exact(
        graph(
            f"""g (float[T,N,4] x) => (float[] y) <float[4,3] q, float[1,8,3] w, float[1,8,8] r, float[1,16] b,
            float[8,2] k, int64[1] one = {{1}}> {{ {nodes} }}"""
        )
    )
    assert described(coupling) == ["3 q.1 -> w.2", "8 w.1 r.1 -> r.2 k.0"]


@pytest.mark.parametrize(("gates", "operator"), [(4, "LSTM"), (3, "GRU"), (1, "RNN")])
def test_the_batch_may_come_first(gates: int, operator: str) -> None:
    """ONNX Runtime's CPU kernels do not run this layout, so that nothing is compared."""
    case = graph(
        f"""g (float[N,6,3] x) => (float[] y) <float[2,{gates * 8},3] w, float[2,{gates * 8},8] r, float[2,1,8] k,
            float[16,4] j, float[8,4] l, int64[3] flat = {{0, 0, -1}}, int64[1] one = {{1}}> {{
        h, n = {operator}<hidden_size = 8, layout = 1, direction = "bidirectional">(x, w, r)
        f = Reshape(h, flat) a = MatMul(f, j) g = MatMul(n, l) s = ReduceSum<keepdims = 0>(a, one)
        t = Unsqueeze(s, one) y = Add(t, g) }}"""
    )
    coupling = groups(case)
    assert described(coupling) == ["8 w.1 r.1 -> r.2 j.0 l.0"]
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, {coupling.groups[0].name: [1, 5]})
    shapes = {name: editor.graph.array(name).shape for name in ("w", "r", "j")}
    assert shapes == {"w": (2, gates * 6, 3), "r": (2, gates * 6, 6), "j": (12, 4)}
    assert editor.graph.model.graph.node(0).attributes["hidden_size"].as_int() == 6


@pytest.mark.parametrize(
    ("reason", "nodes"),
    [
        ("RNN 'RNN_2' steps along it", "e = MatMul(q, z) f = Unsqueeze(e, one) h = RNN<hidden_size = 8>(f, w, r, b)"),
        (
            "RNN 'RNN_1' multiplies it by recurrence weights that are computed",
            "u = Neg(r) h = RNN<hidden_size = 8>(x, w, u, b)",
        ),
    ],
)
def test_other_axes_stay(reason: str, nodes: str) -> None:
    case = layer(f"{nodes} {READ_FORWARD}", 1, inputs=", float[4,3] z", weights=", float[6,4] q")
    assert reason in frozen(groups(case)).values()


def test_directions_stay() -> None:
    """They are what the last layer sums over; units leave the model."""
    nodes = """h = GRU<hidden_size = 8, direction = "bidirectional">(x, w, r) t = Transpose<perm = [0, 3, 2, 1]>(h)
               y = MatMul(t, d)"""
    assert not groups(layer(nodes, 3, 2, weights=", float[2,6] d")).groups


def test_units_that_leave_the_model_stay() -> None:
    case = layer("y = GRU<hidden_size = 8>(x, w, r, b)", 3)
    assert frozen(groups(case)) == {"GRU_0": "'y' is an output of the model"}


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        ("6: i.1 j.1 l.0 q.0", "f = Unsqueeze(e, zero) h = RNN<hidden_size = 8>(f, w, r, b, l, i) s = Squeeze(h)"),
        ("6: i.1 j.1 q.0", "f = Unsqueeze(e, zero) , n = RNN<hidden_size = 8>(f, w, r, b, , i) s = Squeeze(n)"),
        (
            "6: i2.0 j.1 q.0",
            "f = Unsqueeze(e, one) h = RNN<hidden_size = 8, layout = 1>(f, w, r, b, , i2) s = Squeeze(h)",
        ),
        ("6: j.1 q.0", "f = Unsqueeze(e, one) , n = RNN<hidden_size = 8, layout = 1>(f, w, r) s = Squeeze(n)"),
    ],
)
def test_a_batch_that_a_layer_writes(found: str, nodes: str) -> None:
    """Its entries do not meet, so that they can be cut like units."""
    case = graph(
        f"""g (float[4,3] z) => (float[] y) <float[6,4] q, float[2,6] j, float[1,8,3] w, float[1,8,8] r, float[1,16] b,
            float[1,6,8] i, float[6,1,8] i2, int32[6] l = {{1, 1, 1, 1, 1, 1}}, int64[1] one = {{1}},
            int64[1] zero = {{0}}, float[1,1,6,8] h, float[1,6,8] n> {{
        e = MatMul(q, z) {nodes} y = MatMul(j, s) }}""".replace(
            "float[1,1,6,8] h, float[1,6,8] n",
            "float[6,1,1,8] h, float[6,1,8] n" if "layout" in nodes else "float[1,1,6,8] h, float[1,6,8] n",
        )
    )
    assert places(groups(case), case) == [found] if "layout" in nodes else cut_constants(case) == [found]
