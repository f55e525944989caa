"""Slice: runs and progressions of indices, read along single axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.origins import origins
from surgery_ir.analysis.coupling.relations import Frozen, Indices, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site

__all__ = ["RULES"]

STARTS, ENDS, AXES, STEPS = 1, 2, 3, 4
"""Inputs since opset 10; attributes before, without steps."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What is read along one axis: its place among the axes that are listed, indices, and step."""

    place: int
    axis: int
    indices: Indices
    step: int


def _slice(site: Site) -> Iterator[Relation]:
    """Axes that are read from end to end pass; of the others each index of the output is one of the input."""
    cuts = {cut.axis: cut for cut in _cuts(site)}
    for axis in range(len(site.shape(0))):
        source, target = site.input(0, axis), site.output(axis)
        if axis not in cuts:
            yield Same(source, target)
            continue
        cut = cuts[axis]
        reason = None
        if not _is_constant(site, cut):
            reason = "slices it at positions that are computed"
        elif abs(cut.step) > 1 and len(cuts) > 1:
            reason = "takes every so many of it and slices other axes too"
        if reason is None:
            yield Mapped(target, np.arange(len(cut.indices)), source, cut.indices)
        else:
            yield Frozen(source, reason)
            yield Frozen(target, reason)


def _cuts(site: Site) -> list[_Cut]:
    """Axes that are not read from end to end."""
    shape = site.shape(0)
    starts, ends, axes, steps = _positions(site)
    cuts = []
    for place, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        axis = axis if axis >= 0 else axis + len(shape)
        indices = np.arange(shape[axis])[start:end:step]
        if step != 1 or len(indices) < shape[axis] or not _is_certain(site, place):
            cuts.append(_Cut(place, axis, indices, step))
    return cuts


def _positions(site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
    """Starts, ends, axes and steps, the last two spelled out."""
    if not site.has(STARTS):
        starts, ends = list(site.numbers("starts")), list(site.numbers("ends"))
        return starts, ends, list(site.numbers("axes", tuple(range(len(starts))))), [1] * len(starts)
    for index, what in ((AXES, "axes"), (STEPS, "steps")):
        if site.has(index) and not site.is_constant(index):
            raise NotKnown(f"its {what} are computed")
    starts, ends = (site.operand(index).tolist() for index in (STARTS, ENDS))
    axes = site.operand(AXES).tolist() if site.has(AXES) else list(range(len(starts)))
    steps = site.operand(STEPS).tolist() if site.has(STEPS) else [1] * len(starts)
    return starts, ends, axes, steps


def _is_certain(site: Site, place: int) -> bool:
    """Whether both ends of an axis are written down."""
    return all(_origin(site, index, place) == frozenset() for index in (STARTS, ENDS))


def _is_constant(site: Site, cut: _Cut) -> bool:
    """Whether every run slices alike: positions are written down, or made of the size of the axis itself."""
    assert site.node.inputs[0] is not None
    own = {(site.node.inputs[0].name, cut.axis)}
    found = [_origin(site, index, cut.place) for index in (STARTS, ENDS)]
    return all(origin is not None and origin <= own for origin in found)


def _origin(site: Site, index: int, place: int) -> frozenset[tuple[str, int]] | None:
    """Sizes that an element is computed from; ``None`` where it is computed from anything else."""
    if not site.has(index) or site.is_constant(index):
        return frozenset()
    try:
        found = origins(site, index)
    except NotKnown:
        return None
    return frozenset(found[place])


def _resize(site: Site, kept: Kept) -> Change:
    """Number the positions anew, or list them where they are no progression any more."""
    elements: dict[int, dict[int, int]] = {STARTS: {}, ENDS: {}, STEPS: {}}
    for cut in _cuts(site):
        mask = kept.input(0, cut.axis)
        if mask is None:
            continue
        indices = (np.cumsum(mask) - 1)[cut.indices[mask[cut.indices]]]
        step = _step(indices, cut.step)
        if step is None:
            return Change(op_type="Gather", operands={1: indices.astype(np.int64)}, attributes={"axis": cut.axis})
        start, end = _ends(indices, step, int(np.count_nonzero(mask)))
        elements[STARTS][cut.place] = start
        elements[ENDS][cut.place] = end
        if step != cut.step:
            elements[STEPS][cut.place] = step
    if site.has(STARTS):
        return Change(elements={index: found for index, found in elements.items() if found})
    starts, ends, _, _ = _positions(site)
    return Change(
        attributes={
            name: [found.get(place, position) for place, position in enumerate(positions)]
            for name, positions, found in (("starts", starts, elements[STARTS]), ("ends", ends, elements[ENDS]))
            if found
        }
    )


def _step(indices: NDArray[np.int64], step: int) -> int | None:
    """Step of a progression; ``None`` where ``indices`` are none. Of fewer than two indices any step is one."""
    steps = np.unique(np.diff(indices))
    if len(steps) == 0:
        return step
    return int(steps[0]) if len(steps) == 1 else None


def _ends(indices: NDArray[np.int64], step: int, size: int) -> tuple[int, int]:
    """First position, and the one behind the last: ahead of index 0 lies ``-size - 1``."""
    if not len(indices):
        return 0, 0
    end = int(indices[-1]) + (1 if step > 0 else -1)
    return int(indices[0]), end if end >= 0 else -size - 1


RULES: Mapping[str, OperatorRule] = {"Slice": OperatorRule(_slice, _resize)}
