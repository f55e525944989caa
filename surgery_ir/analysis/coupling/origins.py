"""Which sizes the elements of a small integer value are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.site import NotKnown, Site

__all__ = ["NONE", "Origin", "origins"]

Origin = frozenset[tuple[str, int]]
"""Sizes that a number is computed from: value and axis."""

NONE: Origin = frozenset()
"""The number is constant."""

DEPTH = 64
"""Longest chain of operators that is followed."""

_union = np.frompyfunc(lambda one, other: one | other, 2, 1)


def origins(site: Site, index: int) -> NDArray[np.object_]:
    """Give an :data:`Origin` for every element of an integer operand, in its shape.

    Parameters
    ----------
    site
        The operator.
    index
        Which of its inputs.

    Raises
    ------
    NotKnown
        It is computed from anything but sizes and constants, or by an operator that is not followed.
    """
    value = site.node.inputs[index]
    assert value is not None
    return _Follower(site).follow(value, DEPTH)


class _Follower:
    """Follows one operand back to the sizes it is made of."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.known: dict[ir.Value, NDArray[np.object_]] = {}

    def follow(self, value: ir.Value, depth: int) -> NDArray[np.object_]:
        """Origins of the elements of ``value``."""
        if value not in self.known:
            self.known[value] = self._look(value, depth)
        return self.known[value]

    def _look(self, value: ir.Value, depth: int) -> NDArray[np.object_]:
        if self.site.graph.is_constant(value):
            assert value.const_value is not None
            return _filled(tuple(int(size) for size in value.const_value.shape.numpy()))
        node = value.producer()
        follow = FOLLOWED.get(node.op_type) if node is not None else None
        if node is None or follow is None or not depth:
            raise NotKnown(f"its operand {value.name!r} is computed from more than sizes")
        if node.op_type == "Shape":
            return _of_shape(self.site, node)
        inner = Site(node, self.site.graph, self.site.facts)
        parts = [self.follow(item, depth - 1) for item in node.inputs if item is not None]
        return follow(inner, parts)


def _filled(shape: tuple[int, ...]) -> NDArray[np.object_]:
    empty = np.empty(shape, object)
    empty[...] = NONE
    return empty


def _of_shape(site: Site, node: ir.Node) -> NDArray[np.object_]:
    source = node.inputs[0]
    assert source is not None
    inner = Site(node, site.graph, site.facts)
    axes = range(len(inner.shape(0)))[inner.number("start", 0) : inner.number("end", len(inner.shape(0)))]
    found = np.empty(len(axes), object)
    found[:] = [frozenset({(source.name or "", axis)}) for axis in axes]
    return found


def _element_by_element(site: Site, parts: list[NDArray[np.object_]]) -> NDArray[np.object_]:
    total = parts[0]
    for part in parts[1:]:
        total = np.asarray(_union(total, part), dtype=object)
    return total


def _laid_out_anew(site: Site, parts: list[NDArray[np.object_]]) -> NDArray[np.object_]:
    return parts[0].reshape(site.output_shape())


def _joined(site: Site, parts: list[NDArray[np.object_]]) -> NDArray[np.object_]:
    return np.concatenate(parts, axis=site.number("axis", 0))


def _picked(site: Site, parts: list[NDArray[np.object_]]) -> NDArray[np.object_]:
    if not site.is_constant(1):
        raise NotKnown("its operand is picked at run time")
    return np.asarray(np.take(parts[0], site.operand(1), axis=site.number("axis", 0)), dtype=object)


def _sliced(site: Site, parts: list[NDArray[np.object_]]) -> NDArray[np.object_]:
    if len(site.node.inputs) < 3 or parts[0].ndim != 1:
        raise NotKnown("its operand is sliced in a way that is not followed")
    if not all(site.is_constant(index) for index in range(1, len(site.node.inputs)) if site.has(index)):
        raise NotKnown("its operand is sliced at run time")
    start, end = (int(site.operand(index).item()) for index in (1, 2))
    return parts[0][start : end : int(site.operand(4).item()) if site.has(4) else 1]


FOLLOWED: Mapping[str, Callable[[Site, list[NDArray[Any]]], NDArray[np.object_]]] = {
    "Shape": _laid_out_anew,
    **dict.fromkeys(("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"), _laid_out_anew),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max"), _element_by_element),
    "Concat": _joined,
    "Gather": _picked,
    "Slice": _sliced,
}
