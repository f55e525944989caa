"""Groups: units that are cut in the same places, such as the channels of one stage of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.index import Frost, IndexGraph, build_index, note_contraction
from surgery_ir.analysis.coupling.relations import Axis, Indices
from surgery_ir.analysis.coupling.site import Facts
from surgery_ir.analysis.coupling.solve import Components, solve
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.editor import carries_connections
from surgery_ir.graph.model import Graph

__all__ = ["Coupling", "FrozenUnits", "Group", "Span", "find_groups"]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Where the units of a group lie on one axis.

    Parameters
    ----------
    axis
        Axis of an activation or of an initializer.
    indices : (units, width) int
        Indices that each unit owns.
    weight
        Whether the axis is that of an initializer that holds connections.
    contracted
        Whether an operator sums over it, as a layer does over its inputs.
    """

    axis: Axis
    indices: Indices
    weight: bool
    contracted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Units of which each can be removed without the others.

    Parameters
    ----------
    name
        Name of ``node``; numbered where several groups have the same.
    node
        Name of the first layer that writes the units, or reads them where none writes them.
    spans
        All places where the units lie, in topological order.
    """

    name: str
    node: str
    spans: tuple[Span, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.spans[0].indices)

    @property
    def written(self) -> tuple[Span, ...]:
        """Axes of weights along which layers write the units."""
        return tuple(span for span in self.spans if span.weight and not span.contracted)

    @property
    def read(self) -> tuple[Span, ...]:
        """Axes of weights along which layers read the units."""
        return tuple(span for span in self.spans if span.weight and span.contracted)


@dataclass(frozen=True, slots=True)
class FrozenUnits:
    """Units that cannot be cut: the first layer that writes them, how many there are, and why."""

    name: str
    units: int
    frost: Frost


@dataclass(frozen=True, eq=False)
class Coupling:
    """The groups of a graph.

    Parameters
    ----------
    groups
        Groups that can be cut, in topological order.
    frozen
        Units of weights that cannot.
    facts
        Shapes that this was derived from.
    contracted
        Operators that sum over an axis.
    sizes
        Number of indices by axis.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenUnits, ...]
    facts: Facts
    contracted: Mapping[Axis, tuple[str, ...]]
    sizes: Mapping[Axis, int]

    def __getitem__(self, name: str) -> Group:
        """Group called ``name``."""
        return next(group for group in self.groups if group.name == name)

    def masks(self, removed: Mapping[str, Iterable[int] | Indices]) -> dict[Axis, NDArray[np.bool_]]:
        """Indices that stay on every axis that is cut when the units ``removed`` of each group go."""
        masks: dict[Axis, NDArray[np.bool_]] = {}
        for group in self.groups:
            units = np.asarray(list(removed.get(group.name, ())), dtype=np.intp)
            for span in group.spans if len(units) else ():
                mask = masks.setdefault(span.axis, np.ones(self.sizes[span.axis], bool))
                mask[span.indices[units].reshape(-1)] = False
        return masks


@collector_paused()
def find_groups(graph: Graph, facts: Facts) -> Coupling:
    """Find all groups of ``graph``.

    Coupled indices are connected components of one index graph (as DepGraph, Fang et al., 2023, has it for layers);
    components that lie on the same axes make a group.

    Parameters
    ----------
    graph
        The graph; its weights are not read.
    facts
        See :func:`~surgery_ir.analysis.coupling.facts.observe`.
    """
    index = build_index(graph, facts)
    weights = {
        number: axis for axis, number in index.axes.items() if _is_weight(graph, axis) and index.sizes[number] > 1
    }
    worth = {number: int(np.prod(facts.shapes[axis.value])) / index.sizes[number] for number, axis in weights.items()}
    components = solve(index, worth)
    contracted = _contracted(index, components)
    reader = _Reader(graph, index, components, weights, contracted)
    sizes = {axis: index.sizes[number] for axis, number in index.axes.items()}
    groups = reader.groups()
    return Coupling(groups, reader.frozen(), facts, contracted, sizes)


def _contracted(index: IndexGraph, components: Components) -> dict[Axis, tuple[str, ...]]:
    """Operators that sum over an axis, in the way that was chosen for them."""
    found = {axis: list(names) for axis, names in index.contracted.items()}
    for item, which in zip(index.choices, components.chosen, strict=True):
        for relation in item.choice.alternatives[which]:
            note_contraction(found, relation, item.node)
    return {axis: tuple(dict.fromkeys(names)) for axis, names in found.items()}


class _Reader:
    """Reads groups off the components."""

    def __init__(
        self,
        graph: Graph,
        index: IndexGraph,
        components: Components,
        weights: Mapping[int, Axis],
        contracted: Mapping[Axis, tuple[str, ...]],
    ) -> None:
        self.contracted = contracted
        self.graph = graph
        self.index = index
        self.components = components
        self.weights = weights
        self.single: list[int] = []
        self.members: dict[int, list[Axis]] = {}
        for axis, number in index.axes.items():
            self.members.setdefault(int(components.classes[number]), []).append(axis)
        self.names: dict[str, str] = {}  # of the operator that is the first to read a weight
        for node in graph.model.graph:
            for value in node.inputs:
                if value is not None and value.is_initializer():
                    self.names.setdefault(value.name or "", node.name or "")

    def groups(self) -> tuple[Group, ...]:
        """Group the free components that lie on the same axes."""
        weighted = np.zeros(len(self.components.frozen), bool)
        for number in self.weights:
            weighted[self._labels(int(self.components.classes[number]))] = True
        free = weighted & (self.components.frozen < 0)
        footprints = self._footprints()
        found: dict[int, list[int]] = {}
        for label in np.flatnonzero(free):
            found.setdefault(int(footprints[label]), []).append(int(label))
        place = self._places()
        groups: list[Group] = []
        taken: dict[str, int] = {}
        for labels in found.values():
            if len(labels) < 2:  # a group keeps at least one unit
                self.single.extend(labels)
                continue
            name, spans = self._spans(np.array(labels), place)
            taken[name] = taken.get(name, 0) + 1
            groups.append(Group(name if taken[name] == 1 else f"{name}#{taken[name]}", name, spans))
        return tuple(groups)

    def frozen(self) -> tuple[FrozenUnits, ...]:
        """Units that layers write and that cannot be cut, one entry for each place and reason."""
        found: dict[int, FrozenUnits] = {}
        for number, axis in self.weights.items():
            if axis in self.contracted or axis not in self.index.mentioned:
                continue
            labels = self._labels(int(self.components.classes[number]))
            name = self.names.get(axis.value, axis.value)
            reasons = self.components.frozen[labels]
            for reason, units in zip(*np.unique(reasons, return_counts=True), strict=True):
                if reason >= 0:
                    frost = self.components.frosts[int(reason)]
                    first = int(labels[reasons == reason][0])
                    found.setdefault(first, FrozenUnits(name, int(units), frost))
            alone = np.isin(labels, self.single)
            if alone.any():
                frost = Frost("", "", "its units cannot be cut one by one: all of them depend on each other")
                found.setdefault(int(labels[alone][0]), FrozenUnits(name, int(alone.sum()), frost))
        return tuple(found.values())

    def _labels(self, number: int) -> Indices:
        offsets = self.components.offsets
        return self.components.labels[offsets[number] : offsets[number + 1]]

    def _footprints(self) -> NDArray[np.uint64]:
        """Hash of the classes on which a component lies, with how many indices."""
        rng = np.random.default_rng(0)
        count = len(self.components.offsets) - 1
        marks = rng.integers(0, np.iinfo(np.uint64).max, count, np.uint64)
        spread = np.repeat(marks, np.diff(self.components.offsets))
        footprints = np.zeros(len(self.components.frozen), np.uint64)
        np.add.at(footprints, self.components.labels, spread)
        return footprints

    def _places(self) -> tuple[Indices, Indices]:
        """All indices sorted by component, and where each component begins."""
        order = np.argsort(self.components.labels, kind="stable")
        starts = np.searchsorted(self.components.labels[order], np.arange(len(self.components.frozen) + 1))
        return order, starts

    def _spans(self, labels: Indices, place: tuple[Indices, Indices]) -> tuple[str, tuple[Span, ...]]:
        order, starts = place
        rows = np.stack([order[starts[label] : starts[label + 1]] for label in labels])
        offsets = self.components.offsets
        classes = np.searchsorted(offsets, rows[0], side="right") - 1
        spans: list[tuple[int, Span]] = []
        for number in np.unique(classes):
            indices = rows[:, classes == number] - offsets[number]
            for axis in self.members[int(number)]:
                known = self.index.axes[axis]
                is_weight = known in self.weights
                spans.append((known, Span(axis, indices, is_weight, axis in self.contracted)))
        spans.sort(key=lambda item: item[0])
        writers = [span for _, span in spans if span.weight and not span.contracted]
        readers = [span for _, span in spans if span.weight]
        first = (writers or readers)[0]
        by_index = np.argsort(first.indices[:, 0], kind="stable")
        name = self.names.get(first.axis.value, first.axis.value)
        return name, tuple(Span(s.axis, s.indices[by_index], s.weight, s.contracted) for _, s in spans)


def _is_weight(graph: Graph, axis: Axis) -> bool:
    value = graph.initializers.get(axis.value)
    return value is not None and graph.is_constant(value) and axis.use is None and carries_connections(value)
