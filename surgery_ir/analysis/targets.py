"""What each layer is to reproduce, and in which order layers are re-solved.

A layer whose output is added to a skip path can absorb the error that the path carries: its target is the dense sum
minus the compressed skip (residual-aware targets). Of two layers that meet in one Add, the larger one absorbs.

Layers that were added to another one's output, as reconnection does, write values that the dense model does not have.
Their sum is one equation: the layer and its *taps* are solved together for what the dense model has under its name.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.shapes import Shape, infer_shapes
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, Operator, View

__all__ = ["Plan", "Target", "plan"]

SHARED = "its weights are shared with {}"
UNKNOWN = "the dense model has no value of the name it writes"


@dataclass(frozen=True, slots=True)
class Target:
    """A layer and the values that make its target.

    ``taps`` are layers whose outputs are added to this one's and that are solved with it. ``total`` is the sum that
    the layer's output goes into and ``skips`` what else is added to it; ``total`` is ``None`` where the target is the
    layer's own dense output. ``rectified`` says that only Relu reads it, so that how far below zero it lies does not
    matter.
    """

    layer: Layer
    taps: tuple[Layer, ...] = ()
    total: str | None = None
    skips: tuple[str, ...] = ()
    rectified: bool = False

    @property
    def wanted(self) -> str:
        """Name of the dense value that the layer is to reproduce, with whatever is added to it."""
        return self.total or self.layer.output

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers that are solved together: its columns are theirs, in this order."""
        return (self.layer, *self.taps)


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets in an order in which each comes after all that it depends on, and why other layers have none."""

    targets: tuple[Target, ...]
    refusals: tuple[tuple[str, str], ...]
    """Reason and layer."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """The value that a layer ends in: ``name``, what else is added on the way, and the operator that comes last."""

    name: str
    others: tuple[str, ...]
    index: int


@collector_paused()
def plan(graph: Graph, layers: Sequence[Layer], known: Container[str], residual: bool = True) -> Plan:
    """Choose the target of every layer and the order to solve them in.

    Parameters
    ----------
    graph
        Graph whose layers are re-solved.
    layers
        Its layers, in topological order.
    known
        Names of the dense model's values.
    residual
        Whether layers in front of an Add absorb the other summand's error. One whose output the Add broadcasts does
        not; where shapes are not known it is taken to have the shape of the sum.
    """
    view = graph.view()
    kept = {value.name or "" for value in graph.outputs}
    refusals: list[tuple[str, str]] = []
    ends: dict[str, _Sum] = {}
    for layer in layers:
        end = None if layer.sharers else _end(view, layer, known, kept)
        if end is None:
            refusals.append((SHARED.format(", ".join(layer.sharers)) if layer.sharers else UNKNOWN, layer.name))
        else:
            ends[layer.name] = end
    targets: dict[str, Target] = {}
    place: dict[str, int] = {}
    for end, layer, taps in _by_sum([layer for layer in layers if layer.name in ends], ends):
        solved = {tap.output for tap in taps}
        skips = tuple(name for name in end.others if name not in solved)
        total = end.name if end.others else None
        targets[layer.name] = Target(layer, taps, total, skips, _is_rectified(view, end.name, kept))
        place[layer.name] = end.index
    if residual:
        shapes = infer_shapes(graph)
        by_end = {target.wanted: target for target in targets.values() if target.wanted not in kept}
        for operator in view.operators():
            absorber = _absorber(view, operator, by_end, shapes)
            if absorber is None or operator.outputs[0] not in known:
                continue
            total = operator.outputs[0]
            other = operator.inputs[1 - operator.inputs.index(absorber.wanted)]
            skips = (*absorber.skips, other)
            rectified = _is_rectified(view, total, kept)
            targets[absorber.layer.name] = replace(absorber, total=total, skips=skips, rectified=rectified)
            # Nothing but the Add reads the layer, so it may wait as long as that: until all of the skip is solved.
            place[absorber.layer.name] = operator.index
    return Plan(tuple(sorted(targets.values(), key=lambda item: place[item.layer.name])), tuple(refusals))


def _end(view: View, layer: Layer, known: Container[str], kept: Collection[str]) -> _Sum | None:
    """Follow Adds from the layer's output to the first value that the dense model knows."""
    value, others, index = layer.output, [], view.operator(layer.name).index
    while value not in known:
        readers = view.consumers(value)
        if value in kept or len(readers) != 1:
            return None
        reader = view.operator(readers[0])
        if not _is_sum(reader):
            return None
        others.append(reader.inputs[1 - reader.inputs.index(value)])
        value, index = reader.outputs[0], reader.index
    return _Sum(value, tuple(others), index)


def _by_sum(layers: Sequence[Layer], ends: Mapping[str, _Sum]) -> Iterator[tuple[_Sum, Layer, tuple[Layer, ...]]]:
    """Bring layers together that end in the same new sum: one of them, to which the others are added, and these."""
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        end = ends[layer.name]
        members.setdefault(end.name if end.others else layer.output, []).append(layer)
    for found in members.values():
        # Groups and biases belong to the layer itself; where several taps follow one another, it comes first.
        found.sort(key=lambda item: (len(ends[item.name].others), item.groups, item.bias is not None, item.size))
        layer = found.pop()
        end = ends[layer.name]
        taps = {item.output: item for item in found if item.groups == 1 and item.bias is None}
        yield end, layer, tuple(taps[name] for name in end.others if name in taps)


def _is_sum(operator: Operator) -> bool:
    return operator.op_type == "Add" and operator.domain in STANDARD and len(set(operator.inputs)) == 2


def _is_rectified(view: View, value: str, kept: Collection[str]) -> bool:
    """Whether ``value`` is read by Relu and nothing else."""
    readers = [view.operator(name) for name in view.consumers(value)]
    return value not in kept and bool(readers) and all(item.op_type == "Relu" for item in readers)


def _absorber(
    view: View, operator: Operator, by_end: Mapping[str, Target], shapes: Mapping[str, Shape]
) -> Target | None:
    """Largest layer that ends in this Add alone, unbroadcast, and whose other summand is computed, not constant."""
    if not _is_sum(operator):
        return None
    first, second = operator.inputs
    found = [
        by_end[value]
        for value, other in ((first, second), (second, first))
        if value in by_end
        and view.producer(other) is not None
        and len(view.consumers(value)) == 1
        and _may_be_equal(shapes.get(value), shapes.get(operator.outputs[0]))
    ]
    return max(found, key=lambda target: target.layer.size, default=None)


def _may_be_equal(one: Shape | None, other: Shape | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))
