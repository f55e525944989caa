"""ONNX Runtime's own operators (``com.microsoft``): fused activations, products and normalisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from surgery_ir.analysis.coupling.relations import Axis, Frozen, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules import conv, elementwise, matmul
from surgery_ir.analysis.coupling.rules.elementwise import broadcast
from surgery_ir.analysis.coupling.site import Site

__all__ = ["RULES"]

NORMALISES = "normalises over it"
ELEMENTWISE = ("BiasAdd", "BiasGelu", "FastGelu", "Gelu", "QuickGelu")


def _fused_conv(site: Site) -> Iterator[Relation]:
    """Convolve, add the fourth input, and apply an activation."""
    yield from conv.RULES["Conv"].couple(site)
    if site.has(3):
        yield from broadcast(site, {3: len(site.shape(3))}, len(site.output_shape()))


def _fused_matmul(site: Site) -> Iterator[Relation]:
    """Multiply matrices that are stored transposed, or with their rows ahead of the batch."""
    left, right = _stored(site, 0, "A"), _stored(site, 1, "B")
    rank = len(site.output_shape())
    yield Same(left[-1], right[-1 if len(right) == 1 else -2], contracted=True)
    if len(right) > 1:
        yield Same(right[-1], site.output(-1))
    if len(left) > 1:
        yield Same(left[-2], site.output(-2 if len(right) > 1 else -1))
    batch = rank - (len(left) > 1) - (len(right) > 1)
    for axes, index in ((left, 0), (right, 1)):
        for place, axis in enumerate(reversed(axes[:-2])):
            target = batch - 1 - place
            if site.shape(index)[axis.axis] == site.output_shape()[target]:
                yield Same(axis, site.output(target))


def _stored(site: Site, index: int, operand: str) -> list[Axis]:
    """Axes of an operand in the order in which a plain product reads them: batch, rows, columns."""
    rank = len(site.shape(index))
    order = list(range(rank))
    if rank > 1 and site.number(f"transBatch{operand}", 0):
        order = [*order[1:-1], 0, order[-1]]
    if rank > 1 and site.number(f"trans{operand}", 0):
        order[-2:] = order[:-3:-1]
    return [site.input(index, axis) for axis in order]


def _skip_normalization(site: Site) -> Iterator[Relation]:
    """Add a skip connection, then normalise over the last axis."""
    rank = len(site.output_shape())
    yield from broadcast(site, {0: len(site.shape(0)) - 1, 1: len(site.shape(1)) - 1}, rank - 1)
    yield from (Frozen(site.input(index, -1), NORMALISES) for index in range(5) if site.has(index))
    yield Frozen(site.output(-1), NORMALISES)
    if site.writes(3):
        yield from (Same(site.output(axis), site.output(axis, 3)) for axis in range(rank))


def _simplified_normalization(site: Site) -> Iterator[Relation]:
    """Divide by the root mean square over ``axis`` and all after it."""
    rank = len(site.shape(0))
    first = site.number("axis", -1) % rank
    for axis in range(rank):
        if axis < first:
            yield Same(site.input(0, axis), site.output(axis))
        else:
            yield Frozen(site.input(0, axis), NORMALISES)
            yield Frozen(site.output(axis), NORMALISES)
    yield from (Frozen(site.input(1, axis), NORMALISES) for axis in range(len(site.shape(1))))


def _embed_normalization(site: Site) -> Iterator[Relation]:
    """Sum up the embeddings of words, positions and segments, then normalise over their features."""
    yield from (Frozen(site.input(index, -1), NORMALISES) for index in (2, 3, 4, 5, 6) if site.has(index))
    yield from (Frozen(site.output(-1, index), NORMALISES) for index in (0, 2) if site.writes(index))
    tables = [index for index in (2, 3, 4) if site.has(index)]
    yield from (Frozen(site.input(index, 0), "looks up its rows by number") for index in tables)


RULES: Mapping[str, OperatorRule] = {
    **{f"com.microsoft::{name}": elementwise.RULES["Add"] for name in ELEMENTWISE},
    "com.microsoft::EmbedLayerNormalization": OperatorRule(_embed_normalization),
    "com.microsoft::FusedConv": OperatorRule(_fused_conv, conv.RULES["Conv"].resize),
    "com.microsoft::FusedGemm": matmul.RULES["Gemm"],
    "com.microsoft::FusedMatMul": OperatorRule(_fused_matmul),
    "com.microsoft::SkipLayerNormalization": OperatorRule(_skip_normalization),
    "com.microsoft::SkipSimplifiedLayerNormalization": OperatorRule(_skip_normalization),
    "com.microsoft::TransposeMatMul": OperatorRule(_fused_matmul),
    "SimplifiedLayerNormalization": OperatorRule(_simplified_normalization),
}
