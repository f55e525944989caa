"""Files without weights: what is written in place of random weights, and how they are drawn again.

A placeholder is an initializer with name, type and shape but no data. Its metadata tell the distribution of the values
that stood there: ``uniform low high`` where all had one sign, as variances do, else ``normal mean deviation``. Tensors
of few values (masks, tables of indices) are part of the architecture and stay.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["LARGEST", "LIMIT", "draw", "fill", "strip"]

LARGEST = 64
"""Most elements of a weight that is kept."""

FEW = 16
"""Most values of a tensor that is no random weight."""

FILL, LIMIT = "fill", "limit"


def strip(model: onnx.ModelProto, limits: Mapping[str, int]) -> onnx.ModelProto:
    """Take out random weights and everything that tells where and when the model was exported.

    Parameters
    ----------
    model
        The export.
    limits
        Integer inputs by name, and the number that their values stay below; kept in the input's metadata.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ClearField("doc_string")
    del result.metadata_props[:]
    for function in result.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
    for body in (*_bodies(result.graph), *result.functions):
        for node in body.node:
            node.ClearField("doc_string")
            del node.metadata_props[:]
    for graph in _bodies(result.graph):
        graph.ClearField("doc_string")
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.ClearField("doc_string")
            del value.metadata_props[:]
    for tensor in _tensors(result):
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]
        _empty(tensor)
    for value in result.graph.input:
        if value.name in limits:
            value.metadata_props.add(key=LIMIT, value=str(limits[value.name]))
    return result


def fill(model: onnx.ModelProto, seed: int) -> None:
    """Draw weights for the placeholders of ``model``, by their distribution, ``seed`` and name."""
    for tensor in _tensors(model):
        for entry in tensor.metadata_props:
            if entry.key == FILL:
                rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                values = draw(entry.value, tuple(tensor.dims), rng)
                tensor.raw_data = numpy_helper.from_array(values.astype(dtype)).raw_data
        del tensor.metadata_props[:]


def draw(distribution: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Draw from ``uniform low high`` or ``normal mean deviation``."""
    kind, first, second = distribution.split()
    if kind == "uniform":
        return rng.uniform(float(first), float(second), shape)
    return rng.normal(float(first), float(second), shape)


def _empty(tensor: onnx.TensorProto) -> None:
    """Replace the values of a random weight by their distribution."""
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind != "f" or values.size <= LARGEST or np.unique(values).size <= FEW:
        return
    low, high, mean, deviation = values.min(), values.max(), values.mean(), values.std()
    one_sign = low > 0 or high < 0
    told = f"uniform {low:.4g} {high:.4g}" if one_sign else f"normal {mean:.4g} {deviation:.4g}"
    emptied = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    emptied.metadata_props.add(key=FILL, value=told)
    tensor.CopyFrom(emptied)


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield ``graph`` and every graph inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _bodies(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _bodies(model.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
