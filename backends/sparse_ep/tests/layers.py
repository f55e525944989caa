"""Layers with random attributes, appended to a `tests.net.Net`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.net import Net, Shape, Value

ACTIVATIONS = ("", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Gelu", "ErfGelu", "SiLU")
CHANNELS = (1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 64, 96, 130)


def conv_size(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], auto: str) -> int:
    """Length of a convolution's output along one dimension; 0 or less where it does not fit."""
    if auto.startswith("SAME"):
        return -(-size // stride)
    return (size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1


def convolution(net: Net, x: Value, outputs: int = 0, plain: bool = False) -> Value:
    """A random convolution; `plain`: one that keeps the spatial size, as residual blocks need it."""
    dims = len(x.spatial[0])
    outputs = outputs or net.pick(*CHANNELS)
    shortest = [min(sizes) for sizes in zip(*x.spatial, strict=True)]
    kernel = [net.pick(1, 3)] * dims if plain or net.chance(0.6) else [net.pick(1, 2, 3, 4, 5, 7) for _ in range(dims)]
    strides = [1] * dims if plain else [net.pick(1, 2, 3, p=(0.6, 0.3, 0.1)) for _ in range(dims)]
    dilations = [1] * dims if plain else [net.pick(1, 2, 3, p=(0.7, 0.2, 0.1)) for _ in range(dims)]
    auto = "NOTSET" if plain else net.pick("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", p=(0.7, 0.1, 0.1, 0.1))
    if auto.startswith("SAME"):
        dilations = [1] * dims
    most = 0 if auto != "NOTSET" else 1 if plain else 3
    pads = [(net.pick(*range(most + 1)), net.pick(*range(most + 1))) for _ in range(dims)]
    if plain:
        pads = [(size // 2, size // 2) for size in kernel]
    for axis in range(dims):  # what does not fit becomes a window of one
        if conv_size(shortest[axis], kernel[axis], strides[axis], dilations[axis], pads[axis], auto) < 1:
            kernel[axis], dilations[axis] = 1, 1
    groups = 1
    if net.chance(0.25):
        common = [g for g in range(2, x.channels + 1) if x.channels % g == 0 and (g <= 8 or g == x.channels)]
        groups = net.pick(*common) if common else 1
        outputs = -(-outputs // groups) * groups if not plain else outputs
        groups = groups if outputs % groups == 0 else 1
    sizes = "x".join(map(str, kernel))
    net.words.append(
        f"Conv {x.channels}→{outputs} {sizes} s{strides} d{dilations} p{pads if auto == 'NOTSET' else auto} g{groups}"
    )
    inputs = [x.name, net.constant(net.weights(outputs, x.channels // groups, *kernel))]
    if net.chance(0.7):
        inputs.append(net.constant(net.bias(outputs)))
    shapes = [
        (batch, outputs, *map(conv_size, spatial, kernel, strides, dilations, pads, [auto] * dims))
        for (batch, _, *spatial) in x.shapes
    ]
    attributes: dict[str, Any] = {"kernel_shape": kernel} if net.chance(0.7) else {}
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif any(map(any, pads)):
        attributes["pads"] = [begin for begin, _ in pads] + [end for _, end in pads]
    if max(strides) > 1:
        attributes["strides"] = strides
    if max(dilations) > 1:
        attributes["dilations"] = dilations
    if groups != 1:
        attributes["group"] = groups
    net.must_claim += 1
    return net.node("Conv", inputs, shapes, **attributes)


def gemm(net: Net, x: Value, outputs: int = 0) -> Value:
    """A random Gemm of a matrix with constant weights."""
    outputs = outputs or net.pick(*CHANNELS)
    inputs = x.shapes[0][1]
    transposed, alpha, beta = net.chance(0.6), net.pick(1.0, 1.0, 0.5, -2.0), net.pick(1.0, 1.0, 0.25, 0.0)
    form = net.pick("", "N", "1xN", "scalar", "1x1")
    net.words.append(f"Gemm {inputs}→{outputs} transB={transposed:d} alpha={alpha} beta={beta} C={form or 'none'}")
    weights = net.weights(outputs, inputs)
    names = [x.name, net.constant(weights if transposed else weights.T)]
    if form:
        shape: dict[str, Shape] = {"N": (outputs,), "1xN": (1, outputs), "scalar": (), "1x1": (1, 1)}
        names.append(net.constant(net.bias(*shape[form])))
    net.must_claim += 1
    return net.node(
        "Gemm", names, [(rows, outputs) for rows, _ in x.shapes], transB=int(transposed), alpha=alpha, beta=beta
    )


def matmul(net: Net, x: Value, outputs: int = 0) -> Value:
    """A MatMul with constant weights, often with a bias added on either side."""
    outputs = outputs or net.pick(*CHANNELS)
    inputs = x.shapes[0][-1]
    net.words.append(f"MatMul {inputs}→{outputs}")
    name = net.constant(net.weights(outputs, inputs).T)
    shapes = [(*shape[:-1], outputs) for shape in x.shapes]
    net.must_claim += 1
    y = net.node("MatMul", [x.name, name], shapes)
    if net.chance(0.6):
        pair = [y.name, net.constant(net.bias(outputs))]
        net.words[-1] += " + bias"
        y = net.node("Add", pair[:: net.pick(1, -1)], shapes)
    return y


def activation(net: Net, x: Value, kind: str | None = None) -> Value:
    """The activation, a random one if it is not given; "" is none."""
    kind = net.pick(*ACTIVATIONS) if kind is None else kind
    kind = "ErfGelu" if kind == "Gelu" and net.opset < 20 else kind
    kind = "Relu" if kind == "HardSwish" and net.opset < 14 else kind
    if not kind:
        return x
    net.words[-1] += f" {kind}"

    def node(op: str, inputs: list[str], **attributes: Any) -> Value:
        return net.node(op, inputs, x.shapes, **attributes)

    def number(value: float) -> str:
        return net.constant(np.float32(value))

    if kind == "LeakyRelu":
        return node(kind, [x.name], **net.pick({}, {"alpha": 0.2}, {"alpha": 1.5}, {"alpha": -0.3}))
    if kind == "HardSigmoid":
        return node(kind, [x.name], **net.pick({}, {"alpha": 1 / 6, "beta": 0.5}))
    if kind == "Clip":
        low, high = net.pick((-0.5, 0.75), (0.0, 6.0), (None, 0.5), (-0.25, None), (None, None))
        net.words[-1] += f"({low}, {high})"
        bounds = ["" if bound is None else number(bound) for bound in (low, high)]
        return node("Clip", [x.name, *bounds] if any(bounds) else [x.name])
    if kind == "Gelu":
        return node("Gelu", [x.name], approximate=net.pick("none", "tanh"))
    if kind == "SiLU":
        return node("Mul", [x.name, node("Sigmoid", [x.name]).name][:: net.pick(1, -1)])
    if kind == "ErfGelu":
        root = net.pick("Div", "Mul")
        scaled = node(root, [x.name, number(np.sqrt(2.0) if root == "Div" else np.sqrt(0.5))])
        shifted = node("Add", [node("Erf", [scaled.name]).name, number(1.0)])
        if net.chance(0.5):  # x * (1 + erf) * 0.5, or x * ((1 + erf) * 0.5)
            return node("Mul", [node("Mul", [x.name, shifted.name]).name, number(0.5)])
        return node("Mul", [x.name, node("Mul", [shifted.name, number(0.5)]).name])
    return node(kind, [x.name])


def pool(net: Net, x: Value) -> Value:
    """A MaxPool or AveragePool that fits, or else the value itself."""
    dims = len(x.spatial[0])
    kind, kernel, stride = net.pick("MaxPool", "AveragePool"), net.pick(2, 3), net.pick(1, 2)
    pad, ceil = net.pick(0, 1), net.chance(0.25)
    if min(min(sizes) for sizes in x.spatial) < kernel:
        return x
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * dims, "strides": [stride] * dims}
    if pad:
        attributes["pads"] = [pad] * (2 * dims)
    if ceil:
        attributes["ceil_mode"] = 1
    if kind == "AveragePool" and net.chance(0.5):
        attributes["count_include_pad"] = 1

    def size(length: int) -> int:
        count: int = -(-(length + 2 * pad - kernel) // stride) if ceil else (length + 2 * pad - kernel) // stride
        # A window that would start in the padding behind the input is left out.
        return count if ceil and count * stride >= length + pad else count + 1

    net.words.append(f"{kind} {kernel} s{stride} p{pad} ceil={ceil:d} {attributes.get('count_include_pad', '')}")
    shapes = [(batch, channels, *map(size, spatial)) for (batch, channels, *spatial) in x.shapes]
    return net.node(kind, [x.name], shapes, **attributes)
