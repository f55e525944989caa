"""Operators that read or write at positions given by indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Free, Frozen, Indices, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES"]

LOOKS_UP = "looks its indices up at run time"
WRITES = "writes at indices of it"


def _gather(site: Site) -> Iterator[Relation]:
    """Axes of the indices take the place of the axis that is read; a vector of constants maps index by index."""
    shape, picks = site.shape(0), len(site.shape(1))
    read = _axis(site)
    for axis in range(len(shape)):
        if axis != read:
            yield Same(site.input(0, axis), site.output(axis if axis < read else axis + picks - 1))
    if site.is_constant(1) and picks == 1:
        chosen = _chosen(site)
        yield Mapped(site.output(read), np.arange(len(chosen)), site.input(0, read), chosen)
        yield Free(site.input(1, 0))  # the cut writes new indices for this operator
        return
    yield Frozen(site.input(0, read), _reason(site, picks))
    if not site.is_constant(1):
        for axis in range(picks):
            yield Same(site.input(1, axis), site.output(read + axis))


def _reason(site: Site, picks: int) -> str:
    if not site.is_constant(1):
        return LOOKS_UP
    return "picks one index of it" if picks == 0 else "reads a table of its indices"


def _axis(site: Site) -> int:
    axis = site.number("axis", 0)
    return axis if axis >= 0 else axis + len(site.shape(0))


def _chosen(site: Site) -> Indices:
    """Constant indices, counted from the front."""
    size = site.shape(0)[_axis(site)]
    indices = site.operand(1).astype(np.intp)
    return np.where(indices < 0, indices + size, indices)


def _renumber(site: Site, kept: Kept) -> Change:
    """Number the indices anew."""
    mask = kept.input(0, _axis(site))
    if mask is None or len(site.shape(1)) != 1:
        return Change()
    chosen = _chosen(site)
    renumbered = (np.cumsum(mask) - 1)[chosen[mask[chosen]]]
    return Change(operands={1: renumbered.astype(site.operand(1).dtype)})


def _gather_elements(site: Site) -> Iterator[Relation]:
    """Along the other axes indices read at their own place, which stays so where they cover all of it."""
    read = _axis(site)
    for axis, size in enumerate(site.shape(0)):
        if axis == read:
            yield Frozen(site.input(0, axis), LOOKS_UP)
            yield Same(site.input(1, axis), site.output(axis))
        elif site.shape(1)[axis] == size:
            yield Same(site.input(0, axis), site.output(axis))
            yield Same(site.input(1, axis), site.output(axis))


def _gather_nd(site: Site) -> Iterator[Relation]:
    """The last axis of the indices names an element or a block; batch axes and those of the block pass."""
    shared = site.number("batch_dims", 0)
    rank, looked, depth = len(site.shape(0)), len(site.shape(1)), site.shape(1)[-1]
    for axis in range(looked - 1):
        yield Same(site.input(1, axis), site.output(axis))
    for axis in range(rank):
        if axis < shared:
            yield Same(site.input(0, axis), site.output(axis))
        elif axis < shared + depth:
            yield Frozen(site.input(0, axis), LOOKS_UP)
        else:
            yield Same(site.input(0, axis), site.output(axis - shared - depth + looked - 1))


def _scatter_elements(site: Site) -> Iterator[Relation]:
    """Along the other axes updates are written at their own place, where they cover all of it."""
    written = _axis(site)
    for axis, size in enumerate(site.shape(0)):
        if axis == written:
            yield Frozen(site.input(0, axis), WRITES)
        elif site.shape(1)[axis] == size:
            yield Same(site.input(0, axis), site.output(axis))
            yield Same(site.input(1, axis), site.output(axis))
            yield Same(site.input(2, axis), site.output(axis))


def _scatter_nd(site: Site) -> Iterator[Relation]:
    """The last axis of the indices names an element or a block; axes of the block pass."""
    rank, looked, depth = len(site.shape(0)), len(site.shape(1)), site.shape(1)[-1]
    for axis in range(rank):
        if axis < depth:
            yield Frozen(site.input(0, axis), WRITES)
        else:
            yield Same(site.input(0, axis), site.output(axis))
            yield Same(site.input(2, axis - depth + looked - 1), site.output(axis))


RULES: Mapping[str, OperatorRule] = {
    "Gather": OperatorRule(_gather, _renumber),
    "GatherElements": OperatorRule(_gather_elements),
    "GatherND": OperatorRule(_gather_nd),
    "Scatter": OperatorRule(_scatter_elements),
    "ScatterElements": OperatorRule(_scatter_elements),
    "ScatterND": OperatorRule(_scatter_nd),
}
