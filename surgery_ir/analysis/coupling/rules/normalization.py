"""Normalisations: a statistic over some axes, then a scale and a shift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.elementwise import broadcast
from surgery_ir.analysis.coupling.rules.reduce import along
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES"]

STATISTIC = "normalises over it"


def _batch(site: Site) -> Iterator[Relation]:
    """Statistics of every channel are constants, unless it trains: then those of the batch at hand count."""
    trains = site.number("training_mode", 0) or any(map(site.writes, range(1, len(site.node.outputs))))
    if trains:
        yield from (Frozen(axis, "learns the statistics of its batch") for axis in site.axes())
        return
    if len(site.shape(0)) < 2 or not site.number("spatial", 1):
        return  # one channel, or statistics of every position (opset 7)
    yield from along(site, (), STATISTIC)
    yield from (Same(site.output(1), site.input(index, 0)) for index in range(1, 5))


def _instance(site: Site) -> Iterator[Relation]:
    """Every channel of every sample is normalised by itself."""
    yield from along(site, range(2, len(site.shape(0))), STATISTIC)
    yield from (Same(site.output(1), site.input(index, 0)) for index in (1, 2))


def _group(site: Site) -> Iterator[Relation]:
    """Whole groups go; scale and shift are those of a group in opset 18 and of a channel since 21."""
    channels, groups = site.shape(0)[1], site.number("num_groups", 1)
    first = np.arange(channels) // (channels // groups)
    target = site.output(1)
    yield from along(site, range(2, len(site.shape(0))), STATISTIC)
    if groups == 1:
        yield Frozen(target, STATISTIC)
    yield Mapped(target, np.arange(channels), target, first * (channels // groups))
    for index in (1, 2):
        if site.shape(index) == (channels,):
            yield Same(target, site.input(index, 0))
        else:
            yield Mapped(target, np.arange(channels), site.input(index, 0), first)


def _resize_group(site: Site, kept: Kept) -> Change:
    """Count the groups anew."""
    mask = kept.output(1)
    if mask is None:
        return Change()
    width = len(mask) // site.number("num_groups", 1)
    return Change(attributes={"num_groups": int(np.count_nonzero(mask)) // width})


def _layer(site: Site) -> Iterator[Relation]:
    """Axes from ``axis`` on are normalised as one; scale and shift are broadcast to the input."""
    rank = len(site.shape(0))
    axis = site.number("axis", -1)
    axis = axis if axis >= 0 else axis + rank
    yield from along(site, range(axis, rank), STATISTIC)
    yield from broadcast(site, {index: len(site.shape(index)) for index in (1, 2) if site.has(index)}, rank)
    for index in (1, 2):  # mean and inverse deviation
        if site.writes(index):
            yield from (Same(site.input(0, outer), site.output(outer, index)) for outer in range(axis))


def _local_response(site: Site) -> Iterator[Relation]:
    yield from along(site, (1,), "normalises over neighbours along it")


def _mean_variance(site: Site) -> Iterator[Relation]:
    yield from along(site, site.numbers("axes", (0, 2, 3)), STATISTIC)


def _lp(site: Site) -> Iterator[Relation]:
    yield from along(site, (site.number("axis", -1),), STATISTIC)


RULES: Mapping[str, OperatorRule] = {
    "BatchNormalization": OperatorRule(_batch),
    "InstanceNormalization": OperatorRule(_instance),
    "GroupNormalization": OperatorRule(_group, _resize_group),
    "LayerNormalization": OperatorRule(_layer),
    "RMSNormalization": OperatorRule(_layer),
    "LRN": OperatorRule(_local_response),
    "MeanVarianceNormalization": OperatorRule(_mean_variance),
    "LpNormalization": OperatorRule(_lp),
}
