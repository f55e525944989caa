"""What each layer is to reproduce, and in which order layers are re-solved.

A layer whose output is added to a skip path can absorb the error that the path carries: its target is the dense sum
minus the compressed skip (residual-aware targets). Of two layers that meet in one Add, the larger one absorbs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.shapes import Shape, infer_shapes
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, Operator, View

__all__ = ["Target", "plan"]


@dataclass(frozen=True, slots=True)
class Target:
    """A layer and the values that make its target.

    ``total`` is the sum that the layer's output goes into and ``skip`` the other summand; both are ``None`` where
    the target is the layer's own dense output. ``rectified`` says that only Relu reads it, so that how far below zero
    it lies does not matter.
    """

    layer: Layer
    total: str | None = None
    skip: str | None = None
    rectified: bool = False


@collector_paused()
def plan(graph: Graph, layers: Sequence[Layer], residual: bool = True) -> tuple[Target, ...]:
    """Choose the target of every layer and an order in which each comes after all that it depends on.

    Parameters
    ----------
    graph
        Graph whose layers are re-solved.
    layers
        Its layers, in topological order.
    residual
        Whether layers in front of an Add absorb the other summand's error. One whose output the Add broadcasts does
        not; where shapes are not known it is taken to have the shape of the sum.
    """
    view = graph.view()
    kept = {value.name for value in graph.outputs}
    targets = {layer.name: Target(layer, rectified=_is_rectified(view, layer.output, kept)) for layer in layers}
    place = {layer.name: view.operator(layer.name).index for layer in layers}
    if residual:
        shapes = infer_shapes(graph)
        by_output = {layer.output: layer for layer in layers if layer.output not in kept}
        for operator in view.operators():
            absorber = _absorber(view, operator, by_output, shapes)
            if absorber is None:
                continue
            total = operator.outputs[0]
            skip = operator.inputs[1 - operator.inputs.index(absorber.output)]
            targets[absorber.name] = Target(absorber, total, skip, _is_rectified(view, total, kept))
            # Nothing but the Add reads the layer, so it may wait as long as that: until all of the skip is solved.
            place[absorber.name] = operator.index
    return tuple(sorted(targets.values(), key=lambda target: place[target.layer.name]))


def _is_rectified(view: View, value: str, kept: Collection[str | None]) -> bool:
    """Whether ``value`` is read by Relu and nothing else."""
    readers = [view.operator(name) for name in view.consumers(value)]
    return value not in kept and bool(readers) and all(item.op_type == "Relu" for item in readers)


def _absorber(
    view: View, operator: Operator, by_output: Mapping[str, Layer], shapes: Mapping[str, Shape]
) -> Layer | None:
    """Largest layer that ends in this Add alone, unbroadcast, and whose other summand is computed, not constant."""
    if operator.op_type != "Add" or operator.domain not in STANDARD or len(set(operator.inputs)) != 2:
        return None
    first, second = operator.inputs
    found = [
        by_output[value]
        for value, other in ((first, second), (second, first))
        if value in by_output
        and view.producer(other) is not None
        and len(view.consumers(value)) == 1
        and _may_be_equal(shapes.get(value), shapes.get(operator.outputs[0]))
    ]
    return max(found, key=lambda layer: layer.size, default=None)


def _may_be_equal(one: Shape | None, other: Shape | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))
