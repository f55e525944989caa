"""``surgery-ir bench``: models timed in turns, against the first one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.backends.base import backend, baseline_of
from surgery_ir.backends.latency import Latency, measure, ratio
from surgery_ir.cli.console import show, table
from surgery_ir.cli.feeds import feeds_of
from surgery_ir.cli.models import lower
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.errors import DataError
from surgery_ir.report import text

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Time the models and print medians and ratios.

    Where the provider is compared with another backend, the first model is timed on that too.
    """
    runtime = backend(options.provider)
    stock = baseline_of(runtime)
    models = [lower(path, options, stock) for path in options.models]
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
    if stock.name != runtime.name:
        sessions.append(stock.load(graphs[0], threads=options.threads or 0))
    times = measure(sessions, feeds, seconds=options.seconds)
    dense = times.pop() if len(times) > len(graphs) else times[0]
    found = [
        {**_described(path, time), "ratio": 1 / ratio(time, times[0]), "ratio_to_baseline": 1 / ratio(time, dense)}
        for path, time in zip(options.models, times, strict=True)
    ]
    baseline = {**_described(options.models[0], dense), "provider": stock.name}
    if options.json:
        settings = {"provider": runtime.name, "batch": options.batch, "threads": options.threads}
        print(json_bytes({**settings, "models": found, "baseline": baseline}).decode(), end="")
        return 0
    columns = ["model", ">median", ">95 % interval", ">speed"]
    rows: list[tuple[str, ...]] = [(*_cells(item), text.ratio(item["ratio"])) for item in found]
    if stock.name != runtime.name:
        columns.append(f">against {stock.name}")
        rows = [(*row, text.ratio(item["ratio_to_baseline"])) for row, item in zip(rows, found, strict=True)]
        rows.insert(0, (*_cells({**baseline, "model": f"{baseline['model']} on {stock.name}"}), "", text.ratio(1.0)))
    threads = f"threads: {options.threads}" if options.threads else "threads as the runtime chooses"
    show(
        f"One run of {options.batch} on {runtime.name} {runtime.capabilities.version}, {threads}, "
        f"{len(times[0].rounds_ms)} rounds in turns",
        "",
        table(columns, rows),
    )
    return 0


def _described(path: Path, time: Latency) -> dict[str, Any]:
    return {"model": str(path), "median_ms": time.median_ms, "low_ms": time.low_ms, "high_ms": time.high_ms}


def _cells(item: Mapping[str, Any]) -> tuple[str, str, str]:
    return item["model"], f"{item['median_ms']:.3f} ms", f"{item['low_ms']:.3f} – {item['high_ms']:.3f}"


def _show(specs: Mapping[str, InputSpec]) -> str:
    return ", ".join(f"{name}: {spec}" for name, spec in specs.items())
