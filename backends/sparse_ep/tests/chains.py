"""Chains of two to five random blocks: what a region has to survive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests import layers
from tests.net import Net, Value

Block = Callable[[Net, Value], Value]


def images(net: Net, x: Value) -> Value:
    """Blocks of convolutions, with a head behind them now and then."""
    blocks: list[Block] = [_convolution, _residual, _branches, _separable, _normalised, layers.pool, _unclaimed]
    x = _run(net, x, blocks, (0.25, 0.2, 0.15, 0.1, 0.1, 0.15, 0.05))
    if net.chance(0.3):
        net.words.append("GlobalAveragePool")
        batches = [shape[0] for shape in x.shapes]
        ones = [1] * len(x.spatial[0])
        x = net.node("GlobalAveragePool", [x.name], [(n, x.channels, *ones) for n in batches])
        if net.chance(0.6):
            x = net.node("Flatten", [x.name], [(n, x.channels) for n in batches])
            x = layers.gemm(net, x)
    return x


def tokens(net: Net, x: Value) -> Value:
    """Blocks of matrix products over tokens."""
    blocks: list[Block] = [_linear, _feed_forward, _heads, _unclaimed]
    return _run(net, x, blocks, (0.35, 0.35, 0.2, 0.1))


def _run(net: Net, x: Value, blocks: list[Block], odds: tuple[float, ...]) -> Value:
    x = blocks[0](net, x)
    for _ in range(net.pick(1, 2, 3, 4)):
        if net.chance(0.15):
            net.words.append("output")
            net.output(x)
        x = net.pick(*blocks, p=odds)(net, x)
    return x


def _convolution(net: Net, x: Value) -> Value:
    y = layers.convolution(net, x, net.pick(4, 8, 16, 24, 33))
    if net.chance(0.1):  # the value between a layer and its activation is asked for too
        net.output(y)
    return layers.activation(net, y)


def _add(net: Net, a: Value, b: Value) -> Value:
    net.words[-1] += " + skip"
    return net.node("Add", [a.name, b.name][:: net.pick(1, -1)], a.shapes)


def _residual(net: Net, x: Value) -> Value:
    y = layers.activation(net, layers.convolution(net, x, net.pick(4, 16, 17), plain=True))
    y = layers.convolution(net, y, x.channels, plain=True)
    return layers.activation(net, _add(net, y, x))


def _branches(net: Net, x: Value) -> Value:
    channels = net.pick(4, 8, 17)
    left = layers.activation(net, layers.convolution(net, x, channels, plain=True))
    right = layers.convolution(net, x, channels, plain=True)
    how = net.pick("Add", "Concat", "both")
    net.words.append(f"join by {how}")
    if how == "both":
        net.output(right)
    if how != "Concat":
        return layers.activation(net, _add(net, left, right))
    shapes = [(n, 2 * channels, *spatial) for (n, _, *spatial) in left.shapes]
    return net.node("Concat", [left.name, right.name], shapes, axis=1)


def _separable(net: Net, x: Value) -> Value:
    net.words.append("depthwise")
    size = net.pick(3, 5)
    dims = len(x.spatial[0])
    weights = net.constant(net.weights(x.channels, 1, *[size] * dims))
    net.must_claim += 1
    y = net.node("Conv", [x.name, weights], x.shapes, group=x.channels, pads=[size // 2] * 2 * dims)
    return layers.convolution(net, layers.activation(net, y), net.pick(4, 16, 31), plain=True)


def _normalised(net: Net, x: Value) -> Value:
    y = layers.convolution(net, x, net.pick(4, 16))
    scale, bias, mean = net.bias(y.channels), net.bias(y.channels), net.bias(y.channels)
    variance = np.square(net.bias(y.channels)) + np.float32(0.5)
    net.words[-1] += " BatchNormalization"
    names = [y.name, *map(net.constant, (scale, bias, mean, variance))]
    return layers.activation(net, net.node("BatchNormalization", names, y.shapes))


def _unclaimed(net: Net, x: Value) -> Value:
    kind = net.pick("Tanh", "Mul", "twice")
    net.words.append(kind)
    if kind == "Tanh":
        return net.node("Tanh", [x.name], x.shapes)
    if kind == "Mul":
        return net.node("Mul", [x.name, net.constant(np.float32(1.5))], x.shapes)
    return net.node("Add", [x.name, x.name], x.shapes)


def _linear(net: Net, x: Value) -> Value:
    return layers.activation(net, layers.matmul(net, x, net.pick(8, 16, 33)))


def _normal(net: Net, x: Value) -> Value:
    if net.opset < 17 or net.chance(0.3):
        return x
    net.words[-1] += " LayerNormalization"
    size = x.shapes[0][-1]
    scale, bias = net.constant(net.bias(size)), net.constant(net.bias(size))
    return net.node("LayerNormalization", [x.name, scale, bias], x.shapes, axis=-1)


def _feed_forward(net: Net, x: Value) -> Value:
    y = layers.activation(net, layers.matmul(net, x, net.pick(16, 48, 65)))
    return _normal(net, _add(net, layers.matmul(net, y, x.shapes[0][-1]), x))


def _heads(net: Net, x: Value) -> Value:
    """Two products of one input that meet in a product without weights."""
    size = net.pick(8, 16)
    query, key = layers.matmul(net, x, size), layers.matmul(net, x, size)
    net.words.append("attention")
    rank = len(x.shapes[0])
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned = net.node("Transpose", [key.name], [(*s[:-2], s[-1], s[-2]) for s in key.shapes], perm=order)
    scores = net.node("MatMul", [query.name, turned.name], [(*s[:-1], s[-2]) for s in query.shapes])
    shares = net.node("Softmax", [scores.name], scores.shapes, axis=-1)
    return net.node("MatMul", [shares.name, x.name], x.shapes)
