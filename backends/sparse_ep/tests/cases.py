"""Random small models, each made from its seed: ``python -m tests.cases SEED`` replays one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_ep_sparse
from numpy.typing import NDArray

from tests import chains, layers
from tests.exact import evaluate
from tests.net import Net, Value
from tests.sessions import claimed, difference, placement, session

TOLERANCE = 1e-5
# What rounding may do to a sum, as a share of the sum of its absolute terms.
ROUNDING = 1e-6
# Multiplications of a run that a model is kept below, roughly.
BUDGET = 20_000_000


@dataclass(frozen=True)
class Case:
    """A model, its inputs for each run, and how the session is opened."""

    seed: int
    model: onnx.ModelProto
    feeds: list[dict[str, NDArray[Any]]]
    options: dict[str, str]
    threads: int
    must_claim: int
    description: str


def make(seed: int) -> Case:
    """The case of the seed."""
    rng = np.random.default_rng(seed)
    net = Net(rng, opset=int(rng.choice([13, 14, 17, 20, 22])), symbolic=bool(rng.random() < 0.4))
    build: Callable[[Net], Value] = net.pick(
        _one_convolution, _one_gemm, _one_matmul, _image_chain, _token_chain, p=(0.45, 0.1, 0.15, 0.2, 0.1)
    )
    net.output(build(net))
    options = {"threshold": "0", "tuning": "off"}
    if net.chance(0.25):
        options["jit"] = "off"
    if net.chance(0.5):
        options["isa"] = net.pick("generic", "avx2", "avx512")
    threads = net.pick(1, 2, 4, p=(0.6, 0.3, 0.1))
    if threads > 1 and net.chance(0.3):
        options["threads"] = str(net.pick(1, 2))
    shapes = " then ".join(" ".join(str(list(x.shape)) for x in feed.values()) for feed in net.feeds)
    settings = " ".join(f"{key}={value}" for key, value in options.items() if key not in ("threshold", "tuning"))
    description = f"{net.description}; {shapes}; {threads} threads {settings}; opset {net.opset}"
    return Case(seed, net.model(), net.feeds, options, threads, net.must_claim, description.rstrip())


def check(case: Case) -> None:
    """Raise AssertionError, saying which case it is, if the provider does not give what ONNX Runtime gives."""
    told = f"seed {case.seed} ({case.description})"
    theirs, ours = session(case.model), session(case.model, case.options, case.threads)
    taken = claimed(ours)
    assert taken >= case.must_claim, f"{told}: {taken} of {case.must_claim} layers claimed, {placement(ours)}"
    for feed in [*case.feeds, case.feeds[0]]:  # the first shape once more, after all others
        result = ours.run(None, feed)
        wrong = difference(result, theirs.run(None, feed), TOLERANCE)
        assert not wrong, f"{told}: {wrong}"
    for index, (value, magnitude) in enumerate(evaluate(case.model, case.feeds[0]) or []):
        excess = float((np.abs(result[index] - value) / (magnitude + 1e-30)).max(initial=0.0))
        assert excess <= ROUNDING, f"{told}: output {index} is off by {excess:.3g} of what is summed"


def _batch(net: Net) -> int:
    return int(net.pick(1, 2, 3, 7, 15, 16, 17, 32, 33, 64, p=(0.3, 0.15, 0.1, 0.1, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05)))


def _images(net: Net, channels: int, dims: int, work: int) -> Value:
    """An input of images; `work`: multiplications for each pixel."""
    shapes = []
    for _ in range(net.pick(2, 3) if net.symbolic else 1):
        batch = _batch(net)
        lengths = [1, 2, 3, 5, 7, 8, 9, 13, 14, 16, 17, 19, 28, 33] + ([40, 100, 257] if dims == 1 else [])
        fitting = [length for length in lengths if batch * length**dims * work <= BUDGET] or [1]
        shapes.append((batch, channels, *(net.pick(*fitting) for _ in range(dims))))
    return net.input(shapes, fixed=(1,))


def _finish(net: Net, y: Value, axis: int) -> Value:
    """What follows a layer: a residual from a second input, an activation, or neither. `axis`: the channels."""
    if net.chance(0.25):
        net.words[-1] += " + input"
        pair = [y.name, net.input(y.shapes, fixed=(axis,)).name]
        y = net.node("Add", pair[:: net.pick(1, -1)], y.shapes)
    return layers.activation(net, y)


def _one_convolution(net: Net) -> Value:
    dims = net.pick(1, 2, p=(0.25, 0.75))
    x = _images(net, net.pick(*layers.CHANNELS, 300), dims, work=2000)
    return _finish(net, layers.convolution(net, x), 1)


def _one_gemm(net: Net) -> Value:
    inputs = net.pick(*layers.CHANNELS, 257, 768)
    x = net.input([(_batch(net), inputs) for _ in range(2 if net.symbolic else 1)], fixed=(1,))
    return _finish(net, layers.gemm(net, x), 1)


def _tokens(net: Net, channels: int) -> Value:
    rank = net.pick(2, 3, 4, p=(0.3, 0.5, 0.2))
    shapes = []
    for _ in range(net.pick(2, 3) if net.symbolic else 1):
        length = net.pick(1, 2, 5, 15, 16, 17, 31, 64, 100, 128, 257, 512)
        leading = [net.pick(1, 2, 3) for _ in range(rank - 2)]
        shapes.append((*leading, length, channels))
    return net.input(shapes, fixed=(rank - 1,))


def _one_matmul(net: Net) -> Value:
    x = _tokens(net, net.pick(*layers.CHANNELS, 257, 768))
    return _finish(net, layers.matmul(net, x), len(x.shapes[0]) - 1)


def _image_chain(net: Net) -> Value:
    channels = net.pick(3, 4, 8, 16, 24, 33)
    return chains.images(net, _images(net, channels, net.pick(1, 2, p=(0.2, 0.8)), work=8000))


def _token_chain(net: Net) -> Value:
    return chains.tokens(net, _tokens(net, net.pick(8, 16, 33, 64)))


def main() -> None:
    """Replay the cases of the given seeds."""
    parser = argparse.ArgumentParser(description="Check the provider on random cases.")
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--save", type=Path, help="write the model of the last seed here")
    arguments = parser.parse_args()
    onnxruntime_ep_sparse.register()
    for seed in arguments.seeds:
        case = make(seed)
        print(seed, case.description)
        if arguments.save:
            onnx.save(case.model, arguments.save)
        check(case)


if __name__ == "__main__":
    main()
