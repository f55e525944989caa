"""Batch normalization, which TensorFlow writes as arithmetic, becomes one operator again.

``tf.nn.batch_normalization`` computes ``x·inv + (beta − mean·inv)`` with ``inv = gamma·rsqrt(variance + epsilon)``.
With the five of them constants, a converter folds them away; with parameters as inputs they stay, and stand between
the Transposes around two convolutions. ``BatchNormalization`` computes the same and moves with the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["rewrite_batch_normalization", "vector"]

ADD = ("Add", "AddV2")


@dataclass(frozen=True)
class Normalization:
    """What a normalization reads: the tensors' names, and the axis of the data that the vectors run along."""

    data: str
    axis: int
    gamma: str | None
    beta: str | None
    mean: str
    variance: str
    epsilon: float


def rewrite_batch_normalization(graph: Any, ops: Any) -> Any:
    """Replace the arithmetic in a ``tf2onnx.graph.Graph``; a custom rewriter of tf2onnx."""
    for node in list(ops):
        found = _match(graph, node) if node.type in ADD else None
        if found is not None:
            _replace(graph, node, found)
    return graph.get_nodes()


def _match(graph: Any, node: Any) -> Normalization | None:
    """Recognise ``Mul(x, inv) + shift``, in either order; all but x must be parameters along one axis of it."""
    for product, shift in (node.inputs, node.inputs[::-1]):
        if product.type != "Mul":
            continue
        for data, factor in (product.input, product.input[::-1]):
            scale = _scale(graph, factor)
            offset = _offset(graph, shift, factor)
            if scale is not None and offset is not None:
                return _along(graph, data, scale[0], offset[0], offset[1], *scale[1:])
    return None


def _scale(graph: Any, name: str) -> tuple[str | None, str, float] | None:
    """Gamma, variance and epsilon of ``rsqrt(variance + epsilon)``, times gamma or not."""
    node = graph.get_node_by_output(name)
    if node is None:
        return None
    if node.type == "Mul":
        for gamma, root in (node.input, node.input[::-1]):
            found = _scale(graph, root)
            if found is not None and found[0] is None and vector(graph, gamma) is not None:
                return gamma, *found[1:]
        return None
    if node.type != "Rsqrt" or node.inputs[0].type not in ADD:
        return None
    total = node.inputs[0]
    for variance, epsilon in (total.input, total.input[::-1]):
        constant = graph.get_node_by_output(epsilon)
        if vector(graph, variance) is not None and constant.is_const():
            value = constant.get_tensor_value(as_list=False)
            if value.size == 1:
                return None, variance, float(value.reshape(()))
    return None


def _offset(graph: Any, node: Any, factor: str) -> tuple[str | None, str] | None:
    """Beta and mean of ``beta − mean·factor`` or ``(−mean)·factor``."""
    if node.type == "Sub":
        beta, product = node.input[0], node.inputs[1]
        mean = _other(product, factor) if product.type == "Mul" else None
        return None if mean is None else (beta, mean)
    if node.type == "Mul":
        negative = _other(node, factor)
        opposite = None if negative is None else graph.get_node_by_output(negative)
        if opposite is not None and opposite.type == "Neg":
            return None, opposite.input[0]
    return None


def _other(node: Any, factor: str) -> str | None:
    """The operand of a product that is not ``factor``."""
    names = list(node.input)
    if factor not in names:
        return None
    names.remove(factor)
    return str(names[0])


def vector(graph: Any, name: str) -> tuple[str, int] | None:
    """Name a vector that stands for a variable, and the axis that it runs along, counted from the last (-1).

    Keras gives it as many axes as the data have where its layer names the axis (``axis=3``).
    """
    node, shape = graph.get_node_by_output(name), graph.get_shape(name)
    if node is None or not shape or min(shape) < 1 or max(shape) != np.prod(shape):
        return None
    if len(shape) > 1 and max(shape) == 1:  # any of them
        return None
    axis = int(np.argmax(shape)) - len(shape)
    while node is not None and node.type in ("Identity", "Reshape"):
        name, node = node.input[0], node.inputs[0]
    if node is None or not node.is_graph_input() or graph.get_shape(name) != [max(shape)]:
        return None
    return name, axis


def _along(
    graph: Any, data: str, gamma: str | None, beta: str | None, mean: str, variance: str, epsilon: float
) -> Normalization | None:
    """Put together what was found, where the vectors run along one axis of the data, element for element."""
    shape = graph.get_shape(data)
    found = [None if name is None else vector(graph, name) for name in (gamma, beta, mean, variance)]
    there = [item for item in found if item is not None]
    if shape is None or len(shape) < 2 or len(there) < 4 - [gamma, beta].count(None):
        return None
    axes = {axis for _, axis in there}
    axis = min(axes) + len(shape)
    if len(axes) > 1 or axis < 1 or any(graph.get_shape(name) != [shape[axis]] for name, _ in there):
        return None
    names = [None if item is None else item[0] for item in found]
    return Normalization(data, axis, names[0], names[1], there[-2][0], there[-1][0], epsilon)


def _replace(graph: Any, node: Any, found: Normalization) -> None:
    """Put the operator in the place of the last addition, between Transposes to channels first and back."""
    from tf2onnx import utils

    shape, kind = graph.get_shape(found.data), graph.get_dtype(found.data)
    array = utils.map_onnx_to_numpy_type(kind)

    def constant(value: float) -> str:
        name = utils.make_name(f"{node.name}/constant")
        return str(graph.make_const(name, np.full(shape[found.axis], value, array)).output[0])

    def moved(name: str, perm: list[int], **given: Any) -> str:
        return str(graph.make_node("Transpose", [name], attr={"perm": perm}, dtypes=[kind], **given).output[0])

    order = [0, found.axis, *(axis for axis in range(1, len(shape)) if axis != found.axis)]
    inside = [shape[axis] for axis in order]
    vectors = [found.gamma or constant(1.0), found.beta or constant(0.0), found.mean, found.variance]
    name, outputs, outside = node.name, list(node.output), graph.get_shape(node.output[0])
    is_first = found.axis == 1
    data = found.data if is_first else moved(found.data, order, shapes=[inside])
    graph.remove_node(name)
    graph.make_node(
        "BatchNormalization",
        [data, *vectors],
        attr={"epsilon": found.epsilon},
        name=name,
        outputs=outputs if is_first else [utils.make_name(f"{name}/channels_first") + ":0"],
        shapes=[inside],
        dtypes=[kind],
    )
    if not is_first:
        back = [order.index(axis) for axis in range(len(shape))]
        moved(graph.get_node_by_name(name).output[0], back, outputs=outputs, shapes=[outside])
