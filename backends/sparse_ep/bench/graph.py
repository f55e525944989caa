"""A small writer of ONNX models whose weights are random, pruned and of a sane scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.patterns import prune

OPSET, IR_VERSION = 17, 8  # what the oldest of the contestants reads


class Graph:
    """Nodes and weights of one model.

    Weights have He's scale before they are pruned and get the energy back that pruning takes, so that activations keep
    their size through a deep model whatever the sparsity.
    """

    def __init__(self, sparsity: float, pattern: str = "unstructured", seed: int = 0) -> None:
        self.sparsity, self.pattern = sparsity, pattern
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A new input of floats."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, array: NDArray[Any] | np.generic) -> str:
        """The name of a new initializer."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The output of a new node."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weights(self, shape: tuple[int, ...], gain: float, pruned: bool) -> NDArray[np.float32]:
        """``[outputs, inputs, ...]``, pruned unless told otherwise."""
        weights = self.rng.standard_normal(shape, dtype=np.float32)
        if pruned:
            dense, weights = weights, prune(weights, self.sparsity, self.pattern)
            weights *= np.linalg.norm(dense) / max(float(np.linalg.norm(weights)), 1e-6)
        result: NDArray[np.float32] = weights * np.float32(gain / np.sqrt(np.prod(shape[1:])))
        return result

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, gain: float = 1.4, pruned: bool = True
    ) -> str:
        """A convolution with a bias (where the normalisation has been folded to), padded to keep the size."""
        weights = self.constant(self.weights((outputs, inputs, kernel, kernel), gain, pruned))
        bias = self.constant(self.rng.normal(0, 0.1, outputs).astype(np.float32))
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", [x, weights, bias], **window)

    def linear(self, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """MatMul and Add, as exporters write a linear layer over tokens."""
        product = self.node("MatMul", [x, self.constant(self.weights((outputs, inputs), gain, True).T)])
        bias = self.constant(self.rng.normal(0, 0.1, outputs).astype(np.float32))
        return self.node("Add", [bias, product])

    def model(self, output: str, rank: int) -> onnx.ModelProto:
        """The finished model."""
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, "bench", self.inputs, [y], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
