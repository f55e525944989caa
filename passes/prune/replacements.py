"""What a residual branch can be replaced by.

Every way computes y ≈ rest + T s + b with a square T. They differ in where T is kept, hence in what they cost: in the
layer that writes s, in those that read y, or in an operator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.shapes import Shape
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, View
from surgery_ir.passes.prune.branches import Branch

__all__ = ["Kind", "Replacement", "is_rectified", "replacements"]

Kind = Literal["identity", "writer", "readers", "own"]
"""T is the identity; merged into the layer that writes s; into those that read y; in an operator of its own."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A way to do without a branch.

    Parameters
    ----------
    kind
        Where the map is kept.
    source, rest
        s, and the summand that goes past the map, where there is one.
    axis, rank
        Axis of the features, 1 or the last, and number of axes.
    layers
        Layers that take the map up.
    bias
        Whether b can be added exactly.
    relu
        Relu ahead of u that the one behind y makes superfluous, or ``None``.
    """

    kind: Kind
    source: str
    rest: str | None
    axis: int
    rank: int
    layers: tuple[Layer, ...] = ()
    bias: bool = True
    relu: str | None = None


def replacements(
    graph: Graph, branch: Branch, layers: Sequence[Layer], shapes: Mapping[str, Shape]
) -> list[Replacement] | str:
    """List the ways to do without ``branch``, or say why there is none.

    Parameters
    ----------
    graph, branch
        The graph, and one of its branches.
    layers
        The layers of the graph.
    shapes
        Shapes of its values for one sample.
    """
    shape = shapes.get(branch.total)
    if shape is None or None in shape or shapes.get(branch.kept) != shape:
        return "its input and its output are not known to have the same shape"
    if len(shape) < 2:
        return "its output has no axis of features"
    view = graph.view()
    axis, rank = _feature_axis(graph, branch, shapes), len(shape)
    found = [Replacement("own", branch.kept, None, axis, rank)]
    relu = _superfluous_relu(graph, view, branch)
    if not _is_output(graph, branch.total) or _is_exclusive(graph, view, branch):
        found.append(Replacement("identity", branch.kept, None, axis, rank, relu=relu))
    if _is_exclusive(graph, view, branch):
        found.extend(_merged_into_writer(graph, view, branch, layers, shapes, relu))
    readers = _readers(graph, view, branch, layers, axis, rank)
    if readers:
        bias = all(layer.takes_bias and not _is_padded(layer) for layer in readers)
        found.append(Replacement("readers", branch.kept, None, axis, rank, readers, bias))
    return found


def is_rectified(graph: Graph, value: str) -> bool:
    """Whether Relu and nothing else reads ``value``."""
    view = graph.view()
    readers = view.consumers(value)
    return (
        bool(readers)
        and all(view.operator(name).op_type == "Relu" for name in readers)
        and (not _is_output(graph, value))
    )


def _feature_axis(graph: Graph, branch: Branch, shapes: Mapping[str, Shape]) -> int:
    """The second axis where a Conv of the branch reads or writes values of the shape of y, else the last."""
    shape = shapes[branch.total]
    for name in branch.removed:
        operator = graph.view().operator(name)
        if operator.op_type == "Conv" and shape in (shapes.get(operator.inputs[0]), shapes.get(operator.outputs[0])):
            return 1
    return len(shape) - 1


def _merged_into_writer(
    graph: Graph, view: View, branch: Branch, layers: Sequence[Layer], shapes: Mapping[str, Shape], relu: str | None
) -> Iterator[Replacement]:
    """The map goes into the layer that writes u, or one of two summands that make u."""
    by_output = {layer.output: layer for layer in layers}
    shape = shapes[branch.total]
    start = branch.kept if relu is None else view.operator(relu).inputs[0]
    for value, rest in _summands(graph, view, start):
        layer = by_output.get(value)
        if layer is None or not _is_free(layer) or any(shapes.get(item) != shape for item in (value, rest) if item):
            continue
        axis = 1 if layer.geometry is not None else len(shape) - 1
        yield Replacement("writer", value, rest, axis, len(shape), (layer,), layer.takes_bias, relu)


def _summands(graph: Graph, view: View, value: str) -> Iterator[tuple[str, str | None]]:
    """Yield ``value``, and each of two values that an Add makes it of and that nothing else reads, with the other."""
    yield value, None
    name = view.producer(value)
    if name is None:
        return
    add = view.operator(name)
    if add.op_type == "Add" and add.domain in STANDARD and len(set(add.inputs)) == 2:
        for one, other in (add.inputs, add.inputs[::-1]):
            if view.consumers(one) == (name,) and not _is_output(graph, one):
                yield one, other


def _superfluous_relu(graph: Graph, view: View, branch: Branch) -> str | None:
    """Relu(Relu(z)) is Relu(z): where y goes to a Relu and u, which only the branch reads, comes from one."""
    name = view.producer(branch.kept)
    if name is None or view.operator(name).op_type != "Relu" or not is_rectified(graph, branch.total):
        return None
    (value,) = view.operator(name).inputs
    alone = view.consumers(value) == (name,) and not _is_output(graph, value) and view.producer(value) is not None
    return name if alone and _is_exclusive(graph, view, branch) else None


def _is_exclusive(graph: Graph, view: View, branch: Branch) -> bool:
    """Whether u is computed, and nothing but what goes reads it."""
    gone = {branch.node, *branch.removed}
    computed = view.producer(branch.kept) is not None and not _is_output(graph, branch.kept)
    return computed and gone.issuperset(view.consumers(branch.kept))


def _readers(
    graph: Graph, view: View, branch: Branch, layers: Sequence[Layer], axis: int, rank: int
) -> tuple[Layer, ...]:
    """Layers that can take up the map; none unless all that read y are such."""
    consumers = view.consumers(branch.total)
    found = tuple(
        layer
        for layer in layers
        if layer.input == branch.total
        and layer.name in consumers
        and _is_free(layer)
        and axis == (1 if layer.geometry is not None else rank - 1)
    )
    return found if len(found) == len(consumers) and not _is_output(graph, branch.total) else ()


def _is_free(layer: Layer) -> bool:
    """Whether the layer is a full matrix of its own between features."""
    return layer.groups == 1 and not layer.sharers and not layer.left


def _is_padded(layer: Layer) -> bool:
    geometry = layer.geometry
    return geometry is not None and (any(geometry.pads) or geometry.auto_pad.startswith("SAME"))


def _is_output(graph: Graph, name: str) -> bool:
    return any(value.name == name for value in graph.outputs)
