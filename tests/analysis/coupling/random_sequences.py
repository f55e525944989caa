"""Pieces of networks on sequences (tokens, features) and vectors, for random graphs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tests.analysis.coupling.random_builder import Builder, Flow, production
from tests.analysis.coupling.random_images import reduce

__all__ = ["linear"]


def linear(b: Builder, x: Flow, features: int, bias: bool | None = None) -> Flow:
    """Add a matrix product over the last axis, spelled in some way."""
    inputs = x.channels
    kind = int(b.rng.integers(14))
    target = x.with_channels(features)
    biased = b.chance(0.6) if bias is None else bias
    if len(x.sizes) == 1 and kind < 7:
        return _gemm(b, x, features, biased)
    if kind == 7:
        equation = b.pick(["...i,io->...o", "...i,oi->...o"])
        shape = (inputs, features) if equation.endswith("io->...o") else (features, inputs)
        name = b.op("Einsum", x.name, b.weight(*shape, inputs=inputs), equation=equation)
    elif kind == 8:
        name = b.op("MatMul", x.name, b.op("Transpose", b.weight(features, inputs)))
    elif kind == 9 and len(x.sizes) == 2:
        turned = b.op("Transpose", x.name, perm=[0, 2, 1])
        product = b.op("MatMul", b.weight(features, inputs), turned)  # weights on the left
        name = b.op("Transpose", product, perm=[0, 2, 1])
    elif kind == 10 and len(x.sizes) == 2:
        name = b.op("MatMul", x.name, b.weight(1, inputs, features, inputs=inputs))
    elif kind == 11:
        half = b.op("Concat", b.weight(inputs, 2, inputs=inputs), b.weight(inputs, features, inputs=inputs), axis=1)
        name, target = b.op("MatMul", x.name, half), x.with_channels(features + 2)
    elif kind == 12 and len(x.sizes) == 2:
        flat = Flow(b.op("Reshape", x.name, b.ints(-1, inputs)), (inputs,))
        flat = _gemm(b, flat, features, biased)
        sizes = b.shape_operand([(x.name, 0), b.pick([x.sizes[0], (x.name, 1)]), features])
        return replace(x, name=b.op("Reshape", flat.name, sizes), sizes=target)
    elif kind == 13:
        weight = b.weight(features, inputs)
        name = b.op("FusedMatMul", x.name, weight, domain="com.microsoft", transA=0, transB=1, alpha=0.5)
    else:
        name = b.op("MatMul", x.name, b.weight(inputs, features, inputs=inputs))
    if biased:
        name = b.op("Add", *b.pick([(name, v := b.vector(target[-1])), (v, name)]))
    return Flow(name, target)


def _gemm(b: Builder, x: Flow, features: int, bias: bool) -> Flow:
    shape, transposed = b.pick([((x.channels, features), {}), ((features, x.channels), {"transB": 1})])
    attributes: dict[str, Any] = transposed | ({"alpha": 0.7, "beta": 1.3} if b.chance(0.3) else {})
    weight = b.weight(*shape, inputs=x.channels)
    addend = [b.pick([b.vector(features), b.weight(1, features, inputs=4)])] if bias else []
    if bias and b.chance(0.15):
        fused: dict[str, Any] = {"domain": "com.microsoft", "activation": "Relu"}
        return Flow(b.op("FusedGemm", x.name, weight, *addend, **attributes, **fused), (features,))
    source = x.name
    if b.chance(0.1):
        source, attributes = b.op("Transpose", x.name), {**attributes, "transA": 1}
    return Flow(b.op("Gemm", source, weight, *addend, **attributes), (features,))


@production(1, 2, weight=3)
def dense(b: Builder, x: Flow) -> Flow:
    return linear(b, x, b.width())


@production(1, 2, weight=2, keeps=True)
def feed_forward(b: Builder, x: Flow) -> Flow:
    """Two layers with an activation, or a gate, between them; with or without a residual connection."""
    kind = int(b.rng.integers(4))
    width = b.width(1, 20)
    if kind == 0:
        hidden = linear(b, x, width, bias=False)
        gate = linear(b, x, hidden.channels, bias=False)
        if gate.sizes != hidden.sizes:
            return x
        hidden = b.apply(hidden, "Mul", b.op("Sigmoid", gate.name))
    elif kind == 1:
        both = linear(b, x, 2 * width)
        half = both.channels // 2
        parts = b.op("Split", both.name, b.ints(half, both.channels - half), axis=-1, outputs=2)
        hidden = Flow(parts[0], x.with_channels(half))
        if both.channels % 2 == 0:
            hidden = b.apply(hidden, "Mul", b.op("Tanh", parts[1]))
    elif kind == 2:
        hidden = linear(b, x, width, bias=False)
        op_type = b.pick(["BiasGelu", "FastGelu", "QuickGelu", "Gelu"])
        bias = [b.vector(hidden.channels)] if op_type in ("BiasGelu", "FastGelu") else []
        hidden = b.apply(hidden, op_type, *bias, domain="com.microsoft")
    else:
        hidden = b.apply(linear(b, x, width), b.pick(["Relu", "Erf", "Softplus"]))
    weight = b.weight(hidden.channels, x.channels, inputs=hidden.channels)
    return replace(x, name=b.op("Add", x.name, b.op("MatMul", hidden.name, weight)))


@production(2, weight=1.5, keeps=True)
def token_norm(b: Builder, x: Flow) -> Flow:
    vectors = b.vector(x.channels), b.vector(x.channels)
    kind = int(b.rng.integers(4))
    if kind == 0 and b.opset >= 23:
        return b.apply(x, "RMSNormalization", vectors[0])
    if kind == 1:
        other = linear(b, x, x.channels, bias=False)
        if other.sizes != x.sizes:
            return x
        op_type, last = b.pick([("SkipLayerNormalization", vectors), ("SkipSimplifiedLayerNormalization", vectors[:1])])
        return b.apply(x, op_type, other.name, *last, domain="com.microsoft")
    if kind == 2 or b.opset < 17:
        centred = b.op("Sub", x.name, reduce(b, x.name, "ReduceMean", [-1]))
        spread = reduce(b, b.op("Pow", centred, b.scalar(2)), "ReduceMean", [-1])
        scaled = b.op("Mul", b.op("Div", centred, b.op("Sqrt", b.op("Add", spread, b.scalar(0.05)))), vectors[0])
        return replace(x, name=b.op("Add", scaled, vectors[1]))
    return b.apply(x, "LayerNormalization", *vectors, axis=-1)


@production(2, weight=1.5)
def recurrent(b: Builder, x: Flow) -> Flow:
    """LSTM, GRU or RNN of one direction or two; every step, or the last state."""
    op_type, gates = b.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    hidden, ways = b.width(1, 8), b.pick([1, 2])
    direction = "bidirectional" if ways == 2 else b.pick(["forward", "reverse"])
    inputs = [
        b.op("Transpose", x.name, perm=[1, 0, 2]),
        b.weight(ways, gates * hidden, x.channels, inputs=x.channels),
        b.weight(ways, gates * hidden, hidden, inputs=hidden),
    ]
    if b.chance(0.7):
        inputs.append(b.weight(ways, 2 * gates * hidden, inputs=4))
    extra: dict[str, Any] = {"linear_before_reset": 1} if op_type == "GRU" and b.chance(0.5) else {}
    if b.batch == 2 and b.chance(0.4):
        inputs += [""] * (5 - len(inputs)) + [b.weight(ways, 2, hidden, inputs=4)]
        if op_type == "LSTM":
            inputs.append(b.weight(ways, 2, hidden, inputs=4))
    steps, last = b.op(op_type, *inputs, outputs=2, hidden_size=hidden, direction=direction, **extra)
    if b.chance(0.4):
        if ways == 1:
            return Flow(b.op("Squeeze", last, b.ints(0)), (hidden,))
        ends = [b.op("Gather", last, b.scalar(way, np.int64), axis=0) for way in range(2)]
        return Flow(b.op("Concat", *ends, axis=-1), (2 * hidden,))
    if ways == 1:
        name = b.op("Transpose", b.op("Squeeze", steps, b.ints(1)), perm=[1, 0, 2])
    else:
        name = b.reshape(b.op("Transpose", steps, perm=[2, 0, 1, 3]), [], [x.sizes[0], 2 * hidden], x.name)
    return Flow(name, (x.sizes[0], ways * hidden))


@production(2)
def image(b: Builder, x: Flow) -> Flow:
    """Lay tokens out as an image again."""
    count, channels = x.sizes
    height = next(size for size in (4, 3, 2, 1) if count % size == 0)
    sizes = (channels, height, count // height)
    turned = b.op("Transpose", x.name, perm=[0, 2, 1])
    return Flow(b.reshape(turned, [channels, count], sizes, x.name), sizes)


@production(2)
def pooled_tokens(b: Builder, x: Flow) -> Flow:
    kind = int(b.rng.integers(5))
    if kind == 0:
        return Flow(b.op("Gather", x.name, b.scalar(0, np.int64), axis=1), (x.channels,))
    if kind == 1:
        sliced = b.op("Slice", x.name, b.ints(-1), b.ints(2**40), b.ints(1))
        return Flow(b.op("Squeeze", sliced, b.ints(1)), (x.channels,))
    if kind == 2:
        flat = math.prod(x.sizes)
        return Flow(b.reshape(x.name, x.sizes, [flat]), (flat,)) if flat <= 128 else x
    op_type = b.pick(["ReduceMean", "ReduceSumSquare", "ReduceLogSum", "ReduceProd", "ReduceMax"])
    source = b.op("Softplus", x.name) if op_type == "ReduceLogSum" else b.op("Tanh", x.name)
    return Flow(reduce(b, source, op_type, [1], keepdims=0), (x.channels,))


@production(2, weight=0.7, keeps=True)
def along_tokens(b: Builder, x: Flow) -> Flow:
    kind = int(b.rng.integers(5))
    if kind == 0:
        return b.apply(x, "CumSum", b.scalar(1, np.int64))
    if kind == 1:
        return replace(x, name=b.op("TopK", x.name, b.ints(x.sizes[0]), axis=1, outputs=2)[0])
    if kind == 2:
        return b.apply(x, b.pick(["Softmax", "LogSoftmax"]), axis=b.pick([1, -2, -1]))
    if kind == 3:  # tokens are mixed, as in an MLP-Mixer
        turned = Flow(b.op("Transpose", x.name, perm=[0, 2, 1]), (x.channels, x.sizes[0]))
        weight = b.weight(turned.channels, 2 * turned.channels, inputs=turned.channels)
        hidden = b.op("Relu", b.op("MatMul", turned.name, weight))
        mixed = b.op("MatMul", hidden, b.weight(2 * turned.channels, turned.channels, inputs=turned.channels))
        return replace(x, name=b.op("Add", x.name, b.op("Transpose", mixed, perm=[0, 2, 1])))
    if kind == 4 and b.chance(0.3):
        return b.apply(x, "Add", b.op("Hardmax", x.name, axis=b.pick([1, -2])))
    best = b.op(b.pick(["ArgMax", "ArgMin"]), x.name, axis=1, keepdims=1)
    return b.apply(x, "Add", b.op("Cast", best, to=1))


@production(1, 2, weight=0.5)
def split_and_merged(b: Builder, x: Flow) -> Flow:
    """Lay features out in two axes, work on one of them, and merge them again."""
    inner = b.divisor(x.channels)
    outer = x.channels // inner
    apart = b.reshape(x.name, x.sizes, (*x.sizes[:-1], outer, inner))
    if b.chance(0.5):
        changed, sizes = b.op("Mul", apart, b.weight(outer, 1, inputs=1)), x.sizes
    else:
        width = b.width(1, 6)
        changed = b.op("MatMul", apart, b.weight(inner, width, inputs=inner))
        sizes = x.with_channels(outer * width)
    return Flow(b.reshape(changed, [], sizes, x.name), sizes)
