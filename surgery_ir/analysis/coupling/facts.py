"""Shapes and size operands for one sample: from inference where it tells, else from one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.site import Facts
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.shapes import infer_shapes
from surgery_ir.errors import BackendError
from surgery_ir.graph.extract import extract
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, bodies

__all__ = ["observe"]

SIZE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Pad": (1, 3),
    "Gather": (1,),
    "GatherElements": (1,),
    "Tile": (1,),
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
"""Operands whose values rules ask for; reductions keep theirs constant."""

MEASURES = ("Shape", "Size")
"""Operators that read nothing but a shape."""

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def observe(graph: Graph, runtime: Runtime, feeds: Mapping[str, NDArray[Any]]) -> Facts:
    """Find the shape of every value, and the values of operands that hold sizes and positions, for one sample.

    Parameters
    ----------
    graph
        The graph.
    runtime
        Runs it once, where inference leaves something open.
    feeds
        One sample.

    Returns
    -------
    Facts
        Where the runtime cannot run the graph, what inference knows.
    """
    inferred = infer_shapes(graph, {name: array.shape for name, array in feeds.items()})
    shapes = {
        name: tuple(int(size) for size in shape if size is not None)
        for name, shape in inferred.items()
        if None not in shape
    }
    outputs = [value for node in graph.model.graph for value in node.outputs if value.name]
    unknown = [value.name or "" for value in outputs if value.name not in shapes]
    asked = [value.name or "" for value in _operands(graph)]
    known = _known_sizes(graph, shapes)
    operands: dict[str, NDArray[Any]] = {name: known[name] for name in asked if name in known}
    names = [name for name in dict.fromkeys([*unknown, *asked]) if name not in known]
    if names:
        given = dict.fromkeys(value.name or "" for value in graph.inputs)
        cut = extract(graph, {**dict.fromkeys(known, ir.TensorType(ir.DataType.INT64)), **given}, names)
        needed = {value.name for value in cut.inputs}
        try:
            found = runtime.load(cut).run({name: array for name, array in {**known, **feeds}.items() if name in needed})
        except BackendError:
            found = {}
        for name, array in found.items():
            if isinstance(array, np.ndarray):
                shapes[name] = array.shape
        operands |= {name: found[name] for name in asked if name in found}
    return Facts(shapes, operands)


def _known_sizes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.int64]]:
    """Sizes that operators measure on values of which the shape is known: nothing ahead of them has to run."""
    found = {}
    for node in graph.model.graph:
        source = node.inputs[0] if node.inputs else None
        shape = shapes.get(source.name or "") if source is not None else None
        if shape is None or node.op_type not in MEASURES or node.domain not in STANDARD:
            continue
        ends = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        sizes = shape[slice(*ends)] if node.op_type == "Shape" else math.prod(shape)
        found[node.outputs[0].name or ""] = np.array(sizes, np.int64)
    return found


def _operands(graph: Graph) -> list[ir.Value]:
    found = []
    for node in graph.model.graph:
        for index in SIZE_OPERANDS.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and not graph.is_constant(value) and _follows_from_shapes(graph, value):
                found.append(value)
    return found


def _follows_from_shapes(graph: Graph, value: ir.Value) -> bool:
    """Whether nothing but shapes and constants decides about ``value``, so that no other sample changes it."""
    pending, seen = [value], {value}
    while pending:
        item = pending.pop()
        node = item.producer()
        if graph.is_constant(item) or (node is not None and node.op_type in MEASURES):
            continue
        if node is None or node.op_type in RANDOM or next(bodies(node), None) is not None:
            return False
        fresh = {source for source in node.inputs if source is not None} - seen
        seen |= fresh
        pending.extend(fresh)
    return True
