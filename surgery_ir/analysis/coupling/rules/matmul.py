"""Matrix products, of activations and constants alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from surgery_ir.analysis.coupling.relations import Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.elementwise import broadcast
from surgery_ir.analysis.coupling.site import Site

__all__ = ["RULES"]


def _matmul(site: Site) -> Iterator[Relation]:
    """``numpy.matmul``: vectors have no outer axis, and the axes ahead of the matrices are broadcast."""
    left, right = len(site.shape(0)), len(site.shape(1))
    rank = len(site.output_shape())
    yield Same(site.input(0, -1), site.input(1, -1 if right == 1 else -2), contracted=True)
    if right > 1:
        yield Same(site.input(1, -1), site.output(-1))
    if left > 1:
        yield Same(site.input(0, -2), site.output(-2 if right > 1 else -1))
    batch = rank - (left > 1) - (right > 1)
    yield from broadcast(site, {0: left - 2, 1: right - 2}, batch)


def _gemm(site: Site) -> Iterator[Relation]:
    """One matrix product; either operand may be stored transposed, and the third is broadcast."""
    a, b = site.number("transA", 0), site.number("transB", 0)
    yield Same(site.input(0, 0 if a else 1), site.input(1, 1 if b else 0), contracted=True)
    yield Same(site.input(0, 1 if a else 0), site.output(0))
    yield Same(site.input(1, 0 if b else 1), site.output(1))
    if site.has(2):
        yield from broadcast(site, {2: len(site.shape(2))}, 2)


RULES: Mapping[str, OperatorRule] = {
    "MatMul": OperatorRule(_matmul),
    "Gemm": OperatorRule(_gemm),
}
