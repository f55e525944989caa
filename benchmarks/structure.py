"""What can be cut in real architectures: groups found, frozen and why, and a 30 % cut of everything, proven and timed.

Runs the model zoo of the tests, or the model files that are named, each with its samples if need be::

    python -m benchmarks.structure [--markdown] [model.onnx[=data.npz] …]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.coupling.facts import observe
from surgery_ir.analysis.coupling.groups import Coupling, find_groups
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Samples, read_samples
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.errors import SurgeryError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.spec import parse_pipeline
from tests.zoo.load import NAMES, feeds, load

RUNTIME = OnnxRuntimeBackend()
EXACT = "prune-channels{criterion=magnitude ratio=0.3 multiple=1 compensate=false}"
"""Of every group three units in ten, whatever the runtime thinks of such widths."""

MEASURED = "prune-channels{criterion=magnitude ratio=0.5 compensate=false}"
"""Half of every group, rounded to widths that the runtime likes."""
BATCH, ROUNDS = 4, 30
HEAD = (
    "model",
    "nodes",
    "groups",
    "units",
    "frozen",
    "by",
    "proven",
    "MACs",
    "MACs, measured widths",
    "time",
    "s",
)

Feeds = Mapping[str, NDArray[Any]]


def least_times(graphs: list[Graph], inputs: Feeds) -> list[float]:
    sessions = [RUNTIME.load(graph, threads=1) for graph in graphs]
    least = [np.inf] * len(graphs)
    for _ in range(ROUNDS):
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(inputs)
            least[index] = min(least[index], time.perf_counter() - start)
    return least


def reasons(coupling: Coupling) -> str:
    counted = Counter(
        f"{item.frost.op_type} {item.frost.reason}" if item.frost.op_type else item.frost.reason.partition("' ")[2]
        for item in coupling.frozen
    )
    return "; ".join(f"{reason or 'of one piece'} ({count})" for reason, count in counted.most_common(3))


def inputs(graph: Graph, samples: Samples | None, batch: int) -> Feeds:
    if samples is None:
        return synthetic_feeds(input_specs(graph), batch)
    return next(iter(samples.take(batch).batches(graph, batch))).feeds


def apply(spec: str, graph: Graph, context: PassContext) -> tuple[Graph, list[str]]:
    """Run one pass; give the graph and what could not be proven."""
    (item,) = parse_pipeline(spec)
    outcome = run_pass(item, graph, context)
    return outcome.graph, [refusal.reason for refusal in outcome.refusals if "cannot be proven" in refusal.reason]


def study(name: str, loaded: Graph, samples: Samples | None, small_batch: Feeds, large_batch: Feeds) -> tuple[str, ...]:
    """Cut by the command's own passes, which prove the cut or refuse it."""
    start = time.perf_counter()
    context = PassContext(loaded, RUNTIME, samples)
    dense, _ = apply("canonicalize", loaded, context)
    coupling = find_groups(dense, observe(dense, RUNTIME, small_batch))
    exact, unproven = apply(EXACT, dense, context)
    measured, _ = apply(MEASURED, dense, context)
    macs = [cost(item, sample_shapes(item, RUNTIME, large_batch)).macs for item in (dense, exact, measured)]
    times = least_times([dense, measured], large_batch)
    shares = [f"{item / macs[0]:.2f}" if item and macs[0] else "–" for item in macs[1:]]
    return (
        name,
        str(len(dense.view())),
        str(len(coupling.groups)),
        str(sum(group.units for group in coupling.groups)),
        str(len(coupling.frozen)),
        reasons(coupling),
        "; ".join(unproven) or ("yes" if coupling.groups else "nothing to cut"),
        *shares,
        f"{times[1] / times[0]:.2f}",
        f"{time.perf_counter() - start:.1f}",
    )


def main() -> None:
    markdown = "--markdown" in sys.argv
    files = [item.partition("=") for item in sys.argv[1:] if item != "--markdown"]
    rows = []
    for name in NAMES if not files else ():
        few = feeds(name, 2)
        rows.append(study(name, load(name), Samples(few), few, feeds(name, BATCH)))
    for path, _, data in files:
        try:
            graph = read_model(path)
            samples = read_samples(data) if data else None
            rows.append(study(Path(path).stem, graph, samples, *(inputs(graph, samples, size) for size in (2, BATCH))))
        except SurgeryError as error:
            rows.append((Path(path).stem, *[""] * 4, str(error), *[""] * 5))
    if markdown:
        print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    table = Table(*HEAD, title="a 30 % cut of everything; MACs and time relative to the dense model, one thread")
    for row in rows:
        table.add_row(*row)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
