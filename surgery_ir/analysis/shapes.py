"""Shapes of every value for one sample, through onnx shape inference on the graph without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import shape_inference

from surgery_ir.errors import DataError
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph, skeleton
from surgery_ir.graph.shapes import STANDARD_DOMAINS

__all__ = ["Shape", "infer_shapes"]

Shape = tuple[int | None, ...]
"""Sizes of the axes; ``None`` where one is not known."""


@collector_paused()
def infer_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Shape]:
    """Infer the shape of every value of the main graph that has one.

    Parameters
    ----------
    graph
        Graph to look at; its weights are not read.
    shapes
        Shapes that the inputs have for one sample; they fill axes that the model leaves open. Without them the first
        axis of an input is taken for the batch: where it is open it becomes 1, and so does every axis that bears the
        same symbol. Shapes of inner values are taken over as they are.

    Raises
    ------
    DataError
        A given shape has another rank than the input.
    """
    proto = skeleton(graph)
    inputs = {value.name: value for value in proto.graph.input}
    open_inputs = [inputs[value.name] for value in graph.inputs if value.name in inputs]
    for info in open_inputs:
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:  # some exporters write -1 for "open"
                dim.ClearField("dim_value")
    sizes = _symbol_sizes(open_inputs, shapes or {})
    for info in open_inputs:
        _fix_input(info, (shapes or {}).get(info.name), sizes)
    # What an exporter wrote about inner values would contradict the sizes just given; only where no schema can infer
    # it again it is all there is.
    foreign = {name for node in proto.graph.node if node.domain not in STANDARD_DOMAINS for name in node.output}
    declared = [info for info in proto.graph.value_info if info.name in foreign]
    del proto.graph.value_info[:]
    for info in declared:
        _substitute(info, sizes)
        proto.graph.value_info.append(info)
    for info in proto.graph.output:
        if info.type.HasField("tensor_type") and info.name not in foreign:
            info.type.tensor_type.ClearField("shape")
    _import_domains(proto)
    try:
        inferred = shape_inference.infer_shapes(proto, data_prop=True)
    except shape_inference.InferenceError:  # an operator contradicts its schema; what else is known stays known
        inferred = proto
    known = {
        info.name: _read(info)
        for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape")
    }
    known.update((name, tuple(shape)) for name, shape in (shapes or {}).items())
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            known[name] = tuple(int(size) for size in value.const_value.shape.numpy())
    return known


def _import_domains(proto: onnx.ModelProto) -> None:
    """Import the domains of all operators; runtimes know their own without, onnx stops at those."""
    missing = {node.domain for node in proto.graph.node} - {item.domain for item in proto.opset_import}
    for domain in sorted(missing - set(STANDARD_DOMAINS)):
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def _symbol_sizes(inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Sizes of symbolic axes: the sample's, else 1 for those that lead an input."""
    sizes: dict[str, int] = {}
    for info in inputs:
        symbols = _symbols(info)
        for symbol, size in zip(symbols, shapes.get(info.name, ()), strict=False):
            if symbol:
                sizes.setdefault(symbol, int(size))
    for info in inputs:
        leading = _symbols(info)[:1]
        if leading and leading[0]:
            sizes.setdefault(leading[0], 1)
    return sizes


def _symbols(info: onnx.ValueInfoProto) -> list[str]:
    """Symbols of the axes; one that several axes of an input bear, such as ``?``, is a placeholder and no name."""
    symbols = [dim.dim_param for dim in info.type.tensor_type.shape.dim]
    return [symbol if symbols.count(symbol) == 1 else "" for symbol in symbols]


def _fix_input(info: onnx.ValueInfoProto, given: Sequence[int] | None, sizes: Mapping[str, int]) -> None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        for size in given or ():
            tensor.shape.dim.add().dim_value = int(size)
        return
    dims = tensor.shape.dim
    if given is not None:
        if len(given) != len(dims):
            raise DataError(f"input {info.name!r}: the model declares {len(dims)} axes, the sample has {len(given)}")
        for dim, size in zip(dims, given, strict=True):
            dim.dim_value = int(size)
        return
    _substitute(info, sizes)
    if dims and not dims[0].HasField("dim_value"):
        dims[0].dim_value = 1


def _substitute(info: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> None:
    for dim in info.type.tensor_type.shape.dim:
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]


def _read(info: onnx.ValueInfoProto) -> Shape:
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim)
