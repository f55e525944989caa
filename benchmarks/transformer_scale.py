"""Time and memory that reconnecting a 90 MB transformer takes on two cores.

The model is a pre-norm encoder (Vaswani et al., 2017; Xiong et al., 2020) with random weights whose columns differ in
strength; its inputs have correlated channels, correlated neighbours and a few kinds of sequences. What it computes is
of no interest: its layers have the sizes and its activations the correlations that make the solvers work. Every run is
a process of its own::

    python -m benchmarks.transformer_scale
    python -m benchmarks.transformer_scale --passes reconnect --blocks 2 --sequences 32
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.samples import read_samples
from surgery_ir.backends.evaluate import predict
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.edits import Edit, plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.spec import parse_pipeline

MINUTES, GIGABYTES, CORES = 10, 6, 2
"""What reconnecting may take; the time of the pruning ahead of it is printed, but not counted."""

WIDTH, HEADS, HIDDEN, OUTPUTS = 512, 8, 2048, 64
SELECTION, REPORT = 32, 32
KINDS, PERSISTENCE = 16, 0.8
PRUNE = "canonicalize,prune-weights{{criterion={criterion} ratio={ratio} compensate=false}}"
PREPARING = ("canonicalize", "prune-weights")
RUNTIME = OnnxRuntimeBackend()

Float = NDArray[np.float32]


class Encoder:
    """Collects the nodes and weights of the model."""

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length = length
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, operands: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, operands, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def linear(self, x: str, name: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """A MatMul and an Add; columns differ in strength by about half, as those of trained layers do."""
        strength = np.exp(0.5 * self.rng.standard_normal((inputs, 1)))
        matrix = gain * strength * self.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        product = self.op("MatMul", [x, self.constant(f"{name}.weight", matrix.astype(np.float32))], name)
        bias = 0.02 * self.rng.standard_normal(outputs).astype(np.float32)
        return self.op("Add", [product, self.constant(f"{name}.bias", bias)], f"{name}.add")

    def norm(self, x: str, name: str) -> str:
        scale = self.constant(f"{name}.scale", np.exp(0.3 * self.rng.standard_normal(WIDTH)).astype(np.float32))
        shift = self.constant(f"{name}.shift", 0.1 * self.rng.standard_normal(WIDTH).astype(np.float32))
        return self.op("LayerNormalization", [x, scale, shift], name, axis=-1)

    def heads(self, x: str, name: str, order: Sequence[int]) -> str:
        split = self.constant(f"{name}.split", np.array([0, self.length, HEADS, WIDTH // HEADS], np.int64))
        return self.op("Transpose", [self.op("Reshape", [x, split], f"{name}.reshape")], name, perm=order)

    def attention(self, x: str, name: str, gain: float) -> str:
        query, key, value = (self.linear(x, f"{name}.{part}", WIDTH, WIDTH) for part in ("query", "key", "value"))
        query = self.heads(query, f"{name}.query_heads", (0, 2, 1, 3))
        key = self.heads(key, f"{name}.key_heads", (0, 2, 3, 1))
        value = self.heads(value, f"{name}.value_heads", (0, 2, 1, 3))
        scale = self.constant(f"{name}.scale", np.array(2 / np.sqrt(WIDTH // HEADS), np.float32))
        scores = self.op("Mul", [self.op("MatMul", [query, key], f"{name}.scores"), scale], f"{name}.scaled")
        mixed = self.op("MatMul", [self.op("Softmax", [scores], f"{name}.softmax", axis=-1), value], f"{name}.mixed")
        joined = self.op("Transpose", [mixed], f"{name}.joined", perm=(0, 2, 1, 3))
        whole = self.constant(f"{name}.whole", np.array([0, self.length, WIDTH], np.int64))
        return self.linear(self.op("Reshape", [joined, whole], f"{name}.merged"), f"{name}.out", WIDTH, WIDTH, gain)

    def feed_forward(self, x: str, name: str, gain: float) -> str:
        hidden = self.op("Gelu", [self.linear(x, f"{name}.up", WIDTH, HIDDEN)], f"{name}.gelu")
        return self.linear(hidden, f"{name}.down", HIDDEN, WIDTH, gain)


def build(blocks: int, length: int) -> onnx.ModelProto:
    encoder = Encoder(length)
    x = encoder.linear("x", "embed", WIDTH, WIDTH)
    gain = 1 / np.sqrt(2 * blocks)
    for block in range(blocks):
        name = f"block{block}"
        mixed = encoder.attention(encoder.norm(x, f"{name}.norm1"), f"{name}.attention", gain)
        x = encoder.op("Add", [x, mixed], f"{name}.add1")
        fed = encoder.feed_forward(encoder.norm(x, f"{name}.norm2"), f"{name}.ffn", gain)
        x = encoder.op("Add", [x, fed], f"{name}.add2")
    axes = encoder.constant("axes", np.array([1], np.int64))
    mean = encoder.op("ReduceMean", [encoder.norm(x, "norm"), axes], "mean", keepdims=0)
    last = encoder.linear(mean, "head", WIDTH, OUTPUTS)
    encoder.op("Identity", [last], "logits")
    encoder.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        encoder.nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", length, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", OUTPUTS])],
        encoder.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def sequences(count: int, length: int, seed: int) -> Float:
    """Draw inputs (count, length, WIDTH): variances fall as 1/k along hidden directions, neighbours are alike."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))[0]
    centres = np.random.default_rng(1).standard_normal((KINDS, WIDTH))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, length, WIDTH))
    for position in range(1, length):
        noise[:, position] *= np.sqrt(1 - PERSISTENCE**2)
        noise[:, position] += PERSISTENCE * noise[:, position - 1]
    noise += centres[rng.integers(0, KINDS, count)][:, None]
    spectrum = 1 / np.sqrt(np.arange(1, WIDTH + 1))
    spectrum *= np.sqrt(WIDTH / np.sum(spectrum**2))
    return np.asarray((noise * spectrum) @ rotation.T, np.float32)


def work(folder: Path, pipeline: str) -> None:
    """Apply the passes one by one, and print what each of them took."""
    dense = read_model(folder / "model.onnx")
    parts = {name: read_samples(folder / f"{name}.npz") for name in ("calibration", "selection", "report")}
    ctx = PassContext(dense, RUNTIME, parts["calibration"], selection=parts["selection"])
    graph, edits = dense, list[Edit]()
    taken = []
    for item in parse_pipeline(pipeline):
        start = time.perf_counter()
        outcome = run_pass(item, graph, ctx)
        graph = outcome.graph
        edits += outcome.edits
        taken.append((item.name, time.perf_counter() - start))
        print(f"  {item.name}: {taken[-1][1]:.0f} s, {_peak():.2f} GB at most so far", flush=True)
    minutes, peak = sum(seconds for name, seconds in taken if name not in PREPARING) / 60, _peak()
    kept = minutes <= MINUTES and peak <= GIGABYTES
    wanted, got = (predict(RUNTIME.load(item), parts["report"])["logits"].astype(np.float64) for item in (dense, graph))
    error = np.square(got - wanted).sum() / np.square(wanted - wanted.mean(0)).sum()
    print(
        f"  {minutes:.1f} min behind the pruning, {peak:.2f} GB: {'within' if kept else 'BEYOND'} {MINUTES} min and "
        f"{GIGABYTES} GB; nonzeros {cost(graph).nonzeros}, plasticity {plasticity(edits):.4f}, "
        f"relative error of unseen outputs {error:.4f}",
        flush=True,
    )


def _peak() -> float:
    """Peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", nargs="+", default=["repair", "reconnect"], help="what follows the pruning")
    parser.add_argument("--criterion", default="wanda", help="of the pruning; obs takes a quarter of an hour")
    parser.add_argument("--ratio", type=float, default=0.9, help="share of zeros")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=128, help="calibration samples")
    return parser.parse_args()


def main() -> None:
    given = options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(Graph.from_proto(build(given.blocks, given.length)), folder / "model.onnx")
        size = (folder / "model.onnx").stat().st_size
        counts = {"calibration": given.sequences, "selection": SELECTION, "report": REPORT}
        for seed, (part, count) in enumerate(counts.items(), start=2):
            np.savez(folder / f"{part}.npz", x=sequences(count, given.length, seed))
        print(f"{size / 1e6:.1f} MB, {given.blocks} blocks, {given.sequences} sequences of {given.length}", flush=True)
        for passes in given.passes:
            pipeline = f"{PRUNE.format(criterion=given.criterion, ratio=given.ratio)},{passes}"
            print(pipeline, flush=True)
            process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, pipeline))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"failed: {pipeline}")


if __name__ == "__main__":
    main()
