"""Accuracy and speed after cutting whole units, beside the recipes that people use today.

Every model is made by the command line in a process of its own, from 1,024 unlabelled images and without training,
then judged on labelled images that nothing was fitted on, and timed in turns with the dense one on one thread::

    python -m benchmarks.channels [resnet|vit]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.samples import Samples, read_samples
from surgery_ir.backends.evaluate import predict
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
MODELS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "resnet": ("fashion_resnet.onnx", (0.7, 0.5, 0.35, 0.25)),
    "vit": ("fashion_vit.onnx", (0.75, 0.5)),
}
RECIPES = {
    "random": "canonicalize,prune-channels{{criterion=random macs={share} multiple=8 compensate=false}}",
    "magnitude": "canonicalize,prune-channels{{criterion=magnitude macs={share} multiple=8 compensate=false}}",
    "fold": "canonicalize,prune-channels{{criterion=fold macs={share} multiple=8 compensate=false}},repair-statistics",
    "magnitude, repair": "canonicalize,prune-channels{{criterion=magnitude macs={share} multiple=8}}",
    "OBS, no repair": "canonicalize,prune-channels{{macs={share} multiple=8 compensate=false}}",
    "OBS, repair, multiples of 8": "canonicalize,prune-channels{{macs={share} multiple=8}}",
    "OBS, repair, widths measured": "canonicalize,prune-channels{{macs={share}}}",
}
TIMED = "OBS, repair"
BATCHES = (1, 64)
ROUNDS = 40


def accuracy(graph: Graph, sets: list[Samples]) -> float:
    session = OnnxRuntimeBackend().load(graph)
    right = [predict(session, part)["logits"].argmax(1) == part.labels for part in sets]
    return 100 * float(np.concatenate(right).mean())


def compress(model: Path, pipeline: str) -> tuple[Graph, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "small.onnx"
        command = ["apply", str(model), "-p", pipeline, "-o", str(out), "--data", str(SAMPLES / "calibration.npz")]
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "surgery_ir", *command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"apply failed: {pipeline}\n{done.stderr}")
        graph = read_model(out)
        graph.fingerprint()  # everything is read before the file goes
        return graph.clone(), time.perf_counter() - start


def speeds(graphs: list[Graph], images: np.ndarray, batch: int) -> list[float]:
    """Speed relative to the first graph: least time of each, all measured in turns on one thread."""
    feeds = {"image": images[:batch]}
    sessions = [OnnxRuntimeBackend().load(graph, threads=1) for graph in graphs]
    least = [np.inf] * len(graphs)
    for _ in range(ROUNDS):
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(feeds)
            least[index] = min(least[index], time.perf_counter() - start)
    return [least[0] / item for item in least]


def study(name: str, console: Console) -> None:
    file, shares = MODELS[name]
    model = SAMPLES / file
    sets = [read_samples(SAMPLES / "selection.npz", "label"), read_samples(SAMPLES / "report.npz", "label")]
    dense = read_model(model)
    whole = accuracy(dense, sets)
    images = sets[1].feeds["image"]
    macs = cost(dense).macs or 0
    table = Table(title=f"{file}: accuracy on {sum(map(len, sets))} held-out images; dense {whole:.2f} %")
    table.add_column("recipe")
    for share in shares:
        table.add_column(f"macs={share}", justify="right")
    for recipe, pipeline in RECIPES.items():
        cells = []
        for share in shares:
            graph, seconds = compress(model, pipeline.format(share=share))
            cell = f"{accuracy(graph, sets) - whole:+.2f}"
            if recipe.startswith(TIMED):
                faster = [speeds([dense, graph], images, batch)[1] for batch in BATCHES]
                cell += f" at {(cost(graph).macs or 0) / macs:.2f}, {faster[0]:.2f}×/{faster[1]:.2f}×, {seconds:.0f} s"
            cells.append(cell)
        table.add_row(recipe, *cells)
        console.print(f"{name}: {recipe}: {cells}", style="dim")
    console.print(table)
    console.print("points lost or won; MACs kept; speed at batch 1/64 on one thread; wall seconds of the command")


def main() -> None:
    console = Console(width=150)
    for name in sys.argv[1:] or MODELS:
        study(name, console)


if __name__ == "__main__":
    main()
