"""Random quantized models, each made from its seed: ``python -m tests.quantized_cases SEED`` replays one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime_ep_sparse
from numpy.typing import NDArray
from onnx import TensorProto

from tests import quantized_chains
from tests.layers import conv_size
from tests.quantized_net import Codes, QuantizedNet, Reals
from tests.sessions import claimed, placement, session

# Share of the outputs that may be off by a quantum: those that lie next to the border between two.
RARE = 0.01
# Floats that no rounding follows are held to this.
FLOAT_QUANTUM = 1e-4
CHANNELS = (1, 2, 3, 4, 5, 8, 13, 16, 17, 31, 32, 36, 48, 64)


@dataclass(frozen=True)
class Case:
    """A quantized model and its input."""

    seed: int
    model: onnx.ModelProto
    feed: dict[str, NDArray[Any]]
    options: dict[str, str]
    threads: int
    must_claim: int
    quantum: float  # of the output: 1 for codes, the scale for floats
    single: bool  # a single layer that rounds once
    description: str


def make(seed: int) -> Case:
    """The case of the seed."""
    rng = np.random.default_rng([seed, 8])
    net = QuantizedNet(rng, opset=int(rng.choice([13, 17, 20])), signed=bool(rng.random() < 0.4))
    kind: Callable[[QuantizedNet], Codes | Reals] = net.pick(
        *[_one_convolution] * 3, *[_one_product] * 2, _float_product, *[_chain] * 3, *[_linear] * 2, *[_encoder] * 4
    )
    y = kind(net)
    quantum, name, element = 1.0, y.name, TensorProto.INT8 if net.signed else TensorProto.UINT8
    if isinstance(y, Reals):
        quantum, element = y.quantum, TensorProto.FLOAT
    elif net.chance(0.4):
        quantum, name, element = y.scale, net.real(y), TensorProto.FLOAT
    options = {"threshold": "0", "tuning": "off", "jit": net.pick("on", "on", "off")}
    if net.chance(0.5):
        options["isa"] = net.pick("generic", "avx2", "avx512")
    threads = net.pick(1, 1, 2)
    shapes = " ".join(str(list(x.shape)) for x in net.feed.values())
    settings = " ".join(f"{key}={value}" for key, value in options.items() if key not in ("threshold", "tuning"))
    said = f"{', '.join(net.words)}; {net.type.__name__}; {shapes}; {threads} threads {settings}; opset {net.opset}"
    single = len(net.words) == 1 and kind is not _linear
    model = net.model([(name, element, len(y.shape))])
    return Case(seed, model, net.feed, options, threads, net.must_claim, quantum, single, said)


def check(case: Case) -> None:
    """Raise AssertionError, saying which case it is, if the provider is off by more than a quantum."""
    told = f"quantized seed {case.seed} ({case.description})"
    theirs, ours = session(case.model), session(case.model, case.options, case.threads)
    taken = claimed(ours)
    assert taken >= case.must_claim, f"{told}: {taken} of {case.must_claim} layers claimed, {placement(ours)}"
    mine, other = ours.run(None, case.feed)[0], theirs.run(None, case.feed)[0]
    assert mine.shape == other.shape, f"{told}: {mine.shape} and not {other.shape}"
    assert mine.dtype == other.dtype, f"{told}: {mine.dtype} and not {other.dtype}"
    steps = np.rint(np.abs(mine.astype(np.float64) - other) / case.quantum)
    # Where more is rounded, a value on the border between two quanta moves what is summed later and rounded again.
    assert steps.max(initial=0) <= (1 if case.single else 5), (
        f"{told}: off by {steps.max():.0f} quanta at {int(steps.argmax())}"
    )
    off = int(np.count_nonzero(steps))
    assert off <= max(2, RARE * steps.size), f"{told}: {off} of {steps.size} outputs are off by a quantum"


def _convolution(net: QuantizedNet, x: Codes, outputs: int, keep: bool = False, relu: bool = False) -> Codes:
    """QLinearConv, or Conv between DequantizeLinear and QuantizeLinear; `keep`: the spatial size."""
    dims, channels = len(x.shape) - 2, x.shape[1]
    kernel = [net.pick(1, 3)] * dims
    kernel = [size if keep or size <= length else 1 for size, length in zip(kernel, x.shape[2:], strict=True)]
    strides = [1] * dims if keep else [net.pick(1, 1, 2)] * dims
    pads = [size // 2 if keep or net.chance(0.7) else 0 for size in kernel]
    groups = net.pick(*[g for g in (1, 1, 2, 4, channels) if channels % g == 0 and outputs % g == 0])
    style = net.pick("QLinearConv", "Conv") if not relu else "Conv"
    net.words.append(f"{style} {channels}→{outputs} {kernel} s{strides} p{pads} g{groups}{' Relu' if relu else ''}")
    codes, scales = net.weights(outputs, channels // groups, *kernel)
    bias, steps = net.bias(outputs, scales, x)
    attributes = {"pads": [*pads, *pads], "strides": strides, "group": groups, "kernel_shape": kernel}
    lengths = [
        conv_size(n, k, s, 1, (p, p), "NOTSET") for n, k, s, p in zip(x.shape[2:], kernel, strides, pads, strict=True)
    ]
    shape = (x.shape[0], outputs, *lengths)
    scaled = scales if len(scales) > 1 else scales[0]
    zeros = np.zeros(np.shape(scaled), dtype=np.int8)
    net.must_claim += 1
    if style == "QLinearConv":
        zero, scale = net.pick(0, 12) + (0 if net.signed else 128), float(net.rng.uniform(0.02, 0.03))
        names = [x.name, *net.parameters(x.scale, x.zero), *map(net.constant, (codes, scaled, zeros))]
        names += net.parameters(scale, zero) + ([net.constant(bias)] if net.chance(0.7) else [])
        return Codes(net.node("QLinearConv", names, **attributes), shape, scale, zero)
    names = [net.real(x), net.node("DequantizeLinear", list(map(net.constant, (codes, scaled, zeros))), axis=0)]
    if net.chance(0.7):
        steps = steps if len(steps) > 1 else steps[0]
        zero_bias = np.zeros(np.shape(steps), dtype=np.int32)
        names.append(net.node("DequantizeLinear", list(map(net.constant, (bias, steps, zero_bias))), axis=0))
    y = net.node("Conv", names, **attributes)
    return net.codes(net.node("Relu", [y]) if relu else y, shape, 0.025, positive=relu)


def _product(net: QuantizedNet, x: Codes, outputs: int) -> Codes:
    """MatMul or Gemm between DequantizeLinear and QuantizeLinear."""
    y = _real_product(net, x, outputs)
    net.must_claim += 1
    return net.codes(y, (*x.shape[:-1], outputs), 0.025, positive=False)


def _real_product(net: QuantizedNet, x: Codes, outputs: int) -> str:
    """MatMul or Gemm behind DequantizeLinear."""
    inputs = x.shape[-1]
    style = net.pick("MatMul", "Gemm") if len(x.shape) == 2 else "MatMul"
    transposed = style == "Gemm" and net.chance(0.5)
    net.words.append(f"{style} {inputs}→{outputs} {'transB' if transposed else ''}")
    codes, scales = net.weights(outputs, inputs)
    bias, steps = net.bias(outputs, scales, x)
    scaled = scales if len(scales) > 1 else scales[0]
    zeros = np.zeros(np.shape(scaled), dtype=np.int8)
    right = [net.constant(codes if transposed else codes.T), net.constant(scaled), net.constant(zeros)]
    names = [net.real(x), net.node("DequantizeLinear", right, axis=0 if transposed else 1)]
    attributes = {"transB": 1} if transposed else {}
    if style == "Gemm" and net.chance(0.7):
        steps = steps if len(steps) > 1 else steps[0]
        zero_bias = np.zeros(np.shape(steps), dtype=np.int32)
        names.append(net.node("DequantizeLinear", list(map(net.constant, (bias, steps, zero_bias))), axis=0))
    return net.node(style, names, **attributes)


def _add(net: QuantizedNet, a: Codes, b: Codes) -> Codes:
    relu = net.chance(0.5)
    net.words.append("Add Relu" if relu else "Add")
    y = net.node("Add", [net.real(a), net.real(b)][:: net.pick(1, -1)])
    return net.codes(net.node("Relu", [y]) if relu else y, a.shape, 0.035, positive=relu)


def _max_pool(net: QuantizedNet, x: Codes) -> Codes:
    if min(x.shape[2:]) < 3:
        return x
    net.words.append("MaxPool")
    dims = len(x.shape) - 2
    y = net.node("MaxPool", [net.real(x)], kernel_shape=[3] * dims, strides=[2] * dims, pads=[1] * (2 * dims))
    shape = (*x.shape[:2], *(conv_size(length, 3, 2, 1, (1, 1), "NOTSET") for length in x.shape[2:]))
    return Codes(net.node("QuantizeLinear", [y, *net.parameters(x.scale, x.zero)]), shape, x.scale, x.zero)


def _global_average(net: QuantizedNet, x: Codes) -> Codes:
    net.words.append("GlobalAveragePool")
    y = net.node("GlobalAveragePool", [net.real(x)])
    return net.codes(y, (*x.shape[:2], *[1] * (len(x.shape) - 2)), 0.01, positive=False)


def _image(net: QuantizedNet, channels: int) -> Codes:
    lengths = [net.pick(1, 3, 5, 7, 8, 13, 16, 17)] * net.pick(1, 2, 2)
    return net.input(net.pick(1, 1, 2, 3, 15, 16, 17, 33), channels, *lengths)


def _one_convolution(net: QuantizedNet) -> Codes:
    return _convolution(net, _image(net, net.pick(*CHANNELS)), net.pick(*CHANNELS), relu=net.chance(0.4))


def _tokens(net: QuantizedNet) -> Codes:
    leading = net.pick((1,), (7,), (16,), (33,), (128,), (2, 5), (1, 17), (2, 3, 4))
    return net.input(*leading, net.pick(*CHANNELS))


def _one_product(net: QuantizedNet) -> Codes:
    return _product(net, _tokens(net), net.pick(*CHANNELS))


def _float_product(net: QuantizedNet) -> Reals:
    return _reals(net, _tokens(net), net.pick(*CHANNELS))


def _reals(net: QuantizedNet, x: Codes, outputs: int) -> Reals:
    net.must_claim += 1
    return Reals(_real_product(net, x, outputs), (*x.shape[:-1], outputs), FLOAT_QUANTUM)


def _linear(net: QuantizedNet) -> Codes | Reals:
    """One product with what follows it, in floats at the end or in bytes."""
    y = quantized_chains.linear(net, _reals(net, _tokens(net), net.pick(*CHANNELS)))
    if net.chance(0.3):
        other = net.input(*y.shape)
        y = quantized_chains.add(net, y, Reals(net.real(other), y.shape, other.scale))
    y = quantized_chains.activation(net, y)
    return y if net.chance(0.4) else net.coded(y, 0.025)


def _encoder(net: QuantizedNet) -> Codes:
    """Feed-forward halves of encoders, and products of the same tokens that meet."""
    x = net.input(*net.pick((7,), (16,), (33,), (2, 5), (1, 17), (2, 3, 4)), net.pick(*quantized_chains.WIDTHS))
    for _ in range(net.pick(1, 1, 2)):
        skip = Reals(net.real(x), x.shape, x.scale)
        block = net.pick("feed-forward", "feed-forward", "projection", "two products")
        if block == "feed-forward":
            inner = quantized_chains.linear(net, _reals(net, x, net.pick(*quantized_chains.WIDTHS)))
            inner = quantized_chains.activation(net, inner)
            y = _reals(net, net.coded(inner, 0.025), x.shape[-1])
        elif block == "projection":
            y = _reals(net, x, x.shape[-1])
        else:
            y = quantized_chains.linear(net, _reals(net, x, x.shape[-1]))
            skip = quantized_chains.linear(net, _reals(net, x, x.shape[-1]))
        y = quantized_chains.add(net, quantized_chains.linear(net, y), skip)
        y = quantized_chains.normalized(net, y)
        x = net.coded(y, 0.03)
        if net.chance(0.3):  # floats that are read once more
            z = quantized_chains.linear(net, _reals(net, x, x.shape[-1]))
            x = net.coded(quantized_chains.add(net, y, z), 0.03)
        if net.chance(0.3):
            x = quantized_chains.reshaped(net, x)
    return _product(net, x, net.pick(*quantized_chains.WIDTHS)) if net.chance(0.5) else x


def _chain(net: QuantizedNet) -> Codes:
    x = _image(net, net.pick(3, 4, 8, 16))
    x = _convolution(net, x, net.pick(8, 16, 20), relu=net.chance(0.5))
    for _ in range(net.pick(1, 2, 3)):
        block = net.pick("convolution", "residual", "pool")
        if block == "convolution":
            x = _convolution(net, x, net.pick(8, 13, 16), relu=net.chance(0.5))
        elif block == "residual":
            y = _convolution(net, x, net.pick(8, 16), keep=True, relu=True)
            x = _add(net, _convolution(net, y, x.shape[1], keep=True), x)
        else:
            x = _max_pool(net, x)
    return _global_average(net, x) if net.chance(0.3) else x


def main() -> None:
    """Replay the cases of the given seeds."""
    parser = argparse.ArgumentParser(description="Check the provider on random quantized cases.")
    parser.add_argument("seeds", type=int, nargs="+")
    onnxruntime_ep_sparse.register()
    for seed in parser.parse_args().seeds:
        case = make(seed)
        print(seed, case.description)
        check(case)


if __name__ == "__main__":
    main()
