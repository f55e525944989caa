"""Replace a residual branch in the graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.layers import Layer
from surgery_ir.graph.editor import WEIGHT_INPUTS, Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.prune.branches import Branch
from surgery_ir.passes.prune.replacements import Replacement
from surgery_ir.solvers.linear_map import LinearMap

__all__ = ["replace_branch"]


def replace_branch(
    editor: Editor, branch: Branch, chosen: Replacement, fitted: LinearMap, dtype: np.dtype[Any]
) -> None:
    """Compute y, which keeps its name, without its branch; what nobody needs any more is removed.

    Where the layers that read y take the map up, they read u instead and y disappears.

    Parameters
    ----------
    editor
        Changes the graph.
    branch, chosen
        What to replace, and how.
    fitted
        The map.
    dtype
        Type of y.
    """
    add = editor.graph.node(branch.node)
    source = _value(editor.graph, branch.kept)
    if chosen.kind == "readers":
        total = add.outputs[0]
        for layer in chosen.layers:
            node = editor.graph.node(layer.name)
            editor.set_input(node, next(i for i, item in enumerate(node.inputs) if item is total), source)
            _merge_into_reader(editor, layer, fitted)
        _remove_unread(editor, [add])
        return
    if chosen.kind == "own":
        source = _insert(editor, add, source, chosen, fitted, dtype)
    elif chosen.kind == "writer":
        _merge_into_writer(editor, chosen.layers[0], fitted)
    written_by = [value.producer() for value in add.inputs if value is not None]
    editor.rewrite_node(add, "Identity", [source], {})
    _remove_unread(editor, [node for node in written_by if node is not None])
    editor.bypass(add, source)
    if chosen.relu is not None:
        relu = editor.graph.node(chosen.relu)
        assert relu.inputs[0] is not None
        editor.bypass(relu, relu.inputs[0])


def _value(graph: Graph, name: str) -> ir.Value:
    producer = graph.view().producer(name)
    values = graph.inputs if producer is None else graph.node(producer).outputs
    return next(value for value in values if value.name == name)


def _insert(
    editor: Editor, add: ir.Node, source: ir.Value, chosen: Replacement, fitted: LinearMap, dtype: np.dtype[Any]
) -> ir.Value:
    """Insert the map as a pointwise Conv, or as a MatMul and an Add, ahead of ``add``."""
    stem = f"{add.outputs[0].name}/map"
    weights, bias = fitted.weights.astype(dtype), fitted.bias.astype(dtype)
    created = int(np.count_nonzero(weights))
    if chosen.rank > 2 and chosen.axis == 1:
        weights = weights.reshape(*weights.shape, *(1,) * (chosen.rank - 2))
        inputs = [
            source,
            editor.add_initializer(f"{stem}.weight", weights),
            editor.add_initializer(f"{stem}.bias", bias),
        ]
        return editor.insert_node("Conv", inputs, [stem], before=add, created=created).outputs[0]
    inputs = [source, editor.add_initializer(f"{stem}.weight", weights.T)]
    product = editor.insert_node("MatMul", inputs, [f"{stem}/product"], before=add, created=created).outputs[0]
    inputs = [product, editor.add_initializer(f"{stem}.bias", bias)]
    return editor.insert_node("Add", inputs, [stem], before=add).outputs[0]


def _merge_into_writer(editor: Editor, layer: Layer, fitted: LinearMap) -> None:
    """T (W x + b) + c is (T W) x + (T b + c)."""
    matrix = layer.matrix(editor.graph.array(layer.weight)).astype(np.float64)
    bias = layer_bias(editor.graph, layer)
    editor.set_weights(layer.weight, layer.array(fitted.weights @ matrix))
    if layer.takes_bias:
        set_layer_bias(editor, layer, bias @ fitted.weights.T + fitted.bias)


def _merge_into_reader(editor: Editor, layer: Layer, fitted: LinearMap) -> None:
    """W (T x + c) + b is (W T) x + (W c + b), at every position of a kernel."""
    matrix = layer.matrix(editor.graph.array(layer.weight)).astype(np.float64)
    taps = matrix.reshape(layer.outputs, -1, layer.channels)
    bias = layer_bias(editor.graph, layer)
    editor.set_weights(layer.weight, layer.array((taps @ fitted.weights).reshape(matrix.shape)))
    if layer.takes_bias:
        set_layer_bias(editor, layer, bias + (taps @ fitted.bias).sum(axis=1))


def _remove_unread(editor: Editor, nodes: Iterable[ir.Node]) -> None:
    """Remove those of ``nodes`` that nobody reads, and what was there for them alone."""
    queue = list(nodes)
    gone: set[ir.Node] = set()
    while queue:
        node = queue.pop()
        if node in gone or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        read = list(dict.fromkeys(value for value in node.inputs if value is not None))
        editor.remove_node(node, sum(_connections_lost(editor.graph, node, value) for value in read))
        gone.add(node)
        for value in read:
            producer = value.producer()
            if producer is not None:
                queue.append(producer)
            elif value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                editor.remove_initializer(value.name or "")


def _connections_lost(graph: Graph, node: ir.Node, value: ir.Value) -> int:
    """Nonzeros of a constant that are weights of ``node`` and of no other operator."""
    readers = [use.node for use in value.uses() if use.idx in WEIGHT_INPUTS.get(use.node.op_type, ())]
    if not value.is_initializer() or value.const_value is None or not readers or set(readers) != {node}:
        return 0
    return int(np.count_nonzero(graph.array(value.name or "")))
