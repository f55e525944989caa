"""Ranks and sizes of values, for any size of the open axes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import shape_inference

from surgery_ir.graph.model import Graph, skeleton
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.cleanup.layout_site import Sizes

__all__ = ["Measures", "measure"]

NBYTES = {kind.value: kind.itemsize for kind in ir.DataType if kind not in (ir.DataType.UNDEFINED, ir.DataType.STRING)}
"""Bytes of an entry by element type; less than one where several share a byte."""


@dataclass(frozen=True)
class Measures:
    """Sizes of the axes of every value of known rank, and bytes per entry."""

    sizes: dict[str, Sizes]
    widths: dict[str, float]


def measure(graph: Graph) -> Measures:
    """Infer sizes that follow from the operators, whatever the open axes of the inputs are."""
    proto = skeleton(graph)
    missing = {node.domain for node in proto.graph.node} - {item.domain for item in proto.opset_import}
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(missing - set(STANDARD)))
    # What a file declares of inner values is its exporter's belief; it counts where no schema tells.
    foreign = {name for node in proto.graph.node if node.domain not in STANDARD for name in node.output}
    declared = [value for value in proto.graph.value_info if value.name in foreign]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(declared)
    for value in proto.graph.output:
        if value.type.HasField("tensor_type") and value.name not in foreign:
            value.type.tensor_type.ClearField("shape")
    with suppress(shape_inference.InferenceError):  # an operator contradicts its schema; what is declared is known
        proto = shape_inference.infer_shapes(proto, data_prop=True)
    found = Measures({}, {})
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            sizes = (int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            found.sizes[value.name] = tuple(size if size >= 0 else None for size in sizes)
            found.widths[value.name] = NBYTES.get(tensor.elem_type, 1)
    for name, constant in graph.initializers.items():
        if constant.const_value is not None:
            found.sizes[name] = tuple(int(size) for size in constant.const_value.shape.numpy())
    return found
