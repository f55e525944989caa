"""Units that are the same number whatever the model is fed: found from weights of zero, and followed to their readers.

What is followed are operators that keep a number a number: those that work element by element, pooling and layout. The
numbers themselves are read off one run, so they are what the runtime computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling, Group, Span
from surgery_ir.analysis.coupling.rules.elementwise import BROADCAST, UNARY
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.prune.merging import constants_along, unit_rows

__all__ = ["ConstantUnits", "has_zero_rows", "zero_rows"]

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
POOLING = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin"}
)
LAYOUT = frozenset(
    {"CastLike", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ELEMENTWISE = frozenset((*UNARY, *BROADCAST))
ROUNDING = 1e-6
"""Relative difference between positions that a runtime's vector instructions may cause."""

Mask = NDArray[np.bool_]


def has_zero_rows(graph: Graph, coupling: Coupling, group: Group) -> bool:
    """Whether some constant along the units is all zero for one of them: nothing else begins a constant unit."""
    along = constants_along(graph, coupling, group)
    return any(bool(zero_rows(graph, span).any()) for span in along)


def zero_rows(graph: Graph, span: Span) -> Mask:
    """Units for which all entries of a constant are 0."""
    zero: Mask = np.all(unit_rows(graph.array(span.axis.value), span) == 0, axis=1)
    return zero


class ConstantUnits:
    """The units of one group that are constant, value by value.

    Parameters
    ----------
    graph
        The graph.
    group
        One of its groups.
    seen
        What the graph's values were in one run; those that are missing count as varying.
    """

    def __init__(self, graph: Graph, group: Group, seen: Mapping[str, NDArray[Any]]) -> None:
        self.graph = graph
        self.group = group
        self.seen = seen
        self.spans: dict[str, list[Span]] = {}
        for span in group.spans:
            self.spans.setdefault(span.axis.value, []).append(span)
        self.constant: dict[str, Mask] = {}
        for node in graph.model.graph:
            for value in node.outputs:
                name = value.name or ""
                if len(self.spans.get(name, ())) == 1 and name in seen and node.domain in STANDARD:
                    self.constant[name] = self._follow(node) & self._is_even(name)

    def numbers(self, name: str) -> tuple[Mask, NDArray[np.float64]]:
        """Units that are constant in the value ``name``, and their numbers: (units,) and (units, width)."""
        if name not in self.constant:
            return self._none(), np.zeros((self.group.units, 1))
        mask = self.constant[name]
        numbers = np.zeros(self.spans[name][0].indices.shape)
        numbers[mask] = self._positions(name)[mask].mean(axis=2)
        return mask, numbers

    def zero(self, name: str) -> Mask:
        """Units that are 0 everywhere in the value ``name``."""
        mask, numbers = self.numbers(name)
        return mask & ~numbers.any(axis=1)

    def _positions(self, name: str) -> NDArray[np.float64]:
        """What was seen of every unit: (units, width, positions)."""
        (span,) = self.spans[name]
        rows = np.moveaxis(self.seen[name], span.axis.axis, 0)[span.indices]
        return rows.reshape(*span.indices.shape, -1).astype(np.float64)

    def _is_even(self, name: str) -> Mask:
        """Units that were the same finite number at all positions."""
        rows = self._positions(name)
        if rows.shape[2] == 0:
            return self._none()
        spread = rows.max(axis=2) - rows.min(axis=2)
        even: Mask = (spread <= ROUNDING * np.abs(rows).max(axis=2)).all(axis=1)
        return even & np.isfinite(rows).all(axis=(1, 2))

    def _follow(self, node: ir.Node) -> Mask:
        """Units that are constant behind ``node``, by what they are ahead of it."""
        if node.op_type in PRODUCTS:
            return self._product(node)
        if node.op_type == "BatchNormalization":
            return self._normalised(node)
        if node.op_type == "Mul":
            return self._all_of(node.inputs) | self._absorbed(node)
        if node.op_type in ELEMENTWISE:
            return self._all_of(node.inputs)
        if node.op_type == "Concat":
            return self._all_of([value for value in node.inputs if value is not None and value.name in self.spans])
        if node.op_type in LAYOUT or (node.op_type in POOLING and _is_plain(node)):
            return self._known(node.inputs[0]) | self._of_constants(node, 0)
        return self._none()

    def _product(self, node: ir.Node) -> Mask:
        """A product with zeros is zero, and a constant bias makes it that number."""
        if len(node.inputs) > 2 and node.inputs[2] is not None and not self.graph.is_constant(node.inputs[2]):
            return self._none()
        mask = self._of_constants(node, 1)
        if node.op_type in ("Gemm", "MatMul"):
            mask = mask | self._of_constants(node, 0)
        if node.op_type == "Conv" and self._takes_groups(node):
            mask = mask | self._zero(node.inputs[0])
        if node.op_type == "MatMul":
            for value in node.inputs:
                if value is not None and not any(span.contracted for span in self.spans.get(value.name or "", ())):
                    mask = mask | self._zero(value)
        return mask

    def _takes_groups(self, node: ir.Node) -> bool:
        """Whether units are whole groups of a Conv: each writes what it reads, summed over itself alone."""
        weight = node.inputs[1]
        spans = self.spans.get(weight.name or "", ()) if weight is not None else ()
        return all(span.axis.axis == 0 for span in spans)

    def _normalised(self, node: ir.Node) -> Mask:
        """A scale of zero leaves the shift."""
        if not all(self.graph.is_constant(value) for value in node.inputs[1:]):
            return self._none()
        return self._known(node.inputs[0]) | self._of_constants(node, 1)

    def _of_constants(self, node: ir.Node, index: int) -> Mask:
        """Units for which input ``index``, a constant that is not summed over, is all zero."""
        value = node.inputs[index]
        if self.graph.is_constant(value):
            for span in self.spans.get((value.name or "") if value is not None else "", ()):
                if not span.contracted and span.axis.use in (None, (node.name, index)):
                    return zero_rows(self.graph, span)
        return self._none()

    def _absorbed(self, node: ir.Node) -> Mask:
        """Units that one factor sets to zero."""
        mask = self._none()
        for index, value in enumerate(node.inputs):
            mask = mask | self._of_constants(node, index) | self._zero(value)
        return mask

    def _all_of(self, values: Sequence[ir.Value | None]) -> Mask:
        """Units that are constant in all ``values``; whether constants differ from place to place is seen behind."""
        mask = np.ones(self.group.units, bool)
        for value in values:
            if value is not None and not self.graph.is_constant(value):
                mask = mask & self._known(value)
        return mask

    def _known(self, value: ir.Value | None) -> Mask:
        return self.constant.get(value.name or "", self._none()) if value is not None else self._none()

    def _zero(self, value: ir.Value | None) -> Mask:
        return self.zero(value.name) if value is not None and value.name in self.constant else self._none()

    def _none(self) -> Mask:
        return np.zeros(self.group.units, bool)


def _is_plain(node: ir.Node) -> bool:
    """Whether a pooling operator keeps a number a number: an average that counts its padding does not."""
    if node.op_type != "AveragePool":
        return True
    pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else ()
    others = ("auto_pad", "ceil_mode")
    return not any(pads) and not any(name in node.attributes for name in others)
