"""Constant folding: compute once what does not depend on the inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from surgery_ir.errors import BackendError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.base import PassContext, Refusal

__all__ = ["fold_constants"]

KEPT = frozenset({"Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Constants are lifted on loading where they can be; quantised weights stay quantised."""

RANDOM = frozenset(
    ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)

GROWTH = 1024
"""Bytes by which a folded result may exceed the constants it is made of, so that a Tile or Expand stays small."""


def fold_constants(editor: Editor, ctx: PassContext) -> list[Refusal]:
    """Replace operators whose inputs are all constant by their results, computed by the runtime in one run."""
    graph = editor.graph
    constant: set[ir.Value] = set()
    nodes: dict[ir.Node, None] = {}
    for node in graph.model.graph:
        if _is_foldable(node) and all(
            value is None or value in constant or graph.is_constant(value) for value in node.inputs
        ):
            nodes[node] = None
            constant.update(node.outputs)
    ends = [
        (node, value)
        for node in nodes
        for value in node.outputs
        if not value.is_graph_output() and any(use.node not in nodes for use in value.uses())
    ]
    if not ends:
        return []
    cut = Cutter(graph).cut(set(nodes), {}, [value.name or "" for _, value in ends])
    try:
        results = ctx.runtime.load(cut).run({})
    except BackendError as error:
        return [Refusal(f"constants could not be computed: {error}", tuple(node.name or "" for node in nodes))]
    refusals: list[Refusal] = []
    for node, value in ends:
        result = results.get(value.name or "")
        reason = _reason_against(node, result)
        if reason is None:
            editor.replace_by_constant(value, np.asarray(result))
        else:
            refusals.append(Refusal(reason, (node.name or "",)))
    return refusals


def _is_foldable(node: ir.Node) -> bool:
    if node.domain not in STANDARD or node.op_type in KEPT | RANDOM or not node.inputs:
        return False
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return all(attribute.is_ref() or attribute.type not in kinds for attribute in node.attributes.values())


def _reason_against(node: ir.Node, result: Any) -> str | None:
    if not isinstance(result, np.ndarray):  # a sequence, or of a type that numpy lacks
        return "its constant result is no array"
    size = _nbytes(result)
    if size > _bytes_read(node) + GROWTH:
        return f"its constant result is larger than what it is made of ({size} bytes)"
    return None


def _nbytes(array: np.ndarray[Any, Any]) -> int:
    """Bytes that an array takes in a file."""
    return sum(len(str(item).encode()) for item in array.flat) if array.dtype == object else array.nbytes


def _bytes_read(node: ir.Node) -> int:
    """Bytes of all initializers that the result is made of."""
    seen: set[ir.Value] = set()
    total = 0
    queue = [value for value in node.inputs if value is not None]
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None:
            queue.extend(item for item in producer.inputs if item is not None)
        elif value.const_value is not None:
            total += value.const_value.nbytes
    return total
