"""A module or an exported program becomes a graph whose initializers are its parameters, under their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import nn
from torch.utils import _pytree as pytree

from surgery_ir.frontends.pytorch.calling import Arguments
from surgery_ir.frontends.pytorch.recurrent import unrolled_nowhere
from surgery_ir.graph import lift
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph

__all__ = ["Raw", "convert", "export", "leaf_layers", "name_axes", "tidy"]

OPSET = 18

SCOPES = "pkg.torch.onnx.name_scopes"
METADATA = ("pkg.torch.", "pkg.onnxscript.", "namespace")
"""What the exporter notes of its sources; lines of the user's code are among it."""

PARAMETRIZED = "parametrizations"
WORD = re.compile(r"\b[A-Za-z_]\w*\b")


@dataclass(frozen=True)
class Raw:
    """What PyTorch's exporter gave.

    Parameters
    ----------
    model
        The model. Its initializers share memory with the module's parameters.
    outputs
        Names that the module itself gives its outputs; empty where it gives none.
    """

    model: ir.Model
    outputs: tuple[str, ...]


def export(module: nn.Module, call: Arguments, shapes: Any, wished: Any) -> Raw:
    """Run PyTorch's exporters on a module in evaluation mode.

    Parameters
    ----------
    module
        The module.
    call
        How it is called.
    shapes
        Which axes are open if the caller does not say.
    wished
        The ``dynamic_shapes`` that the caller says, names instead of ``Dim`` included; or ``None``.
    """
    if wished is not None:
        shapes = pytree.tree_map(lambda axis: torch.export.Dim.DYNAMIC if isinstance(axis, str) else axis, wished)
    with torch.no_grad(), unrolled_nowhere():
        program = torch.export.export(module, call[0], call[1], dynamic_shapes=shapes, strict=False)
    return convert(program, wished)


def convert(program: Any, names: Any = None) -> Raw:
    """Convert an exported program, without the exporter's optimiser, which transposes weights under their old names.

    Parameters
    ----------
    program
        The program.
    names
        ``dynamic_shapes`` by whose names the axes are called; PyTorch numbers them.
    """
    with torch.no_grad(), unrolled_nowhere():
        done = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=OPSET, dynamic_shapes=names, verbose=False
        )
    return Raw(done.model, tuple(_own_names(program)))


def _own_names(program: Any) -> Iterator[str]:
    """Keys of the outputs where the module gives a mapping of tensors, as models of Hugging Face do."""
    spec = program.call_spec.out_spec
    if not (isinstance(spec.type, type) and issubclass(spec.type, dict)):
        return
    children = spec.children()
    if len(spec.context) != len(children) or not all(child.is_leaf() for child in children):
        return
    given = [item for item in program.graph_signature.output_specs if item.kind.name == "USER_OUTPUT"]
    for key, item in zip(spec.context, given, strict=True):
        if not isinstance(item.arg, torch.export.graph_signature.ConstantArgument):
            yield str(key)


@collector_paused()
def tidy(raw: Raw, parameters: Collection[str], layers: Collection[str], source: str) -> tuple[Graph, dict[str, str]]:
    """Fold what the exporter computes from constants and shapes, but nothing that reads a parameter.

    Parameters
    ----------
    raw
        The export; it is used up.
    parameters
        Names of the initializers that are the module's.
    layers
        Paths of the modules whose outputs are of interest.
    source
        What to call the graph in messages.

    Returns
    -------
    The graph, with its own copy of the weights, and the layer for the value that it computes last.
    """
    model = raw.model
    last = _last_values(model, frozenset(layers))
    held = frozenset(parameters)
    if model.functions:
        common.InlinePass()(model)
    optimizer.fold_constants(model, should_fold=lambda node: False if _reads(node, held) else None)
    _drop_zero_biases(model, held)
    for clean in (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        clean(model)
    _own_weights(model)
    _name_outputs(model, raw.outputs)
    _forget_sources(model)
    lift.lift_constants(model)
    lift.follow_identities(model)
    lift.name_nodes(model)
    known = {value for node in model.graph for value in node.outputs}
    return Graph(model, source), {value.name or "": layer for value, layer in last.items() if value in known}


def _reads(node: ir.Node, names: frozenset[str]) -> bool:
    return any(value is not None and value.is_initializer() and value.name in names for value in node.inputs)


def _drop_zero_biases(model: ir.Model, parameters: frozenset[str]) -> None:
    """Take out the zeros that the exporter adds to convolutions which have no bias."""
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None or bias.name in parameters:
            continue
        if not bias.const_value.numpy().any():
            node.resize_inputs(2)


def _last_values(model: ir.Model, layers: frozenset[str]) -> dict[ir.Value, str]:
    """For each layer the value that is computed last inside of it: its output."""
    last = {}
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        layer = next((scope for scope in reversed(scopes[:-1]) if scope in layers), None)
        if layer is not None:
            last[layer] = node.outputs[0]
    return {value: layer for layer, value in last.items()}


def _own_weights(model: ir.Model) -> None:
    """Copy the weights: what happens to the module from now on is not for the graph."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is not None:
                value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)


def _name_outputs(model: ir.Model, names: tuple[str, ...]) -> None:
    """Give outputs the names that the module gives them, and one that is given twice a value of its own."""
    inner = model.graph
    for index, value in enumerate(inner.outputs):
        producer = value.producer()
        if producer is None or value in inner.outputs[:index]:
            copy = ir.node("Identity", [value])
            copy.outputs[0].name, copy.outputs[0].type = f"{value.name}_output_{index}", value.type
            copy.outputs[0].shape = value.shape
            inner.append(copy)
            inner.outputs[index] = copy.outputs[0]
    if len(names) != len(inner.outputs):
        return
    taken = {value.name for node in inner for value in node.outputs} | {value.name for value in inner.inputs}
    taken |= set(inner.initializers)
    for value, name in zip(inner.outputs, names, strict=True):
        if name not in taken:
            value.name = name


def _forget_sources(model: ir.Model) -> None:
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        notes = [node.metadata_props for node in graph]
        notes += [value.metadata_props for node in graph for value in node.outputs]
        for note in notes:
            for key in [key for key in note if key.startswith(METADATA)]:
                del note[key]


def name_axes(model: ir.Model, invent: bool) -> None:
    """Give numbers to axes that PyTorch fixed, which it calls by the text of the number, and names to open ones.

    Parameters
    ----------
    model
        The model.
    invent
        Call the first open axis of the inputs ``batch`` and the second ``sequence``, where PyTorch has its symbols.
    """
    names: dict[str, str] = {}
    for stem, axis in (("batch", 0), ("sequence", 1)) if invent else ():
        found = 0
        for value in model.graph.inputs:
            size = value.shape[axis] if value.shape is not None and len(value.shape) > axis else None
            symbol = size.value if isinstance(size, ir.SymbolicDim) else None
            if symbol is not None and not symbol.isdigit() and symbol not in names:
                names[symbol] = stem if axis == 0 or not found else f"{stem}_{found}"
                found += 1
    for graph in model.graphs():
        for value in {*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)}:
            if value.shape is not None:
                value.shape = ir.Shape([_named(size, names) for size in value.shape])


def _named(size: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return int(size.value) if size.value.isdigit() else WORD.sub(lambda word: names.get(word[0], word[0]), size.value)


def leaf_layers(module: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that hold no others, but for those that compute their weights."""
    return tuple(
        path
        for path, layer in module.named_modules()
        if path
        and PARAMETRIZED not in path.split(".")
        and {name for name, _ in layer.named_children()} <= {PARAMETRIZED}
    )
