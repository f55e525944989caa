"""Measured time of every operator, from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from surgery_ir.backends.onnxruntime import SILENT, OnnxRuntimeSession
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import View

__all__ = ["profile"]

KERNEL = "_kernel_time"
BLOCKED = "_nchwc"
"""What ONNX Runtime appends to the name of a value that it keeps in a blocked layout."""


def profile(graph: Graph, feeds: Mapping[str, NDArray[Any]], runs: int = 20, threads: int = 0) -> dict[str, float]:
    """Measure how long each operator takes in one run.

    ONNX Runtime fuses operators; the time of a fused one goes to the operator that it names itself after.

    Parameters
    ----------
    graph
        Graph to run.
    feeds
        Inputs of one run.
    runs
        Number of timed runs; each operator gets its median.
    threads
        0 leaves the number to the runtime.

    Returns
    -------
    dict
        Milliseconds by the name of the node; under ``""`` what the runtime inserted itself, such as changes of
        layout.

    Raises
    ------
    BackendError
        ONNX Runtime refuses or fails.
    """
    with TemporaryDirectory(prefix="surgery-ir-") as folder:
        session = OnnxRuntimeSession(graph, _options(threads, Path(folder) / "profile"))
        for _ in range(runs + 1):
            session.run(feeds)
        del session  # writes the file
        (file,) = Path(folder).iterdir()
        events = json.loads(file.read_text())
    return _attribute(_medians(events), graph.view())


def _options(threads: int, prefix: Path) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def _medians(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Median milliseconds of a run by (name, operator) of the node; the first run warms up and is left out."""
    runs = sorted((item["ts"], item["ts"] + item["dur"]) for item in events if item.get("name") == "model_run")[1:]
    kernels = sorted(
        (item for item in events if item.get("cat") == "Node" and item["name"].endswith(KERNEL)),
        key=lambda item: (item["ts"], -item["dur"]),
    )
    times: dict[tuple[str, str], list[float]] = {}
    queue = deque(kernels)
    for index, (start, end) in enumerate(runs):
        covered = start
        while queue and queue[0]["ts"] < end:
            item = queue.popleft()
            if item["ts"] < covered:  # of the warm-up, or inside the subgraph of the operator before
                continue
            covered = item["ts"] + item["dur"]
            key = (item["name"].removesuffix(KERNEL), item["args"].get("op_name", ""))
            times.setdefault(key, [0.0] * len(runs))[index] += item["dur"] / 1000
    return {key: statistics.median(values) for key, values in times.items()}


def _attribute(times: Mapping[tuple[str, str], float], view: View) -> dict[str, float]:
    """Add up times by node of the graph that was given, not of the one that the runtime made of it."""
    producers = {value: operator.name for operator in view.operators() for value in operator.outputs}
    found: dict[str, float] = {}
    for (name, op_type), time in times.items():
        node = name if name in view else _origin(producers.get(name.removesuffix(BLOCKED)), op_type, view)
        found[node] = found.get(node, 0.0) + time
    return found


def _origin(end: str | None, op_type: str, view: View) -> str:
    """Find the operator that was fused with what follows it up to ``end``: the nearest of its type upstream."""
    queue = deque([end] if end is not None else [])
    seen = set(queue)
    while queue:
        name = queue.popleft()
        if view.operator(name).op_type == op_type:
            return name
        fresh = [other for other in view.graph.predecessors(name) if other not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return ""
