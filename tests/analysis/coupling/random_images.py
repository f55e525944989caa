"""Pieces of networks on images (channels, height, width), for random graphs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tests.analysis.coupling.random_builder import Builder, Flow, production

__all__ = ["conv", "norm"]

LARGEST = 12


def conv(b: Builder, x: Flow, channels: int, kernel: int = 1, group: int = 1, **attributes: Any) -> Flow:
    """Add a convolution that keeps height and width; its weights may come out of a small chain."""
    shape = (channels, x.channels // group, kernel, kernel)
    weight = b.weight(*shape)
    kind = int(b.rng.integers(12))
    if kind == 0 and kernel == 1:
        matrix = b.weight(*shape[:2])
        weight = b.op("Reshape", matrix, b.ints(*shape)) if b.chance(0.5) else b.op("Unsqueeze", matrix, b.ints(2, 3))
    elif kind == 1:
        weight = b.op("Mul", weight, b.weight(channels, 1, 1, 1, inputs=1))
    elif kind == 2:
        weight = b.op("Transpose", b.weight(shape[1], shape[0], *shape[2:], inputs=shape[1]), perm=[1, 0, 2, 3])
    bias = [b.vector(channels)] if b.chance(0.6) else []
    if kernel > 1:
        attributes |= b.pick([{"pads": [kernel // 2] * 4}, {"auto_pad": "SAME_UPPER"}])
    return Flow(b.op("Conv", x.name, weight, *bias, group=group, **attributes), x.with_channels(channels))


@production(3, weight=3)
def dense_conv(b: Builder, x: Flow) -> Flow:
    y = conv(b, x, b.width(), b.pick([1, 1, 3]))
    return norm(b, y) if b.chance(0.5) else y


@production(3)
def strided_conv(b: Builder, x: Flow) -> Flow:
    channels, stride = b.width(), 2 if min(x.sizes[1:]) > 2 else 1
    name = b.op("Conv", x.name, b.weight(channels, x.channels, 3, 3), strides=[stride] * 2, pads=[1] * 4)
    return Flow(name, (channels, *(-(-size // stride) for size in x.sizes[1:])))


@production(3, weight=1.5)
def grouped_conv(b: Builder, x: Flow) -> Flow:
    group = b.divisor(x.channels)
    return conv(b, x, b.width(group), b.pick([1, 3]), group)


@production(3, weight=1.5)
def depthwise_conv(b: Builder, x: Flow) -> Flow:
    return norm(b, conv(b, x, x.channels * b.pick([1, 1, 2]), 3, x.channels)) if x.channels <= LARGEST else x


@production(3)
def transposed_conv(b: Builder, x: Flow) -> Flow:
    group = b.pick([1, 1, b.divisor(x.channels), x.channels])
    outputs = b.width(1, 12 // min(group, 6))
    large = max(x.sizes[1:]) > 6
    weight = b.weight(x.channels, outputs, 2, 2, inputs=x.channels // group)
    bias = [b.vector(outputs * group)] if b.chance(0.5) else []
    attributes: dict[str, Any] = {"pads": [1, 0, 0, 1]} if large else {"strides": [2, 2]}
    name = b.op("ConvTranspose", x.name, weight, *bias, group=group, **attributes)
    sizes = x.sizes[1:] if large else tuple(2 * size for size in x.sizes[1:])
    return Flow(name, (outputs * group, *sizes))


@production(3)
def conv_along_one_axis(b: Builder, x: Flow) -> Flow:
    channels, height, width = b.width(), *x.sizes[1:]
    flat = b.reshape(x.name, x.sizes, [x.channels, height * width])
    if b.chance(0.3):
        deep = b.op("Unsqueeze", flat, b.ints(2, 4))
        name = b.op("Conv", deep, b.weight(channels, x.channels, 1, 3, 1), pads=[0, 1, 0, 0, 1, 0])
        name = b.op("Squeeze", name, *([b.ints(2, 4)] if b.chance(0.7) or b.batch != 2 else [b.ints(-1, 2)]))
    else:
        name = b.op("Conv", flat, b.weight(channels, x.channels, 3), pads=[1, 1])
    sizes = (channels, height, width)
    return Flow(b.reshape(name, (channels, height * width), sizes), sizes)


@production(3, keeps=True)
def norm(b: Builder, x: Flow) -> Flow:
    vectors = b.vector(x.channels), b.vector(x.channels)
    kind = int(b.rng.integers(8))
    if kind <= 3:
        positive = b.weight(x.channels, offset=0.5)
        return b.apply(x, "BatchNormalization", *vectors, b.vector(x.channels), positive)
    if kind == 4:
        return b.apply(x, "InstanceNormalization", *vectors)
    if kind == 5 and b.opset >= 21:
        return b.apply(x, "GroupNormalization", *vectors, num_groups=b.divisor(x.channels))
    if kind == 6:
        return _groups_by_instances(b, x)
    return _layers_by_transposing(b, x)


def _groups_by_instances(b: Builder, x: Flow) -> Flow:
    groups = b.divisor(x.channels)
    flat = b.reshape(x.name, x.sizes, [groups, math.prod(x.sizes) // groups])
    ones, zeros = b.constant(np.ones(groups, np.float32)), b.constant(np.zeros(groups, np.float32))
    back = b.reshape(b.op("InstanceNormalization", flat, ones, zeros), [groups], x.sizes, x.name)
    scaled = b.op("Mul", back, b.weight(x.channels, 1, 1, inputs=1))
    return replace(x, name=b.op("Add", scaled, b.weight(x.channels, 1, 1, inputs=1)))


def _layers_by_transposing(b: Builder, x: Flow) -> Flow:
    last = b.op("Transpose", x.name, perm=[0, 2, 3, 1])
    if b.opset >= 17:
        last = b.op("LayerNormalization", last, b.vector(x.channels), b.vector(x.channels))
    else:
        centred = b.op("Sub", last, reduce(b, last, "ReduceMean", [3]))
        last = b.op("Div", centred, b.op("Add", reduce(b, centred, "ReduceL2", [3]), b.scalar(0.2)))
    return replace(x, name=b.op("Transpose", last, perm=[0, 3, 1, 2]))


@production(3, weight=0.6, keeps=True)
def other_norm(b: Builder, x: Flow) -> Flow:
    kind = int(b.rng.integers(4))
    if kind == 0:
        return b.apply(x, "LRN", size=3)
    if kind == 1:
        varied = b.apply(x, "Add", b.weight(*x.sizes, inputs=4))  # it divides by a deviation of 0 without care
        return b.apply(varied, "MeanVarianceNormalization", axes=b.pick([[2, 3], [0, 2, 3]]))
    if kind == 2:
        shifted = b.apply(x, "Add", b.scalar(1.5))
        return b.apply(shifted, "LpNormalization", axis=b.pick([1, 2, 3]), p=2)
    square = b.op("Mul", x.name, x.name)
    mean = reduce(b, square, "ReduceMean", [1])
    return b.apply(x, "Div", b.op("Sqrt", b.op("Add", mean, b.scalar(0.1))))


def reduce(b: Builder, source: str, op_type: str, axes: list[int], keepdims: int = 1) -> str:
    """Add a reduction, in the spelling of the opset."""
    if b.opset >= 18 or op_type == "ReduceSum":
        return str(b.op(op_type, source, b.ints(*axes), keepdims=keepdims))
    return str(b.op(op_type, source, axes=axes, keepdims=keepdims))


@production(3, weight=1.2, keeps=True)
def squeeze_and_excite(b: Builder, x: Flow) -> Flow:
    kind = int(b.rng.integers(4))
    pools = ["GlobalAveragePool", "GlobalMaxPool", *(["GlobalLpPool"] if b.opset < 22 else [])]
    small = Flow(b.op(b.pick(pools), x.name), (x.channels, 1, 1))
    if kind == 0:
        small = replace(small, name=reduce(b, x.name, "ReduceMean", b.pick([[2, 3], [-1, -2]])))
    if kind == 1:  # through a vector, and back by Expand
        vector = reduce(b, x.name, "ReduceMean", [2, 3], keepdims=0)
        hidden = b.op("Relu", b.op("MatMul", vector, b.weight(x.channels, 4, inputs=x.channels)))
        gate = b.op("Sigmoid", b.op("MatMul", hidden, b.weight(4, x.channels, inputs=4)))
        gate = b.op("Expand", b.op("Unsqueeze", gate, b.ints(2, 3)), b.op("Shape", x.name))
    else:
        hidden = b.apply(conv(b, small, b.width(1, 6)), b.pick(["Relu", "HardSwish"] if b.opset >= 14 else ["Relu"]))
        gate = b.op(b.pick(["Sigmoid", "HardSigmoid"]), conv(b, hidden, x.channels).name)
    return b.apply(x, "Mul", gate)


@production(3)
def pool(b: Builder, x: Flow) -> Flow:
    if min(x.sizes[1:]) < 2:
        return x
    op_type = b.pick(["MaxPool", "AveragePool", "LpPool"])
    name = b.op(op_type, x.name, kernel_shape=[2, 2], strides=[2, 2])
    return Flow(name, (x.channels, *(size // 2 for size in x.sizes[1:])))


@production(3, keeps=True)
def pool_in_place(b: Builder, x: Flow) -> Flow:
    if b.chance(0.3) and all(size % 2 == 0 for size in x.sizes[1:]):
        values, positions = b.op("MaxPool", x.name, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
        changed = conv(b, Flow(values, (x.channels, 0, 0)), x.channels) if b.chance(0.4) else Flow(values, ())
        unpool = b.op("MaxUnpool", changed.name, positions, kernel_shape=[2, 2], strides=[2, 2])
        return replace(x, name=unpool)
    op_type = b.pick(["MaxPool", "AveragePool"])
    return b.apply(x, op_type, kernel_shape=[3, 3], pads=[1] * 4)


@production(3)
def resize(b: Builder, x: Flow) -> Flow:
    if max(x.sizes[1:]) > 4:
        return x
    sizes = (x.channels, *(2 * size for size in x.sizes[1:]))
    kind = int(b.rng.integers(3))
    region = "" if b.opset >= 13 else b.constant(np.zeros(0, np.float32))
    if kind == 0:
        scales = b.constant(np.array([1, 1, 2, 2], np.float32))
        return Flow(b.op("Resize", x.name, region, scales, mode=b.pick(["nearest", "linear"])), sizes)
    if kind == 1 and b.opset >= 18:
        return Flow(b.op("Resize", x.name, "", "", b.ints(*sizes[1:]), mode="linear", axes=[2, 3]), sizes)
    wanted = b.shape_operand([(x.name, 0), (x.name, 1), *sizes[1:]])
    none = region and b.constant(np.zeros(0, np.float32))
    return Flow(b.op("Resize", x.name, region, none, wanted, mode="nearest"), sizes)


@production(3)
def pad(b: Builder, x: Flow) -> Flow:
    if max(x.sizes[1:]) > 6 or min(x.sizes[1:]) < 2:
        return x
    mode = b.pick(["constant", "reflect", "edge"])
    if b.opset >= 18 and b.chance(0.4):
        name = b.op("Pad", x.name, b.ints(1, 0, 0, 1), "", b.ints(2, -1), mode=mode)
    else:
        name = b.op("Pad", x.name, b.ints(0, 0, 1, 0, 0, 0, 0, 1), mode=mode)
    return Flow(name, (x.channels, x.sizes[1] + 1, x.sizes[2] + 1))


@production(3, weight=1.5)
def space_and_depth(b: Builder, x: Flow) -> Flow:
    channels, height, width = x.sizes
    if channels % 4 and max(height, width) <= 4 and b.chance(0.5):
        x = conv(b, x, channels := 4 * b.width(1, 4))
    if b.chance(0.7) and channels % 4 == 0 and max(height, width) <= 4:
        sizes = (channels // 4, 2 * height, 2 * width)
        if b.chance(0.4):
            split = b.reshape(x.name, x.sizes, [channels // 4, 2, 2, height, width])
            order = b.op("Transpose", split, perm=[0, 1, 4, 2, 5, 3])
            return Flow(b.reshape(order, [], sizes, x.name), sizes)
        return Flow(b.op("DepthToSpace", x.name, blocksize=2, mode=b.pick(["DCR", "CRD"])), sizes)
    if channels <= LARGEST and height % 2 == 0 and width % 2 == 0:
        return Flow(b.op("SpaceToDepth", x.name, blocksize=2), (4 * channels, height // 2, width // 2))
    return x


@production(3, weight=1.5, keeps=True)
def shuffle(b: Builder, x: Flow) -> Flow:
    groups = b.divisor(x.channels)
    split = b.reshape(x.name, x.sizes, [groups, x.channels // groups, *x.sizes[1:]])
    order = b.op("Transpose", split, perm=[0, 2, 1, 3, 4])
    return replace(x, name=b.reshape(order, [], x.sizes, x.name))


@production(3, weight=0.5, keeps=True)
def sample_grid(b: Builder, x: Flow) -> Flow:
    if b.opset < 16 or b.batch != 2:
        return x
    grid = np.tanh(b.rng.standard_normal((2, *x.sizes[1:], 2))).astype(np.float32)
    return b.apply(x, "GridSample", b.constant(grid), align_corners=1)


@production(3, weight=1)
def regions(b: Builder, x: Flow) -> Flow:
    if not 16 <= b.opset < 22 or b.batch != 2:  # ONNX Runtime has none of opset 22
        return x
    boxes = b.constant(np.array([[0, 0, 2, 2], [1, 0, 3, 3]], np.float32))
    if b.chance(0.4):
        rois = b.op("Concat", b.constant(np.array([[0], [1]], np.float32)), boxes, axis=1)
        return Flow(b.op("MaxRoiPool", x.name, rois, pooled_shape=[2, 2]), (x.channels, 2, 2))
    return Flow(b.op("RoiAlign", x.name, boxes, b.ints(0, 1), output_height=2, output_width=2), (x.channels, 2, 2))


@production(3, weight=1.5)
def tokens(b: Builder, x: Flow) -> Flow:
    """Let positions be tokens, the channels features."""
    count = x.sizes[1] * x.sizes[2]
    if count > 16:
        return x
    if b.chance(0.3):
        last = b.op("Transpose", x.name, perm=[0, 2, 3, 1])
        return Flow(b.reshape(last, [*x.sizes[1:], x.channels], [count, x.channels]), (count, x.channels))
    flat = b.reshape(x.name, x.sizes, [x.channels, count])
    return Flow(b.op("Transpose", flat, perm=[0, 2, 1]), (count, x.channels))


@production(3)
def vector(b: Builder, x: Flow) -> Flow:
    """Flatten, or take the mean of all positions."""
    if math.prod(x.sizes) <= 200 and b.chance(0.6):
        flat = math.prod(x.sizes)
        if b.chance(0.5):
            return Flow(b.op("Flatten", x.name), (flat,))
        return Flow(b.reshape(x.name, x.sizes, [flat]), (flat,))
    if b.chance(0.5):
        pooled = b.op("GlobalAveragePool", x.name)
        name = b.pick([lambda: b.op("Flatten", pooled), lambda: b.op("Squeeze", pooled, b.ints(2, 3))])()
        return Flow(name, (x.channels,))
    op_type = b.pick(["ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum", "ReduceL1", "ReduceLogSumExp"])
    return Flow(reduce(b, x.name, op_type, [2, 3], keepdims=0), (x.channels,))


@production(3, since=18, weight=0.5)
def fused_conv(b: Builder, x: Flow) -> Flow:
    channels = b.width()
    inputs = [x.name, b.weight(channels, x.channels, 1, 1), b.vector(channels)]
    return Flow(b.op("FusedConv", *inputs, domain="com.microsoft", activation="Relu"), x.with_channels(channels))
