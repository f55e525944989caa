"""Operators that work along some axes and treat all others position by position: reductions, softmax, sorting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from surgery_ir.analysis.coupling.relations import Frozen, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Site

__all__ = ["RULES", "along"]

REDUCTIONS: Mapping[str, str] = {
    "ReduceL1": "takes the norm over it",
    "ReduceL2": "takes the norm over it",
    "ReduceLogSum": "sums over it",
    "ReduceLogSumExp": "sums over it",
    "ReduceMax": "takes the maximum over it",
    "ReduceMean": "takes the mean over it",
    "ReduceMin": "takes the minimum over it",
    "ReduceProd": "multiplies over it",
    "ReduceSum": "sums over it",
    "ReduceSumSquare": "sums over it",
}
"""What each reduction does along the axes that it reduces."""

COERCED_BEFORE = 13
"""Opset that gave softmax a single axis; before it, all axes from ``axis`` on were one."""


def along(site: Site, axes: Iterable[int], reason: str, outputs: Sequence[int] = (0,)) -> Iterator[Relation]:
    """Freeze ``axes`` for ``reason`` and let all others pass from the first input to ``outputs`` of its rank.

    Parameters
    ----------
    site
        The operator.
    axes
        Axes along which it works; negative ones count from the end.
    reason
        Clause that says what it does there.
    outputs
        Outputs whose axes are those of the first input; those that are absent are passed over.
    """
    rank = len(site.shape(0))
    working = {axis if axis >= 0 else axis + rank for axis in axes}
    written = [index for index in outputs if site.writes(index)]
    for axis in range(rank):
        if axis in working:
            yield Frozen(site.input(0, axis), reason)
        for index in written:
            target = site.output(axis, index)
            yield Frozen(target, reason) if axis in working else Same(site.input(0, axis), target)


def _reduce(site: Site, reason: str) -> Iterator[Relation]:
    """Axes stand in an attribute, or in an operand since opset 13 (ReduceSum) and 18 (all others)."""
    listed: Sequence[int] = [int(axis) for axis in site.operand(1)] if site.has(1) else site.numbers("axes")
    if not listed and not site.number("noop_with_empty_axes", 0):
        listed = range(len(site.shape(0)))
    yield from _drop(site, listed, reason)


def _drop(site: Site, axes: Iterable[int], reason: str) -> Iterator[Relation]:
    """Freeze ``axes`` and relate those that stay, which move up unless ``keepdims`` is set."""
    if site.number("keepdims", 1):
        yield from along(site, axes, reason)
        return
    rank = len(site.shape(0))
    reduced = {axis if axis >= 0 else axis + rank for axis in axes}
    left = [axis for axis in range(rank) if axis not in reduced]
    yield from (Frozen(site.input(0, axis), reason) for axis in sorted(reduced))
    yield from (Same(site.input(0, axis), site.output(place)) for place, axis in enumerate(left))


def _pick(site: Site, reason: str) -> Iterator[Relation]:
    yield from _drop(site, (site.number("axis", 0),), reason)


def _softmax(site: Site, reason: str) -> Iterator[Relation]:
    rank = len(site.shape(0))
    if site.opset >= COERCED_BEFORE:
        yield from along(site, (site.number("axis", -1),), reason)
        return
    axis = site.number("axis", 1)
    yield from along(site, range(axis if axis >= 0 else axis + rank, rank), reason)


def _cumulate(site: Site, reason: str) -> Iterator[Relation]:
    yield from along(site, (int(site.operand(1).item()),), reason)


def _top_k(site: Site) -> Iterator[Relation]:
    """Values and their positions along one axis."""
    yield from along(site, (site.number("axis", -1),), "ranks what lies along it", outputs=(0, 1))


def _dropout(site: Site) -> Iterator[Relation]:
    """Outside training it hands its input on, and a mask that lets everything pass."""
    random = site.has(2) and bool(site.operand(2))
    axes = range(len(site.shape(0))) if random else ()
    yield from along(site, axes, "drops elements at random", outputs=(0, 1))


RULES: Mapping[str, OperatorRule] = {
    **{name: OperatorRule(partial(_reduce, reason=reason)) for name, reason in REDUCTIONS.items()},
    "ArgMax": OperatorRule(partial(_pick, reason="picks the largest along it")),
    "ArgMin": OperatorRule(partial(_pick, reason="picks the smallest along it")),
    "Softmax": OperatorRule(partial(_softmax, reason="takes the softmax over it")),
    "LogSoftmax": OperatorRule(partial(_softmax, reason="takes the softmax over it")),
    "Hardmax": OperatorRule(partial(_softmax, reason="picks the largest along it")),
    "CumSum": OperatorRule(partial(_cumulate, reason="sums along it")),
    "TopK": OperatorRule(_top_k),
    "Dropout": OperatorRule(_dropout),
}
