"""A random model under construction: nodes, weights, and the shapes that every value has in every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from bench.patterns import prune
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A tensor of the model, with its shape in each of the runs."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def channels(self) -> int:
        """The second dimension of images."""
        return self.shapes[0][1]

    @property
    def spatial(self) -> list[Shape]:
        """The dimensions of images after the second, by run."""
        return [shape[2:] for shape in self.shapes]


@dataclass
class Net:
    """Appends nodes to a model; every method gives the value that the new node computes."""

    rng: np.random.Generator
    opset: int
    symbolic: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    feeds: list[dict[str, Array]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    must_claim: int = 0  # Conv, Gemm and MatMul nodes that the provider has to take

    def pick(self, *choices: Any, p: Sequence[float] | None = None) -> Any:
        """One of the choices, as it was given."""
        return choices[int(self.rng.choice(len(choices), p=p))]

    def chance(self, probability: float) -> bool:
        """True with the probability."""
        return bool(self.rng.random() < probability)

    def input(self, shapes: Sequence[Shape], fixed: Sequence[int] = ()) -> Value:
        """A new input of the model; dimensions in `fixed` are written down even where the others are symbolic."""
        name = f"x{len(self.inputs)}"
        value = Value(name, tuple(shapes))
        dims = [size if axis in fixed or not self.symbolic else f"{name}_{axis}" for axis, size in enumerate(shapes[0])]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        while len(self.feeds) < len(shapes):
            self.feeds.append({})
        for feed, shape in zip(self.feeds, shapes, strict=True):
            feed[name] = self.rng.standard_normal(shape, dtype=np.float32)
        return value

    def constant(self, array: Array | np.generic) -> str:
        """The name of a new initializer."""
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], shapes: Sequence[Shape], **attributes: Any) -> Value:
        """A new node with one output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_y"], name=name, **attributes))
        return Value(f"{name}_y", tuple(shapes))

    def weights(self, outputs: int, inputs: int, *taps: int) -> NDArray[np.float32]:
        """Random pruned weights; every output that has any gets about the variance of its inputs."""
        sparsity = self.pick(0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.999, 1.0)
        pattern = self.pick("unstructured", "4x1", "1x4", "2:4", p=(0.6, 0.2, 0.1, 0.1))
        weights = prune(self.rng.standard_normal((outputs, inputs, *taps), dtype=np.float32), sparsity, pattern)
        said = f"{pattern}" if pattern == "2:4" else f"{sparsity:.4g} {pattern}"
        if self.chance(0.15):
            weights[self.rng.random(outputs) < 0.4] = 0
            said += " empty rows"
        if self.chance(0.1):
            weights[:, self.rng.random(inputs) < 0.4] = 0
            said += " empty columns"
        nonzeros = np.count_nonzero(weights.reshape(outputs, -1), axis=1).clip(1)
        self.words[-1] += f" {said}"
        scaled: NDArray[np.float32] = weights / np.sqrt(nonzeros, dtype=np.float32).reshape(
            -1, *[1] * (weights.ndim - 1)
        )
        return scaled

    def bias(self, *shape: int) -> NDArray[np.float32]:
        """Random values of a bias."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def output(self, value: Value) -> None:
        """Make the value an output of the model, if it is none yet."""
        if value.name not in [output.name for output in self.outputs]:
            self.outputs.append(value)

    def model(self) -> onnx.ModelProto:
        """The model, checked."""
        outputs = [
            helper.make_tensor_value_info(
                value.name, TensorProto.FLOAT, [f"{value.name}_{axis}" for axis in range(len(value.shapes[0]))]
            )
            for value in self.outputs
        ]
        graph = helper.make_graph(self.nodes, "case", self.inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(model)
        return model

    @property
    def description(self) -> str:
        """One line that says what the model is."""
        return ", ".join(self.words)
