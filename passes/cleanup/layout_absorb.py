"""Readers that take any layout at the price of a constant: Shape, and layers behind a Flatten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.rules.elementwise import UNARY
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.cleanup.layout_frame import Order, inverse
from surgery_ir.passes.cleanup.layout_site import SUFFIX, Fixed, Site, replace_constant

__all__ = ["Absorber", "Flattened", "Measured", "find_absorber"]


class Absorber(Protocol):
    """A reader that can do with another layout of its first input."""

    def admits(self, order: Order) -> bool:
        """Whether the axes of the input may lie in ``order``."""

    def write(self, editor: Editor, order: Order) -> tuple[ir.Node, tuple[ir.Value, ...]]:
        """Adapt it; give the node that reads the input now, and values that hold something else under their name."""


@dataclass(frozen=True)
class Measured:
    """A Shape: either all of its readers pick sizes by constant places, or a Gather puts its result back into order.

    Parameters
    ----------
    node
        It.
    axes
        Axes of which it gives the sizes.
    picks
        Gathers with constant places that are all of its readers; none where others read it too.
    """

    node: ir.Node
    axes: tuple[int, ...]
    picks: tuple[ir.Node, ...]

    def admits(self, order: Order) -> bool:
        """Any order will do."""
        return True

    def write(self, editor: Editor, order: Order) -> tuple[ir.Node, tuple[ir.Value, ...]]:
        """Measure in the new order, and pick sizes as they were in the old one."""
        value = self.node.outputs[0]
        places = np.array(inverse(order), np.int64)
        for pick in self.picks:
            indices = pick.inputs[1]
            assert indices is not None
            stored = editor.graph.array(indices.name or "")
            replace_constant(editor, pick, 1, places[stored].astype(stored.dtype))
        if self.picks:
            return self.node, (value,)
        measure = editor.insert_node("Shape", [self.node.inputs[0]], [f"{value.name}/{SUFFIX}"], before=self.node)
        order_of_sizes = editor.add_initializer(f"{value.name}/places", places[list(self.axes)])
        editor.rewrite_node(self.node, "Gather", [measure.outputs[0], order_of_sizes], {"axis": 0})
        return measure, ()


@dataclass(frozen=True)
class Flattened:
    """A Flatten or Reshape to (batch, features) ahead of layers whose weights can be permuted.

    Parameters
    ----------
    node
        It.
    sizes
        Sizes of the axes that become features.
    between
        Values between it and the layers, which hold the features.
    layers
        Layers, and the axis of their weights that runs along the features.
    """

    node: ir.Node
    sizes: tuple[int, ...]
    between: tuple[ir.Value, ...]
    layers: tuple[tuple[ir.Node, int], ...]

    def admits(self, order: Order) -> bool:
        """Whether the batch stays in front."""
        return order[0] == 0

    def write(self, editor: Editor, order: Order) -> tuple[ir.Node, tuple[ir.Value, ...]]:
        """Permute the weights, under new names: connections come and go nowhere."""
        features = np.arange(np.prod(self.sizes, dtype=np.int64)).reshape(self.sizes)
        permuted = features.transpose([axis - 1 for axis in order[1:]]).reshape(-1)
        for layer, axis in self.layers:
            weight = layer.inputs[1]
            assert weight is not None
            replace_constant(editor, layer, 1, np.take(editor.graph.array(weight.name or ""), permuted, axis))
        return self.node, self.between


def find_absorber(site: Site, *, weights: bool) -> Absorber | None:
    """Find out whether an operator can absorb a Transpose ahead of it.

    Parameters
    ----------
    site
        The operator.
    weights
        Whether weights may be permuted.
    """
    if site.node.domain not in STANDARD:
        return None
    try:
        if site.node.op_type == "Shape":
            rank = site.rank(site.input(0))
            ends = (site.integer("start", 0), site.integer("end", rank))
            axes = tuple(range(rank)[slice(*ends)])
            return Measured(site.node, axes, _picks(site) if len(axes) == rank else ())
        return _flattened(site) if weights and site.node.op_type in ("Flatten", "Reshape") else None
    except Fixed:
        return None


def _picks(site: Site) -> tuple[ir.Node, ...]:
    """Gathers with constant places, if nobody else reads the result."""
    value = site.node.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or any(
        use.node.op_type != "Gather"
        or use.node.domain not in STANDARD
        or use.idx != 0
        or use.node.graph is not site.graph.model.graph
        or not site.graph.is_constant(use.node.inputs[1])
        for use in uses
    ):
        return ()
    return tuple(use.node for use in uses)


def _flattened(site: Site) -> Flattened | None:
    before = site.shape(site.data(0))
    sizes = tuple(size for size in before[1:] if size is not None)
    if len(sizes) < max(2, len(before) - 1):
        return None
    features = int(np.prod(sizes, dtype=np.int64))
    if site.shape(site.node.outputs[0])[1:] != (features,):  # as no entry is lost, the first axis is the batch
        return None
    return _follow_features(site, sizes, features)


def _follow_features(site: Site, sizes: tuple[int, ...], features: int) -> Flattened | None:
    """Follow the features to the layers that read them; ``None`` where anything else does."""
    between = [site.node.outputs[0]]
    layers = []
    for value in between:
        if value.is_graph_output():
            return None
        for use in value.uses():
            axis = _weight_axis(site.graph, use.node, use.idx, features)
            if use.node.graph is not site.graph.model.graph:
                return None
            if axis is not None:
                layers.append((use.node, axis))
            elif use.node.op_type in UNARY and use.node.domain in STANDARD and use.idx == 0:
                between.append(use.node.outputs[0])
            else:
                return None
    return Flattened(site.node, sizes, tuple(between), tuple(layers)) if layers else None


def _weight_axis(graph: Graph, node: ir.Node, index: int, features: int) -> int | None:
    """Axis of the constant weights of ``node`` that runs along the features of its first input."""
    if node.op_type not in ("Gemm", "MatMul") or node.domain not in STANDARD or index != 0:
        return None
    flags = {name: node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes}
    weight = node.inputs[1]
    if flags.get("transA") or weight is None or not graph.is_constant(weight):
        return None
    axis = 1 if flags.get("transB") else 0
    stored: NDArray[np.generic] = graph.array(weight.name or "")
    return axis if stored.ndim == 2 and stored.shape[axis] == features else None
