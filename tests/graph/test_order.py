"""Nodes in any order are sorted on loading; what cannot be sorted is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME, graph, proto


def test_nodes_are_sorted_and_ties_keep_their_order() -> None:
    loaded = graph("""g (float[n] x) => (float[n] y, float[n] z) {
        y = Neg(b) z = Exp(x) b = Relu(a) a = Abs(x) c = Sqrt(x) }""")
    verify(loaded)
    assert [node.op_type for node in loaded.model.graph] == ["Exp", "Abs", "Relu", "Neg", "Sqrt"]


def test_what_subgraphs_read_from_outside_counts() -> None:
    loaded = graph("""g (float[n] x, bool c) => (float[n] y) {
        y = If (c) <then_branch = t () => (float[n] a) { a = Neg(inner) inner = Exp(outer) },
                    else_branch = e () => (float[n] b) { b = Identity(outer) }>
        outer = Relu(x)
    }""")
    verify(loaded)
    assert [node.op_type for node in loaded.model.graph] == ["Relu", "If"]
    for condition, wanted in ((True, -1), (False, 0)):
        found = RUNTIME.load(loaded).run({"x": np.array([-1], np.float32), "c": np.array(condition)})
        assert found["y"] == wanted


def test_nodes_of_functions_are_sorted() -> None:
    loaded = graph("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        g (float[n] x) => (float[n] y) { y = own.f(x) }
        <opset_import: ["" : 21], domain: "own"> f (a) => (c) { c = Neg(b) b = Exp(a) }""")
    verify(loaded)
    assert RUNTIME.load(loaded).run({"x": np.zeros(1, np.float32)})["y"] == -1


def test_the_callers_model_is_left_as_it_is() -> None:
    model = proto("g (float[n] x) => (float[n] y) { y = Neg(a) a = Abs(x) }")
    before = model.SerializeToString()
    Graph.from_proto(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ [one] a = Add(x, b) b = Relu(a) y = Neg(x) }", "cycle, which node 'one' [(]Add[)] is on or behind"),
        ("{ [one] y = Neg(q) }", "node 'one' [(]Neg[)] reads 'q', which nothing writes"),
        ("{ a = Neg(x) }", "nothing writes the output 'y'"),
        ("{ y = Neg(x) [two] y = Abs(x) }", "node 'two' [(]Abs[)] writes 'y', which is written already"),
        ("{ x = Neg(y) y = Abs(y) }", "written already|cycle"),
        (
            """{ y = If (c) <then_branch = t () => (float[n] a) { [in] a = Neg(q) },
                             else_branch = e () => (float[n] b) { b = Neg(x) }> }""",
            "node 'in' [(]Neg[)] reads 'q', which nothing writes",
        ),
    ],
    ids=["cycle", "dangling", "no output", "twice", "loop", "in a branch"],
)
def test_broken_structures(text: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError, match=f"^<memory>: .*{message}"):
        graph(f"g (float[n] x, bool c) => (float[n] y) {text}")
    assert not caplog.records


def test_broken_function() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]> g (float[n] x) => (float[n] y) { y = own.f(x) }
        <opset_import: ["" : 21], domain: "own"> f (a) => (c) { [in] c = Neg(q) }"""
    with pytest.raises(ModelError, match=r"node 'in' \(Neg\) reads 'q', which nothing writes"):
        graph(text)
