"""Accuracy after one-shot pruning of single weights, beside the recipes that people use today.

Every model is made by the command line in a process of its own, from 1,024 unlabelled images and without training,
then judged on labelled images that nothing was fitted on::

    python benchmarks/weights.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from surgery_ir.analysis.samples import Samples, read_samples
from surgery_ir.backends.evaluate import predict
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.serialize import read_model

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
MODEL = SAMPLES / "fashion_resnet.onnx"
RATIOS = (0.5, 0.8, 0.9, 0.95)
RECIPES = {
    "magnitude": "canonicalize,prune-weights{{criterion=magnitude ratio={ratio}}}",
    "Wanda": "canonicalize,prune-weights{{criterion=wanda ratio={ratio}}}",
    "OBS, dense inputs (SparseGPT style)": "canonicalize,prune-weights{{criterion=obs ratio={ratio}}}",
    "magnitude, repair": "canonicalize,prune-weights{{criterion=magnitude ratio={ratio}}},repair",
    "OBS, repair": "canonicalize,prune-weights{{criterion=obs ratio={ratio}}},repair",
}
PATTERNS = {
    "OBS 2:4, repair": "canonicalize,prune-weights{criterion=obs pattern=2:4},repair",
    "OBS 4x1 at 80 %, repair": "canonicalize,prune-weights{criterion=obs pattern=4x1 ratio=0.8},repair",
}


@dataclass(frozen=True)
class Run:
    """One model made by the command line: accuracy in percent, wall seconds, peak memory in MB."""

    accuracy: float
    seconds: float
    megabytes: float


def accuracy(model: Path, sets: list[Samples]) -> float:
    session = OnnxRuntimeBackend().load(read_model(model))
    right = [predict(session, part)["logits"].argmax(1) == part.labels for part in sets]
    return 100 * float(np.concatenate(right).mean())


def run(pipeline: str, sets: list[Samples]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "small.onnx"
        command = ["apply", str(MODEL), "-p", pipeline, "-o", str(out), "--data", str(SAMPLES / "calibration.npz")]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "surgery_ir", *command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"apply failed: {pipeline}")
        return Run(accuracy(out, sets), time.perf_counter() - start, usage.ru_maxrss / 1024)


def main() -> None:
    console = Console(width=120)
    sets = [read_samples(SAMPLES / "selection.npz", "label"), read_samples(SAMPLES / "report.npz", "label")]
    count = sum(len(part) for part in sets)
    dense = accuracy(MODEL, sets)
    table = Table(title=f"accuracy on {count} held-out images; dense {dense:.2f} %")
    table.add_column("recipe")
    for ratio in RATIOS:
        table.add_column(f"{ratio:.0%} zeros", justify="right")
    table.add_column("s (max)", justify="right")
    table.add_column("MB (max)", justify="right")
    for name, template in RECIPES.items():
        runs = [run(template.format(ratio=ratio), sets) for ratio in RATIOS]
        cells = [f"{item.accuracy:.2f} ({item.accuracy - dense:+.2f})" for item in runs]
        table.add_row(name, *cells, f"{max(r.seconds for r in runs):.0f}", f"{max(r.megabytes for r in runs):.0f}")
    console.print(table)
    patterns = Table(title="patterns")
    for heading in ("recipe", "accuracy", "s", "MB"):
        patterns.add_column(heading, justify="left" if heading == "recipe" else "right")
    for name, pipeline in PATTERNS.items():
        made = run(pipeline, sets)
        patterns.add_row(
            name, f"{made.accuracy:.2f} ({made.accuracy - dense:+.2f})", f"{made.seconds:.0f}", f"{made.megabytes:.0f}"
        )
    console.print(patterns)


if __name__ == "__main__":
    main()
