"""Fold BatchNormalization into the layer ahead of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD
from surgery_ir.passes.base import Refusal
from surgery_ir.passes.bias import store_bias

__all__ = ["Normalization", "along_outputs", "fold_batchnorm", "read_normalization"]


def fold_batchnorm(editor: Editor) -> list[Refusal]:
    """Fold every BatchNormalization that follows a Conv, ConvTranspose or Gemm whose weights are its own.

    y = γ (W x + b − μ) / √(σ² + ε) + β is a layer with weights γ/√(σ² + ε) · W.
    """
    refusals: list[Refusal] = []
    for node in list(editor.graph.model.graph):
        if node.op_type == "BatchNormalization" and node.domain in STANDARD:
            reason = _reason_against(editor.graph, node) or _fold(editor, node)
            if reason is not None:
                refusals.append(Refusal(reason, (node.name or "",)))
    return refusals


def _reason_against(graph: Graph, node: ir.Node) -> str | None:
    """Why the BatchNormalization itself, or where it stands, forbids folding it."""
    training = node.attributes.get("training_mode")
    if (training is not None and training.as_int()) or any(output.name for output in node.outputs[1:]):
        return "it normalises by the batch (training mode)"
    if not all(graph.is_constant(value) for value in node.inputs[1:5]):
        return "its parameters are not constant"
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    if source is None or layer is None:
        return "no Conv or Gemm writes its input"
    if layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or layer.domain not in STANDARD:
        return f"its input is written by {layer.op_type}"
    if len(source.uses()) != 1 or source.is_graph_output():
        return f"the output of {layer.name!r} is read by others too"
    return _reason_against_layer(graph, layer)


def _reason_against_layer(graph: Graph, layer: ir.Node) -> str | None:
    weight = layer.inputs[1]
    if weight is None or not graph.is_constant(weight) or len(weight.uses()) != 1 or weight.is_graph_output():
        return f"the weights of {layer.name!r} are not constant or not its own"
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if bias is None:
        return None
    if not graph.is_constant(bias) or bias.is_graph_output():
        return f"the bias of {layer.name!r} is not constant"
    if graph.array(bias.name or "").ndim > 1:
        return f"the third input of {layer.name!r} is no vector"
    return f"the bias of {layer.name!r} is multiplied by 0" if _beta(layer) == 0 else None


def _fold(editor: Editor, node: ir.Node) -> str | None:
    """Fold ``node``, or say why the result would be no number."""
    graph = editor.graph
    norm = read_normalization(graph, node)
    source = node.inputs[0]
    assert source is not None
    layer = source.producer()
    assert layer is not None
    weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    assert weight is not None and weight.name is not None
    stored = graph.array(weight.name)
    with np.errstate(all="ignore"):
        scaled = (stored * along_outputs(layer, stored, norm.factor)).astype(stored.dtype)
        old = _values(graph, bias) * _beta(layer) if bias is not None else np.zeros(())
        shifted = (((old - norm.mean) * norm.factor + norm.beta) / _beta(layer)).astype(stored.dtype)
    if not (np.all(np.isfinite(scaled)) and np.all(np.isfinite(shifted))):
        return f"folding it into {layer.name!r} would give weights that are not finite"
    editor.set_weights(weight.name, scaled, kind="fold-batchnorm")
    store_bias(editor, layer, shifted, kind="fold-batchnorm")
    editor.bypass(node, source, kind="fold-batchnorm")
    return None


@dataclass(frozen=True)
class Normalization:
    """What a BatchNormalization computes, (channels,) each.

    ``names`` are those of γ, β, μ and σ²; ``deviation`` is √(σ² + ε), and ``factor`` is γ over it.
    """

    names: tuple[str, ...]
    gamma: NDArray[np.float64]
    beta: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @property
    def factor(self) -> NDArray[np.float64]:
        """What each channel is multiplied by."""
        factor: NDArray[np.float64] = self.gamma / self.deviation
        return factor


def read_normalization(graph: Graph, node: ir.Node) -> Normalization:
    """Read the parameters, all constant, of a BatchNormalization."""
    gamma, beta, mean, variance = (_values(graph, value) for value in node.inputs[1:5])
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    with np.errstate(all="ignore"):
        deviation = np.sqrt(variance + epsilon)
    names = tuple(value.name or "" for value in node.inputs[1:5] if value is not None)
    return Normalization(names, gamma, beta, mean, deviation)


def _values(graph: Graph, value: ir.Value | None) -> NDArray[np.float64]:
    assert value is not None and value.name is not None
    return graph.array(value.name).astype(np.float64)


def _beta(layer: ir.Node) -> float:
    """Factor of the third input of a Gemm."""
    return layer.attributes["beta"].as_float() if "beta" in layer.attributes else 1.0


def along_outputs(layer: ir.Node, stored: NDArray[np.generic], factor: NDArray[Any]) -> NDArray[Any]:
    """Shape ``factor``, one number per output, so that it scales the outputs of the stored weights."""
    rank = stored.ndim
    if layer.op_type == "Conv":
        return factor.reshape(-1, *[1] * (rank - 1))
    if layer.op_type == "Gemm":
        transposed = "transB" in layer.attributes and layer.attributes["transB"].as_int()
        return factor[:, None] if transposed else factor[None]
    groups = layer.attributes["group"].as_int() if "group" in layer.attributes else 1
    inputs, outputs = stored.shape[:2]
    blocks = np.repeat(factor.reshape(groups, 1, outputs), inputs // groups, axis=1)
    return blocks.reshape(inputs, outputs, *[1] * (rank - 2))
