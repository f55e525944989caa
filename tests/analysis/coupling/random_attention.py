"""Attention in the spellings of exporters, for random graphs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tests.analysis.coupling.random_builder import Builder, Flow, production
from tests.analysis.coupling.random_sequences import linear

__all__: list[str] = []


@production(2, weight=4, keeps=True)
def attention(b: Builder, x: Flow) -> Flow:
    """Heads read queries, keys and values, and a projection adds what they find to ``x``."""
    build = b.pick([_separate, _separate, _split, _stacked, _shared_keys, _by_einsum, _folded_heads, _fused, _fused])
    merged = build(b, x)
    weight = b.weight(merged.channels, x.channels, inputs=merged.channels)
    name = b.op("MatMul", merged.name, weight)
    if b.chance(0.5):
        name = b.op("Add", name, b.vector(x.channels))
    return replace(x, name=b.op("Add", x.name, name))


def _heads(b: Builder) -> tuple[int, int]:
    return int(b.pick([2, 3, 4])), int(b.pick([2, 3]))


def _projected(b: Builder, x: Flow, features: int) -> Flow:
    found = linear(b, x, features)
    if found.channels != features:
        found = Flow(b.op("MatMul", x.name, b.weight(x.channels, features, inputs=x.channels)), (x.sizes[0], features))
    return found


def _by_head(b: Builder, x: Flow, heads: int, perm: tuple[int, ...] = (0, 2, 1, 3)) -> str:
    apart = b.reshape(x.name, x.sizes, [x.sizes[0], heads, x.channels // heads])
    return str(b.op("Transpose", apart, perm=list(perm)))


def _attend(b: Builder, query: str, turned_key: str, value: str, each: int) -> str:
    """Add a scaled softmax; the scale is written down, or computed from the size of a head."""
    kind = int(b.rng.integers(4))
    scale = b.scalar(1 / math.sqrt(each))
    if kind == 0:
        size = b.op("Gather", b.op("Shape", query), b.scalar(3, np.int64), axis=0)
        scale = b.op("Reciprocal", b.op("Sqrt", b.op("Cast", size, to=1)))
    if kind == 1:
        size = b.op("Slice", b.op("Shape", value), b.ints(-1), b.ints(2**62))
        scale = b.op("Div", b.scalar(1), b.op("Sqrt", b.op("Cast", size, to=1)))
    if kind == 2:
        scores = b.op("MatMul", b.op("Mul", query, scale), turned_key)
    else:
        scores = b.op("Mul", b.op("MatMul", query, turned_key), scale)
    if b.chance(0.3):
        scores = b.op("Where", b.op("Greater", scores, b.scalar(-1.5)), scores, b.scalar(-9))
    return str(b.op("MatMul", b.op("Softmax", scores, axis=-1), value))


def _merged(b: Builder, found: str, x: Flow, width: int) -> Flow:
    sizes = (x.sizes[0], width)
    return Flow(b.reshape(b.op("Transpose", found, perm=[0, 2, 1, 3]), [x.sizes[0]], sizes, x.name), sizes)


def _separate(b: Builder, x: Flow) -> Flow:
    heads, each = _heads(b)
    query, key = (_projected(b, x, heads * each) for _ in range(2))
    value = _projected(b, x, heads * (other := int(b.pick([each, each, 4]))))
    if b.chance(0.5):
        turned = _by_head(b, key, heads, (0, 2, 3, 1))
    else:
        turned = b.op("Transpose", _by_head(b, key, heads), perm=[0, 1, 3, 2])
    found = _attend(b, _by_head(b, query, heads), turned, _by_head(b, value, heads), each)
    return _merged(b, found, x, heads * other)


def _split(b: Builder, x: Flow) -> Flow:
    heads, each = _heads(b)
    parts = b.op("Split", _projected(b, x, 3 * heads * each).name, b.ints(*[heads * each] * 3), axis=2, outputs=3)
    query, key, value = (Flow(name, (x.sizes[0], heads * each)) for name in parts)
    turned = _by_head(b, key, heads, (0, 2, 3, 1))
    return _merged(b, _attend(b, _by_head(b, query, heads), turned, _by_head(b, value, heads), each), x, heads * each)


def _stacked(b: Builder, x: Flow) -> Flow:
    """Queries, keys and values lie along an axis of their own, from which they are picked."""
    heads, each = _heads(b)
    apart = b.reshape(_projected(b, x, 3 * heads * each).name, (), [x.sizes[0], 3, heads, each], x.name)
    stacked = b.op("Transpose", apart, perm=[2, 0, 3, 1, 4])
    if b.chance(0.5):
        query, key, value = (b.op("Gather", stacked, b.scalar(place, np.int64), axis=0) for place in range(3))
    else:
        parts = b.op("Split", stacked, b.ints(1, 1, 1), axis=0, outputs=3)
        query, key, value = (b.op("Squeeze", part, b.ints(0)) for part in parts)
    turned = b.op("Transpose", key, perm=[0, 1, 3, 2])
    return _merged(b, _attend(b, query, turned, value, each), x, heads * each)


def _shared_keys(b: Builder, x: Flow) -> Flow:
    """Several query heads read one key head, which is repeated for them."""
    heads, each = int(b.pick([2, 3])), int(b.pick([2, 3]))
    repeats = 2
    query = _by_head(b, _projected(b, x, heads * repeats * each), heads * repeats)
    tokens = x.sizes[0]
    repeated = []
    for _ in range(2):
        one = b.op("Unsqueeze", _by_head(b, _projected(b, x, heads * each), heads), b.ints(2))
        if b.chance(0.5):
            many = b.op("Expand", one, b.shape_operand([(x.name, 0), heads, repeats, tokens, each]))
        else:
            many = b.op("Tile", one, b.ints(1, 1, repeats, 1, 1))
        repeated.append(b.reshape(many, [heads], [heads * repeats, tokens, each], x.name))
    turned = b.op("Transpose", repeated[0], perm=[0, 1, 3, 2])
    return _merged(b, _attend(b, query, turned, repeated[1], each), x, heads * repeats * each)


def _by_einsum(b: Builder, x: Flow) -> Flow:
    """Weights have an axis of heads and one of features, as flax has them."""
    heads, each = _heads(b)
    query, key, value = (
        b.op("Einsum", x.name, b.weight(x.channels, heads, each, inputs=x.channels), equation="bte,ehd->bthd")
        for _ in range(3)
    )
    if b.chance(0.5):
        query = b.op("Add", query, b.weight(heads, each, inputs=4))
    scores = b.op("Einsum", b.op("Mul", query, b.scalar(1 / math.sqrt(each))), key, equation="bqhd,bkhd->bhqk")
    found = b.op("Einsum", b.op("Softmax", scores, axis=3), value, equation="bhqk,bkhd->bqhd")
    sizes = (x.sizes[0], heads * each)
    return Flow(b.reshape(found, [x.sizes[0]], sizes, x.name), sizes)


def _folded_heads(b: Builder, x: Flow) -> Flow:
    """Heads and samples lie along one axis, as torch's ``bmm`` wants them."""
    heads, each = _heads(b)
    tokens = x.sizes[0]
    folded = [
        b.op("Reshape", _by_head(b, _projected(b, x, heads * each), heads), b.ints(-1, tokens, each)) for _ in range(3)
    ]
    scores = b.op("MatMul", folded[0], b.op("Transpose", folded[1], perm=[0, 2, 1]))
    found = b.op("MatMul", b.op("Softmax", scores, axis=-1), folded[2])
    apart = b.op("Reshape", found, b.shape_operand([b.pick([(x.name, 0), -1]), heads, tokens, each]))
    return _merged(b, apart, x, heads * each)


def _fused(b: Builder, x: Flow) -> Flow:
    """Attention as one operator."""
    heads, each = int(b.pick([2, 4])), 4
    width = heads * each
    kind = int(b.rng.integers(5))
    if kind == 0:
        inputs = [x.name, b.weight(x.channels, 3 * width, inputs=x.channels), b.vector(3 * width)]
        return Flow(b.op("Attention", *inputs, domain="com.microsoft", num_heads=heads), (x.sizes[0], width))
    if kind == 1 or b.opset < 23:
        operands = [_projected(b, x, width).name for _ in range(3)]
        return Flow(b.op("MultiHeadAttention", *operands, domain="com.microsoft", num_heads=heads), (x.sizes[0], width))
    # onnx infers nothing from an operand of unknown width, and wrongly where keys have fewer heads
    query, key, value = (b.op("MatMul", x.name, b.weight(x.channels, width, inputs=x.channels)) for _ in range(3))
    if kind == 2:
        angles = [b.constant(np.cos(b.rng.random((1, x.sizes[0], each // 2)) + k).astype(np.float32)) for k in range(2)]
        rows = [b.op("Expand", item, b.shape_operand([(x.name, 0), x.sizes[0], each // 2])) for item in angles]
        query = b.op("RotaryEmbedding", query, *rows, num_heads=heads)
    found = b.op("Attention", query, key, value, q_num_heads=heads, kv_num_heads=heads)
    return Flow(found, (x.sizes[0], width))
