"""Products of bytes that go on in floats, as static quantization leaves them in encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.quantized_net import Codes, QuantizedNet, Reals

WIDTHS = (4, 7, 8, 16, 20, 33)


def linear(net: QuantizedNet, product: Reals) -> Reals:
    """The product rounded to bytes or not, and biases on either side of that."""
    y = _bias(net, product) if net.chance(0.3) else product
    if net.chance(0.75):
        y = net.rounded(y, 0.025)
    return _bias(net, y) if net.chance(0.75) else y


def add(net: QuantizedNet, a: Reals, b: Reals) -> Reals:
    """The sum, rounded to bytes or not."""
    net.words[-1] += " + skip"
    name = net.node("Add", [a.name, b.name][:: net.pick(1, -1)])
    y = Reals(name, a.shape, max(a.quantum, b.quantum))
    return net.rounded(y, 0.03) if net.chance(0.2) else y


def activation(net: QuantizedNet, x: Reals) -> Reals:
    """An activation of any kind, or none."""
    if net.chance(0.15):
        x = net.rounded(x, 0.025)
    # Where there are mere limits between two quantizations, the provider leaves out the first.
    kind = net.pick(*([] if x.codes else ["Relu", "Clip"]), "", "LeakyRelu", "Sigmoid", "Gelu", "Gelu", "Gelu")
    if not kind:
        return x
    net.words[-1] += f" {kind}"
    if kind == "Clip":
        name = net.node(kind, [x.name, net.constant(np.float32(-1)), net.constant(np.float32(1.5))])
    elif kind == "Gelu" and (net.opset < 20 or net.chance(0.5)):
        bell = net.node("Erf", [net.node("Div", [x.name, net.constant(np.float32(np.sqrt(2)))])])
        product = net.node("Mul", [x.name, net.node("Add", [bell, net.constant(np.float32(1))])])
        name = net.node("Mul", [product, net.constant(np.float32(0.5))])
    else:
        name = net.node(kind, [x.name])
    return replace(x, name=name, codes=None)


def normalized(net: QuantizedNet, x: Reals) -> Reals:
    """LayerNormalization, where the operator set has it; its constants in floats or in bytes."""
    width = x.shape[-1]
    if net.opset < 17 or width < 4:
        return x
    net.words[-1] += " LayerNormalization"
    if net.chance(0.3):
        x = net.rounded(x, 0.03)
    scale, bias = net.rng.uniform(0.5, 1.0, width), net.rng.standard_normal(width) * 0.2
    if net.chance(0.3):
        codes = np.rint(scale / 0.01).clip(0, 100).astype(net.type)
        steps = np.rint(bias / 1e-4).astype(np.int32)
        names = [net.dequantized(codes, 0.01), net.dequantized(steps, 1e-4)]
    else:
        names = [net.constant(scale.astype(np.float32)), net.constant(bias.astype(np.float32))]
    epsilon = 0.1  # keeps what is rounded from growing
    return replace(x, name=net.node("LayerNormalization", [x.name, *names], axis=-1, epsilon=epsilon), codes=None)


def reshaped(net: QuantizedNet, x: Codes) -> Codes:
    """The same tokens under another shape: of bytes, or of floats between two quantizations."""
    rows = int(np.prod(x.shape[:-1]))
    shape = net.pick((rows, x.shape[-1]), (1, rows, x.shape[-1]), (rows, 1, x.shape[-1]))
    if len(shape) == len(x.shape):
        return x
    net.words.append("Reshape")
    target = net.constant(np.array(shape, dtype=np.int64))
    if net.chance(0.5) and net.opset >= 14:
        return replace(x, name=net.node("Reshape", [x.name, target]), shape=shape)
    y = net.node("Reshape", [net.real(x), target])
    name = net.node("QuantizeLinear", [y, *net.parameters(x.scale, x.zero)])
    return replace(x, name=name, shape=shape)


def _bias(net: QuantizedNet, x: Reals) -> Reals:
    net.words[-1] += " + bias"
    width = x.shape[-1]
    bias = net.rng.standard_normal(width) * 0.3
    if net.chance(0.3):
        constant = net.dequantized(np.rint(bias / 0.01).clip(-100, 100).astype(np.int8), 0.01)
    else:
        shape = net.pick((width,), (1, width), ())
        constant = net.constant((bias if shape else bias[0]).astype(np.float32).reshape(shape))
    return replace(x, name=net.node("Add", [x.name, constant][:: net.pick(1, -1)]), codes=None)
