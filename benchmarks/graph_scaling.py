"""Graph operations against the number of nodes, and a model that is bigger than memory ought to be.

Synthetic residual chains, then 2.5 GB of external weights of which one is changed. Nothing is downloaded::

    python -m benchmarks.graph_scaling [--nodes 1000 3000 10000] [--gigabytes 2.5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
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

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.targets import plan
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from surgery_ir.graph.verify import verify

CHANNELS = 4
SIDE = 4096
PIECES = 40
LIMIT_SECONDS = 5.0
LIMIT_EXPONENT = 1.25
"""Growth above nodes to this power counts as superlinear; processor caches and busy machines alone cost about 1.1."""


def residual_chain(nodes: int) -> onnx.ModelProto:
    """Blocks of Conv, Relu, Conv and Add, whose weights differ."""
    rng = np.random.default_rng(0)
    operators, weights, here = [], [], "x"
    for index in range(nodes // 4):
        for name in ("a", "b"):
            array = rng.standard_normal((CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
            weights.append(numpy_helper.from_array(array, f"block{index}.{name}.weight"))
        first, second, total = (f"block{index}.{name}" for name in ("a", "b", "sum"))
        operators += [
            helper.make_node("Conv", [here, f"{first}.weight"], [first], first),
            helper.make_node("Relu", [first], [f"{first}.relu"], f"{first}.relu"),
            helper.make_node("Conv", [f"{first}.relu", f"{second}.weight"], [second], second),
            helper.make_node("Add", [here, second], [total], total),
        ]
        here = total
    return _model(operators, here, ["N", CHANNELS, 8, 8], weights)


def external_chain(folder: Path, gigabytes: float) -> Path:
    """Write a chain of matrix products; the file of its weights is a hole, so it takes no time and no disk."""
    rows = int(gigabytes * 2**30 / 4 / SIDE / PIECES)
    operators, weights, here = [], [], "x"
    for index in range(PIECES):
        shape = (SIDE, rows) if index % 2 == 0 else (rows, SIDE)
        size = 4 * SIDE * rows
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.data"), ("offset", index * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        operators.append(helper.make_node("MatMul", [here, f"w{index}"], [f"v{index}"], f"product{index}"))
        here = f"v{index}"
    with open(folder / "weights.data", "wb") as file:
        file.truncate(PIECES * 4 * SIDE * rows)
    path = folder / "big.onnx"
    path.write_bytes(_model(operators, here, ["N", SIDE], weights).SerializeToString())
    return path


def _model(
    nodes: list[onnx.NodeProto], output: str, shape: list[str | int], weights: list[TensorProto]
) -> onnx.ModelProto:
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output))
    graph = helper.make_graph(nodes, "chain", [inputs], [outputs], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def edit(graph: Graph) -> None:
    editor = Editor(graph, "benchmark")
    for layer in find_layers(graph):
        weights = graph.array(layer.weight).copy()
        weights[0, 0] = 0
        editor.set_weights(layer.weight, weights)


def measure_steps(nodes: int, repeats: int) -> dict[str, float]:
    """Seconds of every step on a chain of ``nodes`` operators, the fastest of ``repeats``."""
    best: dict[str, float] = {}

    def timed(step: str, function: Callable[..., Any], *arguments: object) -> Any:
        gc.collect()
        start = time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - start
        best[step] = min(seconds, best.get(step, seconds))
        return result

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "chain.onnx", Path(name) / "edited.onnx"
        onnx.save(residual_chain(nodes), source)
        for _ in range(repeats):
            graph = timed("load", read_model, source)
            timed("view", graph.view)
            copy = timed("clone", graph.clone)
            layers = timed("find layers", find_layers, copy).layers
            timed("edit every layer", edit, copy)
            timed("verify", verify, copy)
            timed("fingerprint", copy.fingerprint)
            timed("cost", cost, copy)
            timed("plan a repair", plan, copy, layers)
            timed("cut in the middle", with_outputs, copy, [f"block{nodes // 8}.sum"])
            timed("save", write_model, copy, target)
    return best


def copy_with_one_change(path: Path) -> tuple[float, float]:
    """Load a model, change one scalar and write it elsewhere: seconds, and peak memory of this process in GB."""
    start = time.perf_counter()
    graph = read_model(path)
    weights = graph.array("w1").copy()
    weights[0, 0] = 1
    Editor(graph, "benchmark").set_weights("w1", weights)
    verify(graph)
    write_model(graph, path.with_name("copy.onnx"))
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def show_steps(console: Console, sizes: list[int], repeats: int) -> None:
    measured = {size: measure_steps(size, repeats) for size in sizes}
    small, large = min(sizes), max(sizes)
    table = Table(title=f"Seconds on a residual chain (fastest of {repeats})")
    for heading in ("step", *(f"{size:,} nodes" for size in sizes), "µs per node", f"{large:,} : {small:,}", ""):
        table.add_column(heading, justify="left" if heading in ("step", "") else "right")
    for step, seconds in measured[large].items():
        ratio = seconds / measured[small][step]
        faults = ["slow"] if seconds > LIMIT_SECONDS else []
        faults += ["superlinear"] if ratio > (large / small) ** LIMIT_EXPONENT else []
        times = [f"{measured[size][step]:.3f}" for size in sizes]
        table.add_row(step, *times, f"{1e6 * seconds / large:.0f}", f"{ratio:.1f}", ", ".join(faults))
    console.print(table)


def show_memory(console: Console, gigabytes: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = external_chain(Path(name), gigabytes)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(copy_with_one_change, [path])
        table = Table(title="External weights: load, change one scalar, verify, write")
        for heading in ("weights", "seconds", "peak memory"):
            table.add_column(heading, justify="right")
        table.add_row(f"{gigabytes:g} GB", f"{seconds:.1f}", f"{peak:.2f} GB")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    show_steps(console, options.nodes, options.repeats)
    show_memory(console, options.gigabytes)


if __name__ == "__main__":
    main()
