"""Write a tap into the graph: as a sum of two layers, or as further input channels of the one that is there.

Only Conv, MatMul, Add, Concat and Gather are used, in the forms that opset 7 knows already.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.taps import Tap
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD

__all__ = ["emit", "insert_map"]

SPARSE_SHARE = 0.5
"""Where no more of a donor's channels are used than this share, those are picked before they are multiplied."""

NEGATIVE_AXES = 11
"""Opset from which Concat counts axes from the back."""


def emit(editor: Editor, layer: Layer, tap: Tap, weights: NDArray[np.floating]) -> Layer | None:
    """Let ``layer`` give W · donor besides what it gives now; values and other layers keep their names.

    Written as ``layer(x) + tap(donor)``, the tap being a 1×1 Conv or a MatMul, or merged as
    ``layer(Concat(x, donor))``, where the sum would move more values. Both cost the same multiplications. The sum
    writes the tap's output, reads it and the layer's and writes theirs: 4 values per output position and output. The
    Concat reads and writes every input channel once: 2 values per input position and channel. A layer that was
    widened before has its Concat already, and pays for the new channels alone.

    Every weight that is not zero, as stored, is a created connection in the edit log.

    Parameters
    ----------
    editor
        Changes the graph.
    layer
        The consumer, as it was found before any tap was written or since.
    tap
        One of its taps, see :func:`~surgery_ir.analysis.taps.find_taps`.
    weights : (groups · outputs, donor channels)
        W of the tap.

    Returns
    -------
    Layer or None
        The layer that holds W now: a new one, whose inputs are the donor's channels in use, or ``layer`` itself with
        more inputs; known by its name. ``None`` where W is zero, and nothing was written.

    Raises
    ------
    PassError
        W has another shape than the tap, or is not finite in the type of the graph's weights.
    """
    graph, node = editor.graph, editor.graph.node(layer.name)
    weight = node.inputs[1]
    assert weight is not None and weight.dtype is not None
    with np.errstate(over="ignore"):
        stored = np.asarray(weights, dtype=weight.dtype.numpy())
    if stored.shape != (tap.layer.outputs, tap.layer.inputs) or not np.isfinite(stored).all():
        raise PassError(f"{editor.pass_name}: weights of shape {stored.shape} cannot be written to {tap.layer.name!r}")
    used = np.flatnonzero(stored.any(axis=0))
    if not len(used):
        return None
    picks = len(used) <= SPARSE_SHARE * stored.shape[1]
    if picks:
        stored = stored[:, used]
    axis = _join_axis(graph, layer, tap) if len(weight.uses()) == 1 else None
    if axis is not None and _is_merge_cheaper(graph, node, layer, stored.shape[1]):
        joined = _own_concat(node, layer)
        donor = _donor(editor, joined or node, tap, used if picks else None)
        return _merge(editor, node, layer, donor, stored, axis)
    output = _value(graph, layer.output)
    writer = output.producer()  # the layer, the Add that brings its bias, or that of an earlier tap
    assert writer is not None
    return _add(editor, output, tap.layer, _donor(editor, writer, tap, used if picks else None), stored, writer)


def insert_map(editor: Editor, layer: Layer, tap: Tap, down: NDArray[np.floating]) -> Tap:
    """Compute fewer values from a donor, aligned as the tap is, ahead of ``layer``; give the tap that reads these.

    Parameters
    ----------
    editor
        Changes the graph.
    layer
        The consumer.
    tap
        One of its taps.
    down : (values, donor channels)
        The map; what is not zero in it are created connections.
    """
    weight = editor.graph.initializers[layer.weight]
    assert weight.dtype is not None
    stored = down.astype(weight.dtype.numpy())
    name, geometry = f"{tap.layer.name}/down", tap.layer.geometry
    narrow = replace(tap.layer, outputs=len(down), name=name, weight=f"{name}.weight", output=f"{name}/output")
    initializer = editor.add_initializer(narrow.weight, narrow.array(stored[np.newaxis]))
    node = editor.insert_node(
        narrow.op_type, [_value(editor.graph, tap.donor), initializer], [narrow.output],
        before=editor.graph.node(layer.name), name=name, created=int(np.count_nonzero(stored)),
        attributes={} if geometry is None else {"kernel_shape": geometry.kernel, "strides": geometry.strides},
    )  # fmt: skip
    product = node.outputs[0]
    product.type = _value(editor.graph, tap.donor).type
    donor = product.name or ""
    still = geometry and replace(geometry, strides=(1,) * len(geometry.strides))
    return Tap(donor, tap.span, replace(tap.layer, input=donor, inputs=len(down), geometry=still))


def _value(graph: Graph, name: str) -> ir.Value:
    written = (value for node in graph.model.graph for value in node.outputs)
    return next(value for value in itertools.chain(graph.inputs, written) if value.name == name)


def _donor(editor: Editor, before: ir.Node, tap: Tap, used: NDArray[np.intp] | None) -> ir.Value:
    """Give the donor, or those of its channels that are ``used``, computed ahead of ``before``."""
    donor = _value(editor.graph, tap.donor)
    if used is None:
        return donor
    name = tap.layer.name
    indices = editor.add_initializer(f"{name}/channels", used.astype(np.int64))
    axis = 1 if tap.layer.geometry is not None else -1
    picked = editor.insert_node(
        "Gather", [donor, indices], [f"{name}/picked"], before=before, attributes={"axis": axis}, name=f"{name}/pick"
    )
    picked.outputs[0].type = donor.type
    return picked.outputs[0]


def _add(
    editor: Editor, output: ir.Value, tap: Layer, donor: ir.Value, stored: NDArray[np.floating], before: ir.Node
) -> Layer:
    """Write the tap as a layer of its own whose output is added to ``output``."""
    virtual = replace(tap, inputs=stored.shape[1], input=donor.name or "")
    weight = editor.add_initializer(tap.weight, virtual.array(stored[np.newaxis]))
    geometry = tap.geometry
    attributes = {} if geometry is None else {"kernel_shape": geometry.kernel, "strides": geometry.strides}
    node = editor.insert_node(
        tap.op_type, [donor, weight], [tap.output], before=before, attributes=attributes, name=tap.name,
        created=int(np.count_nonzero(stored)),
    )  # fmt: skip
    product = node.outputs[0]
    product.type = output.type
    editor.add_summand(output, product)
    return replace(virtual, name=node.name or "", weight=weight.name or "", output=product.name or "")


def _merge(
    editor: Editor, node: ir.Node, layer: Layer, donor: ir.Value, stored: NDArray[np.floating], axis: int
) -> Layer:
    """Let the layer itself read the donor's channels behind those that it reads now."""
    weight = node.inputs[1]
    assert weight is not None and weight.name is not None
    columns = replace(layer, inputs=stored.shape[1]).array(stored[np.newaxis])
    joined = _own_concat(node, layer)
    if joined is not None:
        editor.set_input(joined, len(joined.inputs), donor)
        total = joined.outputs[0]
    else:
        total = editor.insert_node(
            "Concat", [node.inputs[0], donor], [f"{layer.name}/joined"], before=node, attributes={"axis": axis},
            name=_concat_name(layer),
        ).outputs[0]  # fmt: skip
        total.type = donor.type
        editor.set_input(node, 0, total)
    along = 1 if layer.geometry is not None or not layer.transposed else 0
    editor.widen_weights(weight.name, along, columns)
    writer = node  # what it writes may have another name since a tap was added to it
    if layer.op_type == "MatMul" and layer.bias is not None:
        (writer,) = editor.graph.initializers[layer.bias].consumers()
    inputs = editor.graph.array(weight.name).shape[along]
    return replace(layer, input=total.name or "", output=writer.outputs[0].name or "", inputs=inputs)


def _join_axis(graph: Graph, layer: Layer, tap: Tap) -> int | None:
    """Axis along which the donor may be put behind the layer's input; ``None`` where it may not."""
    if not tap.parallel:
        return None
    if layer.geometry is not None:
        geometry, other = layer.geometry, tap.layer.geometry
        alike = other is not None and (geometry.kernel, geometry.strides) == (other.kernel, other.strides)
        return 1 if alike and layer.groups == 1 and not any(geometry.pads) else None
    if layer.op_type == "Gemm":
        return 1
    opset = max(graph.model.opset_imports.get(domain, 0) for domain in STANDARD)
    return -1 if opset >= NEGATIVE_AXES else None


def _is_merge_cheaper(graph: Graph, node: ir.Node, layer: Layer, extra: int) -> bool:
    """Whether the Concat moves no more values than the sum, per output position."""
    copied = extra if _own_concat(node, layer) is not None else layer.channels + extra
    positions = int(np.prod(layer.geometry.strides)) if layer.geometry is not None else 1
    return 2 * copied * positions <= 4 * layer.outputs


def _own_concat(node: ir.Node, layer: Layer) -> ir.Node | None:
    """The Concat that an earlier tap put ahead of the layer, if nothing else reads it."""
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type != "Concat" or producer.name != _concat_name(layer):
        return None
    return producer if len(source.uses()) == 1 and not source.is_graph_output() else None


def _concat_name(layer: Layer) -> str:
    return f"{layer.name}/join"
