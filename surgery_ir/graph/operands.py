"""Sizes that must agree between the operands of one operator, and that onnx's shape inference does not compare.

A runtime finds out only when it runs the operator; a surgery that sliced one side and forgot the other must not get
that far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD

__all__ = ["operand_faults"]

Shape = tuple[int | None, ...] | None
Clash = tuple[str, int | None, str, int | None]
"""Two sizes that must be equal where both are known, each behind what it is the size of."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def operand_faults(graph: Graph, inferred: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield the name of every node of the main graph whose operands do not fit each other, and why.

    Parameters
    ----------
    graph
        The graph.
    inferred
        The same with inferred shapes.
    """
    shapes = {
        value.name: _shape(value.type.tensor_type)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.HasField("tensor_type")
    }
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            shapes[name] = tuple(int(size) for size in value.const_value.shape.numpy())
    for node in graph.model.graph:
        rule = RULES.get(node.op_type) if node.domain in STANDARD else None
        if rule is None:
            continue
        operands = [shapes.get(value.name or "") if value is not None else None for value in node.inputs]
        for one, size, other, wanted in rule(node, [*operands, *[None] * 4]):
            if size is not None and wanted is not None and size != wanted:
                yield node.name or "", f"{one} {size}, {other} {wanted}"


def _shape(tensor: onnx.TypeProto.Tensor) -> Shape:
    if not tensor.HasField("shape"):
        return None
    return tuple(int(dim.dim_value) if dim.dim_value > 0 else None for dim in tensor.shape.dim)


def _axis(shape: Shape, axis: int) -> int | None:
    return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None


def _times(size: int | None, factor: int) -> int | None:
    return None if size is None else size * factor


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()


def _conv(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    x, w, b = shapes[:3]
    groups = _int(node, "group", 1)
    yield "the input has channels:", _axis(x, 1), "the weights read", _times(_axis(w, 1), groups)
    yield from _in_groups(w, groups)
    yield "the bias has entries:", _axis(b, 0), "the weights have outputs:", _axis(w, 0)


def _conv_transpose(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    x, w, b = shapes[:3]
    groups = _int(node, "group", 1)
    yield "the input has channels:", _axis(x, 1), "the weights read", _axis(w, 0)
    yield from _in_groups(w, groups)
    yield "the bias has entries:", _axis(b, 0), "the weights have outputs:", _times(_axis(w, 1), groups)


def _in_groups(w: Shape, groups: int) -> Iterator[Clash]:
    first = _axis(w, 0)
    rest = None if first is None else first % groups if groups > 0 else first
    yield f"the first axis of the weights, divided into {groups} groups, leaves", rest, "not", 0


def _gemm(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    _, w, b = shapes[:3]
    outputs = _axis(w, 0 if _int(node, "transB", 0) else 1)
    entries = _axis(b, -1)
    yield "the third input has columns:", None if entries == 1 else entries, "the weights have outputs:", outputs


def _channelwise(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    x, *parameters = shapes
    for shape in parameters:
        yield "a parameter has entries:", _axis(shape, 0), "the input has channels:", _axis(x, 1)


def _trailing(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    x, *parameters = shapes
    for shape in parameters:
        for axis in range(-len(shape or ()), 0):
            size = _axis(shape, axis)
            yield "a parameter has entries:", None if size == 1 else size, f"axis {axis} of the input:", _axis(x, axis)


def _recurrent(node: ir.Node, shapes: Sequence[Shape]) -> Iterator[Clash]:
    x, w, r, b = shapes[:4]
    hidden = _axis(r, 2)
    rows = _times(hidden, GATES[node.op_type])
    yield "the input has features:", _axis(x, 2), "the weights read", _axis(w, 2)
    yield "the input weights have rows:", _axis(w, 1), "the hidden size asks for", rows
    yield "the recurrent weights have rows:", _axis(r, 1), "the hidden size asks for", rows
    yield "the bias has entries:", _axis(b, 1), "the hidden size asks for", _times(rows, 2)


RULES: Mapping[str, Callable[[ir.Node, Sequence[Shape]], Iterator[Clash]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "InstanceNormalization": _channelwise,
    "LayerNormalization": _trailing,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
