"""From a function of JAX to a graph whose initializers are the function's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from surgery_ir.frontends.jax.decide import decide
from surgery_ir.frontends.jax.inputs import Inputs, Sizes
from surgery_ir.frontends.jax.model import Functional
from surgery_ir.frontends.jax.trace import Originals, pruned
from surgery_ir.frontends.parameters import Binding, bind
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph

__all__ = ["OPSET", "convert"]

OPSET = 21
"""The first with ``GroupNormalization`` as networks have it."""


@collector_paused()
def convert(
    model: Functional, inputs: Inputs, sizes: Sizes, before: Originals, plain: bool, source: str
) -> tuple[Graph, tuple[Binding, ...]]:
    """Lower a function; parameters are its inputs meanwhile, so that nothing can be folded into them.

    Parameters
    ----------
    model
        The function.
    inputs
        How it is called.
    sizes
        Sizes of the axes of its inputs.
    before, plain
        See :mod:`surgery_ir.frontends.jax.trace`.
    source
        The model, for messages.
    """
    import jax
    import jax2onnx

    values = model.read()
    outputs: list[str] = []

    def function(*arrays: Any) -> Any:
        given, named = inputs.arguments(arrays[: len(sizes)])
        found = model.apply(arrays[len(sizes) :], *given, **named)
        outputs[:] = _output_names(found)
        return found

    specs = [jax.ShapeDtypeStruct(sizes[name], array.dtype) for name, array in inputs.arrays.items()]
    specs += [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values.values()]
    with _every_input_kept():
        lowered = jax2onnx.to_onnx(
            pruned(function, before, plain),
            specs,
            opset=OPSET,
            normalization_mode="prefer_native",
            return_mode="ir",
        )
    if lowered.functions:
        InlinePass()(lowered)
    decide(lowered.graph)
    _name(lowered.graph, list(sizes), values, outputs)
    graph = Graph.from_proto(ir.to_proto(lowered), source)
    return graph, bind(graph, values)


@contextmanager
def _every_input_kept() -> Iterator[None]:
    """Keep jax2onnx from removing inputs that nothing reads: the user has data for them, and knows them by position."""
    from jax2onnx.converter import ir_optimizations

    passes = ir_optimizations._OPTIMIZER_PASSES
    ir_optimizations._OPTIMIZER_PASSES = tuple(item for item in passes if item.name != "prune_unused_graph_inputs")
    try:
        yield
    finally:
        ir_optimizations._OPTIMIZER_PASSES = passes


def _output_names(found: Any) -> list[str]:
    """Name outputs as the tree that the model gives tells: ``logits``, or ``output_0`` … by position."""
    import jax

    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(found)[0]]
    if paths == [()]:
        return ["output"]
    names = [str(jax.tree_util.keystr(path, simple=True, separator="/")) for path in paths]
    return [f"output_{name}" if name[0].isdigit() else name for name in names]


def _name(graph: ir.Graph, inputs: Sequence[str], values: Mapping[str, Any], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names, parameters their names and values, and take back shapes that went stale."""
    given = {str(value.name): value for value in graph.inputs}
    order = [given[f"in_{index}"] for index in range(len(given))]
    wanted: dict[ir.Value, str] = dict(zip(graph.outputs, outputs, strict=True))
    wanted |= dict(zip(order, [*inputs, *values], strict=True))
    taken = set(wanted.values())
    for value in _values(graph):
        if value not in wanted and value.name in taken:
            value.name = f"{value.name}__"
    for value, name in wanted.items():
        value.name = f"{name}__renamed"  # so that two may swap
    for value, name in wanted.items():
        value.name = name
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # jax2onnx moves Transposes and leaves the shapes as they were
    for value, array in zip(order[len(inputs) :], values.values(), strict=True):
        graph.inputs.remove(value)
        value.const_value = ir.tensor(np.asarray(array), name=value.name)
        graph.register_initializer(value)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of the graph and of the graphs inside it."""
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from attribute.as_graph().inputs
                yield from attribute.as_graph().initializers.values()
