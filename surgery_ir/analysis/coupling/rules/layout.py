"""Operators that permute axes, repeat elements along them, or fill them with one number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.origins import NONE, origins
from surgery_ir.analysis.coupling.relations import Free, Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site
from surgery_ir.analysis.coupling.sizes import changed_sizes

__all__ = ["RULES"]


def _transpose(site: Site) -> Iterator[Relation]:
    """Axis i of the output is axis ``perm[i]`` of the input; without ``perm`` they are reversed."""
    rank = len(site.shape(0))
    for axis, source in enumerate(site.numbers("perm", tuple(reversed(range(rank))))):
        yield Same(site.input(0, source), site.output(axis))


def _expand(site: Site) -> Iterator[Relation]:
    """Axes are aligned at their ends; those that the operator repeats hold equal elements, of which any may go."""
    site.operand(1)  # has to be known when the cut writes it
    shape, target = site.shape(0), site.output_shape()
    missing = len(target) - len(shape)
    for axis, size in enumerate(target):
        if axis >= missing and shape[axis - missing] == size:
            yield Same(site.input(0, axis - missing), site.output(axis))
        else:
            yield Free(site.output(axis))


def _expand_less(site: Site, kept: Kept) -> Change:
    """Name the new sizes; an element of 1 leaves the size of the input alone."""
    shape = site.operand(1)
    missing = len(site.output_shape()) - len(shape)
    elements = {
        axis - missing: size
        for axis, size in changed_sizes(site, kept).items()
        if axis >= missing and int(shape[axis - missing]) != 1
    }
    return Change(elements={1: elements} if elements else {})


def _tile(site: Site) -> Iterator[Relation]:
    """Index i of the input becomes i + k n of the output for every repetition k; repeats that vary freeze."""
    if site.has(2):
        raise NotKnown("it repeats one axis, as before opset 6")
    certain = [origin == NONE for origin in origins(site, 1)]
    for axis, (size, repeats) in enumerate(zip(site.shape(0), site.operand(1), strict=True)):
        source, target = site.input(0, axis), site.output(axis)
        if not certain[axis] and size > 1:
            yield Frozen(source, "repeats it as often as is computed")
            yield Frozen(target, "repeats it as often as is computed")
        elif int(repeats) == 1:
            yield Same(source, target)
        else:
            written = np.arange(size * int(repeats))
            yield Mapped(target, written, source, written % size)


def _fill(site: Site) -> Iterator[Relation]:
    """Every element is the same number."""
    site.operand(0)
    for axis in range(len(site.output_shape())):
        yield Free(site.output(axis))


def _fill_less(site: Site, kept: Kept) -> Change:
    sizes = changed_sizes(site, kept)
    return Change(elements={0: sizes} if sizes else {})


def _cast_like(site: Site) -> Iterator[Relation]:
    """The second input only lends its type."""
    for axis in range(len(site.shape(0))):
        yield Same(site.input(0, axis), site.output(axis))
    for axis in range(len(site.shape(1))):
        yield Free(site.input(1, axis))


RULES: Mapping[str, OperatorRule] = {
    "CastLike": OperatorRule(_cast_like),
    "ConstantOfShape": OperatorRule(_fill, _fill_less),
    "Expand": OperatorRule(_expand, _expand_less),
    "Tile": OperatorRule(_tile),
    "Transpose": OperatorRule(_transpose),
}
