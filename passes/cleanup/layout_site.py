"""One operator as the layout rules see it, and the ways in which its attributes and constants are adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.graph import sparse
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph

__all__ = ["SUFFIX", "Fixed", "Site", "Sizes", "permute_broadcast", "replace_constant", "set_axes"]

SUFFIX = "permuted"
"""Follows the name of a value in another layout: it cannot be compared with what had the name."""

Sizes = tuple[int | None, ...]
"""Sizes of the axes; ``None`` where it is open."""


class Fixed(Exception):
    """An operator does not let its axes be reordered; says why, behind its name."""


@dataclass(frozen=True)
class Site:
    """An operator of the main graph.

    ``sizes`` are those of all values whose rank is known; ``opset`` is the version of ONNX's own operators.
    """

    graph: Graph
    node: ir.Node
    sizes: Mapping[str, Sizes]
    opset: int

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        """Give an input that is required."""
        value = self.node.inputs[index] if self.has(index) else None
        if value is None:
            raise Fixed("lacks an input")
        return value

    def is_data(self, index: int) -> bool:
        """Whether input ``index`` is given, and no constant."""
        return self.has(index) and not self.graph.is_constant(self.node.inputs[index])

    def data(self, index: int) -> ir.Value:
        """Give an input that must be no constant: constants are transposed by whoever adapts them."""
        if not self.is_data(index):
            raise Fixed("reads a constant")
        return self.input(index)

    def shape(self, value: ir.Value) -> Sizes:
        """Sizes of a value."""
        found = self.sizes.get(value.name or "")
        if found is None:
            raise Fixed("has operands of unknown rank")
        return found

    def rank(self, value: ir.Value) -> int:
        """Rank of a value."""
        return len(self.shape(value))

    def constant(self, index: int, what: str) -> NDArray[Any]:
        """Values of the constant input ``index``, which is ``what``."""
        value = self.input(index)
        if not self.graph.is_constant(value):
            raise Fixed(f"gets {what} computed")
        return self.graph.array(value.name or "")

    def integer(self, name: str, default: int) -> int:
        """Give an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def text(self, name: str, default: str) -> str:
        """Give an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_string()

    def axis(self, default: int, rank: int) -> int:
        """Attribute ``axis``, counted from the front."""
        return self.integer("axis", default) % max(rank, 1)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """Axes of an attribute or of input ``index``, counted from the front; ``None`` where none are given."""
        attribute = self.node.attributes.get("axes")
        if attribute is not None:
            return tuple(axis % rank for axis in attribute.as_ints())
        if not self.has(index):
            return None
        return tuple(int(axis) % rank for axis in self.constant(index, "its axes").reshape(-1))


def set_axes(editor: Editor, node: ir.Node, index: int, axes: Sequence[int]) -> None:
    """Write axes where they stand: in the attribute, else in input ``index``."""
    if "axes" in node.attributes:
        editor.set_attributes(node, {"axes": list(axes)})
    else:
        value = node.inputs[index] if index < len(node.inputs) else None
        known = editor.graph.array(value.name or "") if value is not None else np.zeros(0, np.int64)
        replace_constant(editor, node, index, np.array(axes, known.dtype).reshape(known.shape))


def replace_constant(editor: Editor, node: ir.Node, index: int, array: NDArray[Any]) -> None:
    """Let input ``index`` of ``node`` read ``array`` instead of the constant that it reads, which goes if unread."""
    old = node.inputs[index]
    if old is None or old.name is None or np.array_equal(editor.graph.array(old.name), array):
        return
    new = editor.add_initializer(f"{old.name}/{SUFFIX}", array)
    editor.set_input(node, index, new)
    if sparse.is_sparse(old):
        editor.store_sparse(new.name or "")
    if not old.uses() and not old.is_graph_output():
        editor.remove_initializer(old.name)


def permute_broadcast(editor: Editor, node: ir.Node, order: Sequence[int]) -> None:
    """Permute all constants that are broadcast to the rank of ``order``; their leading axes of size 1 are dropped."""
    for index, value in enumerate(node.inputs):
        if value is None or not editor.graph.is_constant(value):
            continue
        array = editor.graph.array(value.name or "")
        if array.size != 1:
            rank = array.ndim
            array = array.reshape((1,) * (len(order) - rank) + array.shape).transpose(order)
            while array.ndim > rank and array.shape[0] == 1:
                array = array[0]
            replace_constant(editor, node, index, array)
