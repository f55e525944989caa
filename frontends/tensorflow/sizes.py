"""Sizes that tf2onnx computes from parameters are constants: parameters do not change their shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.shapes import infer_types

__all__ = ["fold_sizes"]

LARGEST = 64
"""Numbers in a list of sizes."""

COMPUTED = frozenset(
    ("Add", "Cast", "Concat", "Gather", "Mul", "ReduceProd", "Reshape", "Slice", "Squeeze", "Unsqueeze")
)
MOVES = frozenset(("Reshape", "Squeeze", "Transpose", "Unsqueeze"))


def fold_sizes(graph: Graph, parameters: Iterable[str]) -> None:
    """Replace what follows from the shapes of parameters by constants.

    Parameters
    ----------
    graph
        A graph that was just made; it is changed in place.
    parameters
        Names of the initializers that stand for parameters.
    """
    fixed = {graph.initializers[name] for name in parameters if name in graph.initializers}
    if not any(node.op_type == "Shape" for node in graph.model.graph):
        return
    known: dict[ir.Value, NDArray[Any]] = {}
    for name, value in graph.initializers.items():
        if value not in fixed and graph.array(name).size <= LARGEST and graph.array(name).dtype.kind == "i":
            known[value] = graph.array(name)
    folded: dict[ir.Value, NDArray[Any]] = {}
    types = infer_types(graph)
    for node in graph.model.graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type == "Shape" and read[0] in fixed and not node.attributes:
            sizes = _sizes(types.get(read[0].name or ""))
            if sizes is not None:
                folded[node.outputs[0]] = sizes
        elif node.op_type in COMPUTED and any(value in folded for value in read):
            if all(value in known or value in folded for value in read):
                folded[node.outputs[0]] = _evaluate(node, {**known, **folded})
        elif node.op_type in MOVES and read[0] in fixed:
            fixed.update(node.outputs)
    editor = Editor(graph, "lowering")
    for value, array in folded.items():
        if any(use.node.outputs[0] not in folded for use in value.uses()):
            editor.replace_by_constant(value, array)


def _sizes(declared: Any) -> NDArray[np.int64] | None:
    if declared is None:
        return None
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in declared.tensor_type.shape.dim]
    return None if None in sizes else np.array(sizes, np.int64)


def _evaluate(node: ir.Node, known: dict[ir.Value, NDArray[Any]]) -> NDArray[Any]:
    feeds = {value.name or "": known[value] for value in node.inputs if value is not None}
    evaluator = ReferenceEvaluator(ir.to_proto(node), opsets={"": node.graph.opset_imports[""] if node.graph else 18})
    found: Any = evaluator.run(None, feeds)
    return np.asarray(found[0])
