"""``surgery-ir bench``: models timed in turns, against the first one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.backends.base import backend
from surgery_ir.backends.latency import measure, ratio
from surgery_ir.cli.console import show, table
from surgery_ir.cli.feeds import feeds_of
from surgery_ir.cli.models import lower
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.errors import DataError
from surgery_ir.report import text

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Time the models and print medians and ratios."""
    runtime = backend(options.provider)
    models = [lower(path, options, runtime) for path in options.models]
    graphs = [model.graph for model in models]
    first = input_specs(graphs[0])
    for path, graph in zip(options.models, graphs, strict=True):
        specs = input_specs(graph)
        if {name: spec.dtype for name, spec in specs.items()} != {name: spec.dtype for name, spec in first.items()}:
            raise DataError(
                f"{path}: its inputs ({_show(specs)}) are not those of {options.models[0]} ({_show(first)})"
            )
    feeds = feeds_of(models[0], options, options.batch)
    sessions = [runtime.load(graph, threads=options.threads or 0) for graph in graphs]
    times = measure(sessions, feeds, seconds=options.seconds)
    found: list[dict[str, Any]] = [
        {
            "model": str(path),
            "median_ms": time.median_ms,
            "low_ms": time.low_ms,
            "high_ms": time.high_ms,
            "ratio": 1 / ratio(time, times[0]),
        }
        for path, time in zip(options.models, times, strict=True)
    ]
    if options.json:
        print(json_bytes({"batch": options.batch, "threads": options.threads, "models": found}).decode(), end="")
        return 0
    rows = [
        (
            str(item["model"]),
            f"{item['median_ms']:.3f} ms",
            f"{item['low_ms']:.3f} – {item['high_ms']:.3f}",
            text.ratio(item["ratio"]),
        )
        for item in found
    ]
    threads = f"threads: {options.threads}" if options.threads else "threads as the runtime chooses"
    show(
        f"One run of {options.batch} on {runtime.name} {runtime.capabilities.version}, {threads}, "
        f"{len(times[0].rounds_ms)} rounds in turns",
        "",
        table(["model", ">median", ">95 % interval", ">speed"], rows),
    )
    return 0


def _show(specs: Mapping[str, InputSpec]) -> str:
    return ", ".join(f"{name}: {spec}" for name, spec in specs.items())
