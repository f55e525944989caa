"""Small models in float64, with the size of what is summed: what rounding can explain, element by element."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Double = NDArray[np.float64]
Pair = tuple[Double, Double]  # a value, and the sum of the absolute terms behind it

# An activation stretches an error by no more than this (LeakyRelu: see its slope).
STEEPEST = {"Relu": 1.0, "Clip": 1.0, "HardSwish": 1.5, "HardSigmoid": 1.0, "Sigmoid": 1.0, "Gelu": 1.2}
_erf = np.vectorize(math.erf, otypes=[np.float64])


def evaluate(model: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> list[Pair] | None:
    """Outputs of the model and their magnitudes, or None if it has an operator that is not known here."""
    known: dict[str, Pair] = {}
    for name, array in feed.items():
        known[name] = (array.astype(np.float64), np.abs(array, dtype=np.float64))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        known[tensor.name] = (array, np.abs(array))
    for node in model.graph.node:
        if node.op_type not in STEEPEST and node.op_type not in ("Conv", "Gemm", "MatMul", "Add", "LeakyRelu"):
            return None
        known[node.output[0]] = _node(node, [known[name] for name in node.input if name])
    return [known[output.name] for output in model.graph.output]


def _node(node: onnx.NodeProto, inputs: list[Pair]) -> Pair:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    values, sizes = zip(*inputs, strict=True)
    if node.op_type == "Add":
        return values[0] + values[1], sizes[0] + sizes[1]
    if node.op_type == "MatMul":
        return values[0] @ values[1], sizes[0] @ sizes[1]
    if node.op_type == "Gemm":
        return _gemm(values, attributes), _gemm(sizes, {key: abs(value) for key, value in attributes.items()})
    if node.op_type == "Conv":
        return _convolution(values, attributes), _convolution(sizes, attributes)
    slope = abs(attributes.get("alpha", 0.01)) if node.op_type == "LeakyRelu" else STEEPEST[node.op_type]
    result = _activation(node, values[0], attributes, list(values[1:]))
    return result, max(1.0, slope) * sizes[0] + np.abs(result)


def _gemm(terms: tuple[Double, ...], attributes: dict[str, Any]) -> Double:
    right = terms[1].T if attributes.get("transB") else terms[1]
    result: Double = attributes.get("alpha", 1.0) * (terms[0] @ right)
    return result + float(attributes.get("beta", 1.0)) * terms[2] if len(terms) > 2 else result


def _activation(node: onnx.NodeProto, x: Double, attributes: dict[str, Any], bounds: list[Double]) -> Double:
    alpha, beta = attributes.get("alpha"), attributes.get("beta", 0.5)
    result: Double
    match node.op_type:
        case "Relu":
            result = np.maximum(x, 0)
        case "LeakyRelu":
            result = np.where(x < 0, (0.01 if alpha is None else alpha) * x, x)
        case "Clip":
            result = x
            for name, bound in zip([name for name in node.input[1:] if name], bounds, strict=True):
                result = np.maximum(result, bound) if name == node.input[1] else np.minimum(result, bound)
        case "HardSwish":
            result = x * np.clip(x / 6 + 0.5, 0, 1)
        case "HardSigmoid":
            result = np.clip((0.2 if alpha is None else alpha) * x + beta, 0, 1)
        case "Sigmoid":
            result = 1 / (1 + np.exp(-x))
        case _ if attributes.get("approximate") == b"tanh":
            result = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case _:
            result = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return result


def _convolution(terms: tuple[Double, ...], attributes: dict[str, Any]) -> Double:
    x, weights = terms[:2]
    dims = x.ndim - 2
    kernel, groups = weights.shape[2:], attributes.get("group", 1)
    strides, dilations = attributes.get("strides", [1] * dims), attributes.get("dilations", [1] * dims)
    pads = list(zip(*np.reshape(attributes.get("pads", [0] * 2 * dims), (2, dims)).tolist(), strict=True))
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        for axis, length in enumerate(x.shape[2:]):
            total = max(0, (-(-length // strides[axis]) - 1) * strides[axis] + kernel[axis] - length)
            less, more = total // 2, total - total // 2
            pads[axis] = (less, more) if auto == "SAME_UPPER" else (more, less)
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    reach = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
    sizes = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    outputs, inputs = weights.shape[:2]
    result = np.zeros((x.shape[0], groups, outputs // groups, math.prod(sizes)))
    for tap in itertools.product(*map(range, kernel)):
        window = [slice(None)] * 2 + [
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, sizes, strides, strict=True)
        ]
        lanes = x[tuple(window)].reshape(x.shape[0], groups, inputs, -1)
        taps = weights.reshape(groups, outputs // groups, inputs, -1)[..., np.ravel_multi_index(tap, kernel)]
        result += taps @ lanes
    result = result.reshape(x.shape[0], outputs, *sizes)
    return result + terms[2].reshape(-1, *[1] * dims) if len(terms) > 2 else result
