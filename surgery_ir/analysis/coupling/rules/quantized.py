"""Quantized operators: conversions to and from integers, and products of integers.

Integer weights are sliced like others. A sum of products of integers can be cut where one operand is a constant whose
zero point is 0: only there an integer 0 stands for a removed connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Choice, Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.conv import grouped
from surgery_ir.analysis.coupling.rules.elementwise import broadcast
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site

__all__ = ["RULES"]

ZERO_POINT = "sums over it with integers of which 0 does not stand for zero"


def _linear(site: Site) -> Iterator[Relation]:
    """Scale element by element: all alike, along one axis, or by blocks of one."""
    shape = site.shape(0)
    axis = site.number("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    block = site.number("block_size", 0)
    parameters = [index for index in (1, 2) if site.has(index) and np.prod(site.shape(index)) > 1]
    for number in range(len(shape)):
        if block and number == axis:
            yield from (Frozen(item, "scales it by blocks") for item in (site.input(0, number), site.output(number)))
            continue
        yield Same(site.input(0, number), site.output(number))
        for index in parameters:
            if block:
                yield Same(site.output(number), site.input(index, number))
            elif number == axis:
                yield Same(site.output(number), site.input(index, 0))


def _dynamic(site: Site) -> Iterator[Relation]:
    for axis in range(len(site.shape(0))):
        yield Frozen(site.input(0, axis), "takes its scale from the whole of it")
        yield Frozen(site.output(axis), "takes its scale from the whole of it")


def _conv_integer(site: Site) -> Iterator[Relation]:
    return _conv(site, weight=1, zero_point=3, along_outputs=(3,))


def _qlinear_conv(site: Site) -> Iterator[Relation]:
    return _conv(site, weight=3, zero_point=5, along_outputs=(4, 5, 8))


def _conv(site: Site, weight: int, zero_point: int, along_outputs: tuple[int, ...]) -> Iterator[Relation]:
    """Convolve; ``along_outputs`` are inputs with one entry an output channel, or one for all."""
    shape = site.shape(weight)
    groups = site.number("group", 1)
    inner = site.input(weight, 1)
    yield Same(site.input(0, 0), site.output(0))
    yield Same(site.output(1), site.input(weight, 0))
    for index in along_outputs:
        if site.has(index) and np.prod(site.shape(index)) > 1:
            yield Same(site.output(1), site.input(index, 0))
    zero = _is_zero(site, weight, zero_point)
    if groups > 1:
        choice = grouped(site, groups, shape[1], shape[0] // groups, inner)
        yield from [choice] if zero and shape[1] > 1 else _whole_groups(choice)
    elif zero:
        yield Same(site.input(0, 1), inner, contracted=True)
    else:
        yield from (Frozen(axis, ZERO_POINT) for axis in (site.input(0, 1), inner))


def _whole_groups(choice: Choice) -> Iterator[Mapped]:
    """Keep to the alternative in which no sum gets shorter."""
    for alternative in choice.alternatives:
        mapped = [item for item in alternative if isinstance(item, Mapped)]
        if not any(item.contracted for item in mapped):
            yield from mapped


def _resize_conv(site: Site, kept: Kept) -> Change:
    """Count the groups anew where whole ones went."""
    groups, read = site.number("group", 1), kept.input(0, 1)
    if groups == 1 or read is None:
        return Change()
    inputs = read.reshape(groups, -1)
    whole = bool(np.all(inputs == inputs[:, :1]))
    return Change(attributes={"group": int(np.count_nonzero(inputs[:, 0]))}) if whole else Change()


def _matmul_integer(site: Site) -> Iterator[Relation]:
    return _product(site, (0, 2), (1, 3), ((0, 2),), ((1, 3),))


def _qlinear_matmul(site: Site) -> Iterator[Relation]:
    if any(np.prod(site.shape(index)) > 1 for index in (6, 7) if site.has(index)):
        raise NotKnown("its output has more than one scale")
    return _product(site, (0, 2), (3, 5), ((0, 1), (0, 2)), ((3, 4), (3, 5)))


def _product(
    site: Site,
    one: tuple[int, int],
    other: tuple[int, int],
    by_row: tuple[tuple[int, int], ...],
    by_column: tuple[tuple[int, int], ...],
) -> Iterator[Relation]:
    """Multiply as ``numpy.matmul`` does.

    ``one`` and ``other`` are inputs with their zero points; ``by_row`` and ``by_column`` inputs with what scales them
    along rows and columns.
    """
    left, right = len(site.shape(one[0])), len(site.shape(other[0]))
    rank = len(site.output_shape())
    inner = site.input(one[0], -1), site.input(other[0], -1 if right == 1 else -2)
    if _is_zero(site, *one) or _is_zero(site, *other):
        yield Same(*inner, contracted=True)
    else:
        yield from (Frozen(axis, ZERO_POINT) for axis in inner)
    if right > 1:
        yield Same(site.input(other[0], -1), site.output(-1))
    if left > 1:
        yield Same(site.input(one[0], -2), site.output(-2 if right > 1 else -1))
    batch = rank - (left > 1) - (right > 1)
    yield from broadcast(site, {one[0]: left - 2, other[0]: right - 2}, batch)
    for pairs, along in ((by_row, -2), (by_column, -1)):
        for index, parameter in pairs:
            yield from _scaled(site, index, parameter, along)


def _scaled(site: Site, index: int, parameter: int, along: int) -> Iterator[Relation]:
    """Relate a scale or zero point to its operand: a vector along one axis, or of the operand's rank."""
    own = site.shape(parameter) if site.has(parameter) else ()
    if np.prod(own) == 1:
        return
    if len(own) == 1:
        yield Same(site.input(index, along), site.input(parameter, 0))
        return
    for axis, size in enumerate(own):
        if size > 1:
            yield Same(site.input(index, axis), site.input(parameter, axis))


def _is_zero(site: Site, index: int, zero_point: int) -> bool:
    """Whether input ``index`` is a constant of which 0 stands for zero."""
    if not site.is_constant(index):
        return False
    return not site.has(zero_point) or (site.is_constant(zero_point) and not site.operand(zero_point).any())


def _binary(site: Site) -> Iterator[Relation]:
    """Add or multiply integers, each operand with its own scale and zero point."""
    yield from broadcast(site, {index: len(site.shape(index)) for index in (0, 3)}, len(site.output_shape()))


def _unary(site: Site) -> Iterator[Relation]:
    yield from broadcast(site, {0: len(site.shape(0))}, len(site.output_shape()))


RULES: Mapping[str, OperatorRule] = {
    "QuantizeLinear": OperatorRule(_linear),
    "DequantizeLinear": OperatorRule(_linear),
    "DynamicQuantizeLinear": OperatorRule(_dynamic),
    "ConvInteger": OperatorRule(_conv_integer, _resize_conv),
    "QLinearConv": OperatorRule(_qlinear_conv, _resize_conv),
    "MatMulInteger": OperatorRule(_matmul_integer),
    "QLinearMatMul": OperatorRule(_qlinear_matmul),
    "com.microsoft::QuantizeLinear": OperatorRule(_linear),
    "com.microsoft::DequantizeLinear": OperatorRule(_linear),
    "com.microsoft::QLinearAdd": OperatorRule(_binary),
    "com.microsoft::QLinearMul": OperatorRule(_binary),
    "com.microsoft::QLinearLeakyRelu": OperatorRule(_unary),
    "com.microsoft::QLinearSigmoid": OperatorRule(_unary),
}
