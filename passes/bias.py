"""Read and write the bias of a layer, wherever the operator keeps it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph

__all__ = ["layer_bias", "set_layer_bias", "store_bias"]


def layer_bias(graph: Graph, layer: Layer) -> NDArray[np.float64]:
    """Give b of ``layer``, shape (groups, outputs); zeros where it has none."""
    if layer.bias is None:
        return np.zeros((layer.groups, layer.outputs))
    stored = graph.array(layer.bias).astype(np.float64) * layer.bias_scale
    return stored.reshape(layer.groups, layer.outputs)


def set_layer_bias(editor: Editor, layer: Layer, bias: NDArray[np.float64]) -> None:
    """Let b of ``layer``, which takes one, be ``bias`` of shape (groups, outputs)."""
    stored = bias.reshape(-1) / layer.bias_scale
    if layer.op_type == "MatMul":  # its bias belongs to the Add behind it
        assert layer.bias is not None
        editor.set_weights(layer.bias, stored.reshape(editor.graph.array(layer.bias).shape))
    else:
        store_bias(editor, editor.graph.node(layer.name), stored)


def store_bias(editor: Editor, node: ir.Node, bias: NDArray[Any], kind: str = "set-weights") -> None:
    """Let the third input of a Conv, ConvTranspose or Gemm be ``bias``, shape (outputs,).

    A bias of its own is overwritten. Where it has none, or shares it, there is a new one: ``c.bias`` beside
    ``c.weight``.
    """
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is not None and _is_own(editor.graph, old) and editor.graph.array(old.name or "").shape == bias.shape:
        editor.set_weights(old.name or "", bias, kind)
        return
    weight = node.inputs[1]
    assert weight is not None and weight.name is not None
    dtype = editor.graph.array(weight.name).dtype
    name = f"{weight.name.removesuffix('.weight')}.bias"
    editor.set_input(node, 2, editor.add_initializer(name, bias.astype(dtype)))


def _is_own(graph: Graph, value: ir.Value) -> bool:
    return graph.is_constant(value) and len(value.uses()) == 1 and not value.is_graph_output()
