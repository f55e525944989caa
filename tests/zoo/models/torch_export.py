"""The ways in which PyTorch models of the zoo become ONNX."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes import common
from onnxruntime.transformers.optimizer import optimize_model
from onnxscript import optimizer
from torch import nn

from tests.zoo.models import branches, language, mobile, residual, sequence, vision_transformers
from tests.zoo.models.common import Recipe, randomize

__all__ = ["EXPORTERS", "export", "names"]

RECIPES: dict[str, Recipe] = {
    **residual.RECIPES,
    **mobile.RECIPES,
    **branches.RECIPES,
    **vision_transformers.RECIPES,
    **language.RECIPES,
    **sequence.RECIPES,
}

Exporter = Callable[[nn.Module, Recipe], onnx.ModelProto]

SEQUENCES = ("input_ids", "target_ids", "attention_mask", "token_type_ids", "frames")
"""Inputs whose second axis is open."""


def names() -> list[str]:
    """Give the name of every export: the model's, and the exporter's behind ``__`` if it is not the first."""
    return [
        name if index == 0 else f"{name}__{exporter}"
        for name, recipe in RECIPES.items()
        for index, exporter in enumerate(recipe.exporters)
    ]


def export(name: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Export the model called ``name``; the second result is the limits of its integer inputs."""
    title, _, exporter = name.partition("__")
    recipe = RECIPES[title]
    torch.manual_seed(0)
    model = randomize(recipe.build())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters deprecate themselves
        proto = EXPORTERS[exporter or recipe.exporters[0]](model, recipe)
    check(proto, model, recipe)
    return proto, dict(recipe.limits)


def check(proto: onnx.ModelProto, model: nn.Module, recipe: Recipe) -> None:
    """Refuse an export that computes something else than its model."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in recipe.inputs.items()})
    with torch.no_grad():
        wanted = model(*recipe.inputs.values())
    for actual, expected in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        numpy.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-4 * float(expected.abs().max()))


def dynamo(model: nn.Module, recipe: Recipe, opset: int = 18, optimize: bool = True) -> onnx.ModelProto:
    """The exporter of today: constants folded, BatchNorm folded into convolutions."""
    batch = torch.export.Dim("batch")
    sequence = torch.export.Dim("sequence", max=32)
    shapes = tuple({0: batch, 1: sequence} if name in SEQUENCES else {0: batch} for name in recipe.inputs)
    program = torch.onnx.export(
        model,
        tuple(recipe.inputs.values()),
        dynamo=True,
        opset_version=opset,
        optimize=optimize,
        input_names=list(recipe.inputs),
        dynamic_shapes=shapes,
        verbose=False,
    )
    return program.model_proto


def raw(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """The same without its optimiser: each normalisation and each constant as the program computes it."""
    return dynamo(model, recipe, optimize=False)


def unfolded(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """The same with shapes and constants folded only, so that every weight is the one that PyTorch holds."""
    inner = ir.from_proto(raw(model, recipe))
    optimizer.fold_constants(inner)
    for clean in (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        clean(inner)
    return ir.to_proto(inner)


def opset23(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """The same for opset 23, which has Attention and RMSNormalization."""
    return dynamo(model, recipe, opset=23)


def legacy(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """The tracing exporter: shapes are computed in the graph."""
    file = io.BytesIO()
    axes = {name: {0: "batch", 1: "sequence"} if name in SEQUENCES else {0: "batch"} for name in recipe.inputs}
    torch.onnx.export(
        model,
        tuple(recipe.inputs.values()),
        file,
        dynamo=False,
        opset_version=17,
        input_names=list(recipe.inputs),
        dynamic_axes=axes,
    )
    return onnx.load_from_string(file.getvalue())


def fused_transformer(kind: str, first: Exporter) -> Exporter:
    """What ONNX Runtime's offline optimiser makes of it: Attention, SkipLayerNormalization, BiasGelu, FastGelu."""

    def fuse(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            onnx.save(first(model, recipe), source)
            result = optimize_model(str(source), kind, num_heads=4, hidden_size=48, opt_level=0)
            return result.model

    return fuse


def fused(model: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """What ONNX Runtime makes of it: operators of its own domain, such as FusedConv and SkipLayerNormalization."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fused.onnx"
        options.optimized_model_filepath = str(target)
        proto = dynamo(model, recipe)
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


EXPORTERS: dict[str, Exporter] = {
    "dynamo": dynamo,
    "raw": raw,
    "unfolded": unfolded,
    "opset23": opset23,
    "legacy": legacy,
    "fused": fused,
    "fused_bert": fused_transformer("bert", legacy),
    "fused_gpt2": fused_transformer("gpt2", dynamo),
}

logging.getLogger("torch.onnx").setLevel(logging.ERROR)
