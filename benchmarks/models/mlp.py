"""LeNet-300-100 (LeCun et al., 1998), trained here with numpy on labelled images of the sample data.

Its 8,000 labelled images are split anew: 4,000 to train on, 1,000 for selection, 3,000 for the report. The unlabelled
images for calibration are the ones that the other models get; this one has never seen them. Training takes less than
a minute on one core; the model is kept in the user's cache folder under a digest of this file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models.fashion import SAMPLES
from benchmarks.models.task import Task
from surgery_ir.analysis.samples import Samples, read_samples
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model

__all__ = ["load"]

Float = NDArray[np.float32]
Parameters = list[tuple[Float, Float]]

WIDTHS = (784, 300, 100, 10)
TRAINING, SELECTION = 4000, 1000
EPOCHS, BATCH, PEAK, DECAY, SHIFT = 60, 128, 2e-3, 1e-4, 1
BETAS, EPSILON = (0.9, 0.999), 1e-8


def load() -> Task:
    """Give the model; it is trained the first time.

    The first of its three layers holds most of the weights, so that one is pruned too, unlike in other models.
    """
    parts = [read_samples(SAMPLES / f"{part}.npz", "label") for part in ("selection", "report")]
    images = np.concatenate([part.feeds["image"] for part in parts])
    labels = np.concatenate([np.asarray(part.labels) for part in parts])
    order = np.random.default_rng(0).permutation(len(images))
    training, selection, report = np.split(order, [TRAINING, TRAINING + SELECTION])
    file = _cache() / f"mlp-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_model(Graph.from_proto(_export(_train(images[training, 0], labels[training]))), file)
    return Task(
        "mlp",
        read_model(file),
        read_samples(SAMPLES / "calibration.npz"),
        Samples({"image": images[selection]}, labels[selection]),
        Samples({"image": images[report]}, labels[report]),
        prune="ratios=[fc1:{ratio}]",
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surgery-ir"


def _train(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Parameters:
    """Train with Adam (Kingma & Ba, 2015) under one cosine of the learning rate; weights decay apart from it."""
    rng = np.random.default_rng(0)
    parameters = [
        (rng.standard_normal((outputs, inputs), np.float32) * np.float32(np.sqrt(2 / inputs)), np.zeros(outputs, "f4"))
        for inputs, outputs in pairwise(WIDTHS)
    ]
    flat = [array for pair in parameters for array in pair]
    first, second = ([np.zeros_like(array) for array in flat] for _ in range(2))
    steps = EPOCHS * (len(images) // BATCH)
    for step, (x, y) in enumerate(_batches(images, labels, rng)):
        rate = PEAK * 0.5 * (1 + np.cos(np.pi * step / steps))
        corrected = rate * np.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
        for value, gradient, mean, square in zip(flat, _gradients(parameters, x, y), first, second, strict=True):
            mean += np.float32(1 - BETAS[0]) * (gradient - mean)
            square += np.float32(1 - BETAS[1]) * (gradient**2 - square)
            value *= np.float32(1 - rate * DECAY)
            value -= np.float32(corrected) * mean / (np.sqrt(square) + np.float32(EPSILON))
    return parameters


def _batches(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[tuple[Float, NDArray[np.int64]]]:
    """Yield flattened images, shifted at random and half of them mirrored, with their labels."""
    windows = sliding_window_view(np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))), (28, 28), axis=(1, 2))
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            dy, dx = rng.integers(0, 2 * SHIFT + 1, (2, BATCH))
            x = windows[chosen, dy, dx]
            x = np.where((rng.random(BATCH) < 0.5)[:, None, None], x[:, :, ::-1], x)
            yield x.reshape(BATCH, -1).astype(np.float32) / 255, labels[chosen]


def _gradients(parameters: Parameters, x: Float, labels: NDArray[np.int64]) -> list[Float]:
    """Give the gradients of the mean cross-entropy: of the weights and the bias of each layer, in turn."""
    inputs = [x]
    for weights, bias in parameters[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weights.T + bias, 0))
    weights, bias = parameters[-1]
    logits = inputs[-1] @ weights.T + bias
    error = np.exp(logits - logits.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    found: list[Float] = []
    for (weights, _), seen in zip(reversed(parameters), reversed(inputs), strict=True):
        found = [error.T @ seen, error.sum(0), *found]
        error = (error @ weights) * (seen > 0)
    return found


def _export(parameters: Parameters) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "white"], ["scaled"], "scale"),
        helper.make_node("Flatten", ["scaled"], ["x0"], "flatten"),
    ]
    weights = [numpy_helper.from_array(np.array(255, np.float32), "white")]
    for index, (matrix, bias) in enumerate(parameters, start=1):
        last = index == len(parameters)
        weights += [
            numpy_helper.from_array(matrix, f"fc{index}.weight"),
            numpy_helper.from_array(bias, f"fc{index}.bias"),
        ]
        output = "logits" if last else f"y{index}"
        operands = [f"x{index - 1}", f"fc{index}.weight", f"fc{index}.bias"]
        nodes.append(helper.make_node("Gemm", operands, [output], f"fc{index}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [output], [f"x{index}"], f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "lenet_300_100",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", WIDTHS[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
