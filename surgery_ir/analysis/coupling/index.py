"""The index graph: every axis of every value, and what the operators' rules say about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.coupling.relations import Axis, Choice, Free, Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rules import find_rule
from surgery_ir.analysis.coupling.site import Facts, NotKnown, Site
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.editor import carries_connections
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, captured_values

__all__ = ["Frost", "IndexGraph", "OperatorChoice", "build_index", "copied_constants"]


@dataclass(frozen=True, slots=True)
class Frost:
    """Why an axis cannot be cut: the operator that forbids it (empty for inputs and outputs) and what it does."""

    node: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op_type} {self.node!r} {self.reason}" if self.node else self.reason


@dataclass(frozen=True, slots=True)
class OperatorChoice:
    """A choice and the operator that has it."""

    node: str
    op_type: str
    choice: Choice


@dataclass
class IndexGraph:
    """Axes by number, and relations between them.

    Parameters
    ----------
    axes, sizes
        Number of every axis, and how many indices each has.
    same
        Pairs of axes that are one.
    mapped
        Relations between single indices.
    frosts
        First reason against cutting an axis.
    choices
        Open choices.
    contracted
        Axes that some operator sums over in any case, with those operators.
    mentioned
        Axes of which some rule knows.
    """

    axes: dict[Axis, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    same: list[tuple[int, int]] = field(default_factory=list)
    mapped: list[Mapped] = field(default_factory=list)
    frosts: dict[int, Frost] = field(default_factory=dict)
    choices: list[OperatorChoice] = field(default_factory=list)
    contracted: dict[Axis, list[str]] = field(default_factory=dict)
    mentioned: set[Axis] = field(default_factory=set)

    def number(self, axis: Axis, size: int) -> int:
        """Number of ``axis``, given the first time."""
        known = self.axes.get(axis)
        if known is None:
            known = self.axes[axis] = len(self.sizes)
            self.sizes.append(size)
        return known

    def freeze(self, axis: Axis, frost: Frost) -> None:
        """Forbid cutting ``axis``; the first reason stays."""
        self.frosts.setdefault(self.axes[axis], frost)


@collector_paused()
def build_index(graph: Graph, facts: Facts) -> IndexGraph:
    """Ask the rule of every operator of the main graph.

    Parameters
    ----------
    graph
        The graph.
    facts
        Shapes and operands for one sample; what is not known there is frozen.
    """
    index = IndexGraph()
    for kind, values in (("an input", graph.inputs), ("an output", graph.outputs)):
        for value in values:
            for axis in _axes(value, facts, index):
                index.freeze(axis, Frost("", "", f"{value.name!r} is {kind} of the model"))
    copied = copied_constants(graph)
    for node in graph.model.graph:
        site = Site(node, graph, facts, copied)
        axes = list(site.axes())
        for axis in axes:
            index.number(axis, facts.shapes[axis.value][axis.axis])
        _add(index, site, axes)
        for name in captured_values(node):
            for axis in _axes(name, facts, index):
                index.freeze(axis, Frost(site.name, node.op_type, "reads it inside a subgraph"))
    return index


def copied_constants(graph: Graph) -> frozenset[str]:
    """Vectors that several operators read and that hold no connections: exporters share them where they are equal."""
    return frozenset(
        name
        for name, value in graph.initializers.items()
        if len(value.uses()) > 1
        and value.const_value is not None
        and sum(size > 1 for size in value.const_value.shape.numpy()) <= 1
        and not carries_connections(value)
        and not value.is_graph_output()
    )


def _axes(value: ir.Value | str, facts: Facts, index: IndexGraph) -> Iterator[Axis]:
    name = value if isinstance(value, str) else value.name or ""
    for number, size in enumerate(facts.shapes.get(name, ())):
        axis = Axis(name, number)
        index.number(axis, size)
        yield axis


def _add(index: IndexGraph, site: Site, axes: Iterable[Axis]) -> None:
    node = site.node
    rule = find_rule(node.domain, node.op_type)
    reason = "has no rule"
    relations: list[Relation] = []
    if rule is not None:
        reason = "does not let it be cut"
        try:
            relations = list(rule.couple(site))
        except NotKnown as error:
            reason = f"cannot be looked into: {error}"
    label = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
    mentioned: set[Axis] = set()
    for relation in relations:
        mentioned.update(_add_relation(index, relation, site.name, label))
    for axis in axes:
        if axis not in mentioned:
            index.freeze(axis, Frost(site.name, label, reason))
    index.mentioned |= mentioned


def _add_relation(index: IndexGraph, relation: Relation, node: str, op_type: str) -> list[Axis]:
    """Record a relation; give the axes that it mentions."""
    if isinstance(relation, Free):
        return [relation.axis]
    if isinstance(relation, Frozen):
        index.freeze(relation.axis, Frost(node, op_type, relation.reason))
        return [relation.axis]
    if isinstance(relation, Choice):
        index.choices.append(OperatorChoice(node, op_type, relation))
        items = [item for alternative in relation.alternatives for item in alternative]
        return [axis for item in items for axis in axes_of(item)]
    one, other = index.axes[relation.one], index.axes[relation.other]
    note_contraction(index.contracted, relation, node)
    if isinstance(relation, Mapped):
        index.mapped.append(relation)
    elif index.sizes[one] == index.sizes[other]:
        index.same.append((one, other))
    else:
        frost = Frost(node, op_type, f"has operands that do not fit: {index.sizes[one]} and {index.sizes[other]}")
        index.freeze(relation.one, frost)
        index.freeze(relation.other, frost)
    return [relation.one, relation.other]


def note_contraction(contracted: dict[Axis, list[str]], relation: Same | Mapped | Free, node: str) -> None:
    """Add ``node`` to those that sum over the axes of ``relation``, where it does."""
    if not isinstance(relation, Free) and relation.contracted:
        for axis in (relation.one, relation.other):
            contracted.setdefault(axis, []).append(node)


def axes_of(relation: Same | Mapped | Free) -> tuple[Axis, ...]:
    """Axes that a relation mentions."""
    return (relation.axis,) if isinstance(relation, Free) else (relation.one, relation.other)


def as_mapped(relation: Same | Mapped, size: int) -> Mapped:
    """Spell out a relation between whole axes of ``size`` indices."""
    if isinstance(relation, Mapped):
        return relation
    index = np.arange(size)
    return Mapped(relation.one, index, relation.other, index, relation.contracted)
