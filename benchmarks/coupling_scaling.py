"""Groups of units of big graphs: seconds against the number of operators, and memory.

Synthetic networks of realistic width: convolutions with residual connections, channel shuffles and gates; one stage of
shuffles alone; and transformer blocks as older exporters write them, sizes computed from Shape. Nothing is downloaded::

    python -m benchmarks.coupling_scaling [--nodes 2500 10000] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import math
import multiprocessing
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from surgery_ir.analysis.coupling.facts import observe
from surgery_ir.analysis.coupling.groups import find_groups
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model

LIMIT_SECONDS = 10.0
LIMIT_EXPONENT = 1.25
"""Growth above nodes to this power counts as superlinear; processor caches and busy machines alone cost about 1.1."""

WIDTHS = (256, 512, 1024)
STAGE = 120
"""Operators of about one width."""

HEADS, TOKENS = 8, 4


class Writer:
    """Operators and weights of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator; give the name of its output, or of all where there are several."""
        name = f"{op_type}{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """Add an initializer."""
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def ints(self, *values: int) -> str:
        """Add a vector of integers."""
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int) -> str:
        """Add weights of zeros; all of them lie at the same place of one file, so they take no memory."""
        tensor = TensorProto(name=f"w{len(self.weights)}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.data"), ("offset", 0), ("length", 4 * math.prod(shape))):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        return tensor.name

    def graph(self, output: str, shape: list[str | int], source: list[str | int]) -> Graph:
        """Give the graph, from ``x`` to ``output``."""
        values = (("x", source), (output, shape))
        inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in values)
        graph = helper.make_graph(self.nodes, "network", [inputs], [outputs], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "network.onnx"
            with open(path.with_name("weights.data"), "wb") as file:
                file.truncate(4 * max(WIDTHS) ** 2 * 4)
            path.write_bytes(model.SerializeToString())
            read = read_model(path)
            for value in read.initializers.values():  # maps the file, which may go then
                if value.const_value is not None:
                    value.const_value.numpy()
        return read


def convolutions(nodes: int) -> Graph:
    """Build stages of one width: residual blocks that are grouped, shuffled and gated."""
    w = Writer()
    here, width = w.op("Conv", "x", w.weight(WIDTHS[0], 3, 1, 1)), WIDTHS[0]
    while len(w.nodes) < nodes:
        wanted = WIDTHS[len(w.nodes) // STAGE % len(WIDTHS)]
        if wanted != width:
            here, width = w.op("Conv", here, w.weight(wanted, width, 1, 1), w.weight(wanted)), wanted
        hidden = w.op("Relu", w.op("Conv", here, w.weight(width, width, 1, 1), w.weight(width)))
        hidden = w.op("Conv", hidden, w.weight(width, 1, 3, 3), group=width, pads=[1] * 4)
        parts = w.op("Split", hidden, w.ints(width // 2, width // 2), axis=1, outputs=2)
        part = w.op("Conv", parts[0], w.weight(width // 2, width // 64, 3, 3), group=32, pads=[1] * 4)
        hidden = w.op("Concat", part, parts[1], axis=1)
        split = w.op("Reshape", hidden, w.ints(0, 2, width // 2, 2, 2))
        hidden = w.op("Reshape", w.op("Transpose", split, perm=[0, 2, 1, 3, 4]), w.ints(0, width, 2, 2))
        gate = w.op("Relu", w.op("Conv", w.op("GlobalAveragePool", hidden), w.weight(width // 4, width, 1, 1)))
        gate = w.op("Sigmoid", w.op("Conv", gate, w.weight(width, width // 4, 1, 1)))
        hidden = w.op("Conv", w.op("Mul", hidden, gate), w.weight(width, width, 1, 1))
        here = w.op("Add", here, hidden)
    return w.graph(w.op("Conv", here, w.weight(10, width, 1, 1)), ["N", 10, 2, 2], ["N", 3, 2, 2])


def shuffles(nodes: int) -> Graph:
    """Build one stage in which every choice touches every other: grouped convolutions and shuffles on one residual."""
    w = Writer()
    width, groups = WIDTHS[1], 4
    here = w.op("Conv", "x", w.weight(width, 3, 1, 1))
    while len(w.nodes) < nodes:
        hidden = w.op("Conv", here, w.weight(width, width // groups, 1, 1), group=groups)
        split = w.op("Reshape", hidden, w.ints(0, groups, width // groups, 2, 2))
        hidden = w.op("Reshape", w.op("Transpose", split, perm=[0, 2, 1, 3, 4]), w.ints(0, width, 2, 2))
        hidden = w.op("Conv", hidden, w.weight(width, 1, 3, 3), group=width, pads=[1] * 4)
        hidden = w.op("Conv", hidden, w.weight(width, width // groups, 1, 1), group=groups)
        here = w.op("Relu", w.op("Add", here, hidden))
    return w.graph(w.op("Conv", here, w.weight(10, width, 1, 1)), ["N", 10, 2, 2], ["N", 3, 2, 2])


def transformer(nodes: int) -> Graph:
    """Build blocks of attention and a gated feed-forward part; sizes are read from the activations."""
    w = Writer()
    width = WIDTHS[1]
    here = w.op("MatMul", "x", w.weight(64, width))
    while len(w.nodes) < nodes:
        normal = w.op("LayerNormalization", here, w.weight(width), w.weight(width), axis=-1)
        heads = []
        for _ in range(3):
            made = w.op("Add", w.op("MatMul", normal, w.weight(width, width)), w.weight(width))
            apart = w.op("Reshape", made, _sizes(w, made, 2, HEADS, width // HEADS))
            heads.append(w.op("Transpose", apart, perm=[0, 2, 1, 3]))
        scores = w.op("MatMul", heads[0], w.op("Transpose", heads[1], perm=[0, 1, 3, 2]))
        size = w.op("Cast", w.op("Gather", w.op("Shape", heads[0]), w.constant(np.array(3)), axis=0), to=1)
        found = w.op("MatMul", w.op("Softmax", w.op("Div", scores, w.op("Sqrt", size)), axis=-1), heads[2])
        turned = w.op("Transpose", found, perm=[0, 2, 1, 3])
        merged = w.op("Reshape", turned, _sizes(w, turned, 2, width))
        here = w.op("Add", here, w.op("MatMul", merged, w.weight(width, width)))
        normal = w.op("LayerNormalization", here, w.weight(width), w.weight(width), axis=-1)
        halves = w.op("Split", w.op("MatMul", normal, w.weight(width, 4 * width)), axis=-1, outputs=2)
        gated = w.op("Mul", halves[0], w.op("Sigmoid", halves[1]))
        here = w.op("Add", here, w.op("MatMul", gated, w.weight(2 * width, width)))
    return w.graph(w.op("MatMul", here, w.weight(width, 10)), ["N", "T", 10], ["N", "T", 64])


def _sizes(w: Writer, source: str, read: int, *written: int) -> str:
    """Add a chain that reads the first sizes of ``source`` one by one and puts numbers behind them."""
    parts = []
    for axis in range(read):
        size = w.op("Gather", w.op("Shape", source), w.constant(np.array(axis)), axis=0)
        parts.append(w.op("Unsqueeze", size, w.ints(0)))
    return str(w.op("Concat", *parts, *(w.ints(size) for size in written), axis=0))


NETWORKS: dict[str, Callable[[int], Graph]] = {
    "convolutions": convolutions,
    "shuffles": shuffles,
    "transformer": transformer,
}


def measure(network: str, nodes: int, profile: bool = False) -> dict[str, float]:
    """Seconds of every step, what was found, and how much memory that took."""
    graph = NETWORKS[network](nodes)
    sample = np.zeros((2, TOKENS, 64) if network == "transformer" else (2, 3, 2, 2), np.float32)
    start = time.perf_counter()
    facts = observe(graph, OnnxRuntimeBackend(), {"x": sample})
    observed = time.perf_counter()
    before = _peak()
    profiler = cProfile.Profile()
    coupling = profiler.runcall(find_groups, graph, facts) if profile else find_groups(graph, facts)
    found = time.perf_counter()
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    return {
        "observe": observed - start,
        "find groups": found - observed,
        "groups": len(coupling.groups),
        "units": sum(group.units for group in coupling.groups),
        "frozen": len(coupling.frozen),
        "MB": _peak() - before,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(console: Console, network: str, sizes: list[int], profile: bool) -> bool:
    """Measure one network; whether it is fast enough."""
    table = Table(title=f"{network}: seconds and what was found")
    for heading in ("operators", "observe", "find groups", "groups", "units", "frozen", "memory for groups", ""):
        table.add_column(heading, justify="right")
    seconds = {}
    holds = True
    for nodes in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # for the peak of this one alone
            found = pool.apply(measure, [network, nodes, profile])
        seconds[nodes] = found["find groups"]
        first = min(seconds)
        faults = ["slow"] if found["observe"] + found["find groups"] > LIMIT_SECONDS else []
        faults += ["superlinear"] if seconds[nodes] > seconds[first] * (nodes / first) ** LIMIT_EXPONENT else []
        holds = holds and not faults
        times = (f"{found[key]:.2f}" for key in ("observe", "find groups"))
        counts = (f"{found[key]:,.0f}" for key in ("groups", "units", "frozen"))
        table.add_row(f"{nodes:,}", *times, *counts, f"{found['MB']:.0f} MB", ", ".join(faults))
    console.print(table)
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2500, 10_000])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    if sum(not show(console, name, sorted(options.nodes), options.profile) for name in options.networks):
        sys.exit("too slow")


if __name__ == "__main__":
    main()
