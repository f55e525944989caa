"""Move Transposes together until they cancel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx_ir as ir

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.cleanup.layout_frame import Order
from surgery_ir.passes.cleanup.layout_moves import improve, reader_order, writer_order
from surgery_ir.passes.cleanup.layout_network import Cost, Operator, Source, Use, read_network
from surgery_ir.passes.cleanup.layout_rules import PLACES
from surgery_ir.passes.cleanup.layout_write import write
from surgery_ir.passes.options import Help

__all__ = ["CancelTransposes"]


@dataclass(frozen=True)
class CancelTransposes(Pass):
    """Move Transposes through operators that can work in another layout, so that they meet and cancel. Exact.

    Converters from frameworks with channels last leave Transposes around Conv and pooling. What lies between two of
    them is rewritten to work channels first; axes, pads and constants are permuted with it. Transposes ahead of a
    Flatten go into the weights behind it. The number of Transposes never rises, nor do the bytes that they move.

    Inputs and outputs of the graph stay as they are. Values that survive keep their names; one whose layout changes
    takes over the name of the value that held just this behind a Transpose, or gets a new name.
    """

    name: ClassVar[str] = "cancel-transposes"
    exact: ClassVar[bool] = True

    absorb: Annotated[bool, Help("permute the weights behind a Flatten")] = True

    def check(self, graph: Graph, ctx: PassContext) -> Refusal | None:
        """Refuse graphs without a Transpose."""
        return None if any(_transposes(graph)) else Refusal("there is no Transpose")

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Choose layouts, write them, and say what holds the Transposes that are left."""
        graph = editor.graph
        nodes = {node.name or "" for node in graph.model.graph}
        network = read_network(graph, absorb=self.absorb)
        kept = [Refusal(reason, (node.name or "",)) for node, reason in network.kept.items()]
        present = sum(len(nodes) for source in network.sources for nodes in source.aliases.values())
        improve(network)
        cost = sum((source.cost() for source in network.sources), Cost(0, 0, 0))
        unchanged = all(operator.order == tuple(range(len(operator.order))) for operator in network.touching)
        if unchanged and cost.transposes == present:
            left = {
                source.aliases[layout][0]: (source, layout)
                for source in network.sources
                for layout in source.transposed()
            }
        else:
            left = write(editor, network)
        return [*kept, *_refusals(nodes, left)]


def _transposes(graph: Graph) -> Iterator[ir.Node]:
    return (node for node in graph.model.graph if node.op_type == "Transpose" and node.domain in STANDARD)


def _refusals(nodes: Set[str], left: Mapping[ir.Node, tuple[Source, Order]]) -> Iterator[Refusal]:
    """Say of every Transpose that is left what holds it on both sides; a new one is named by its neighbours."""
    for node, (source, layout) in left.items():
        use = source.transposed()[layout][0]
        neighbours = [operator.node for operator in (source.writer, use.operator) if operator is not None]
        concerned = [node] if node.name in nodes else neighbours
        reason = f"{_writer_holds(source, layout)}, and {_reader_holds(source, use)}"
        yield Refusal(reason, tuple(dict.fromkeys(item.name or "" for item in concerned)))


def _writer_holds(source: Source, layout: Order) -> str:
    if source.writer is None:
        return f"{source.value.name!r}, which it reads, is an input of the graph"
    return _holds(source.writer, source.is_free and writer_order(source, layout) is not None)


def _reader_holds(source: Source, use: Use) -> str:
    if use.operator is None:
        return "what it writes is an output of the graph"
    return _holds(use.operator, use.is_free and reader_order(use, source.layout()) is not None)


def _holds(operator: Operator, can_follow: bool) -> str:
    name = f"{operator.node.op_type} {operator.node.name!r}"
    return f"moving it past {name} would save nothing" if can_follow else f"{name} {operator.reason or PLACES}"
