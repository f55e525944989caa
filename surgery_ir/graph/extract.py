"""Cut a part out of a graph as a model of its own, from some values to others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from surgery_ir.errors import ModelError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import captured_values

__all__ = ["Cutter", "extract", "with_outputs"]


class Cutter:
    """Cuts parts out of one graph; names are looked up in an index that is built once.

    Weights may change between two cuts, operators may not come or go.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        inner = graph.model.graph
        self.values = {value.name or "": value for value in (*inner.inputs, *inner.initializers.values())}
        self.position: dict[ir.Node, int] = {}
        for index, node in enumerate(inner):
            self.position[node] = index
            self.values.update((value.name, value) for value in node.outputs if value.name)

    def value(self, name: str) -> ir.Value:
        """Give the value called ``name``.

        Raises
        ------
        ModelError
            There is no such value.
        """
        if name not in self.values:
            raise ModelError(f"{self.graph.source}: there is no value called {name!r}")
        return self.values[name]

    def read_by(self, node: ir.Node) -> list[ir.Value]:
        """Values that ``node`` and its subgraphs read; initializers are among them."""
        own = [value for value in node.inputs if value is not None]
        return own + [self.values[name] for name in captured_values(node)]

    def needed(self, outputs: Iterable[ir.Value], stop: set[ir.Value]) -> set[ir.Node]:
        """Operators that compute ``outputs`` when the values in ``stop`` are given.

        Raises
        ------
        ModelError
            They need an input of the graph that is not in ``stop``.
        """
        found: set[ir.Node] = set()
        queue = list(outputs)
        while queue:
            value = queue.pop()
            if value in stop or value.is_initializer():
                continue
            node = value.producer()
            if node is None:
                raise ModelError(f"{self.graph.source}: the cut needs the input {value.name!r}")
            if node not in found:
                found.add(node)
                queue.extend(self.read_by(node))
        return found

    def cut(self, nodes: set[ir.Node], inputs: Mapping[str, ir.TypeProtocol | None], outputs: Iterable[str]) -> Graph:
        """Make a model of ``nodes``; see :func:`extract` for ``inputs`` and ``outputs``."""
        values = [self.value(name) for name in outputs]
        read = [value for node in nodes for value in self.read_by(node)]
        initializers = {value: None for value in (*read, *values) if value.is_initializer()}
        for name in inputs:
            initializers.pop(self.value(name), None)
        inner = self.graph.model.graph
        view = ir.GraphView(
            [self.value(name) for name in inputs],
            values,
            nodes=sorted(nodes, key=self.position.__getitem__),
            initializers=sorted(initializers, key=lambda value: value.name or ""),
            opset_imports=inner.opset_imports,
            name=inner.name,
        )
        cut = view.clone()
        for value in cut.inputs:
            name = value.name or ""
            declared = inputs[name]
            if declared is not None and not self.values[name].is_graph_input():
                value.type = declared
                value.shape = None
        model = self.graph.model
        part = ir.Model(cut, ir_version=model.ir_version or 10, functions=list(model.functions.values()))
        return Graph(part, self.graph.source)


def extract(graph: Graph, inputs: Mapping[str, ir.TypeProtocol | None], outputs: Iterable[str]) -> Graph:
    """Cut out the operators that compute ``outputs`` from ``inputs``.

    Parameters
    ----------
    graph
        Graph to cut from; it is left as it is.
    inputs
        Values at which the cut begins, with their types; ``None`` keeps the type that the graph declares.
        Inputs of the graph among them keep type and shape; initializers are found by themselves.
    outputs
        Values to compute, at least one.

    Raises
    ------
    ModelError
        A value does not exist, or ``outputs`` need an input of the graph that is not in ``inputs``.
    """
    cutter = Cutter(graph)
    names = list(dict.fromkeys(outputs))
    stop = {cutter.value(name) for name in inputs}
    nodes = cutter.needed([cutter.value(name) for name in names], stop)
    return cutter.cut(nodes, inputs, names)


def with_outputs(graph: Graph, names: Iterable[str]) -> Graph:
    """Clone ``graph`` with the values ``names`` as its only outputs; operators nobody needs are left out."""
    return extract(graph, {value.name or "": None for value in graph.inputs}, names)
