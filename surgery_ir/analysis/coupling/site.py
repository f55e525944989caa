"""One operator as a rule sees it: attributes, shapes and the values of small operands for one sample."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.relations import Axis
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD

__all__ = ["Change", "Facts", "Kept", "NotKnown", "Site"]


class NotKnown(Exception):
    """A rule needs a shape or an operand that is not known; the text says which."""


@dataclass(frozen=True)
class Facts:
    """What a run with one sample tells.

    Parameters
    ----------
    shapes
        Shape by value, weights included.
    operands
        Values of small integer operands that are computed, not constant.
    """

    shapes: Mapping[str, tuple[int, ...]]
    operands: Mapping[str, NDArray[Any]]


class Site:
    """One operator, its shapes and operands.

    Parameters
    ----------
    node
        The operator.
    graph
        The graph it belongs to.
    facts
        What is known of the values.
    copied
        Constants of which every reader has a copy of its own.
    """

    def __init__(self, node: ir.Node, graph: Graph, facts: Facts, copied: Collection[str] = ()) -> None:
        self.node = node
        self.graph = graph
        self.facts = facts
        self.copied = copied

    @property
    def name(self) -> str:
        """Name of the operator."""
        return self.node.name or ""

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators that the graph imports."""
        return max(self.graph.model.opset_imports.get(domain, 0) for domain in STANDARD)

    def has(self, index: int) -> bool:
        """Whether there is an input ``index``."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def writes(self, index: int) -> bool:
        """Whether there is an output ``index``."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of input ``index``."""
        return self._shape(self._read(index))

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of output ``index``."""
        return self._shape(self.node.outputs[index])

    def input(self, index: int, axis: int) -> Axis:
        """Axis of input ``index``; negative ones count from the end."""
        value = self._read(index)
        use = (self.name, index) if value.name in self.copied else None
        return Axis(value.name or "", self._place(value, axis), use)

    def output(self, axis: int, index: int = 0) -> Axis:
        """Axis of output ``index``; negative ones count from the end."""
        value = self.node.outputs[index]
        return Axis(value.name or "", self._place(value, axis))

    def axes(self) -> Iterator[Axis]:
        """Yield every axis of every input and output whose shape is known."""
        for index, value in enumerate(self.node.inputs):
            if value is not None and value.name in self.facts.shapes:
                yield from (self.input(index, axis) for axis in range(len(self.shape(index))))
        for index, value in enumerate(self.node.outputs):
            if value.name and value.name in self.facts.shapes:
                yield from (self.output(axis, index) for axis in range(len(self.output_shape(index))))

    def is_constant(self, index: int) -> bool:
        """Whether input ``index`` is an initializer that no caller can override."""
        return self.has(index) and self.graph.is_constant(self.node.inputs[index])

    def operand(self, index: int) -> NDArray[Any]:
        """Values of a small operand, constant or computed.

        Raises
        ------
        NotKnown
            They are not known.
        """
        value = self._read(index)
        if self.graph.is_constant(value):
            return self.graph.array(value.name or "")
        if (value.name or "") not in self.facts.operands:
            raise NotKnown(f"the value of its operand {value.name!r} is not known")
        return self.facts.operands[value.name or ""]

    def number(self, name: str, default: int) -> int:
        """Integer attribute."""
        return self.node.attributes[name].as_int() if name in self.node.attributes else default

    def numbers(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Attribute that is a list of integers."""
        return tuple(self.node.attributes[name].as_ints()) if name in self.node.attributes else default

    def text(self, name: str, default: str) -> str:
        """Text attribute."""
        return self.node.attributes[name].as_string() if name in self.node.attributes else default

    def _read(self, index: int) -> ir.Value:
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise NotKnown(f"it has no input {index}")
        return value

    def _place(self, value: ir.Value, axis: int) -> int:
        rank = len(self._shape(value))
        if not -rank <= axis < rank:
            raise NotKnown(f"{value.name!r} has no axis {axis}")
        return axis % rank

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        if (value.name or "") not in self.facts.shapes:
            raise NotKnown(f"the shape of {value.name!r} is not known")
        return self.facts.shapes[value.name or ""]


@dataclass(frozen=True)
class Change:
    """What a cut changes about an operator besides the values it reads and writes.

    Parameters
    ----------
    attributes
        New values of attributes.
    operands
        New values of constant or computed operands, by input; those that are computed are read from a constant then.
    elements
        New values of single elements of an integer operand, by input: the others stay what they are, which may be
        computed at run time.
    results
        Values of single elements of an integer output, by output: whoever reads it finds them, whatever is computed.
    op_type
        Another operator to take its place, with the same first input and the new ``operands``.
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    operands: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    elements: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    results: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    op_type: str | None = None


class Kept:
    """Indices that a cut keeps, axis by axis, for one operator.

    Parameters
    ----------
    site
        The operator before the cut.
    masks
        True where an index is kept; axes that are not cut are missing.
    """

    def __init__(self, site: Site, masks: Mapping[Axis, NDArray[np.bool_]]) -> None:
        self.site = site
        self.masks = masks

    def input(self, index: int, axis: int) -> NDArray[np.bool_] | None:
        """Mask of an axis of input ``index``; ``None`` where it is not cut."""
        return self.masks.get(self.site.input(index, axis))

    def output(self, axis: int, index: int = 0) -> NDArray[np.bool_] | None:
        """Mask of an axis of output ``index``; ``None`` where it is not cut."""
        return self.masks.get(self.site.output(axis, index))

    def sizes(self, index: int = 0) -> dict[int, int]:
        """New sizes of the axes of output ``index`` that are cut."""
        found = {}
        for axis in range(len(self.site.output_shape(index))):
            mask = self.output(axis, index)
            if mask is not None:
                found[axis] = int(np.count_nonzero(mask))
        return found
