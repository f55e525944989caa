"""Operators that lay values end to end along an axis, or cut one into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from surgery_ir.analysis.coupling.relations import Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES"]

OPSET_OF_OPERANDS = 13
"""Split lists its sizes in an operand since then, in an attribute before."""


def _concat(site: Site) -> Iterator[Relation]:
    """Each input owns a run of indices along the axis; the other axes are those of every input."""
    rank = len(site.output_shape())
    joined = _axis(site, rank, default=1)
    start = 0
    for index in range(len(site.node.inputs)):
        for axis in range(rank):
            if axis != joined:
                yield Same(site.input(index, axis), site.output(axis))
        run = np.arange(site.shape(index)[joined])
        yield Mapped(site.input(index, joined), run, site.output(joined), run + start)
        start += len(run)


def _split(site: Site) -> Iterator[Relation]:
    """Each output owns a run of indices along the axis; the other axes are those of every output."""
    rank = len(site.shape(0))
    divided = _axis(site, rank, default=0)
    written = [index for index in range(len(site.node.outputs)) if site.writes(index)]
    for index in written:
        for axis in range(rank):
            if axis != divided:
                yield Same(site.input(0, axis), site.output(axis, index))
    if site.has(1) and not site.is_constant(1):
        for one in (site.input(0, divided), *(site.output(divided, index) for index in written)):
            yield Frozen(one, "splits it into sizes that are computed")
        return
    sizes = _sizes(site, divided)
    for index in written:
        run = np.arange(sizes[index])
        yield Mapped(site.output(divided, index), run, site.input(0, divided), run + sum(sizes[:index]))


def _sizes(site: Site, axis: int) -> Sequence[int]:
    """Sizes of the outputs along ``axis``: listed, or equal but for a smaller last one."""
    if site.has(1):
        return [int(size) for size in site.operand(1)]
    total, count = site.shape(0)[axis], len(site.node.outputs)
    chunk = -(-total // count)
    equal = [max(0, min(chunk, total - index * chunk)) for index in range(count)]
    return site.numbers("split", tuple(equal))


def _resize(site: Site, kept: Kept) -> Change:
    """List what is left of every size: in the attribute before opset 13, in the operand since then."""
    axis = _axis(site, len(site.shape(0)), default=0)
    mask = kept.input(0, axis)
    if mask is None:
        return Change()
    pieces = np.split(mask, np.cumsum(_sizes(site, axis))[:-1])
    sizes = np.array([np.count_nonzero(piece) for piece in pieces], np.int64)
    if site.opset < OPSET_OF_OPERANDS:
        return Change(attributes={"split": sizes.tolist()})
    if "num_outputs" in site.node.attributes:  # it excludes sizes that are listed
        return Change(op_type="Split", operands={1: sizes}, attributes={"axis": axis})
    return Change(operands={1: sizes})


def _axis(site: Site, rank: int, default: int) -> int:
    axis = site.number("axis", default)
    return axis if axis >= 0 else axis + rank


RULES: Mapping[str, OperatorRule] = {"Concat": OperatorRule(_concat), "Split": OperatorRule(_split, _resize)}
