"""Convolutions: dense, grouped, depthwise and transposed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Axis, Choice, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES", "grouped"]


def _conv(site: Site) -> Iterator[Relation]:
    """Weights are outputs × inputs of a group × kernel; spatial axes stay."""
    weight = site.shape(1)
    groups = site.number("group", 1)
    inputs, outputs = weight[1], weight[0] // groups
    yield Same(site.input(0, 0), site.output(0))
    yield Same(site.output(1), site.input(1, 0))
    if site.has(2):
        yield Same(site.output(1), site.input(2, 0))
    if groups == 1:
        yield Same(site.input(0, 1), site.input(1, 1), contracted=True)
    else:
        yield grouped(site, groups, inputs, outputs, site.input(1, 1))


def _conv_transpose(site: Site) -> Iterator[Relation]:
    """Weights are inputs × outputs of a group × kernel."""
    weight = site.shape(1)
    groups = site.number("group", 1)
    inputs, outputs = weight[0] // groups, weight[1]
    yield Same(site.input(0, 0), site.output(0))
    if site.has(2):
        yield Same(site.output(1), site.input(2, 0))
    yield Same(site.input(0, 1), site.input(1, 0), contracted=True)
    if groups == 1:
        yield Same(site.output(1), site.input(1, 1))
    else:
        yield grouped(site, groups, inputs, outputs, site.input(1, 1), transposed=True)


def grouped(site: Site, groups: int, inputs: int, outputs: int, inner: Axis, transposed: bool = False) -> Choice:
    """Cut the same positions within every group, or whole groups.

    ``inner`` is the axis of the weights that runs within a group: over inputs, or over outputs where the Conv is
    ``transposed``.
    """
    source, target = site.input(0, 1), site.output(1)
    read, written = np.arange(groups * inputs), np.arange(groups * outputs)
    together = (  # index within a group ↔ the same index within the first group
        Mapped(source, read, source, read % inputs),
        Mapped(target, written, target, written % outputs),
    )
    within: tuple[Same | Mapped, ...]
    if transposed:
        within = (*together, Mapped(target, written, inner, written % outputs))
    else:
        within = (*together, Mapped(source, read, inner, read % inputs, contracted=True))
    whole = (
        Mapped(source, read, target, read // inputs * outputs),
        Mapped(target, written, target, written // outputs * outputs),
    )
    alternatives = (whole, within) if min(inputs, outputs) == 1 else (within, whole)
    return Choice(
        alternatives,
        signature=f"{site.node.op_type}:{groups}:{inputs}:{outputs}",
        reason=f"its {groups} groups have to stay alike",
    )


def _resize(site: Site, kept: Kept) -> Change:
    """Count the groups anew where whole ones went."""
    groups = site.number("group", 1)
    inner, read = kept.input(1, 1), kept.input(0, 1)
    transposed = site.node.op_type == "ConvTranspose"
    if groups == 1 or read is None or (inner is not None and not transposed):
        return Change()
    first = read.reshape(groups, -1)
    if not np.all(first == first[:, :1]):  # positions within every group, not groups
        return Change()
    return Change(attributes={"group": int(np.count_nonzero(first[:, 0]))})


RULES: Mapping[str, OperatorRule] = {
    "Conv": OperatorRule(_conv, _resize),
    "ConvTranspose": OperatorRule(_conv_transpose, _resize),
}
