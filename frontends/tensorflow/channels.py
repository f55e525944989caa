"""Channels that are scaled by a parameter, where tf2onnx would leave a Transpose on either side."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery_ir.frontends.tensorflow.normalization import vector

__all__ = ["rewrite_scaled_channels"]


CONVOLUTIONS = frozenset(("Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative"))
PASSING = frozenset(("BiasAdd", "Elu", "Identity", "LeakyRelu", "Relu", "Relu6", "Selu", "Sigmoid", "Softplus", "Tanh"))
"""Operators on single numbers, which tf2onnx carries Transposes over."""


def rewrite_scaled_channels(graph: Any, ops: Any) -> Any:
    """Write a vector that multiplies images as one with channels first, moved last; a custom rewriter of tf2onnx.

    tf2onnx carries a Transpose over a product with a constant vector or with another Transpose of the same kind, but
    not over one with a vector that is an input. What is written here follows from the parameter alone, so that
    nothing of it stays in the graph.
    """
    from tf2onnx import utils

    for node in list(ops):
        if node.type != "Mul":
            continue
        for data, factor in (node.input, node.input[::-1]):
            shape, found = graph.get_shape(data), vector(graph, factor)
            if shape is None or len(shape) < 4 or found is None or found[1] != -1 or not _is_behind(graph, data):
                continue
            name, rank, kind = found[0], len(shape), graph.get_dtype(factor)
            size = graph.get_shape(name)[0]
            first = [1, size] + [1] * (rank - 2)
            target = graph.make_const(utils.make_name("shape"), np.array(first, np.int64)).output[0]
            moved = graph.make_node("Reshape", [name, target], shapes=[first], dtypes=[kind])
            last = graph.make_node(
                "Transpose",
                moved.output,
                attr={"perm": [0, *range(2, rank), 1]},
                shapes=[[1] * (rank - 1) + [size]],
                dtypes=[kind],
            )
            graph.replace_input(node, factor, last.output[0])
            break
    return graph.get_nodes()


def _is_behind(graph: Any, name: str) -> bool:
    """Whether a convolution computes ``name``, so that it will come out of a Transpose."""
    node = graph.get_node_by_output(name)
    while node is not None and node.type in PASSING:
        node = node.inputs[0]
    return node is not None and node.type in CONVOLUTIONS
