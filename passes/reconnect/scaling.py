"""What becomes of one operator when the units that it passes are divided by positive scales.

An operator f is positively homogeneous where f(x / s) = f(x) / s for every s > 0: it passes a scale on. A layer takes
it up: rows of its weights are divided by the scales of what it writes, columns multiplied by those of what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.coupling.groups import Span
from surgery_ir.analysis.coupling.site import Site
from surgery_ir.graph.view import STANDARD

__all__ = ["Demand", "Refused", "Touch", "Use", "demand"]


class Refused(Exception):
    """The operator does not let its units be scaled; the text goes on behind its name."""


@dataclass(frozen=True, slots=True)
class Touch:
    """What one operator reads and writes of the units of a group.

    Parameters
    ----------
    site
        The operator.
    inputs, outputs
        Where the units lie in what it reads and writes that is computed, by index.
    constants
        Where they lie in constants that it reads, by index and axis.
    sums
        Whether it sums over them.
    """

    site: Site
    inputs: Mapping[int, Span]
    constants: Mapping[int, Mapping[int, Span]]
    outputs: Mapping[int, Span]
    sums: bool

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all computed values."""
        return tuple(span.axis.value for span in (*self.inputs.values(), *self.outputs.values()))


@dataclass(frozen=True, slots=True)
class Use:
    """A constant, and the values whose scales its entries are multiplied by and divided by."""

    span: Span
    read: str | None
    written: str | None


@dataclass(frozen=True, slots=True)
class Demand:
    """What scaling asks of an operator.

    Parameters
    ----------
    joined
        Values that must have one scale.
    uses
        Constants that it reads.
    product
        Two values, and a third whose scale is the product of theirs; or nothing.
    """

    joined: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()
    product: tuple[str, str, str] | None = None


PASSING = frozenset({
    "Abs", "AveragePool", "Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "Identity", "LeakyRelu", "LpPool", "MaxPool", "Neg", "PRelu", "Pad", "ReduceL1",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample",
})  # fmt: skip
"""Operators that are positively homogeneous in their first input, whatever else they read."""

TOGETHER = frozenset({"Add", "Concat", "Max", "Mean", "Min", "Sub", "Sum"})
"""Operators that are positively homogeneous in all of their inputs at once."""

FLOATING = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
LAST_OPSET_WITH_PAD_ATTRIBUTES = 10


def demand(touch: Touch) -> Demand:
    """Say what scaling the units asks of an operator.

    Raises
    ------
    Refused
        It has no such rule, or works on the units as none allows.
    """
    node = touch.site.node
    if node.domain not in STANDARD:
        raise Refused("is none of ONNX's own operators")
    rule = RULES.get(node.op_type)
    if rule is None:
        raise Refused("is not positively homogeneous")
    return rule(touch)


def _passing(touch: Touch) -> Demand:
    """Pass the scale of the first input on to all outputs."""
    site, node = touch.site, touch.site.node
    if any(index > 0 for index in touch.inputs):
        raise Refused("reads them as an operand")
    if touch.sums:
        raise Refused("sums over them")
    if node.op_type != "Split" and any(map(site.writes, range(1, len(node.outputs)))):
        raise Refused("gives more than their values")
    if node.op_type == "Cast" and not _keeps_fractions(site):
        raise Refused("rounds them, or their type is not known")
    if node.op_type == "Pad" and not _pads_with_zeros(site):
        raise Refused("pads with a number that is not 0")
    if node.op_type == "Resize" and site.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Refused("puts a number where its region ends")
    return _joined(touch, {0})


def _keeps_fractions(site: Site) -> bool:
    source = site.node.inputs[0]
    return source is not None and source.dtype in FLOATING and ir.DataType(site.number("to", 0)) in FLOATING


def _pads_with_zeros(site: Site) -> bool:
    if site.text("mode", "constant") != "constant":
        return True
    if site.opset <= LAST_OPSET_WITH_PAD_ATTRIBUTES:
        return "value" not in site.node.attributes or site.node.attributes["value"].as_float() == 0.0
    return not site.has(2) or (site.is_constant(2) and not np.any(site.operand(2)))


def _together(touch: Touch) -> Demand:
    """Pass one scale from all inputs; a constant that is not zero needs a number for every unit."""
    site = touch.site
    indices = range(len(site.node.inputs))
    for index in indices:
        untouched = index not in touch.inputs and index not in touch.constants
        if untouched and not _joins_others(touch) and not (site.is_constant(index) and not np.any(site.operand(index))):
            raise Refused("reads what is not scaled with them")
    return _joined(touch, indices)


def _joins_others(touch: Touch) -> bool:
    """Whether a Concat puts other units beside these."""
    if touch.site.node.op_type != "Concat":
        return False
    axis = touch.site.number("axis", 1) % len(touch.site.output_shape())
    return any(span.axis.axis == axis for span in touch.outputs.values())


def _product(touch: Touch) -> Demand:
    """Pass the scales of computed factors; constants stay as they are."""
    if touch.sums:
        raise Refused("multiplies them with each other")
    if touch.site.node.op_type == "Div" and 1 in touch.inputs:
        raise Refused("divides by them")
    found = _joined(touch, touch.inputs)
    if len(touch.inputs) < 2 or not touch.outputs:
        return found
    one, other = (touch.inputs[index].axis.value for index in (0, 1))
    return Demand((), found.uses, (one, other, touch.outputs[0].axis.value))


def _matmul(touch: Touch) -> Demand:
    """Take the scales up in constant weights; a product of two computed values is linear in each."""
    constant = any(map(touch.site.is_constant, (0, 1)))
    return _layer(touch) if constant else _product(touch)


def _normalisation(touch: Touch) -> Demand:
    """Give γ (x - μ) / √(σ² + ε) + β: the mean and β go with x, γ and σ² stay."""
    if set(touch.inputs) != {0}:
        raise Refused("learns from them, or its numbers are computed")
    return _joined(touch, {0, 2, 3})


def _joined(touch: Touch, data: Collection[int]) -> Demand:
    """Join all values; constants among the inputs ``data`` are divided by their scale."""
    if touch.outputs and not any(index in touch.inputs or index in touch.constants for index in data):
        raise Refused("fills them with numbers of its own")
    values = touch.values
    uses = [
        Use(span, None, values[0] if values and index in data else None)
        for index, spans in touch.constants.items()
        for span in spans.values()
    ]
    return Demand(values, tuple(uses))


def _sizes(touch: Touch) -> Demand:
    """Read nothing but sizes."""
    return _joined(touch, ())


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a layer holds its weights, and the axes on which its units lie.

    ``weight`` and ``source`` are inputs; ``columns`` and ``rows`` axes of the weights, ``read`` and ``written`` those
    of what the layer reads and writes, counted from the end where negative.
    """

    weight: int
    source: int
    columns: int
    rows: int
    read: int
    written: int


def _layout(site: Site) -> _Layout:
    match site.node.op_type:
        case "Conv":
            return _Layout(1, 0, columns=1, rows=0, read=1, written=1)
        case "ConvTranspose":
            return _Layout(1, 0, columns=0, rows=1, read=1, written=1)
        case "Gemm":
            flipped = site.number("transB", 0)
            read = 0 if site.number("transA", 0) else 1
            return _Layout(1, 0, columns=1 if flipped else 0, rows=0 if flipped else 1, read=read, written=1)
        case _ if site.is_constant(1):
            return _Layout(1, 0, columns=0, rows=1, read=-1, written=-1)
        case _:
            return _Layout(0, 1, columns=1, rows=0, read=-2, written=-2)


def _layer(touch: Touch) -> Demand:
    """Take the scales up in the weights, and those of what is written in the bias."""
    site = touch.site
    layout = _layout(site)
    _check_layer(touch, layout)
    weight = touch.constants.get(layout.weight, {})
    source, target = touch.inputs.get(layout.source), touch.outputs.get(0)
    read = source.axis.value if source is not None else None
    written = target.axis.value if target is not None else None
    uses: list[Use] = []
    for axis, span in weight.items():
        is_column, is_row = axis == layout.columns, axis == layout.rows
        passes = is_row and layout.columns not in weight and site.node.op_type == "Conv"  # whole groups are units
        uses.append(Use(span, read if is_column or passes else None, written if is_row else None))
    if read is not None and not any(use.read for use in uses):
        raise Refused("reads them past its weights")
    if written is not None and not any(use.written for use in uses):
        raise Refused("writes them past its weights")
    uses.extend(Use(span, None, written) for span in touch.constants.get(2, {}).values())
    return Demand(uses=tuple(uses))


def _check_layer(touch: Touch, layout: _Layout) -> None:
    site = touch.site
    if not site.is_constant(layout.weight) or (len(site.shape(layout.weight)) != 2 and layout.read < 0):
        raise Refused("multiplies them with what is computed")
    if site.node.op_type == "ConvTranspose" and site.number("group", 1) > 1:
        raise Refused("reads and writes them in groups")
    if any(index != layout.source for index in touch.inputs):
        raise Refused("adds what is computed to them")
    for spans, value, axis in (
        (touch.inputs, layout.source, layout.read),
        (touch.outputs, 0, layout.written),
    ):
        shape = site.shape(value) if spans is touch.inputs else site.output_shape(value)
        if value in spans and spans[value].axis.axis != axis % len(shape):
            raise Refused("passes them beside its weights")
    if site.node.op_type != "MatMul" and 0 in touch.outputs and site.has(2) and 2 not in touch.constants:
        raise Refused("adds a number to them that is not one for each")


RULES: Mapping[str, Callable[[Touch], Demand]] = {
    **dict.fromkeys(PASSING, _passing),
    **dict.fromkeys(TOGETHER, _together),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("Shape", "Size"), _sizes),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), _layer),
    "MatMul": _matmul,
    "BatchNormalization": _normalisation,
}
