"""A graph without its Transposes: operators that are free in their layout, fixed ones, and the tensors between them.

A Transpose is nothing but a tensor that is read in another layout than it is written in. Every operator that is free
has a state, the order of its axes; where writer and reader of a tensor disagree, a Transpose is due. What a choice of
states costs is a sum over tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, captured_values
from surgery_ir.passes.cleanup.layout_absorb import Absorber, find_absorber
from surgery_ir.passes.cleanup.layout_frame import Frame, Operand, Order, compose, identity, inverse
from surgery_ir.passes.cleanup.layout_rules import frame_of
from surgery_ir.passes.cleanup.layout_site import Fixed, Site
from surgery_ir.passes.cleanup.layout_sizes import measure

__all__ = ["Cost", "Network", "Operator", "Source", "Use", "read_network"]

OUTPUT = "is an output of the graph"


class Cost(NamedTuple):
    """What a layout costs: Transposes, the bytes that they move, and operands that are adapted instead."""

    transposes: int
    bytes: int
    adapted: int

    def __add__(self, other: object) -> Cost:
        """Add up."""
        assert isinstance(other, Cost)
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def improves(self, other: Cost) -> bool:
        """Whether this is less in one respect and not more in the others; adaptations count where nothing else does."""
        if self[:2] == other[:2]:
            return self.adapted < other.adapted
        return self.transposes <= other.transposes and self.bytes <= other.bytes


@dataclass(eq=False)
class Operator:
    """An operator and the order of its axes; without a frame it is fixed, for a ``reason`` that follows its name."""

    node: ir.Node
    frame: Frame | None
    reason: str = ""
    order: Order = ()

    def layout(self, operand: Operand, order: Order | None = None) -> Order | None:
        """Order of an operand's axes in the state at hand or in ``order``; ``None`` where it cannot change."""
        if self.frame is None or operand not in self.frame.operands:
            return None
        return self.frame.project(operand, self.order if order is None else order)


@dataclass(frozen=True, eq=False)
class Use:
    """A place where a tensor is read.

    ``path`` is the order that the Transposes on the way amount to. ``operator`` is ``None`` for an output of the graph,
    whose index is ``index``.
    """

    operator: Operator | None
    index: int
    path: Order
    absorber: Absorber | None = None

    def wants(self, order: Order | None = None) -> Order:
        """Layout of the tensor that is read here, with the reader in its state or in ``order``."""
        own = self.operator.layout(("in", self.index), order) if self.operator is not None else None
        return self.path if own is None else compose(self.path, own)

    def from_layout(self, layout: Order) -> Order:
        """Order of the operand's axes where the tensor is read in ``layout``."""
        return compose(inverse(self.path), layout)

    @property
    def is_free(self) -> bool:
        """Whether the reader may change its layout."""
        operator = self.operator
        return operator is not None and operator.frame is not None and ("in", self.index) in operator.frame.operands


@dataclass(eq=False)
class Source:
    """A tensor: who writes it, and who reads it through which Transposes.

    ``aliases`` are the Transposes that read it, directly or one behind another, by the order they amount to.
    """

    value: ir.Value
    rank: int
    bytes: int
    writer: Operator | None
    uses: list[Use] = field(default_factory=list)
    aliases: dict[Order, list[ir.Node]] = field(default_factory=dict)

    def layout(self, order: Order | None = None) -> Order:
        """Layout in which it is written, with the writer in its state or in ``order``."""
        own = self.writer.layout(self.operand, order) if self.writer is not None else None
        return identity(self.rank) if own is None else own

    @property
    def operand(self) -> Operand:
        """Which output of its writer it is."""
        return "out", self.value.index() or 0

    @property
    def is_free(self) -> bool:
        """Whether its writer may change its layout."""
        return self.writer is not None and self.writer.frame is not None and self.operand in self.writer.frame.operands

    def transposed(self) -> dict[Order, list[Use]]:
        """Layouts that it must be brought into, and who reads them."""
        base = self.layout()
        found: dict[Order, list[Use]] = {}
        yielding: list[Use] = []
        for use in self.uses:
            wanted = use.wants()
            if wanted != base and use.absorber is not None and use.absorber.admits(use.from_layout(base)):
                yielding.append(use)
            elif wanted != base:
                found.setdefault(wanted, []).append(use)
        for use in yielding:
            if use.wants() in found:
                found[use.wants()].append(use)
        return found

    def absorbing(self) -> list[Use]:
        """Uses that adapt to the layout in which it is written."""
        transposed = self.transposed()
        return [use for use in self.uses if use.wants() != self.layout() and use.wants() not in transposed]

    def cost(self) -> Cost:
        """What the present states cost here."""
        transposed = self.transposed()
        return Cost(len(transposed), len(transposed) * self.bytes, len(self.absorbing()))


@dataclass(frozen=True)
class Network:
    """Tensors, and for every operator those that it reads and writes; ``kept`` are Transposes that stay, and why."""

    sources: list[Source]
    touching: Mapping[Operator, list[tuple[Source, Use | None]]]
    kept: Mapping[ir.Node, str]


def read_network(graph: Graph, *, absorb: bool) -> Network:
    """Read the network off a graph.

    Parameters
    ----------
    graph
        The graph.
    absorb
        Whether weights may be permuted.
    """
    return _Reader(graph, absorb).read()


class _Reader:
    def __init__(self, graph: Graph, absorb: bool) -> None:
        self.graph = graph
        measures = measure(graph)
        self.sizes = measures.sizes
        self.widths = measures.widths
        self.absorb = absorb
        self.captured = {name for node in graph.model.graph for name in captured_values(node)}
        self.sources: dict[ir.Value, Source] = {}
        self.aliases: dict[ir.Value, tuple[Source, Order]] = {}
        self.kept: dict[ir.Node, str] = {}
        self.claimed: set[tuple[ir.Value, Order]] = set()
        imports = graph.model.graph.opset_imports
        self.opset = imports.get("", imports.get("ai.onnx", 1))

    def read(self) -> Network:
        inner = self.graph.model.graph
        for value in self.graph.inputs:
            self._add(value, None)
        for node in inner:
            if node.op_type != "Transpose" or node.domain not in STANDARD or not self._follow(node):
                self._read_operator(node)
        for index, value in enumerate(inner.outputs):
            found = self._find(value)
            if found is not None:
                source, path = found
                source.uses.append(Use(None, index, path))
        touching: dict[Operator, list[tuple[Source, Use | None]]] = {}
        for source in self.sources.values():
            if source.writer is not None:
                touching.setdefault(source.writer, []).append((source, None))
            for use in source.uses:
                if use.operator is not None:
                    touching.setdefault(use.operator, []).append((source, use))
        if any(self.sizes[source.value.name or ""].count(None) > 1 for source in self.sources.values()):
            for source in self.sources.values():  # the batch is open in all of them; what else is cannot be compared
                source.bytes = 1
        return Network(list(self.sources.values()), touching, self.kept)

    def _add(self, value: ir.Value, writer: Operator | None) -> None:
        sizes = self.sizes.get(value.name or "")
        if sizes is None or not value.name:
            return
        size = math.prod(size for size in sizes if size is not None) * self.widths[value.name]
        self.sources[value] = Source(value, len(sizes), math.ceil(size), writer)

    def _find(self, value: ir.Value) -> tuple[Source, Order] | None:
        if value in self.aliases:
            return self.aliases[value]
        source = self.sources.get(value)
        return None if source is None else (source, identity(source.rank))

    def _follow(self, node: ir.Node) -> bool:
        """Take a Transpose for another name of the tensor that it reads, unless it has to stay."""
        source, value = node.inputs[0], node.outputs[0]
        found = self._find(source) if source is not None else None
        reason = self._reason_to_keep(value, found)
        if reason or found is None:
            self.kept[node] = reason
            return False
        tensor, path = found
        permutation = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(tensor.rank)[::-1]
        order = compose(path, permutation)
        if value.is_graph_output():
            taken = (tensor.value, order) in self.claimed
            own = order == identity(tensor.rank) and (tensor.value.producer() is None or tensor.value.is_graph_output())
            if taken or own:
                self.kept[node] = f"{value.name!r}, its output, {OUTPUT}"
                return False
            self.claimed.add((tensor.value, order))
        self.aliases[value] = tensor, order
        tensor.aliases.setdefault(order, []).append(node)
        return True

    def _reason_to_keep(self, value: ir.Value, found: tuple[Source, Order] | None) -> str:
        if found is None:
            return "its input is constant or of unknown rank"
        return "a subgraph reads its output" if value.name in self.captured else ""

    def _read_operator(self, node: ir.Node) -> None:
        site = Site(self.graph, node, self.sizes, self.opset)
        try:
            if any(value.name in self.captured for value in node.outputs):
                raise Fixed("writes what a subgraph reads")
            frame = frame_of(site)
            operator = Operator(node, frame, order=identity(frame.rank))
        except Fixed as answer:
            operator = Operator(node, None, str(answer))
        absorber = find_absorber(site, weights=self.absorb) if node.inputs else None
        if absorber is not None:
            operator = Operator(node, None, operator.reason)
        for index, value in enumerate(node.inputs):
            found = self._find(value) if value is not None else None
            if found is not None:
                source, path = found
                source.uses.append(Use(operator, index, path, absorber if index == 0 else None))
        for value in node.outputs:
            self._add(value, operator)
