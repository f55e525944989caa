"""Bring weights to where passes look for them: lift ``Constant`` nodes and follow ``Identity`` chains.

Exporters hide weights. Some write every one as a ``Constant`` node; some share equal initializers through
``Identity`` nodes. Both are exact rewrites: values keep their names, outputs of the graph stay as they are.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from surgery_ir.graph.view import STANDARD

__all__ = ["follow_identities", "lift_constants", "name_nodes"]

LAST_IR_WITH_INPUTS = 3
"""Up to this IR version every initializer must also be listed as a graph input."""


def lift_constants(model: ir.Model) -> None:
    """Turn ``Constant`` nodes, in subgraphs too, into initializers of the same name."""
    before = set(model.graph.initializers)
    LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    if (model.ir_version or 0) <= LAST_IR_WITH_INPUTS:
        model.graph.inputs.extend(value for name, value in model.graph.initializers.items() if name not in before)


def follow_identities(model: ir.Model) -> None:
    """Let the consumers of ``Identity(initializer)`` read the initializer itself.

    The initializer becomes shared; whoever writes one consumer's weights must deal with the others.
    """
    for node in list(model.graph):
        if node.op_type != "Identity" or node.domain not in STANDARD or not node.inputs:
            continue
        source, target = node.inputs[0], node.outputs[0]
        if source is None or not source.is_initializer() or target.is_graph_output():
            continue
        target.replace_all_uses_with(source)
        model.graph.remove(node, safe=True)


def name_nodes(model: ir.Model) -> None:
    """Give every node of the main graph a unique, non-empty name; names that are unique already stay."""
    taken = {node.name for node in model.graph if node.name}
    seen: set[str] = set()
    for index, node in enumerate(model.graph):
        if not node.name or node.name in seen:
            stem = node.name or f"{node.op_type}_{index}"
            name, suffix = stem, 1
            while name in taken:
                name, suffix = f"{stem}_{suffix}", suffix + 1
            node.name = name
            taken.add(name)
        seen.add(node.name)
