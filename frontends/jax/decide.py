"""What a model of JAX decides by sizes is decided already.

``jnp.var`` gives NaN where there are no numbers to take the variance of; JAX writes that as a ``Where`` whose condition
compares two constants. Nobody wants a NaN among the weights that can never be chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

__all__ = ["decide"]

CHOICE = "Where"

Known = dict[ir.Value, NDArray[Any]]


def decide(graph: ir.Graph) -> None:
    """Replace each choice whose condition is a known number by what it chooses.

    Parameters
    ----------
    graph
        A graph whose parameters are inputs, so that its initializers are the converter's own; changed in place.
    """
    known: Known = {
        value: value.const_value.numpy()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.size == 1
    }
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type == CHOICE and read[0] in known:
            chosen = read[1 if known[read[0]].all() else 2]
            if chosen.shape is not None and chosen.shape == node.outputs[0].shape:
                node.outputs[0].replace_all_uses_with(chosen, replace_graph_outputs=True)
        elif read and len(node.outputs) == 1 and not node.domain and all(value in known for value in read):
            _follow(node, known)


def _follow(node: ir.Node, known: Known) -> None:
    """Note what ``node`` gives, where that is one number as well."""
    feeds = {str(value.name): known[value] for value in node.inputs if value is not None}
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return
    found: Any = ReferenceEvaluator(ir.to_proto(node)).run(None, feeds)
    array = np.asarray(found[0])
    if array.size == 1:
        known[node.outputs[0]] = array
