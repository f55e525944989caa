"""Operators that work element by element, broadcasting their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from surgery_ir.analysis.coupling.relations import Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Site

__all__ = ["RULES", "broadcast"]

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip


def broadcast(site: Site, ranks: Mapping[int, int], rank: int) -> Iterator[Relation]:
    """Relate leading axes of inputs to those of the first output, aligned at their ends.

    Parameters
    ----------
    site
        The operator.
    ranks
        How many leading axes of each input take part.
    rank
        How many leading axes of the output.
    """
    target = site.output_shape()
    for index, own in ranks.items():
        shape = site.shape(index)
        for axis in range(own):
            place = axis + rank - own
            if place >= 0 and shape[axis] == target[place]:
                yield Same(site.input(index, axis), site.output(place))


def _elementwise(site: Site) -> Iterator[Relation]:
    ranks = {index: len(site.shape(index)) for index in range(len(site.node.inputs)) if site.has(index)}
    yield from broadcast(site, ranks, len(site.output_shape()))


RULES: Mapping[str, OperatorRule] = {name: OperatorRule(_elementwise) for name in (*UNARY, *BROADCAST)}
