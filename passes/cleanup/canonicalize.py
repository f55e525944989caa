"""Bring a graph into the form that other passes expect, without changing what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.cleanup.batchnorm import fold_batchnorm
from surgery_ir.passes.cleanup.constants import fold_constants
from surgery_ir.passes.cleanup.shuffles import fold_shuffles

__all__ = ["Canonicalize"]


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Fold constants and BatchNorm, remove identities, inactive Dropout and dead code, write shuffles as Gather. Exact.

    Values that survive keep their names: a Conv that swallows its BatchNorm writes the value that the BatchNorm
    wrote, so that the result and the original can be compared tensor by tensor.
    """

    name: ClassVar[str] = "canonicalize"
    exact: ClassVar[bool] = True

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Fold and remove until nothing changes."""
        changed = True
        while changed:
            before = len(editor.edits)
            fold_shuffles(editor, ctx)
            refusals = [*fold_constants(editor, ctx), *_remove_identities(editor), *fold_batchnorm(editor)]
            editor.transform("remove-dead", lambda model: bool(RemoveUnusedNodesPass()(model).modified))
            changed = len(editor.edits) > before
        if not editor.edits and not refusals:
            refusals.append(Refusal("the graph is canonical already"))
        return refusals


def _remove_identities(editor: Editor) -> list[Refusal]:
    """Remove Identity, and Dropout that drops nothing, from the main graph.

    Subgraphs keep theirs: a branch may not return a value of the outer graph without one.
    """
    refusals: list[Refusal] = []
    for node in list(editor.graph.model.graph):
        if node.op_type not in ("Identity", "Dropout") or node.domain not in STANDARD or node.inputs[0] is None:
            continue
        reason = _reason_against_removal(editor.graph, node, node.inputs[0])
        if reason is None:
            editor.bypass(node, node.inputs[0], kind=f"remove-{node.op_type.lower()}")
        else:
            refusals.append(Refusal(reason, (node.name or "",)))
    return refusals


def _reason_against_removal(graph: Graph, node: ir.Node, source: ir.Value) -> str | None:
    flag = node.inputs[2] if len(node.inputs) > 2 else None
    if flag is not None and not graph.is_constant(flag):
        return "whether it drops anything is decided at run time"
    if flag is not None and np.any(graph.array(flag.name or "")):
        return "it drops at random (training mode)"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "its mask is read"
    if node.outputs[0].is_graph_output() and not _is_read_here_only(source):
        return "it names an output of the graph"
    return None


def _is_read_here_only(value: ir.Value) -> bool:
    return value.producer() is not None and len(value.uses()) == 1 and not value.is_graph_output()
