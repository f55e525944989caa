"""Layers and whole models to time: shapes of ResNet-18, ResNet-50 and BERT-base with random weights.

All weights are pruned but those of a ResNet's 7x7 stem and of its head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from bench.graph import Graph

TOKENS = 128


@dataclass(frozen=True)
class LayerShape:
    """One layer: a convolution over square images, or a product of tokens (`size` of them, `kernel` 0)."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    stride: int = 1

    @property
    def name(self) -> str:
        """What tables call it."""
        if not self.kernel:
            return f"MatMul {self.size} tokens {self.inputs}→{self.outputs}"
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.inputs}→{self.outputs}{stride} @{self.size}"

    @property
    def positions(self) -> int:
        """Pixels of an output image, or tokens."""
        return self.size if not self.kernel else (self.size // self.stride) ** 2

    def build(self, batch: int, sparsity: float, pattern: str) -> onnx.ModelProto:
        """A model of this layer alone."""
        graph = Graph(sparsity, pattern)
        if self.kernel:
            x = graph.input("x", [batch, self.inputs, self.size, self.size])
            return graph.model(graph.conv(x, self.inputs, self.outputs, self.kernel, self.stride, gain=1.0), 4)
        x = graph.input("x", [batch, self.size, self.inputs])
        return graph.model(graph.linear(x, self.inputs, self.outputs), 3)


LAYERS = (
    LayerShape(64, 64, 3, 56),
    LayerShape(128, 128, 3, 28),
    LayerShape(256, 256, 3, 14),
    LayerShape(512, 512, 3, 7),
    LayerShape(64, 128, 3, 56, stride=2),
    LayerShape(64, 256, 1, 56),
    LayerShape(256, 64, 1, 56),
    LayerShape(1024, 256, 1, 14),
    LayerShape(512, 2048, 1, 7),
    LayerShape(768, 3072, 0, TOKENS),
)


def resnet(blocks: tuple[int, int, int, int], bottleneck: bool, graph: Graph, batch: int) -> onnx.ModelProto:
    """A residual network for images of 224 pixels, its normalisations folded into the convolutions."""
    x = graph.conv(graph.input("x", [batch, 3, 224, 224]), 3, 64, 7, stride=2, pruned=False)
    x = graph.node("Relu", [x])
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            outputs = width * 4 if bottleneck else width
            skip = x if channels == outputs and stride == 1 else graph.conv(x, channels, outputs, 1, stride, gain=1.0)
            if bottleneck:
                y = graph.node("Relu", [graph.conv(x, channels, width, 1)])
                y = graph.node("Relu", [graph.conv(y, width, width, 3, stride)])
                y = graph.conv(y, width, outputs, 1, gain=0.3)
            else:
                y = graph.node("Relu", [graph.conv(x, channels, width, 3, stride)])
                y = graph.conv(y, width, width, 3, gain=0.3)
            x = graph.node("Relu", [graph.node("Add", [y, skip])])
            channels = outputs
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], axis=1)
    weights = graph.constant(graph.weights((1000, channels), 1.0, pruned=False))
    bias = graph.constant(np.zeros(1000, dtype=np.float32))
    return graph.model(graph.node("Gemm", [x, weights, bias], transB=1), 2)


def encoder(layers: int, width: int, heads: int, inner: int, graph: Graph, batch: int) -> onnx.ModelProto:
    """A transformer encoder over embedded tokens, attention and Gelu spelled as PyTorch exports them."""
    split = graph.constant(np.array([0, 0, heads, width // heads], dtype=np.int64))
    merge = graph.constant(np.array([0, 0, width], dtype=np.int64))
    root, half_root = (graph.constant(np.float32(np.sqrt(value))) for value in (width // heads, 2))
    one, half = graph.constant(np.float32(1)), graph.constant(np.float32(0.5))

    def normalised(x: str) -> str:
        scale, bias = (graph.constant(np.full(width, value, dtype=np.float32)) for value in (1, 0))
        return graph.node("LayerNormalization", [x, scale, bias], axis=-1, epsilon=1e-12)

    def by_head(x: str, order: list[int]) -> str:
        return graph.node("Transpose", [graph.node("Reshape", [graph.linear(x, width, width), split])], perm=order)

    x = normalised(graph.input("x", [batch, TOKENS, width]))
    for _ in range(layers):
        query, key, value = by_head(x, [0, 2, 1, 3]), by_head(x, [0, 2, 3, 1]), by_head(x, [0, 2, 1, 3])
        scores = graph.node("Div", [graph.node("MatMul", [query, key]), root])
        mixed = graph.node("MatMul", [graph.node("Softmax", [scores], axis=-1), value])
        mixed = graph.node("Reshape", [graph.node("Transpose", [mixed], perm=[0, 2, 1, 3]), merge])
        x = normalised(graph.node("Add", [graph.linear(mixed, width, width), x]))
        y = graph.linear(x, width, inner)
        bell = graph.node("Add", [graph.node("Erf", [graph.node("Div", [y, half_root])]), one])
        y = graph.node("Mul", [graph.node("Mul", [y, bell]), half])
        x = normalised(graph.node("Add", [graph.linear(y, inner, width), x]))
    return graph.model(x, 3)


Build = Callable[[int, float, str], onnx.ModelProto]

MODELS: dict[str, Build] = {
    "resnet18": lambda batch, sparsity, pattern: resnet((2, 2, 2, 2), False, Graph(sparsity, pattern), batch),
    "resnet50": lambda batch, sparsity, pattern: resnet((3, 4, 6, 3), True, Graph(sparsity, pattern), batch),
    "bert-base": lambda batch, sparsity, pattern: encoder(12, 768, 12, 3072, Graph(sparsity, pattern), batch),
}


def nonzeros(model: onnx.ModelProto) -> int:
    """Nonzero weights of the matrices in a model."""
    return sum(int(np.count_nonzero(numpy_helper.to_array(t))) for t in model.graph.initializer if len(t.dims) > 1)
