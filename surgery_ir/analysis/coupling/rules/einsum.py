"""Einstein summation: axes of one label are one, and a label that the output lacks is summed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from surgery_ir.analysis.coupling.relations import Axis, Frozen, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import NotKnown, Site

__all__ = ["RULES"]

Labels = list[str]
"""One label an axis; those that an ellipsis stands for are numbered from the last."""


def _einsum(site: Site) -> Iterator[Relation]:
    """Relate the axes of every label; those of size 1 are broadcast and stay."""
    operands, output = _terms(site)
    read: dict[str, list[tuple[int, Axis]]] = {}
    for index, labels in enumerate(operands):
        for axis, label in enumerate(labels):
            read.setdefault(label, []).append((index, site.input(index, axis)))
    written = {label: site.output(axis) for axis, label in enumerate(output)}
    for label, places in read.items():
        size = max(site.shape(index)[axis.axis] for index, axis in places)
        full = [(index, axis) for index, axis in places if site.shape(index)[axis.axis] == size]
        axes = [axis for _, axis in full]
        reason = _reason(Counter(index for index, _ in full), label in written)
        if reason:
            yield from (Frozen(axis, reason) for axis in [*axes, *([written[label]] if label in written else [])])
        elif label in written:
            yield from (Same(written[label], axis) for axis in axes)
        else:
            yield from (Same(axes[0], axis, contracted=True) for axis in axes[1:])


def _reason(uses: Counter[int], is_written: bool) -> str:
    """Say why a label that the operands have so many times cannot be cut; empty where it can."""
    if max(uses.values()) > 1:
        return "takes the diagonal along it"
    if not is_written and len(uses) == 1:
        return "sums over it"
    return ""


def _terms(site: Site) -> tuple[list[Labels], Labels]:
    """Labels of the axes of every operand, and of the output."""
    equation = site.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(site.node.inputs):
        raise NotKnown(f"its equation {equation!r} has another number of operands")
    operands = [_labels(term, len(site.shape(index))) for index, term in enumerate(terms)]
    rank = len(site.output_shape())
    if arrow:
        return operands, _labels(right, rank)
    letters = Counter(left)
    once = sorted(letter for letter, count in letters.items() if letter.isalpha() and count == 1)
    return operands, _labels("..." * (rank > len(once)) + "".join(once), rank)


def _labels(term: str, rank: int) -> Labels:
    """Spell out one term."""
    before, dots, after = term.partition("...")
    width = rank - len(before) - len(after)
    if width < 0 or (width and not dots):
        raise NotKnown(f"its term {term!r} does not fit {rank} axes")
    return [*before, *(f"...{place}" for place in range(width, 0, -1)), *after]


RULES: Mapping[str, OperatorRule] = {"Einsum": OperatorRule(_einsum)}
