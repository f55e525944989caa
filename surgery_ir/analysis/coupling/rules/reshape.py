"""Operators that lay the same elements out in another shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from surgery_ir.analysis.coupling.relations import Choice, Frozen, Indices, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site
from surgery_ir.analysis.coupling.sizes import changed_sizes

__all__ = ["RULES"]

OPSET_OF_OPERANDS = 13
"""Squeeze names its axes in an operand since then, in an attribute before."""

Block = tuple[list[int], list[int]]
"""Neighbouring axes of the input and of the output that hold the same elements."""


def _reshape(site: Site) -> Iterator[Relation]:
    """Split the axes into blocks; a block that splits or merges axes can be cut along one of its factors."""
    if site.node.op_type == "Reshape":
        if not site.has(1):
            raise NotKnown("its shape is an attribute, as before opset 5")
        site.operand(1)  # has to be known when the cut writes it
    old, new = site.shape(0), site.output_shape()
    for before, after in _blocks(old, new):
        if len(before) == 1 and len(after) == 1:
            yield Same(site.input(0, before[0]), site.output(after[0]))
            continue
        factors = _factors([old[axis] for axis in before], [new[axis] for axis in after])
        if factors is None:
            for axis in (*(site.input(0, item) for item in before), *(site.output(item) for item in after)):
                yield Frozen(axis, "lays its elements out anew, and not in whole rows")
            continue
        sizes = "x".join(str(old[axis]) for axis in before), "x".join(str(new[axis]) for axis in after)
        yield Choice(
            tuple(_cut_factor(site, before, after, factors, which) for which in range(len(factors))),
            signature=f"Reshape:{sizes[0]}:{sizes[1]}",
            reason="it splits or merges the axis, and another factor of it is cut",
        )


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[Block]:
    """Cut both shapes wherever they have held equally many elements; axes of size 1 belong to none."""
    before: list[int] = []
    after: list[int] = []
    mine = [axis for axis, size in enumerate(old) if size != 1]
    theirs = [axis for axis, size in enumerate(new) if size != 1]
    if math.prod(old) != math.prod(new) or 0 in old:
        return
    held, given = 1, 1
    while mine or theirs:
        if held <= given and mine:
            before.append(mine.pop(0))
            held *= old[before[-1]]
        else:
            after.append(theirs.pop(0))
            given *= new[after[-1]]
        if held == given:
            yield before, after
            before, after, held, given = [], [], 1, 1


def _factors(old: Sequence[int], new: Sequence[int]) -> list[int] | None:
    """Coarsest factors of which every axis of either side is a product of neighbours; ``None`` where there are none."""
    marks = sorted({*map(int, np.cumprod(old)), *map(int, np.cumprod(new))})
    factors = []
    last = 1
    for mark in marks:
        if mark % last:
            return None
        factors.append(mark // last)
        last = mark
    return factors


def _cut_factor(
    site: Site, before: Sequence[int], after: Sequence[int], factors: Sequence[int], which: int
) -> tuple[Mapped, ...]:
    """Relate the two axes that contain a factor through its digit in their indices."""
    mine, one = _digits(before, site.shape(0), factors, which)
    theirs, other = _digits(after, site.output_shape(), factors, which)
    source, target = site.input(0, mine), site.output(theirs)
    return (
        Mapped(source, np.arange(len(one)), target, _first(other, factors[which])[one]),
        Mapped(target, np.arange(len(other)), source, _first(one, factors[which])[other]),
    )


def _digits(axes: Sequence[int], shape: Sequence[int], factors: Sequence[int], which: int) -> tuple[int, Indices]:
    """Axis that contains factor ``which``, and the factor's digit in each of its indices."""
    start = 0
    for axis in axes:
        stop, held = start, 1
        while held < shape[axis]:
            held *= factors[stop]
            stop += 1
        if start <= which < stop:
            inner = math.prod(factors[which + 1 : stop])
            return axis, np.arange(shape[axis]) // inner % factors[which]
        start = stop
    raise AssertionError("every factor belongs to an axis")


def _first(digits: Indices, size: int) -> Indices:
    """First index of every digit."""
    first = np.full(size, -1)
    first[digits[::-1]] = np.arange(len(digits))[::-1]
    return first


def _resize(site: Site, kept: Kept) -> Change:
    """Write the new sizes into the shape operand where they are spelled out there."""
    if site.node.op_type == "Squeeze":
        return _name_squeezed(site, kept)
    if site.node.op_type != "Reshape":
        return Change()
    changed, wanted = changed_sizes(site, kept), kept.sizes()
    elements = {}
    for axis, size in enumerate(site.output_shape()):
        written = int(site.operand(1)[axis])
        if written == 0 and not site.number("allowzero", 0):  # copied from the input
            mask = kept.input(0, axis)
            copied = size if mask is None else int(np.count_nonzero(mask))
            if copied != wanted.get(axis, size):
                elements[axis] = wanted.get(axis, size)
        elif written != -1 and axis in changed:
            elements[axis] = changed[axis]
    return Change(elements={1: elements} if elements else {})


def _name_squeezed(site: Site, kept: Kept) -> Change:
    """Name the axes that go where none are named and a cut leaves another one with a single index."""
    if site.has(1) or "axes" in site.node.attributes or 1 not in kept.sizes().values():
        return Change()
    axes = [axis for axis, size in enumerate(site.shape(0)) if size == 1]
    if site.opset < OPSET_OF_OPERANDS:
        return Change(attributes={"axes": axes})
    return Change(operands={1: np.array(axes, np.int64)})


RULES: Mapping[str, OperatorRule] = {
    name: OperatorRule(_reshape, _resize) for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
}
