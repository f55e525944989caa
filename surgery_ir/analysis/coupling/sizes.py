"""Which sizes a cut lets an operator read anew, and which it holds at what they were.

A size of an axis that is cut is held, so that nothing that is computed from it changes, unless all who read it are
operands that hold the same size for their own output: ``y.reshape(x.shape)`` where x and y are cut alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.coupling.relations import Axis
from surgery_ir.analysis.coupling.site import Kept, Site

__all__ = ["changed_sizes", "is_held", "measured_axes"]

RESHAPED: Mapping[str, int] = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1}
"""Operand that holds the sizes of the output, aligned at their ends."""


def measured_axes(site: Site) -> list[int]:
    """Axes whose sizes a Shape gives, in order; before opset 15 they are all."""
    rank = len(site.shape(0))
    return list(range(rank))[site.number("start", 0) : site.number("end", rank)]


def is_held(site: Site, kept: Kept, element: int) -> bool:
    """Whether a cut holds ``element`` of what the Shape ``site`` gives.

    Parameters
    ----------
    site
        The Shape.
    kept
        Any that knows all masks of the cut.
    element
        Which element of its output.
    """
    size = _kept_size(kept, site.input(0, measured_axes(site)[element]))
    uses = site.node.outputs[0].uses()
    return size is not None and any(_would_notice(site, kept, use.node, use.idx, element, size) for use in uses)


def changed_sizes(site: Site, kept: Kept) -> Mapping[int, int]:
    """Sizes that have to be written into the operand of an Expand, Reshape or ConstantOfShape, by output axis."""
    operand = site.node.inputs[RESHAPED[site.node.op_type]]
    producer = operand.producer() if operand is not None else None
    if producer is None or producer.op_type != "Shape":
        return kept.sizes()
    source = Site(producer, site.graph, site.facts, site.copied)
    missing = len(site.output_shape()) - len(measured_axes(source))
    return {
        axis: size
        for axis, size in kept.sizes().items()
        if axis < missing
        or is_held(source, kept, axis - missing)
        or _kept_size(kept, source.input(0, measured_axes(source)[axis - missing])) != size
    }


def _would_notice(site: Site, kept: Kept, node: ir.Node, index: int, element: int, size: int) -> bool:
    """Whether input ``index`` of a reader of the sizes would notice that ``element`` became ``size``."""
    reader = Site(node, site.graph, site.facts)
    count = len(measured_axes(site))
    if node.op_type == "Gather" and index == 0 and reader.is_constant(1):
        return element in {int(place) % count for place in reader.operand(1).reshape(-1)}
    if RESHAPED.get(node.op_type) == index:
        axis = element + len(reader.output_shape()) - count
        return _kept_size(kept, reader.output(axis)) != size
    return True


def _kept_size(kept: Kept, axis: Axis) -> int | None:
    """New size of an axis; ``None`` where it is not cut."""
    mask = kept.masks.get(axis)
    return None if mask is None else int(np.count_nonzero(mask))
