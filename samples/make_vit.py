"""Train and export the second sample model, a small vision transformer.

Needs ``torch``, ``onnx``, ``onnxscript`` and the Debian package ``dataset-fashion-mnist``::

    python samples/make_vit.py             # about a quarter of an hour on one core

Everything is seeded. ``make.py`` cuts the data sets, which both sample models share.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import cast

import onnx
import torch
from fashion import accuracy, read_split, train
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
WIDTH, HEADS, HIDDEN, DEPTH, PATCH = 96, 6, 192, 4, 7


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) with a projection each for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        mixed = scores.softmax(3) @ value
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention, then a GELU feed-forward network; each normalises first and adds to its input (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + cast(Tensor, self.ffn(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) for 28×28 grey images given as bytes: 16 tokens, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, (28 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, HIDDEN) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image.float() / 255).flatten(2).transpose(1, 2) + self.position
        return cast(Tensor, self.head(self.norm(self.blocks(x)).mean(1)))


def strip_notes(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes, whose stack traces hold paths, and the shapes it repeats for initializers.

    Those shapes make ONNX Runtime's ``quantize_dynamic`` fail: it transposes a weight and leaves its ``value_info``.
    """
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    shapes = [value for value in graph.value_info if value.name not in stored]
    graph.ClearField("value_info")
    graph.value_info.extend(shapes)
    for holder in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def name_transposed(proto: onnx.ModelProto, state: dict[str, Tensor]) -> None:
    """Name each MatMul's matrix, which the exporter transposes and numbers, after its parameter: ``….weight.T``."""
    transposed = {value.T.numpy().tobytes(): f"{name}.T" for name, value in state.items() if value.ndim == 2}
    names = {
        tensor.name: transposed[tensor.raw_data]
        for tensor in proto.graph.initializer
        if tensor.name not in state and tensor.raw_data in transposed
    }
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def export(model: nn.Module, path: Path) -> None:
    """Write ONNX as torch exports it today, with a free batch axis and the names of the state dict."""
    model.eval()
    program = torch.onnx.export(
        model, (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),), dynamo=True, opset_version=18,
        input_names=["image"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N")},),
    )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    strip_notes(proto)
    name_transposed(proto, model.state_dict())
    proto.doc_string = "Vision transformer for Fashion-MNIST, made by samples/make_vit.py of surgery-ir. Apache-2.0."
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)

    images, labels = map(torch.from_numpy, read_split("train"))
    model = VisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    train(model, optimizer, 2e-3, images, labels, options.epochs, shift=1, smoothing=0.05)
    images, labels = map(torch.from_numpy, read_split("t10k"))
    print(f"accuracy on the 10,000 test images: {accuracy(model, images, labels):.4f}")
    export(model, options.out / "fashion_vit.onnx")


if __name__ == "__main__":
    main()
