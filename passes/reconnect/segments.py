"""Segments: units between the layers that write them and the layers that read them, all of them scaled alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from surgery_ir.analysis.coupling.groups import Coupling, Group, Span
from surgery_ir.analysis.coupling.index import copied_constants
from surgery_ir.analysis.coupling.relations import Axis, Indices
from surgery_ir.analysis.coupling.site import Site
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Refusal
from surgery_ir.passes.reconnect.scaling import Refused, Touch, Use, demand

__all__ = ["Scaled", "Segment", "find_segments"]


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Entries of a constant that change with the scales of units.

    Parameters
    ----------
    axis
        Axis of the constant along which the units lie.
    indices : (units, width) int
        Indices that each unit owns.
    reads
        Whether the entries are multiplied by the scale, as those of a reader are; else they are divided by it.
    weight
        Whether they are connections.
    """

    axis: Axis
    indices: Indices
    reads: bool
    weight: bool


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Units that may be divided by positive scales behind whoever writes them, one scale for each unit.

    A group of the coupling has several segments where a depthwise Conv passes its units: it reads those of one segment
    and writes those of the next.

    Parameters
    ----------
    node
        First layer that writes the units.
    units
        Number of units.
    constants
        All that changes with the scales.
    """

    node: str
    units: int
    constants: tuple[Scaled, ...]


def find_segments(graph: Graph, coupling: Coupling, group: Group) -> tuple[list[Segment], list[Refusal]]:
    """Find the segments of ``group`` whose units can be scaled, and say why others cannot.

    Parameters
    ----------
    graph
        The graph.
    coupling, group
        Its coupling, and one group of it.
    """
    finder = _Finder(graph, coupling, group)
    copied = copied_constants(graph)
    for node in graph.model.graph:
        if finder.reaches(node):
            finder.visit(Site(node, graph, coupling.facts, copied))
    finder.agree()
    finder.settle_products()
    return finder.segments()


class _Finder:
    """Joins values that must have one scale; what an operator has against it, it has against all that are joined."""

    def __init__(self, graph: Graph, coupling: Coupling, group: Group) -> None:
        self.coupling = coupling
        self.group = group
        self.values: dict[str, Span] = {}
        self.constants: dict[Axis, Span] = {}
        self.parents: dict[str, str] = {}
        self.uses: dict[Axis, list[tuple[str, Use]]] = {}
        self.against: dict[str, str] = {}
        self.blocked: dict[Axis, str] = {}
        self.products: list[tuple[tuple[str, str, str], str]] = []
        for span in group.spans:
            name = span.axis.value
            value = graph.initializers.get(name)
            if graph.is_constant(value):
                self.constants[span.axis] = span
                continue
            if name in self.values:
                self.against[name] = f"{name!r} holds its units along two axes"
            elif value is not None:
                self.against[name] = f"a caller may override {name!r}"
            self.values[name] = span
            self.parents[name] = name
        self.names = {*self.values, *(axis.value for axis in self.constants)}

    def reaches(self, node: ir.Node) -> bool:
        """Whether ``node`` reads or writes anything on which the units lie."""
        return any(value is not None and value.name in self.names for value in (*node.inputs, *node.outputs))

    def visit(self, site: Site) -> None:
        """Record what an operator asks for, or what it has against any scale."""
        touch = self._touch(site)
        try:
            found = demand(touch)
        except Refused as error:
            reason = f"{site.node.op_type} {site.name!r} {error}"
            for name in touch.values:
                self.against.setdefault(name, reason)
            for spans in touch.constants.values():
                self.blocked.update((span.axis, reason) for span in spans.values())
            return
        for other in found.joined[1:]:
            self._join(found.joined[0], other)
        if found.product is not None:
            reason = f"{site.node.op_type} {site.name!r} multiplies them with each other"
            self.products.append((found.product, reason))
        for use in found.uses:
            self.uses.setdefault(use.span.axis, []).append((site.name, use))

    def agree(self) -> None:
        """Give those that read one constant one scale; refuse where they want different things of it."""
        for axis, uses in self.uses.items():
            (name, first), *others = uses
            for other_name, use in others:
                if [first.read is None, first.written is None] != [use.read is None, use.written is None]:
                    reason = f"{name!r} and {other_name!r} share {axis.value!r}, and read it in different ways"
                    self.blocked.setdefault(axis, reason)
                for one, other in ((first.read, use.read), (first.written, use.written)):
                    if one is not None and other is not None:
                        self._join(one, other)
        for axis, reason in self.blocked.items():
            for _, use in self.uses.get(axis, ()):
                for value in (use.read, use.written):
                    if value is not None:
                        self.against.setdefault(value, reason)

    def settle_products(self) -> None:
        """Let every product have the scale of one factor; the other factor keeps its own."""
        pending = list(self.products)
        while pending:
            fixed = self._reasons().keys()
            ready = [item for item in pending if any(self._root(name) in fixed for name in item[0])]
            (one, other, result), reason = item = (ready or pending)[0]
            pending.remove(item)
            if self._root(one) in fixed:
                self._join(other, result)
            elif self._root(other) in fixed or not ready:
                self.against.setdefault(other, reason)
                self._join(one, result)
            else:  # what is fixed is the product
                self.against.setdefault(one, reason)
                self.against.setdefault(other, reason)

    def _reasons(self) -> dict[str, str]:
        """First reason against scaling what is joined under one name."""
        return {self._root(name): reason for name, reason in reversed(self.against.items())}

    def segments(self) -> tuple[list[Segment], list[Refusal]]:
        """Read the segments off the values that were joined."""
        reasons = self._reasons()
        constants: dict[str, dict[tuple[Axis, bool], Scaled]] = {self._root(name): {} for name in self.values}
        writers: dict[str, str] = {}
        readers: dict[str, str] = {}
        for name, use in (item for uses in self.uses.values() for item in uses):
            for value, reads in ((use.read, True), (use.written, False)):
                if value is None:
                    continue
                root, span = self._root(value), use.span
                constants[root][span.axis, reads] = Scaled(span.axis, span.indices, reads, span.weight)
                if span.weight:
                    (readers if reads else writers).setdefault(root, name)
        found: list[Segment] = []
        refusals: list[Refusal] = []
        for root, scaled in constants.items():
            node = writers.get(root) or readers.get(root)
            reason = reasons.get(root) or _one_sided(tuple(scaled.values()))
            if node is None:  # all that is scaled are values
                continue
            if reason is None:
                found.append(Segment(node, self.group.units, tuple(scaled.values())))
            else:
                refusals.append(Refusal(reason, (node,)))
        if not found and not refusals:  # the layers themselves have something against it
            refusals.extend(Refusal(reason, (self.group.node,)) for reason in list(self.against.values())[:1])
        return found, refusals

    def _touch(self, site: Site) -> Touch:
        inputs: dict[int, Span] = {}
        constants: dict[int, dict[int, Span]] = {}
        sums = False
        for index, axis in _input_axes(site):
            if axis in self.constants:
                constants.setdefault(index, {})[axis.axis] = self.constants[axis]
            elif axis.value in self.values and self.values[axis.value].axis == axis:
                inputs[index] = self.values[axis.value]
                sums |= site.name in self.coupling.contracted.get(axis, ())
        outputs = {
            index: self.values[value.name or ""]
            for index, value in enumerate(site.node.outputs)
            if value.name in self.values
        }
        return Touch(site, inputs, constants, outputs, sums)

    def _root(self, name: str) -> str:
        while self.parents[name] != name:
            self.parents[name] = self.parents[self.parents[name]]
            name = self.parents[name]
        return name

    def _join(self, one: str, other: str) -> None:
        self.parents[self._root(other)] = self._root(one)


def _input_axes(site: Site) -> Iterator[tuple[int, Axis]]:
    for index, value in enumerate(site.node.inputs):
        if value is not None and value.name in site.facts.shapes:
            yield from ((index, site.input(index, axis)) for axis in range(len(site.shape(index))))


def _one_sided(constants: tuple[Scaled, ...]) -> str | None:
    weights = [item for item in constants if item.weight]
    if not any(not item.reads for item in weights):
        return "no layer with constant weights writes its units"
    if not any(item.reads for item in weights):
        return "no layer with constant weights reads its units"
    return None
