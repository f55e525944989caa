"""What the units of a group are: heads, hidden neurons or channels."""

from __future__ import annotations

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.graph.model import Graph

__all__ = ["is_heads", "is_width"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def is_heads(graph: Graph, group: Group) -> bool:
    """Whether units are attention heads: several outputs of matrix products, one index of what they become."""
    wide = bool(group.written) and all(span.indices.shape[1] > 1 for span in group.written)
    writers = _operators(graph, group)
    return wide and not writers & (CONVOLUTIONS | RECURRENT)


def is_width(graph: Graph, group: Group) -> bool:
    """Whether units are hidden neurons of matrix products, or hidden units of recurrent layers."""
    writers = _operators(graph, group)
    return bool(writers) and not writers & CONVOLUTIONS and not is_heads(graph, group)


def _operators(graph: Graph, group: Group) -> set[str]:
    """Operators that read the weights along which the units are written."""
    return {use.node.op_type for span in group.written for use in graph.initializers[span.axis.value].uses()}
