"""Pieces of networks on activations of any shape, for random graphs: activations, joins, pieces of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tests.analysis.coupling.random_builder import PRODUCTIONS, Builder, Flow, Production, production
from tests.analysis.coupling.random_images import conv
from tests.analysis.coupling.random_sequences import linear

__all__ = ["fitting", "layer"]

SMOOTH: Mapping[str, int] = {
    **dict.fromkeys(("Abs", "Asinh", "Atan", "Celu", "Cos", "Elu", "Erf", "HardSigmoid", "Identity"), 12),
    **dict.fromkeys(("LeakyRelu", "Neg", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Tanh"), 12),
    "Dropout": 12,
    "HardSwish": 14,
    "Mish": 18,
    "Gelu": 20,
    "Swish": 24,
}
"""Operators of one input that any number may enter."""

STEPS = ("Ceil", "Floor", "Round", "Shrink", "Sign", "ThresholdedRelu")
"""Those that jump, drawn less often: the last bit of a sum may decide."""

BOUNDED: Mapping[str, tuple[str, ...]] = {
    "Tanh": ("Acos", "Asin", "Atanh", "Cosh", "Exp", "Sinh", "Tan"),
    "Abs": ("Acosh", "Log", "Reciprocal", "Sqrt"),
}
"""Operators that need their input in a range, by what brings it there: 0.9 of tanh, 1.1 and more."""

ANY = (1, 2, 3)


def layer(b: Builder, x: Flow, channels: int | None = None) -> Flow:
    """Add a plain layer."""
    channels = channels if channels is not None else b.width()
    if len(x.sizes) == 3:
        return conv(b, x, channels)
    found = linear(b, x, channels)
    if found.channels == channels:
        return found
    weight = b.weight(x.channels, channels, inputs=x.channels)
    return Flow(b.op("MatMul", x.name, weight), x.with_channels(channels))


def fitting(b: Builder, x: Flow, keeps: bool = False) -> Production:
    """Draw a piece that can read ``x``."""
    options = [
        item
        for item in PRODUCTIONS
        if len(x.sizes) in item.ranks and b.opset >= item.since and (item.keeps or not keeps)
    ]
    weights = np.array([item.weight for item in options])
    return options[int(b.rng.choice(len(options), p=weights / weights.sum()))]


def _axis(x: Flow) -> int:
    return 1 if len(x.sizes) == 3 else len(x.sizes)


def _channelwise(x: Flow) -> tuple[int, ...]:
    return (x.channels, 1, 1) if len(x.sizes) == 3 else (x.channels,)


@production(*ANY, weight=4, keeps=True)
def activation(b: Builder, x: Flow) -> Flow:
    return b.apply(x, b.pick([name for name, since in SMOOTH.items() if since <= b.opset]))


@production(*ANY, weight=0.5, keeps=True)
def step(b: Builder, x: Flow) -> Flow:
    return b.apply(x, b.pick(STEPS))


@production(*ANY, weight=1, keeps=True)
def bounded(b: Builder, x: Flow) -> Flow:
    first = b.pick(list(BOUNDED))
    inside = b.apply(
        b.apply(x, first), *b.pick([("Mul", b.scalar(0.9))] if first == "Tanh" else [("Add", b.scalar(1.1))])
    )
    return b.apply(inside, b.pick(BOUNDED[first]))


@production(*ANY, weight=1.5, keeps=True)
def with_constants(b: Builder, x: Flow) -> Flow:
    """Slopes, limits, exponents: numbers, one a channel, or a whole sample of them."""
    shape = b.pick([(), (1,), _channelwise(x), (1, *_channelwise(x)), x.sizes])
    op_type = b.pick(["PRelu", "Clip", "Pow", "Mod", "Max", "Min", "Mean", "Sum", "Sub", "Div", "Mul", "Add", "Where"])
    if op_type == "Clip":
        low, high = b.scalar(-1), b.scalar(1.5)
        return b.apply(x, "Clip", *b.pick([(low,), (low, high), ("", high)]))
    if op_type == "PRelu":
        return b.apply(x, "PRelu", b.weight(*shape, inputs=2))
    if op_type == "Pow":
        return b.apply(b.apply(x, "Softplus"), "Pow", b.weight(*shape, inputs=2, offset=0.3))
    if op_type in ("Div", "Mod"):
        extra = {"fmod": 1} if op_type == "Mod" else {}
        return b.apply(x, op_type, b.weight(*shape, inputs=2, offset=1.0), **extra)
    if op_type == "Where":
        kept = b.constant(b.rng.random(shape) < 0.6)
        return replace(x, name=b.op("Where", kept, x.name, b.weight(*shape, inputs=2)))
    return b.apply(x, op_type, b.weight(*shape, inputs=2))


@production(*ANY, weight=0.7, keeps=True)
def conditions(b: Builder, x: Flow) -> Flow:
    zero = b.scalar(0)
    kind = int(b.rng.integers(5))
    tests = ["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"]
    one, other = (b.op(b.pick(tests), x.name, b.pick([zero, b.vector(1)])) for _ in range(2))
    if kind == 0:
        met = b.op(b.pick(["And", "Or", "Xor"]), one, b.op("Not", other))
    elif kind == 1:
        met = b.op("Or", b.op("IsNaN", x.name), b.op("Not", b.op("IsInf", x.name)))
    elif kind == 2:
        return b.apply(x, "Add", b.op("Cast", one, to=1))
    elif kind == 3 and b.opset >= 15:
        return b.apply(x, "Mul", b.op("CastLike", b.op("Not", one), b.vector(x.channels)))
    else:
        met = one
    return replace(x, name=b.op("Where", met, x.name, b.op("Tanh", x.name)))


@production(*ANY, since=18, weight=0.3, keeps=True)
def bits(b: Builder, x: Flow) -> Flow:
    """Numbers as integers, and what can be done to their bits."""
    one, other = (b.op("Cast", b.op("Softplus", item), to=12) for item in (x.name, b.op("Neg", x.name)))
    kind = int(b.rng.integers(3))
    if kind == 0:
        mixed = b.op(b.pick(["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), one, other)
    elif kind == 1:
        mixed = b.op("BitShift", one, b.scalar(1, np.uint32), direction="LEFT")
    else:
        mixed = b.op("BitwiseAnd", b.op("BitwiseNot", one), b.scalar(7, np.uint32))
    return b.apply(x, "Add", b.op("Cast", mixed, to=1))


@production(*ANY, weight=4, keeps=True)
def residual(b: Builder, x: Flow) -> Flow:
    y = layer(b, _some(b, layer(b, x), 2), x.channels)
    op_type = b.pick(["Add", "Add", "Sum", "Mul", "Max"])
    return replace(x, name=b.op(op_type, x.name, b.op("Tanh", y.name) if op_type == "Mul" else y.name))


def _some(b: Builder, x: Flow, most: int) -> Flow:
    """Add up to ``most`` pieces that keep the sizes."""
    for _ in range(int(b.rng.integers(most + 1))):
        piece = fitting(b, x, keeps=True)
        if piece.build not in (residual, joined):
            x = piece.build(b, x)
    return x


@production(*ANY, weight=2.5)
def joined(b: Builder, x: Flow) -> Flow:
    """Branches side by side, among them perhaps what they read."""
    parts = [_some(b, layer(b, x, b.width(1, 8)), 2) for _ in range(int(b.pick([1, 2, 3])))]
    if len(parts) == 1 or b.chance(0.3):
        parts.append(x)
    if sum(part.channels for part in parts) > 40:
        return x
    name = b.op("Concat", *(part.name for part in parts), axis=_axis(x))
    return Flow(name, x.with_channels(sum(part.channels for part in parts)))


@production(*ANY, weight=2)
def pieces(b: Builder, x: Flow) -> Flow:
    """Cut the channels into pieces, work on them, and put them together in some order."""
    count = int(b.pick([2, 3])) if x.channels > 2 else 2
    if x.channels < count:
        return x
    axis = _axis(x)
    if x.channels % count == 0 and b.chance(0.5):
        sizes = [x.channels // count] * count
        if b.opset >= 18:
            names = b.op("Split", x.name, axis=axis, num_outputs=count, outputs=count)
        else:
            names = b.op("Split", x.name, axis=axis - len(x.sizes) - 1, outputs=count)
    else:
        marks = np.sort(b.rng.permutation(np.arange(1, x.channels))[: count - 1])
        sizes = np.diff([0, *marks, x.channels]).tolist()
        names = b.op("Split", x.name, b.ints(*sizes), axis=axis, outputs=count)
    parts = [Flow(name, x.with_channels(size)) for name, size in zip(names, sizes, strict=True)]
    parts = [_some(b, part, 2) for part in parts]
    if b.chance(0.2) and len({part.sizes for part in parts}) == 1:
        return replace(parts[0], name=b.op("Mul", parts[0].name, parts[1].name))
    order = b.rng.permutation(count)[: int(b.pick([count, count, 2]))]
    chosen = [parts[int(place)] for place in order]
    total = sum(part.channels for part in chosen)
    return Flow(b.op("Concat", *(part.name for part in chosen), axis=axis), x.with_channels(total))


@production(*ANY, weight=2)
def picked(b: Builder, x: Flow) -> Flow:
    """Some of the channels, or all in another order."""
    axis, size = _axis(x), x.channels
    kind = int(b.rng.integers(6))
    if kind == 0:
        order = b.rng.permutation(size)
        order = order[: max(1, size // 2)] if b.chance(0.4) else order
        return Flow(b.op("Gather", x.name, b.constant(order), axis=axis), x.with_channels(len(order)))
    if kind == 1:
        order = b.rng.integers(0, size, size) - size * b.rng.integers(0, 2, size)
        return Flow(b.op("Gather", x.name, b.constant(order), axis=axis), x.with_channels(size))
    if kind == 2:
        start, step = int(b.pick([0, 1])), int(b.pick([1, 2, 3]))
        found = len(range(size)[start::step])
        operands = b.ints(start), b.ints(2**62), b.ints(axis), b.ints(step)
        return Flow(b.op("Slice", x.name, *operands), x.with_channels(found)) if found else x
    if kind == 3:
        step = int(b.pick([-1, -2]))
        operands = b.ints(-1), b.ints(-(2**62)), b.ints(axis - len(x.sizes) - 1), b.ints(step)
        return Flow(b.op("Slice", x.name, *operands), x.with_channels(len(range(size)[::step])))
    if kind == 4 and size > 2:
        halves = [
            b.op("Slice", x.name, b.ints(*ends[:1]), b.ints(*ends[1:]), b.ints(axis))
            for ends in ((0, size // 2), (size // 2, -1))
        ]
        both = b.op("Concat", *reversed(halves), axis=axis)
        return Flow(both, x.with_channels(size - 1))
    repeats = [1] * (len(x.sizes) + 1)
    repeats[axis] = 2
    return Flow(b.op("Tile", x.name, b.ints(*repeats)), x.with_channels(2 * size)) if size <= 10 else x


@production(2, 3, weight=0.6, keeps=True)
def at_indices(b: Builder, x: Flow) -> Flow:
    """Read or write at indices, which stay within one axis."""
    kind = int(b.rng.integers(5))
    rank, length = len(x.sizes) + 1, x.sizes[-1]
    if kind == 0:
        order = np.broadcast_to(b.rng.permutation(length), (1,) * (rank - 1) + (length,)).copy()
        wide = b.op("Expand", b.constant(order), b.op("Shape", x.name))
        return b.apply(x, "GatherElements", wide, axis=-1)
    if kind == 1 and b.batch == 2:
        return b.apply(x, "GatherND", b.constant(np.array([[1], [0]])))
    if kind == 2 and b.batch == 2:
        update = b.op("Gather", b.op("Tanh", x.name), b.ints(0), axis=0)
        return b.apply(x, "ScatterND", b.constant(np.array([[1]])), update)
    if kind == 3:
        index = b.op("Cast", b.op("Mul", x.name, b.scalar(0)), to=7)
        operands = [index, b.op("Tanh", x.name)]
        first = b.op("Slice", operands[0], b.ints(0), b.ints(1), b.ints(-1))
        update = b.op("Slice", operands[1], b.ints(0), b.ints(1), b.ints(-1))
        return b.apply(x, b.pick(["ScatterElements"]), first, update, axis=-1)
    return x


@production(*ANY, weight=0.8, keeps=True)
def filled(b: Builder, x: Flow) -> Flow:
    """Tensors of one number, of a shape that is read from the activation."""
    kind = int(b.rng.integers(3))
    shape = b.op("Shape", x.name)
    if kind == 0:
        ones = b.op("ConstantOfShape", shape)
        return b.apply(x, "Add", ones)
    if kind == 1:
        wide = b.op("Expand", b.weight(*_channelwise(x), inputs=2), shape)
        return b.apply(x, "Mul", wide)
    count = b.op("Cast", b.op("Size", x.name), to=1)
    return b.apply(x, "Div", b.op("Sqrt", count))
