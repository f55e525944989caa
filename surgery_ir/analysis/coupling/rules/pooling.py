"""Pooling: every channel by itself, a window over the spatial axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from surgery_ir.analysis.coupling.relations import Frozen, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.reduce import along
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site

__all__ = ["RULES"]


def _pool(site: Site) -> Iterator[Relation]:
    """Slide a window; axes on which it is one element wide pass like channels."""
    if not _positions_match(site):
        yield from (Frozen(axis, "gives positions counted through the whole tensor") for axis in site.axes())
        return
    rank = len(site.shape(0))
    kernel, spatial = site.numbers("kernel_shape"), rank - 2
    strides = site.numbers("strides", (1,) * spatial)
    pads = site.numbers("pads", (0,) * 2 * spatial)
    sliding = [
        axis + 2
        for axis in range(spatial)
        if (kernel[axis], strides[axis], pads[axis], pads[axis + spatial]) != (1, 1, 0, 0)
    ]
    yield from along(site, sliding, "slides over it", outputs=(0, 1))


def _positions_match(site: Site) -> bool:
    """Whether nobody but MaxUnpool reads the positions of maxima, which then shift alike on both sides."""
    if site.node.op_type != "MaxPool" or not site.writes(1):
        return True
    positions = site.node.outputs[1]
    return not positions.is_graph_output() and all(use.node.op_type == "MaxUnpool" for use in positions.uses())


def _unpool(site: Site) -> Iterator[Relation]:
    """Undo a MaxPool: its positions count through a tensor of the shape that is restored."""
    positions = site.node.inputs[1]
    pool = positions.producer() if positions is not None else None
    source = pool.inputs[0] if pool is not None and pool.op_type == "MaxPool" else None
    if source is None:
        raise NotKnown("no MaxPool gives its positions")
    if site.facts.shapes.get(source.name or "") != site.output_shape():
        raise NotKnown("its positions are those in a tensor of another shape")
    for axis in range(len(site.shape(0))):
        for index in (0, 1):
            if axis >= 2:
                yield Frozen(site.input(index, axis), "spreads it out")
            else:
                yield Same(site.input(index, axis), site.output(axis))
        if axis >= 2:
            yield Frozen(site.output(axis), "spreads it out")


def _resize_unpool(site: Site, kept: Kept) -> Change:
    return Change(elements={2: kept.sizes()}) if site.has(2) and kept.sizes() else Change()


def _global(site: Site, reason: str) -> Iterator[Relation]:
    yield from along(site, range(2, len(site.shape(0))), reason)


def _regions(site: Site) -> Iterator[Relation]:
    """Pool regions of interest: a row of the output is a region, its channels are those of the input."""
    yield Frozen(site.input(0, 0), "takes samples from it by number")
    yield Same(site.input(0, 1), site.output(1))
    yield from (Same(site.input(index, 0), site.output(0)) for index in (1, 2) if site.has(index))
    for axis in range(2, len(site.shape(0))):
        yield Frozen(site.input(0, axis), "takes regions of it")
        yield Frozen(site.output(axis), "takes regions of it")


RULES: Mapping[str, OperatorRule] = {
    **{name: OperatorRule(_pool) for name in ("AveragePool", "LpPool", "MaxPool")},
    "GlobalAveragePool": OperatorRule(partial(_global, reason="takes the mean over it")),
    "GlobalLpPool": OperatorRule(partial(_global, reason="takes the norm over it")),
    "GlobalMaxPool": OperatorRule(partial(_global, reason="takes the maximum over it")),
    "MaxUnpool": OperatorRule(_unpool, _resize_unpool),
    "MaxRoiPool": OperatorRule(_regions),
    "RoiAlign": OperatorRule(_regions),
}
