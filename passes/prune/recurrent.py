"""Weights of recurrent operators as matrices: what can be pruned by itself where no layer can be solved for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.graph.editor import WEIGHT_INPUTS
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD

__all__ = ["RecurrentMatrix", "recurrent_matrices"]

RECURRENT = ("LSTM", "GRU", "RNN")
ROLES: Mapping[int, str] = {1: "W", 2: "R"}
"""What ONNX calls the weights of the inputs and those of the operator's own last state."""


@dataclass(frozen=True, slots=True)
class RecurrentMatrix:
    """W or R of a recurrent operator, of which no other operator reads anything.

    Parameters
    ----------
    name, op_type
        Name and operator of the node; its two matrices share them.
    role
        ``W`` or ``R``.
    weight
        Initializer, of shape (directions, gates · hidden, inputs or hidden).
    groups, outputs, inputs
        Directions, and rows and columns of one of them.
    """

    name: str
    op_type: str
    role: str
    weight: str
    groups: int
    outputs: int
    inputs: int
    sharers: ClassVar[tuple[str, ...]] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.groups * self.outputs * self.inputs

    @property
    def channels(self) -> int:
        """Inputs that an output sums over."""
        return self.inputs

    def matrix(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring stored weights into the form (groups, outputs, inputs), which is the operator's own."""
        return array

    def array(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Inverse of :meth:`matrix`."""
        return matrix


def recurrent_matrices(graph: Graph) -> dict[str, tuple[RecurrentMatrix, ...] | str]:
    """Find W and R of every LSTM, GRU and RNN of the main graph, by node; a text says why they must stay as they are.

    An operator is taken as a whole: both are constants of its own, or neither is given.
    """
    return {
        node.name or "": _read(graph, node)
        for node in graph.model.graph
        if node.op_type in RECURRENT and node.domain in STANDARD
    }


def _read(graph: Graph, node: ir.Node) -> tuple[RecurrentMatrix, ...] | str:
    found = []
    for index in WEIGHT_INPUTS[node.op_type]:
        value, role = node.inputs[index], ROLES[index]
        if value is None or value.const_value is None or not graph.is_constant(value):
            return f"its {role} is computed or given by the caller, not a constant"
        if value.is_graph_output():
            return f"its {role} is an output of the graph"
        others = [use.node for use in value.uses() if (use.node, use.idx) != (node, index)]
        if others:
            return f"its {role} is also read by {others[0].op_type} {others[0].name!r}"
        groups, outputs, inputs = (int(size) for size in value.const_value.shape.numpy())
        found.append(RecurrentMatrix(node.name or "", node.op_type, role, value.name or "", groups, outputs, inputs))
    return tuple(found)
