"""A frozen NetworkX view of a graph: node = operator, edge = tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from surgery_ir.graph.collector import collector_paused

__all__ = ["STANDARD", "Operator", "Tensor", "View", "bodies", "build_view", "captured_values"]

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What a node of the view is.

    Parameters
    ----------
    name
        Unique name of the node.
    op_type, domain
        The operator.
    index
        Position in topological order.
    inputs, outputs
        Names of the values it reads (``""`` for an absent optional one) and writes.
    captures
        Values of the outer graph that its subgraphs read.
    """

    name: str
    op_type: str
    domain: str
    index: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tensor:
    """What an edge of the view is: a value on its way from one operator to another.

    ``target`` is the index of the input it arrives at, ``-1`` where a subgraph captures it.
    """

    name: str
    source: int
    target: int


class View:
    """Typed queries over a frozen :class:`networkx.MultiDiGraph`.

    ``graph`` may be given to any NetworkX algorithm; ``graph.nodes[name]["operator"]`` is an :class:`Operator`
    and ``graph.edges[u, v, k]["tensor"]`` is a :class:`Tensor`.
    """

    def __init__(self, operators: list[Operator]) -> None:
        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self._producer: dict[str, tuple[str, int]] = {}
        self._consumers: dict[str, list[str]] = {}
        for operator in operators:
            graph.add_node(operator.name, operator=operator)
            for index, value in enumerate(operator.outputs):
                if value:
                    self._producer[value] = (operator.name, index)
        for operator in operators:
            uses = [*enumerate(operator.inputs), *((-1, value) for value in operator.captures)]
            for target, value in uses:
                if not value:
                    continue
                self._consumers.setdefault(value, []).append(operator.name)
                if value in self._producer:
                    producer, source = self._producer[value]
                    graph.add_edge(producer, operator.name, tensor=Tensor(value, source, target))
        self.graph: nx.MultiDiGraph[str] = nx.freeze(graph)

    def __len__(self) -> int:
        return len(self.graph)

    def __contains__(self, name: object) -> bool:
        return name in self.graph

    def operator(self, name: str) -> Operator:
        """Give the operator called ``name``."""
        operator: Operator = self.graph.nodes[name]["operator"]
        return operator

    def operators(self) -> Iterator[Operator]:
        """Yield every operator in topological order."""
        for name in self.graph:
            yield self.operator(name)

    def producer(self, value: str) -> str | None:
        """Name of the operator that writes ``value``; ``None`` for inputs and initializers."""
        found = self._producer.get(value)
        return found[0] if found else None

    def consumers(self, value: str) -> tuple[str, ...]:
        """Names of the operators that read ``value``, once each."""
        return tuple(dict.fromkeys(self._consumers.get(value, ())))

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield every edge as (producer, consumer, tensor)."""
        yield from self.graph.edges(data="tensor")

    def around(self, name: str, radius: int = 1) -> str:
        """Describe the operators within ``radius`` edges of ``name``, one line each, for error messages."""
        depth = {name: 0}
        queue = deque([name])
        while queue:
            here = queue.popleft()
            if depth[here] == radius:
                continue
            for other in (*self.graph.predecessors(here), *self.graph.successors(here)):
                if other not in depth:
                    depth[other] = depth[here] + 1
                    queue.append(other)
        lines = []
        for operator in sorted((self.operator(item) for item in depth), key=lambda item: item.index):
            mark = ">" if operator.name == name else " "
            inputs = ", ".join(value or "''" for value in operator.inputs)
            outputs = ", ".join(value or "''" for value in operator.outputs)
            lines.append(f"{mark} {outputs} = {operator.op_type}({inputs})  [{operator.name}]")
        return "\n".join(lines)


def captured_values(node: ir.Node) -> tuple[str, ...]:
    """Names of the outer values that the subgraphs of ``node`` read, in order of first use."""
    inner: set[ir.Value] = set()
    read: dict[ir.Value, None] = {}
    for body in bodies(node):
        for graph in (body, *body.subgraphs()):
            inner.update(graph.inputs)
            inner.update(graph.initializers.values())
            for item in graph:
                inner.update(item.outputs)
                read.update((value, None) for value in item.inputs if value is not None)
            read.update((value, None) for value in graph.outputs)
    return tuple(dict.fromkeys(value.name for value in read if value not in inner and value.name))


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs that ``node`` itself holds."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


@collector_paused()
def build_view(graph: ir.Graph) -> View:
    """Build the view of ``graph``, whose nodes stand in topological order and bear unique names."""
    operators = []
    for index, node in enumerate(graph):
        operators.append(
            Operator(
                name=node.name or "",
                op_type=node.op_type,
                domain=node.domain,
                index=index,
                inputs=tuple((value.name or "") if value is not None else "" for value in node.inputs),
                outputs=tuple(value.name or "" for value in node.outputs),
                captures=captured_values(node),
            )
        )
    return View(operators)
