"""Outputs of the layers of a Keras model, for finding the first that a converter got wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.frontends.tensorflow.signature import Signature
from surgery_ir.graph.model import Graph
from surgery_ir.graph.shapes import infer_types

__all__ = ["layer_outputs"]

Layers = dict[str, tuple[str, NDArray[Any]]]


def layer_outputs(model: Any, signature: Signature, graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> Layers:
    """Run the layers of a functional or sequential model.

    Parameters
    ----------
    model
        A model of Keras; a subclass tells nothing.
    signature
        What it takes.
    graph
        What it was lowered to.
    feeds
        One batch.

    Returns
    -------
    Name and output of the layers by the value of the graph that holds the same, where there is one whose layout is
    beyond doubt.
    """
    import keras
    import tensorflow as tf

    found = [] if signature.declared is None else list(_single_outputs(model))
    if not found:
        return {}
    probe = keras.Model(signature.declared, [output for _, output in found], name=model.name)
    names: list[str] = []

    def run(*tensors: Any) -> list[Any]:
        positional, named = signature.pack(tensors)
        outputs: list[Any] = keras.tree.flatten(probe(*positional, training=False, **named))
        names[:] = [output.name for output in outputs]
        return outputs

    specs = [tf.TensorSpec(spec.shape, spec.dtype, f"input_{i}") for i, spec in enumerate(signature.specs.values())]
    function = tf.function(run, autograph=False).get_concrete_function(*specs)
    outputs = function(*(tf.convert_to_tensor(feeds[name], spec.dtype) for name, spec in signature.specs.items()))
    types = infer_types(graph)
    layers: Layers = {}
    for (layer, _), name, output in zip(found, names, outputs, strict=True):
        if name in types:
            array = _as_laid_out(output.numpy(), _sizes(types[name]))
            if array is not None:
                layers[name] = layer, array
    return layers


def _single_outputs(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and output of the layers that are called once and give one tensor."""
    import keras

    for layer in model.layers:
        try:
            output = layer.output
        except (AttributeError, ValueError):  # it was called twice, or never
            continue
        if isinstance(output, keras.KerasTensor) and not isinstance(layer, keras.layers.InputLayer):
            yield layer.name, output


def _sizes(declared: Any) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in declared.tensor_type.shape.dim]


def _as_laid_out(array: NDArray[Any], sizes: Sequence[int | None]) -> NDArray[Any] | None:
    """Move channels to where the graph has them; ``None`` where its sizes do not tell."""
    rank = array.ndim
    if len(sizes) != rank:
        return None
    if rank < 3:
        return array
    moved = np.transpose(array, (0, rank - 1, *range(1, rank - 1)))
    fitting = [item for item in (array, moved) if _fits(item.shape, sizes)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(shape: Sequence[int], sizes: Sequence[int | None]) -> bool:
    return all(size is None or size == own for own, size in zip(shape, sizes, strict=True))
