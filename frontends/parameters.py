"""Which initializers hold which parameters of a framework, and how to go from one to the other.

A converter leaves parameters as they are and puts operators behind them: a Transpose behind the weights of a dense
layer, a Slice and a Concat where a recurrent layer orders its gates differently. Folding them leaves one initializer
for the layer; the operators are kept as its recipe, so that values can go both ways. The way back needs no rules per
operator: the recipe is run once more on the positions of the numbers, and says where each of them ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from surgery_ir.errors import ModelError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD

__all__ = ["Binding", "bind"]

MOVES = frozenset(
    (
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)
"""Operators that only move numbers, so that positions tell what they do."""

SIZES = frozenset(("Shape", "Size"))
"""Operators that read no numbers: what they give follows from no parameter."""

KEPT = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)

GROWTH = 1024
"""Bytes by which an initializer may exceed the parameters it is made of; an Expand over a batch stays an operator."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Binding:
    """How an initializer follows from parameters of the framework.

    Parameters
    ----------
    initializer
        Name of the initializer.
    parameters
        Names of the parameters, in the order in which they are first read.
    recipe
        Operators that compute it: inputs are the parameters, the one output is the initializer. ``None`` where it is
        the one parameter as it is.
    """

    initializer: str
    parameters: tuple[str, ...]
    recipe: onnx.ModelProto | None = None

    def __str__(self) -> str:
        """Say how, shortly: ``Transpose(fc.weight)``."""
        operators = [] if self.recipe is None else [node.op_type for node in self.recipe.graph.node]
        inner = ", ".join(self.parameters)
        return f"{'∘'.join(reversed(operators))}({inner})" if operators else inner

    @property
    def computes(self) -> tuple[str, ...]:
        """Operators of the recipe that do more than to move numbers; there is no way back through them."""
        moved, computing = set(self.parameters), []
        for node in () if self.recipe is None else self.recipe.graph.node:
            if node.op_type not in SIZES and not moved.isdisjoint(node.input):
                moved.update(node.output)
                computing += [] if node.op_type in MOVES else [node.op_type]
        return tuple(dict.fromkeys(computing))

    def forward(self, parameters: Arrays) -> NDArray[Any]:
        """Compute the initializer from its parameters."""
        if self.recipe is None:
            return parameters[self.parameters[0]]
        return _run(self.recipe, {name: parameters[name] for name in self.parameters})

    def backward(self, value: NDArray[Any], parameters: Arrays) -> dict[str, NDArray[Any]]:
        """Compute parameters for which :meth:`forward` gives ``value``.

        Parameters
        ----------
        value
            New values of the initializer.
        parameters
            Values so far; what the initializer does not hold stays.

        Raises
        ------
        ModelError
            Numbers were computed rather than moved, or ``value`` has two values for one number of a parameter, or
            another one where the recipe puts a constant.
        """
        if self.recipe is None:
            return {self.parameters[0]: value}
        if self.computes:
            raise ModelError(
                f"{self.initializer!r} is computed from {', '.join(self.parameters)} by {', '.join(self.computes)}, "
                "which cannot be undone"
            )
        shapes = {name: parameters[name].shape for name in self.parameters}
        where = self._positions(shapes)
        held = where >= 0
        if not np.array_equal(value[~held], self.forward(parameters)[~held]):
            raise ModelError(f"{self.initializer!r} changed where it holds a constant of the converter's")
        flat = np.concatenate([parameters[name].reshape(-1) for name in self.parameters])
        flat[where[held]] = value[held]
        if not np.array_equal(flat[where[held]], value[held]):
            raise ModelError(f"{self.initializer!r} has two values for one number of {', '.join(self.parameters)}")
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
        return {
            name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), np.split(flat, ends), strict=True)
        }

    def _positions(self, shapes: Mapping[str, tuple[int, ...]]) -> NDArray[np.int64]:
        """For each number of the initializer its position among those of all parameters, -1 for constants."""
        assert self.recipe is not None
        recipe = onnx.ModelProto()
        recipe.CopyFrom(self.recipe)
        for value in recipe.graph.input:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT64
        for tensor in recipe.graph.initializer:
            if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):  # a number, not a place
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), -1, np.int64), tensor.name))
        start, feeds = 0, {}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            feeds[name] = np.arange(start, start + size).reshape(shape)
            start += size
        return _run(recipe, feeds)


def _run(recipe: onnx.ModelProto, feeds: Mapping[str, Any]) -> NDArray[Any]:
    found: Any = ReferenceEvaluator(recipe).run(None, dict(feeds))
    return np.asarray(found[0])


def bind(graph: Graph, parameters: Iterable[str]) -> tuple[Binding, ...]:
    """Fold what follows from parameters alone into initializers, and let these bear the names of the parameters.

    Parameters
    ----------
    graph
        A graph that was just made; it is changed in place.
    parameters
        Names of the initializers that are parameters of the framework, under its names.

    Returns
    -------
    One binding for each initializer that a parameter went into, by name.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph.model)
    names = {name: None for name in parameters if name in graph.initializers}
    cutter = Cutter(graph)
    found = {  # all recipes before any value is replaced: one may lead through another
        value: Binding(value.name or "", sources, _recipe(graph, cutter, value, sources))
        for value, sources in _ends(graph, names).items()
    }
    editor = Editor(graph, "lowering")
    made = []
    for value, binding in found.items():
        held = {name: graph.array(name) for name in binding.parameters}
        array = binding.forward(held)
        if array.nbytes <= sum(item.nbytes for item in held.values()) + GROWTH:
            made.append(binding)
            editor.replace_by_constant(value, array)
    _remove_dead(graph, names)
    bound = [Binding(name, (name,)) for name in names if name in graph.initializers]
    for binding in made:
        if binding.initializer not in graph.initializers:  # nobody reads what read it
            continue
        value = graph.initializers[binding.initializer]
        value.name = _free(graph, binding.parameters[0])
        bound.append(replace(binding, initializer=value.name))
    return tuple(sorted(bound, key=lambda binding: binding.initializer))


def _ends(graph: Graph, names: Mapping[str, None]) -> dict[ir.Value, tuple[str, ...]]:
    """Values that follow from parameters and constants alone and are read by what does not, with their parameters."""
    sources: dict[ir.Value, tuple[str, ...]] = {
        value: (name,) if name in names else ()
        for name, value in graph.initializers.items()
        if graph.is_constant(value)
    }
    foldable: set[ir.Node] = set()
    for node in graph.model.graph:
        read = [value for value in node.inputs if value is not None]
        if _is_foldable(node) and all(value in sources for value in read):
            foldable.add(node)
            found = (
                () if node.op_type in SIZES else tuple(dict.fromkeys(name for item in read for name in sources[item]))
            )
            sources.update((value, found) for value in node.outputs)
    return {
        value: sources[value]
        for node in graph.model.graph
        if node in foldable
        for value in node.outputs
        if sources[value] and not value.is_graph_output() and any(use.node not in foldable for use in value.uses())
    }


def _is_foldable(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return (
        node.domain in STANDARD
        and node.op_type not in KEPT | RANDOM
        and all(attribute.is_ref() or attribute.type not in kinds for attribute in node.attributes.values())
    )


def _recipe(graph: Graph, cutter: Cutter, value: ir.Value, sources: tuple[str, ...]) -> onnx.ModelProto:
    """Operators that compute ``value`` from the parameters ``sources``, as a model."""
    stop = {graph.initializers[name] for name in sources}
    types = {name: graph.initializers[name].type for name in sources}
    part = cutter.cut(cutter.needed([value], stop), types, [value.name or ""]).to_proto()
    for given in part.graph.input:  # the shape says which parameter fits
        given.CopyFrom(
            onnx.helper.make_tensor_value_info(
                given.name, given.type.tensor_type.elem_type, graph.array(given.name).shape
            )
        )
    return part


def _remove_dead(graph: Graph, names: Mapping[str, None]) -> None:
    """Remove operators that nobody reads, and the parameters and constants that only they read."""
    RemoveUnusedNodesPass()(graph.model)
    for name in names:
        value = graph.initializers.get(name)
        if value is not None and not value.uses() and not value.is_graph_output():
            del graph.model.graph.initializers[name]
    graph.revision += 1


def _free(graph: Graph, name: str) -> str:
    """Give ``name``, or ``name.1`` … where an initializer or a value has it."""
    taken = {value.name for node in graph.model.graph for value in node.outputs} | {*graph.initializers}
    stem, number = name, 1
    while name in taken:
        name, number = f"{stem}.{number}", number + 1
    return name
