"""Weights of recurrent layers: where the converter put them.

tf2onnx makes ``LSTM`` and ``GRU`` only of constant weights, whose gates it puts into ONNX's order. It is given marks
instead of numbers: every element holds a bit pattern of its own, so that the initializers tell which element went
where. From that follow the true values, and a recipe for going from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["ROOM", "locate", "marks", "recipe"]

FIRST = 0x00800001
"""Bit pattern of the first mark, the second smallest normal float32: an addition of anything loses it."""

ROOM = 0x2B000000 - FIRST
"""How many marks there are below 4.5e-13, where constants of models begin."""

Positions = NDArray[np.int64]
Shapes = Mapping[str, tuple[int, ...]]


def marks(shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """Give each element of all parameters, one after the other, the float32 whose bits are its number."""
    made, start = {}, FIRST
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        made[name] = np.arange(start, start + size, dtype=np.int32).view(np.float32).reshape(shape)
        start += size
    return made


def locate(array: NDArray[Any], total: int) -> Positions | None:
    """Say for each number which element it marks, -1 where it is no mark; ``None`` where none is."""
    if array.dtype != np.float32 or not array.size:
        return None
    where = np.ascontiguousarray(array).view(np.int32).astype(np.int64) - FIRST
    where[(where < 0) | (where >= total)] = -1
    return where if (where >= 0).any() else None


def recipe(
    name: str, array: NDArray[Any], where: Positions, shapes: Shapes
) -> tuple[tuple[str, ...], onnx.ModelProto | None]:
    """Write how an initializer follows from parameters, by operators that only move numbers.

    Parameters
    ----------
    name
        Name of the initializer.
    array
        What it holds: numbers of its own where ``where`` is -1.
    where
        Position of each element among those of all ``shapes``.
    shapes
        Shapes of all parameters, in the order in which their elements are numbered.

    Returns
    -------
    The parameters that it is made of, and the recipe; ``None`` where it is one parameter as it is.
    """
    steps = _Recipe(shapes)
    try:
        result = steps.whole(array, where)
    except _Irregular:
        steps = _Recipe(shapes)
        result = steps.scattered(array, where)
    sources = tuple(steps.read)
    if result == sources[0]:
        return sources, None
    steps.nodes[-1].output[0] = name
    given = [helper.make_tensor_value_info(source, TensorProto.FLOAT, shapes[source]) for source in sources]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)]
    graph = helper.make_graph(steps.nodes, "recipe", given, made, steps.constants)
    return sources, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class _Irregular(Exception):
    """Elements follow no simple order."""


class _Recipe:
    """Collects the operators of a recipe."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.read: dict[str, None] = {}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    def add(self, kind: str, read: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"_{len(self.nodes)}_{kind}"
        self.nodes.append(helper.make_node(kind, list(read), [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        name = f"_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.add("Reshape", [name, self.constant(np.array(shape, np.int64))])

    def concat(self, parts: Sequence[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=axis)

    def whole(self, array: NDArray[Any], where: Positions) -> str:
        """One part for each direction, where the first axis counts directions; else one part."""
        first, last = self.owners(where).flat[[0, -1]]
        if first == last >= 0:
            name, start = self.parameter(int(first))
            if array.shape == self.shapes[name] and np.array_equal(where.reshape(-1) - start, np.arange(where.size)):
                return name
        if array.ndim < 2:
            return self.vector(array, where)
        if array.ndim == 2:
            rows = [self.reshape(self.vector(*row), (1, -1)) for row in zip(array, where, strict=True)]
            return self.concat(rows, 0)
        parts = [self.reshape(self.matrix(positions), (1, *positions.shape)) for positions in where]
        return self.concat(parts, 0)

    def vector(self, array: NDArray[Any], where: Positions) -> str:
        """Runs of elements of one parameter, and constants."""
        owner = self.owners(where)
        ends = np.flatnonzero(np.diff(owner)) + 1
        parts = []
        for values, positions, owners in zip(*(np.split(item, ends) for item in (array, where, owner)), strict=True):
            if owners[0] < 0:
                parts.append(self.constant(values))
                continue
            name, start = self.parameter(int(owners[0]))
            flat = name if len(self.shapes[name]) == 1 else self.reshape(name, (-1,))
            parts.append(self.add("Gather", [flat, self.constant(positions - start)], axis=0))
        return self.concat(parts, 0)

    def matrix(self, where: Positions) -> str:
        """Columns of one parameter as rows, in another order."""
        owner = self.owners(where)
        if where.ndim != 2 or owner.min() != owner.max() or owner.min() < 0:
            raise _Irregular
        name, start = self.parameter(int(owner.flat[0]))
        shape = self.shapes[name]
        order = where[:, 0] - start
        held = np.arange(int(np.prod(shape))).reshape(shape)
        if len(shape) != 2 or order.max() >= shape[1] or not np.array_equal(held.T[order], where - start):
            raise _Irregular
        turned = self.add("Transpose", [name], perm=[1, 0])
        return self.add("Gather", [turned, self.constant(order)], axis=0)

    def scattered(self, array: NDArray[Any], where: Positions) -> str:
        """Any order: all parameters and the constants in a row, and one index for each element."""
        names = [self.parameter(index)[0] for index in np.unique(self.owners(where[where >= 0]))]
        bases = np.concatenate([[0], np.cumsum([int(np.prod(self.shapes[name])) for name in names])])
        index = np.empty(where.shape, np.int64)
        for name, base in zip(names, bases, strict=False):
            start = self.starts[list(self.shapes).index(name)]
            held = (where >= start) & (where < start + np.prod(self.shapes[name]))
            index[held] = where[held] - start + base
        own = where < 0
        index[own] = bases[-1] + np.arange(np.count_nonzero(own))
        parts = [self.reshape(name, (-1,)) for name in names]
        if own.any():
            parts.append(self.constant(array[own]))
        return self.add("Gather", [self.concat(parts, 0), self.constant(index)], axis=0)

    def parameter(self, index: int) -> tuple[str, int]:
        name = list(self.shapes)[index]
        self.read[name] = None
        return name, int(self.starts[index])

    def owners(self, where: Positions) -> Positions:
        """For each element the number of its parameter, -1 for constants."""
        found = np.searchsorted(self.starts, where, side="right") - 1
        return np.where(where < 0, -1, found)
