"""Connections by layer: every count finds its layer, and the log agrees with the models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from surgery_ir.analysis.cost import cost
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import Connections, Edit, connections, plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.report import Measurement, Report, adds_up, compare_layers, connections_by_layer, count_connections
from tests import harness

NET = """
net (float[N,6] x) => (float[N,4] y) <float[6,8] a, float[8] p, float[8,8] b, float[8] q, float[8,4] c> {
    h = MatMul(x, a)
    hb = Add(h, p)
    r = Relu(hb)
    s = MatMul(r, b)
    sb = Add(s, q)
    t = Add(sb, r)
    y = MatMul(t, c)
}
"""
LAYERS = {"a": "MatMul_0", "b": "MatMul_3", "c": "MatMul_6"}


def tapped(editor: Editor, value: str, donor: str, weights: NDArray[np.float32], before: str) -> None:
    """Add ``weights`` times a donor to a value, as a reconnecting pass does."""
    values = {item.name: item for node in editor.graph.model.graph for item in (*node.inputs, *node.outputs) if item}
    node = editor.insert_node(
        "MatMul", [values[donor], editor.add_initializer("tap", weights)], ["tapped"],
        before=editor.graph.node(before), created=int(np.count_nonzero(weights)),
    )  # fmt: skip
    editor.add_summand(values[value], node.outputs[0])


def layered(editor: Editor, dense: Graph) -> dict[str, Connections]:
    found = connections_by_layer(editor.edits, dense, editor.graph)
    return {name: item for name, item in found.items() if item != Connections()}


def test_initializers_belong_to_the_layer_that_reads_them() -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    for name in LAYERS:
        editor.set_weights(name, np.zeros_like(dense.array(name)))
    editor.set_weights("b", dense.array("b"))
    assert layered(editor, dense) == {
        "MatMul_0": Connections(48, 0),
        "MatMul_3": Connections(64, 64),
        "MatMul_6": Connections(32, 0),
    }


@pytest.mark.parametrize(
    ("value", "donor", "before", "layer"),
    [
        ("y", "r", "MatMul_6", "MatMul_6"),  # an output of the graph
        ("s", "x", "MatMul_3", "MatMul_3"),
        ("sb", "x", "Add_4", "MatMul_3"),  # what brings the bias of a layer is no layer
        ("hb", "x", "Relu_2", "MatMul_0"),
    ],
)
def test_taps_belong_to_the_layer_that_they_are_added_to(value: str, donor: str, before: str, layer: str) -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    inputs, outputs = 6 if donor == "x" else 8, 4 if value == "y" else 8
    for _ in range(2):  # a second tap is added to the sum that the first one wrote
        tapped(editor, value, donor, np.ones((inputs, outputs), np.float32), before)
    assert layered(editor, dense) == {layer: Connections(0, 2 * inputs * outputs)}
    editor.set_weights("tap", np.zeros((inputs, outputs), np.float32))  # one of them goes again
    assert layered(editor, dense) == {layer: Connections(inputs * outputs, 2 * inputs * outputs)}


def test_what_a_tap_picks_first_does_not_hide_its_layer() -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    picked = editor.insert_node(
        "Gather",
        [editor.graph.inputs[0], editor.add_initializer("channels", np.array([1, 3]))],
        ["picked"],
        before=editor.graph.node("MatMul_3"),
        attributes={"axis": -1},
    )
    tapped(editor, "sb", picked.outputs[0].name or "", np.ones((2, 8), np.float32), "Add_4")
    assert layered(editor, dense) == {"MatMul_3": Connections(0, 16)}


def test_quantised_weights_belong_to_the_layer_behind_them() -> None:
    dense = harness.graph(
        "net (float[N,6] x) => (float[N,4] y) <int8[6,4] w, float s, int8 z> {"
        " d = DequantizeLinear(w, s, z)\n y = MatMul(x, d) }",
        w=np.ones((6, 4), np.int8),
    )
    editor = Editor(dense.clone(), "test")
    editor.set_weights("w", np.zeros((6, 4), np.int8))
    assert layered(editor, dense) == {"MatMul_1": Connections(24, 0)}


def test_what_is_in_neither_model_keeps_its_own_name() -> None:
    dense = harness.graph(NET)
    log = [Edit("fold", "test", "gone", 3, 1), Edit("remove-node", "test", "Relu_2", 2, 0)]
    assert connections_by_layer(log, dense, dense) == {"gone": Connections(3, 1), "Relu_2": Connections(2, 0)}


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int]]:
    step = st.tuples(st.sampled_from([*LAYERS, "tap y", "tap s"]), st.integers(0, 2**16))
    return draw(st.lists(step, max_size=8))


@settings(max_examples=40, deadline=None)
@given(changes())
def test_the_log_agrees_with_the_models(steps: list[tuple[str, int]]) -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    for name, seed in steps:
        rng = np.random.default_rng(seed)
        if name in LAYERS:
            keep = rng.random(dense.array(name).shape) < rng.random()
            editor.set_weights(name, np.where(keep, dense.array(name), 0))
        else:
            value, reader, outputs = ("y", "MatMul_6", 4) if name == "tap y" else ("s", "MatMul_3", 8)
            weights = rng.standard_normal((6, outputs)) * (rng.random((6, outputs)) < 0.3)
            tapped(editor, value, "x", weights.astype(np.float32), reader)
    total = connections(editor.edits)
    assert count_connections(editor.graph) - count_connections(dense) == total.created - total.pruned
    assert adds_up(editor.edits, dense, editor.graph)
    assert not adds_up([*editor.edits, Edit("planted", "test", "a", 1, 0)], dense, editor.graph)
    before, after = cost(dense), cost(editor.graph)
    layers = compare_layers(before.layers, after.layers, connections_by_layer(editor.edits, dense, editor.graph))
    assert sum((item.edits for item in layers), Connections()) == total  # nothing is left for "elsewhere"
    measured = Measurement(before.params, before.nonzeros, before.bytes)
    plain = Report("m", measured, measured, "", tuple(editor.edits), layers=layers).to_json()
    assert plain["plasticity"] == plasticity(editor.edits)
    assert sum(item["plasticity"] for item in plain["layers"]) == pytest.approx(plain["plasticity"])
    assert plain["connections"]["elsewhere"] == {"pruned": 0, "created": 0, "plasticity": 0.0}
    assert sum(item["created"] for item in plain["connections"]["passes"].values()) == total.created
    for layer in plain["layers"]:
        weight = next((name for name, node in LAYERS.items() if node == layer["name"]), None)
        if weight is not None and not any(name.startswith("tap") for name, _ in steps):
            change = layer["compressed"]["nonzeros"] - layer["baseline"]["nonzeros"]
            assert change == layer["created"] - layer["pruned"]


def test_only_the_compressed_model_or_the_dense_one_may_hold_it() -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    wider = editor.add_initializer("wider", np.ones((8, 4), np.float32))
    editor.set_input(editor.graph.node("MatMul_6"), 1, wider)
    editor.remove_initializer("c")
    log = [Edit("prune", "test", "c", 32, 0), Edit("regrow", "test", "wider", 0, 5)]
    assert connections_by_layer(log, dense, editor.graph) == {"MatMul_6": Connections(32, 5)}


def test_shared_weights_belong_to_the_first_layer_that_reads_them() -> None:
    dense = harness.graph("net (float[N,6] x) => (float[N,6] y) <float[6,6] w> { h = MatMul(x, w)\n y = MatMul(h, w) }")
    log = [Edit("prune", "test", "w", 3, 0)]
    assert connections_by_layer(log, dense, dense) == {"MatMul_0": Connections(3, 0)}


def test_a_bias_is_no_connection() -> None:
    dense = harness.graph(NET)
    editor = Editor(dense.clone(), "test")
    editor.set_weights("p", np.zeros(8, np.float32))
    assert count_connections(dense) == count_connections(editor.graph) == 6 * 8 + 8 * 8 + 8 * 4
