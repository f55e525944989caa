"""Multiply-accumulates of one operator, from shapes alone.

A rule is a function of the node and the shapes of what it reads and writes. An operator without a rule does no
multiply-accumulates worth counting, unless it is one that we cannot look into: then the answer is "not known".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from surgery_ir.analysis.shapes import Shape
from surgery_ir.graph.shapes import STANDARD_DOMAINS
from surgery_ir.graph.view import bodies

__all__ = ["Macs", "node_macs"]

OPAQUE = frozenset({"Attention", "LinearAttention", "FlexAttention"})
"""Standard operators that multiply and have no rule."""


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one operator.

    Parameters
    ----------
    total
        All of them.
    by_input
        Share in which the scalars of an input take part, each equally often; by the index of the input. That is what
        a zero among constant weights saves.
    """

    total: int
    by_input: Mapping[int, int] = field(default_factory=dict)


class _NotKnown(Exception):
    """A size that a rule needs is not known."""


ShapeOf = Callable[[ir.Value | None], tuple[int, ...]]
Rule = Callable[[ir.Node, ShapeOf], Macs]


def node_macs(node: ir.Node, shapes: Mapping[str, Shape], functions: Container[tuple[str, str]] = ()) -> Macs | None:
    """Count the multiply-accumulates of ``node``.

    Parameters
    ----------
    node
        Operator of the main graph.
    shapes
        Shapes of values by name.
    functions
        (domain, name) of the functions that the model defines.

    Returns
    -------
    Macs or None
        ``None`` where a size is not known, where the operator is not a standard one, and where a subgraph multiplies,
        because how often it runs is not known.
    """

    def shape_of(value: ir.Value | None) -> tuple[int, ...]:
        known = shapes.get(value.name or "") if value is not None else None
        if known is None:
            raise _NotKnown
        sizes = [size for size in known if size is not None]
        if len(sizes) != len(known):
            raise _NotKnown
        return tuple(sizes)

    if any(_may_multiply(inner, functions) for inner in _inner_nodes(node)) or _is_opaque(node, functions):
        return None
    rule = RULES.get(node.op_type)
    if rule is None:
        return Macs(0)
    try:
        return rule(node, shape_of)
    except _NotKnown:
        return None


def _is_opaque(node: ir.Node, functions: Container[tuple[str, str]]) -> bool:
    foreign = node.domain not in STANDARD_DOMAINS or (node.domain, node.op_type) in functions
    return foreign or node.op_type in OPAQUE


def _may_multiply(node: ir.Node, functions: Container[tuple[str, str]]) -> bool:
    return node.op_type in RULES or _is_opaque(node, functions)


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for body in bodies(node):
        yield from ir.traversal.RecursiveGraphIterator(body)


def _conv(weight: int) -> Rule:
    """Each output scalar reads one filter: all input channels of its group at all places of the kernel."""

    def rule(node: ir.Node, shape_of: ShapeOf) -> Macs:
        total = math.prod(shape_of(node.outputs[0])) * math.prod(shape_of(node.inputs[weight])[1:])
        return Macs(total, {weight: total})

    return rule


def _conv_transpose(node: ir.Node, shape_of: ShapeOf) -> Macs:
    """Each input scalar is spread over all output channels of its group at all places of the kernel."""
    total = math.prod(shape_of(node.inputs[0])) * math.prod(shape_of(node.inputs[1])[1:])
    return Macs(total, {1: total})


def _gemm(node: ir.Node, shape_of: ShapeOf) -> Macs:
    rows = shape_of(node.inputs[0])
    inner = rows[0] if node.attributes.get_int("transA", 0) else rows[1]
    total = math.prod(shape_of(node.outputs[0])) * inner
    return Macs(total, {0: total, 1: total})


def _matmul(left: int, right: int) -> Rule:
    """``numpy.matmul``, broadcasting and vectors included: an output scalar is a sum over the last axis of the left."""

    def rule(node: ir.Node, shape_of: ShapeOf) -> Macs:
        total = math.prod(shape_of(node.outputs[0])) * shape_of(node.inputs[left])[-1]
        return Macs(total, {left: total, right: total})

    return rule


def _recurrent(node: ir.Node, shape_of: ShapeOf) -> Macs:
    """LSTM, GRU, RNN: at every step of every sequence each scalar of W and R is used once."""
    steps = math.prod(shape_of(node.inputs[0])[:2])
    parts = {index: steps * math.prod(shape_of(node.inputs[index])) for index in (1, 2)}
    return Macs(sum(parts.values()), parts)


def _einsum(node: ir.Node, shape_of: ShapeOf) -> Macs:
    """One product of two operands without ellipsis or diagonal, where no axis is summed before multiplying."""
    attribute = node.attributes.get("equation")
    equation = (attribute.as_string() if attribute is not None else "").replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        output = "".join(label for label, count in Counter(left.replace(",", "")).items() if count == 1)
    if len(terms) == 1:
        return Macs(0)
    if len(terms) != 2 or "." in equation or any(len(set(term)) != len(term) for term in terms):
        raise _NotKnown
    one, two = (set(term) for term in terms)
    if (one ^ two) - set(output):
        raise _NotKnown
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        for label, size in zip(term, shape_of(value), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    total = math.prod(sizes.values())
    return Macs(total, {0: total, 1: total})


RULES: Mapping[str, Rule] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
}
