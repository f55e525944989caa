"""A random quantized model under construction: values of eight bits, with or without the float operators between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench.patterns import prune
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
Array = NDArray[Any]


def _weight_range() -> int:
    # Without VNNI, ONNX Runtime's own sums of pairs saturate at sixteen bits: seven bits are what it can add exactly.
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return 127 if "vnni" in flags else 63


WEIGHT_RANGE = _weight_range()


@dataclass(frozen=True)
class Codes:
    """A quantized tensor: real = scale * (code - zero)."""

    name: str
    shape: Shape
    scale: float
    zero: int


@dataclass(frozen=True)
class Reals:
    """A tensor of floats, the step that its numbers were rounded to last, and the codes that they are, if any."""

    name: str
    shape: Shape
    quantum: float
    codes: Codes | None = None


@dataclass
class QuantizedNet:
    """Appends quantized layers to a model; all of its activations are uint8, or all int8."""

    rng: np.random.Generator
    opset: int
    signed: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feed: dict[str, Array] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    must_claim: int = 0

    @property
    def type(self) -> type[np.int8] | type[np.uint8]:
        """The element type of activations."""
        return np.int8 if self.signed else np.uint8

    def pick(self, *choices: Any) -> Any:
        """One of the choices, as it was given."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """True with the probability."""
        return bool(self.rng.random() < probability)

    def constant(self, array: Array | np.generic) -> str:
        """The name of a new initializer."""
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The output of a new node."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_y"], name=name, **attributes))
        return f"{name}_y"

    def parameters(self, scale: float, zero: int) -> list[str]:
        """Scale and zero point of an activation, as initializers."""
        return [self.constant(np.float32(scale)), self.constant(np.asarray(zero, dtype=self.type))]

    def input(self, *shape: int) -> Codes:
        """A new input of the model: floats that are quantized at once, or codes."""
        name = f"x{len(self.inputs)}"
        low = -128 if self.signed else 0
        value = Codes(name, shape, float(self.rng.uniform(0.02, 0.03)), low + 128 + self.pick(0, -9, 21))
        real = self.rng.standard_normal(shape, dtype=np.float32)
        if self.chance(0.5):
            self.feed[name] = real
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            return replace(value, name=self.node("QuantizeLinear", [name, *self.parameters(value.scale, value.zero)]))
        codes = np.rint(real / value.scale) + value.zero
        self.feed[name] = codes.clip(low, low + 255).astype(self.type)
        code = TensorProto.INT8 if self.signed else TensorProto.UINT8
        self.inputs.append(helper.make_tensor_value_info(name, code, shape))
        return value

    def real(self, value: Codes) -> str:
        """The value as floats."""
        return self.node("DequantizeLinear", [value.name, *self.parameters(value.scale, value.zero)])

    def codes(self, name: str, shape: Shape, scale: float, positive: bool) -> Codes:
        """Floats as codes; `positive`: of a range that starts at zero."""
        low = -128 if self.signed else 0
        zero = low if positive else low + 128 + self.pick(0, 7, -20)
        scale *= float(self.rng.uniform(0.8, 1.3)) * (0.5 if positive else 1.0)
        return Codes(self.node("QuantizeLinear", [name, *self.parameters(scale, zero)]), shape, scale, zero)

    def rounded(self, value: Reals, scale: float) -> Reals:
        """The floats after they were codes."""
        codes = self.coded(value, scale)
        return Reals(self.real(codes), value.shape, codes.scale, codes)

    def coded(self, value: Reals, scale: float) -> Codes:
        """The floats as codes, never as others than those that they come from."""
        return value.codes or self.codes(value.name, value.shape, scale, positive=False)

    def dequantized(self, codes: Array, scale: float) -> str:
        """A constant of integers as floats; small ones, so that a zero point fits in."""
        zero = codes.dtype.type(0 if codes.dtype == np.int32 else self.pick(0, 9))
        names = [self.constant(codes + zero), self.constant(np.float32(scale)), self.constant(zero)]
        return self.node("DequantizeLinear", names)

    def weights(self, outputs: int, inputs: int, *taps: int) -> tuple[Array, Array]:
        """Pruned int8 weights, and their scales: one for each output, or one."""
        sparsity, pattern = self.pick(0.0, 0.5, 0.8, 0.9, 0.95, 1.0), self.pick("unstructured", "1x4", "4x1", "2:4")
        weights = prune(self.rng.standard_normal((outputs, inputs, *taps), dtype=np.float32), sparsity, pattern)
        rows = weights.reshape(outputs, -1)
        rows /= np.sqrt(np.count_nonzero(rows, axis=1).clip(1), dtype=np.float32)[:, None]
        channelwise = self.chance(0.6)
        largest = np.abs(rows).max(axis=1) if channelwise else np.full(outputs, np.abs(rows).max(), np.float32)
        scales = np.where(largest > 0, largest / WEIGHT_RANGE, np.float32(0.01)).astype(np.float32)
        codes = np.rint(rows / scales[:, None]).astype(np.int8).reshape(weights.shape)
        said = pattern if pattern == "2:4" else f"{sparsity} {pattern}"
        self.words[-1] += f" {said} {'per channel' if channelwise else 'per tensor'}"
        return codes, scales if channelwise else scales[:1]

    def bias(self, outputs: int, scales: Array, x: Codes) -> tuple[Array, Array]:
        """Bias of 32 bits, and its scales."""
        steps = (scales * np.float32(x.scale)).astype(np.float32)
        return np.rint(self.rng.standard_normal(outputs) * 0.3 / steps).astype(np.int32), steps

    def model(self, outputs: Sequence[tuple[str, int, int]]) -> onnx.ModelProto:
        """The model, checked; each output with its element type and rank."""
        infos = [helper.make_tensor_value_info(n, kind, [f"{n}_{i}" for i in range(rank)]) for n, kind, rank in outputs]
        graph = helper.make_graph(self.nodes, "case", self.inputs, infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(model)
        return model
