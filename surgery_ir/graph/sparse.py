"""Sparse initializers: densified on the way in, encoded again on the way out.

onnx-ir drops ``sparse_initializer`` fields, so they become dense initializers before it sees them. A mark in the
value's ``meta`` (which survives cloning and is never serialised) remembers to encode them again on saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from surgery_ir.errors import ModelError

__all__ = ["densify", "encode", "is_sparse", "mark_all", "mark_sparse", "sparse_nbytes"]

MARK = "surgery_ir.sparse"
INDEX_BYTES = 8


def mark_sparse(value: ir.Value, sparse: bool = True) -> None:
    """Have ``value`` (an initializer) saved as a sparse initializer, or as a dense one."""
    value.meta[MARK] = sparse


def is_sparse(value: ir.Value) -> bool:
    """Whether ``value`` will be saved as a sparse initializer."""
    return bool(value.meta.get(MARK, False))


def sparse_nbytes(array: NDArray[np.generic]) -> int:
    """Bytes that ``array`` takes as a sparse initializer: a value and a 64-bit index per nonzero."""
    return int(np.count_nonzero(array)) * (array.itemsize + INDEX_BYTES)


def graphs_of(proto: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield ``proto`` and every subgraph below it."""
    yield proto
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from graphs_of(graph)


def densify(proto: onnx.GraphProto, where: str) -> list[set[str]]:
    """Turn every sparse initializer of ``proto`` and its subgraphs into a dense one, in place.

    Parameters
    ----------
    proto
        Graph to change.
    where
        Where it came from, for messages.

    Returns
    -------
    list of set of str
        Names of the initializers that were sparse, graph by graph.

    Raises
    ------
    ModelError
        An index lies outside the shape, indices and values do not match, or they are in another file.
    """
    names: list[set[str]] = []
    for graph in graphs_of(proto):
        names.append({sparse.values.name for sparse in graph.sparse_initializer})
        for sparse in graph.sparse_initializer:
            dense = _dense(sparse, f"{where}: sparse initializer {sparse.values.name!r}")
            tensor = numpy_helper.from_array(dense, sparse.values.name)
            graph.initializer.append(tensor)
        del graph.sparse_initializer[:]
    return names


def _dense(sparse: onnx.SparseTensorProto, where: str) -> NDArray[np.generic]:
    external = onnx.TensorProto.EXTERNAL
    if external in (sparse.values.data_location, sparse.indices.data_location):
        raise ModelError(f"{where} has external data, which is not supported")
    shape = tuple(sparse.dims)
    size = prod(shape)
    try:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices).astype(np.int64)
        dense = np.zeros(size, values.dtype)
    except (ValueError, TypeError, KeyError, MemoryError) as error:
        raise ModelError(f"{where} of shape {list(shape)} cannot be unpacked: {error}") from error
    if indices.ndim == 2 and indices.shape == (values.size, len(shape)):
        if np.any(indices < 0) or np.any(indices >= np.array(shape)):
            raise ModelError(f"{where} has an index outside of its shape {list(shape)}")
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    if values.ndim != 1 or indices.shape != values.shape:
        raise ModelError(f"{where} has values of shape {values.shape}, but indices of shape {indices.shape}")
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ModelError(f"{where} has an index outside of its shape {list(shape)}")
    dense[indices] = values
    return dense.reshape(shape)


def encode(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    """Turn what is marked in ``graph`` and its subgraphs into sparse initializers of ``proto``, its protobuf."""
    for body, values in zip(graphs_of(proto), _graphs_of_model(graph), strict=True):
        names = {name for name, value in values.initializers.items() if is_sparse(value)}
        if not names:
            continue
        kept = []
        for tensor in body.initializer:
            if tensor.name not in names:
                kept.append(tensor)
                continue
            dense = numpy_helper.to_array(tensor)
            indices = np.flatnonzero(dense)
            sparse = body.sparse_initializer.add()
            sparse.values.CopyFrom(numpy_helper.from_array(dense.reshape(-1)[indices], tensor.name))
            sparse.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), f"{tensor.name}_indices"))
            sparse.dims.extend(dense.shape)
        del body.initializer[:]
        body.initializer.extend(kept)


def mark_all(graph: ir.Graph, names: list[set[str]]) -> None:
    """Mark initializers of ``graph`` and its subgraphs: ``names`` are those that :func:`densify` gave."""
    for values, marked in zip(_graphs_of_model(graph), names, strict=True):
        for name in marked:
            mark_sparse(values.initializers[name])


def _graphs_of_model(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield ``graph`` and every subgraph below it, in the order of :func:`graphs_of`."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _graphs_of_model(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _graphs_of_model(body)
