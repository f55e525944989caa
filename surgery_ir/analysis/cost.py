"""What a graph costs: parameters, nonzeros, bytes on disk, and multiply-accumulates, in all and layer by layer.

Definitions, the same everywhere in reports and targets:

- *params*: scalars of the floating-point initializers, and of integer ones that are weights of an operator.
- *nonzeros*: those among them that are stored as anything but 0.
- *bytes*: size of the file (and its data file) that :func:`~surgery_ir.graph.serialize.write_model` writes.
- *MACs*: multiply-accumulates of one sample in convolutions, matrix products and recurrent layers; padding counts,
  everything else is free. Dense MACs do not know about zeros; *sparse MACs* leave out those of zero weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.macs import Macs, node_macs
from surgery_ir.analysis.shapes import Shape, infer_shapes
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.editor import carries_connections
from surgery_ir.graph.model import Graph, skeleton
from surgery_ir.graph.sparse import INDEX_BYTES, graphs_of, is_sparse
from surgery_ir.graph.view import bodies

__all__ = ["Cost", "LayerCost", "cost", "is_parameter", "layer_costs"]

NONZEROS = "surgery_ir.nonzeros"
CHUNK = 1 << 24
SPARSE_OVERHEAD = 34
"""Bytes of the types, shapes and lengths of a sparse tensor; its name is written twice."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a graph.

    ``macs`` and ``sparse_macs`` are ``None`` where an operator's shapes are not known; ``unknown`` names those.
    ``layers`` are the costs of the operators that the totals are made of, as :func:`layer_costs` gives them.
    """

    params: int
    nonzeros: int
    bytes: int
    macs: int | None
    sparse_macs: int | None
    unknown: tuple[str, ...] = ()
    layers: tuple[LayerCost, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Cost of one operator of the main graph, with the initializers that it is the first to read.

    ``macs`` is ``None`` where it cannot be told from the shapes at hand.
    """

    name: str
    op_type: str
    params: int
    nonzeros: int
    bytes: int
    macs: int | None
    sparse_macs: int | None


def cost(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None) -> Cost:
    """Add up what ``graph`` costs.

    Parameters
    ----------
    graph
        Graph to measure. Big weights are read once, in pieces.
    shapes
        Shapes that the inputs have for one sample, for models with dynamic axes. Without them an open first axis
        counts as a batch of one, and every other open axis is not known.
    """
    layers = layer_costs(graph, shapes)
    unknown = tuple(layer.name for layer in layers if layer.macs is None)
    values = [value for inner in graph.model.graphs() for value in inner.initializers.values()]
    parameters = [value for value in values if is_parameter(value)]
    return Cost(
        params=sum(_size(value) for value in parameters),
        nonzeros=sum(_nonzeros(value) for value in parameters),
        bytes=_file_bytes(graph),
        macs=None if unknown else sum(layer.macs or 0 for layer in layers),
        sparse_macs=None if unknown else sum(layer.sparse_macs or 0 for layer in layers),
        unknown=unknown,
        layers=layers,
    )


@collector_paused()
def layer_costs(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[LayerCost, ...]:
    """Cost of every operator that holds parameters or multiplies, in topological order.

    A shared initializer counts for its first reader. One that reaches its reader through operators on constants
    alone, as a quantised weight does through ``DequantizeLinear``, counts for that reader.
    """
    known = infer_shapes(graph, shapes)
    functions = {identifier[:2] for identifier in graph.model.functions}
    behind: dict[ir.Value, tuple[ir.Value, ...]] = {}
    seen: set[ir.Value] = set()
    layers = []
    for node in graph.model.graph:
        read = [value for value in node.inputs if value is not None]
        sources = [behind.get(value, (value,) if value.is_initializer() else ()) for value in read]
        constants = [item for items in sources for item in items]
        inside = list(_constants_of_bodies(node))
        if read and all(sources) and not inside:
            behind.update((value, tuple(constants)) for value in node.outputs)
            continue
        owned = [value for value in dict.fromkeys([*constants, *inside]) if value not in seen]
        seen.update(owned)
        parameters = [value for value in owned if is_parameter(value)]
        macs = node_macs(node, known, functions)
        if parameters or macs is None or macs.total:
            layers.append(
                LayerCost(
                    name=node.name or "",
                    op_type=node.op_type,
                    params=sum(_size(value) for value in parameters),
                    nonzeros=sum(_nonzeros(value) for value in parameters),
                    bytes=sum(_stored_bytes(value) for value in owned),
                    macs=None if macs is None else macs.total,
                    sparse_macs=None if macs is None else macs.total - _saved_macs(node, macs, behind, known),
                )
            )
    return tuple(layers)


def _saved_macs(
    node: ir.Node, macs: Macs, behind: Mapping[ir.Value, tuple[ir.Value, ...]], known: Mapping[str, Shape]
) -> int:
    """Products with zero weights. Every scalar of a weight takes part in equally many."""
    saved = 0
    for index, part in macs.by_input.items():
        value = node.inputs[index]
        if value is None:
            continue
        weight = value if value.is_initializer() else next(iter(behind.get(value, ())), None)
        size = _size(weight) if weight is not None else 0
        if weight is not None and size and math.prod(item or 0 for item in known.get(value.name or "", ())) == size:
            saved += part // size * (size - _nonzeros(weight))
    return saved


def is_parameter(value: ir.Value) -> bool:
    """Whether the scalars of an initializer count as parameters."""
    tensor = value.const_value
    if tensor is None:
        return False
    if tensor.dtype.is_floating_point() or carries_connections(value):
        return True
    return any(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in value.uses())


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)


def _nonzeros(value: ir.Value) -> int:
    """Count the scalars of an initializer that are not 0, once per tensor however many clones share it."""
    tensor = value.const_value
    if tensor is None:
        return 0
    if NONZEROS not in tensor.meta:
        flat = np.asarray(tensor.numpy()).reshape(-1)
        tensor.meta[NONZEROS] = sum(
            int(np.count_nonzero(flat[start : start + CHUNK])) for start in range(0, flat.size, CHUNK)
        )
        if isinstance(tensor, ir.ExternalTensor):
            del flat
            with suppress(BufferError):  # somebody else still looks at the values: they stay mapped
                tensor.release()
    count: int = tensor.meta[NONZEROS]
    return count


def _stored_bytes(value: ir.Value) -> int:
    tensor = value.const_value
    if tensor is None:
        return 0
    if is_sparse(value):
        return _nonzeros(value) * int(tensor.dtype.itemsize + INDEX_BYTES) + SPARSE_OVERHEAD + 2 * len(value.name or "")
    if isinstance(tensor, ir.TensorProtoTensor):  # written back as it came, whichever field holds the values
        return int(tensor.raw.ByteSize())
    return int(tensor.nbytes)


def _file_bytes(graph: Graph) -> int:
    """Size of the serialised graph: its skeleton, and what the skeleton leaves out."""
    proto = skeleton(graph)
    inside = {tensor.name: tensor for inner in graphs_of(proto.graph) for tensor in inner.initializer}
    total = int(proto.ByteSize()) + sum(int(item.ByteSize()) for item in graph.leftover.training_info)
    for inner in graph.model.graphs():
        for name, value in inner.initializers.items():
            if name not in inside:
                total += _stored_bytes(value)
            elif is_sparse(value):
                total += _stored_bytes(value) - int(inside[name].ByteSize())
    return total


def _constants_of_bodies(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the initializers that the subgraphs of ``node`` hold or read."""
    for body in bodies(node):
        yield from body.initializers.values()
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (value for value in inner.inputs if value is not None and value.is_initializer())
