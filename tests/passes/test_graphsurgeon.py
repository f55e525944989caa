"""Functions that a user might have, run as passes."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from surgery_ir.errors import PassError, SpecError, SurgeryError, VerificationError
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.cleanup.graphsurgeon import GraphSurgeon
from surgery_ir.passes.cleanup.store_sparse import StoreSparse
from surgery_ir.search.profile import CompressionProfile
from tests.harness import assert_equivalent, assert_same_structure
from tests.passes.helpers import apply, build, reasons

TEXT = """net (float[N,4] x) => (float[N,3] y) <float[4,4] w1, float[4,3] w2, float[3] k> {
    a = MatMul(x, w1)
    i = Identity(a)
    dead = Relu(i)
    n = Neg(k)
    b = MatMul(i, w2)
    y = Add(b, n)
}"""

Surgery = Callable[[gs.Graph], object]


class Surgeon(Protocol):
    def __call__(self, function: Surgery, graph: Graph | None = None) -> Outcome: ...


@pytest.fixture
def surgery(monkeypatch: pytest.MonkeyPatch) -> Surgeon:
    """Run a function under the name ``surgery:function``."""

    def run(function: Surgery, graph: Graph | None = None) -> Outcome:
        module = types.ModuleType("surgery")
        module.__dict__["function"] = function
        monkeypatch.setitem(sys.modules, "surgery", module)
        return apply(GraphSurgeon(function="surgery:function"), graph or build(TEXT))

    return run


def clean_up(graph: gs.Graph) -> gs.Graph:
    return graph.cleanup().toposort()


def fold(graph: gs.Graph) -> gs.Graph:
    return graph.fold_constants().cleanup()


def skip_identity(graph: gs.Graph) -> gs.Graph:
    for node in graph.nodes:
        if node.op == "Identity":
            for reader in list(node.outputs[0].outputs):
                reader.inputs = [node.inputs[0] if value is node.outputs[0] else value for value in reader.inputs]
    return graph.cleanup()


BEFORE_AFTER: dict[str, tuple[Callable[[gs.Graph], gs.Graph], str]] = {
    "clean up": (
        clean_up,
        """net (float[N,4] x) => (float[N,3] y) <float[4,4] w1, float[4,3] w2, float[3] k> {
            a = MatMul(x, w1)
            i = Identity(a)
            n = Neg(k)
            b = MatMul(i, w2)
            y = Add(b, n)
        }""",
    ),
    "fold": (
        fold,
        """net (float[N,4] x) => (float[N,3] y) <float[4,4] w1, float[4,3] w2, float[3] n> {
            a = MatMul(x, w1)
            i = Identity(a)
            b = MatMul(i, w2)
            y = Add(b, n)
        }""",
    ),
    "skip an operator": (
        skip_identity,
        """net (float[N,4] x) => (float[N,3] y) <float[4,4] w1, float[4,3] w2, float[3] k> {
            a = MatMul(x, w1)
            n = Neg(k)
            b = MatMul(a, w2)
            y = Add(b, n)
        }""",
    ),
}


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str, surgery: Surgeon) -> None:
    function, after = BEFORE_AFTER[case]
    outcome = surgery(function)
    assert_same_structure(outcome.graph, after)
    assert_equivalent(outcome.graph, build(TEXT))
    assert outcome.graph.model.ir_version == build(TEXT).model.ir_version
    assert outcome.graph.model.opset_imports == build(TEXT).model.opset_imports


def test_left_alone(surgery: Surgeon) -> None:
    outcome = surgery(lambda graph: graph)
    assert not outcome.changed
    assert reasons(outcome) == {"": "surgery:function changed nothing"}


def test_connections_are_counted(surgery: Surgeon) -> None:
    def rewire(graph: gs.Graph) -> gs.Graph:
        """Prune three weights, regrow one, and add a matrix of four nonzeros."""
        tensors = graph.tensors()
        weights = tensors["w2"].values.copy()
        weights[0] = 0
        weights[1, 1] = 5.0
        tensors["w2"].values = weights
        extra = gs.Constant("extra", np.eye(4, dtype=np.float32))
        first = next(node for node in graph.nodes if node.op == "MatMul")
        middle = gs.Variable("middle", np.float32, ["N", 4])
        graph.nodes.insert(0, gs.Node("MatMul", "added", inputs=[first.inputs[0], extra], outputs=[middle]))
        first.inputs[0] = middle
        return graph.toposort()

    weights = build(TEXT).array("w2").copy()
    weights[1, 1] = 0
    outcome = surgery(rewire, build(TEXT, w2=weights))
    found = connections(outcome.edits)
    assert (found.pruned, found.created) == (3, 5)


def test_sparse_storage_survives(surgery: Surgeon) -> None:
    text = "net (float[N,64] x) => (float[N,64] y) <float[64,64] w> { a = MatMul(x, w) i = Identity(a) y = Relu(i) }"
    graph = apply(StoreSparse(), build(text, w=np.eye(64))).graph
    outcome = surgery(skip_identity, graph)
    assert [item.values.name for item in outcome.graph.to_proto().graph.sparse_initializer] == ["w"]
    assert not connections(outcome.edits).pruned


def rename_output(graph: gs.Graph) -> gs.Graph:
    graph.outputs[0].name = "z"
    return graph


def drop_input(graph: gs.Graph) -> gs.Graph:
    graph.inputs = []
    return graph


def other_type(graph: gs.Graph) -> gs.Graph:
    graph.outputs[0].dtype = np.float64
    return graph


def misspell(graph: gs.Graph) -> gs.Graph:
    graph.nodes[0].op = "MatMull"
    return graph


def go_wrong(graph: gs.Graph) -> gs.Graph:
    raise RuntimeError("no such\nnode")


REFUSED: dict[str, tuple[Surgery, type[SurgeryError], str]] = {
    "it raises": (go_wrong, PassError, "surgery:function raised RuntimeError: no such node"),
    "it returns nothing": (lambda graph: None, PassError, "surgery:function returned NoneType, not a gs.Graph"),
    "an output has another name": (rename_output, VerificationError, "the outputs of the graph changed"),
    "an input is gone": (drop_input, PassError, "returned a graph that cannot be used: ModelError: <memory>: node"),
    "an output has another type": (other_type, VerificationError, "(Add): Inferred elem type differs"),
    "an operator does not exist": (misspell, VerificationError, "MatMull"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_surgery_is_refused(case: str, surgery: Surgeon) -> None:
    function, kind, message = REFUSED[case]
    with pytest.raises(kind) as caught:
        surgery(function)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nowhere:f", "'nowhere:f' cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("math:nothing", "'math:nothing' cannot be imported: AttributeError: module 'math' has no attribute 'nothing'"),
        ("math:pi", "'math:pi' is not a function"),
        ("math", "'math' is not of the form module:function"),
        (":f", "':f' is not of the form module:function"),
    ],
)
def test_function_that_cannot_be_found(function: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply(GraphSurgeon(function=function), build(TEXT))
    assert str(caught.value) == f"graphsurgeon: {message}"


def test_module_that_fails_while_it_is_imported(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "half_written.py").write_text("def f(graph:\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SpecError, match=r"'half_written:f' cannot be imported: .*never closed") as caught:
        apply(GraphSurgeon(function="half_written:f"), build(TEXT))
    assert "\n" not in str(caught.value)


def test_profiles_run_code_only_where_they_are_trusted() -> None:
    plain = CompressionProfile((GraphSurgeon(function="math:sqrt"),)).to_plain()
    with pytest.raises(SpecError, match="graphsurgeon"):
        CompressionProfile.from_plain(plain)
    assert CompressionProfile.from_plain(plain, trust=True).passes == (GraphSurgeon(function="math:sqrt"),)
