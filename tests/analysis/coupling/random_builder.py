"""Writes random ONNX graphs operator by operator, and keeps the shapes of what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.harness import OPEN_AXIS

__all__ = ["PRODUCTIONS", "Builder", "Flow", "Production", "production"]

TIED = 0.12
"""Share of weights, of those that fit, that an earlier layer already reads."""

OPERANDS_SINCE_13 = {"ReduceSum": "axes", "Split": "split", "Squeeze": "axes", "Unsqueeze": "axes"}
"""Attributes that became the second input."""

SMALLEST = 0.1
"""Of weights that something is divided by."""

Size = int | tuple[str, int]
"""A number, or the size of an axis of a value, read at run time."""


@dataclass(frozen=True, slots=True)
class Flow:
    """An activation: ``sizes`` are those of one sample, and tell what it is.

    Three are an image (channels, height, width), two a sequence (tokens, features), one a vector of features.
    """

    name: str
    sizes: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Size of the axis that layers write."""
        return self.sizes[0] if len(self.sizes) == 3 else self.sizes[-1]

    def with_channels(self, channels: int) -> tuple[int, ...]:
        """Sizes with other channels."""
        return (channels, *self.sizes[1:]) if len(self.sizes) == 3 else (*self.sizes[:-1], channels)


class Builder:
    """One graph that grows.

    Parameters
    ----------
    seed
        Everything follows from it.
    opset
        Version of ONNX's own operators.
    """

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.batch: int | str = self.pick(["N"] * 7 + [2, 2, 1])
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.flows: list[Flow] = []

    def chance(self, share: float) -> bool:
        """Whether something that happens in ``share`` of all cases happens."""
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of ``options``."""
        return options[int(self.rng.integers(len(options)))]

    def width(self, multiple: int = 1, most: int = 16) -> int:
        """Draw a number of channels."""
        least = max(1, 3 // multiple)
        return multiple * int(self.rng.integers(least, max(least, most // multiple) + 1))

    def divisor(self, number: int) -> int:
        """Draw a divisor other than 1, if there is one that is not too big."""
        return int(self.pick([item for item in range(2, number) if number % item == 0] or [1]))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add an operator; give the name of its output, or of all where there are several."""
        names = [f"v{len(self.nodes)}" if index == 0 else f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        if self.opset < 13 and op_type in OPERANDS_SINCE_13 and len(inputs) > 1:
            attributes[OPERANDS_SINCE_13[op_type]] = self.weights[inputs[1]].tolist()
            inputs = inputs[:1]
        node = helper.make_node(op_type, list(inputs), names, f"{op_type}_{len(self.nodes)}", domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def apply(self, flow: Flow, op_type: str, *inputs: str, **attributes: Any) -> Flow:
        """Add an operator that reads ``flow`` first and keeps its shape."""
        return replace(flow, name=self.op(op_type, flow.name, *inputs, **attributes))

    def input(self, sizes: tuple[int, ...], integers: bool = False) -> Flow:
        """Add an input of the model."""
        name = f"x{len(self.inputs)}"
        kind = TensorProto.INT64 if integers else TensorProto.FLOAT
        declared: list[int | str] = [self.batch, *sizes]
        if len(sizes) == 2 and sizes[0] == OPEN_AXIS and self.chance(0.6):
            declared[1] = "T"
        self.inputs.append(helper.make_tensor_value_info(name, kind, declared))
        return Flow(name, sizes)

    def constant(self, array: NDArray[Any] | np.generic) -> str:
        """Add an initializer."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def ints(self, *values: int) -> str:
        """Add a vector of integers."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float, dtype: Any = np.float32) -> str:
        """Add a single number."""
        return self.constant(np.array(value, dtype))

    def weight(self, *shape: int, inputs: int | None = None, offset: float = 0.0) -> str:
        """Add random weights, or give some of the same shape and kind that there are.

        ``inputs`` is how many numbers each output sums over.
        """
        fan_in = inputs if inputs is not None else (math.prod(shape[1:]) or 1)
        same = [
            name
            for name, array in self.weights.items()
            if array.shape == shape and array.dtype == np.float32 and bool((array >= SMALLEST).all()) == (offset > 0)
        ]
        if same and self.chance(TIED):
            return str(self.pick(same))
        values = self.rng.standard_normal(shape) / math.sqrt(fan_in)
        if len(shape) > 1 and not offset and self.chance(0.06):
            return self._dequantized(values)
        return self.constant((np.abs(values) + offset if offset else values).astype(np.float32))

    def _dequantized(self, values: NDArray[np.float64]) -> str:
        """Store weights as integers, with a scale for all of them or for every index of an axis."""
        axis = int(self.rng.integers(values.ndim))
        integers = self.constant(np.clip(np.rint(values * 60), -127, 127).astype(np.int8))
        scale = np.full(values.shape[axis], 1 / 60) * (1 + self.rng.random(values.shape[axis]))
        domain = self.pick(["", "", "com.microsoft"])
        if self.opset < 13 or self.chance(0.3):
            return str(
                self.op("DequantizeLinear", integers, self.scalar(1 / 60), self.scalar(0, np.int8), domain=domain)
            )
        zeros = self.rng.integers(-3, 4, values.shape[axis]).astype(np.int8)
        operands = integers, self.constant(scale.astype(np.float32)), self.constant(zeros)
        return str(self.op("DequantizeLinear", *operands, axis=axis, domain=domain))

    def vector(self, size: int) -> str:
        """Add a vector of one number a channel."""
        return self.weight(size, inputs=4)

    def shape_operand(self, sizes: Sequence[Size]) -> str:
        """Write an operand of sizes: a constant if all are numbers, else a chain of Shape, Gather and Concat."""
        if all(isinstance(size, int) for size in sizes):
            return self.ints(*(size for size in sizes if isinstance(size, int)))
        parts = []
        for size in sizes:
            if isinstance(size, int):
                parts.append(self.ints(size))
            elif self.opset >= 15 and self.chance(0.3):
                parts.append(self.op("Shape", size[0], start=size[1], end=size[1] + 1))
            elif self.chance(0.3):
                shape = self.op("Shape", size[0])
                parts.append(self.op("Slice", shape, self.ints(size[1]), self.ints(size[1] + 1), self.ints(0)))
            else:
                found = self.op("Gather", self.op("Shape", size[0]), self.scalar(size[1], np.int64), axis=0)
                parts.append(self.op("Unsqueeze", found, self.ints(0)))
        return str(self.op("Concat", *parts, axis=0))

    def reshape(self, source: str, before: Sequence[int], sizes: Sequence[int], batch: str | None = None) -> str:
        """Lay one sample of shape ``before`` out as ``sizes``, written in one of the ways of exporters."""
        written: list[Size] = list(sizes)
        style = int(self.rng.integers(5))
        first: Size = 0 if style in (0, 1) else ((batch or source), 0)
        if style in (2, 3):  # sizes that stay are read, too
            for axis, size in enumerate(sizes):
                if axis < len(before) and before[axis] == size and self.chance(0.5):
                    written[axis] = (source, axis + 1)
        if style == 0:  # and so are those that are copied
            written = [
                0 if axis < len(before) and before[axis] == size and self.chance(0.5) else size
                for axis, size in enumerate(sizes)
            ]
        if style in (1, 3) and self.chance(0.7):
            written[int(self.rng.integers(len(written)))] = -1
        elif self.chance(0.3):
            first = -1
        return str(self.op("Reshape", source, self.shape_operand([first, *written])))

    def model(self) -> onnx.ModelProto:
        """Give the graph as it is."""
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "random", self.inputs, self.outputs, weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@dataclass(frozen=True, slots=True)
class Production:
    """A piece of a network: what ranks of flows it reads, since which opset, and how often it is drawn."""

    build: Callable[[Builder, Flow], Flow]
    ranks: tuple[int, ...]
    since: int
    weight: float
    keeps: bool


PRODUCTIONS: list[Production] = []
"""All that is registered with :func:`production`."""


def production(
    *ranks: int, since: int = 12, weight: float = 1.0, keeps: bool = False
) -> Callable[[Callable[[Builder, Flow], Flow]], Callable[[Builder, Flow], Flow]]:
    """Register a piece of a network that reads flows of ``ranks``; ``keeps`` says that their sizes stay."""

    def register(build: Callable[[Builder, Flow], Flow]) -> Callable[[Builder, Flow], Flow]:
        PRODUCTIONS.append(Production(build, ranks, since, weight, keeps))
        return build

    return register
