"""``surgery-ir inspect``: parameters, nonzeros, MACs, bytes and measured time, layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from surgery_ir.analysis.cost import LayerCost, cost, layer_costs
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.backends.profile import profile
from surgery_ir.cli.console import show, table, width
from surgery_ir.cli.feeds import feeds_of
from surgery_ir.cli.models import lower
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.errors import DataError
from surgery_ir.graph.model import Graph
from surgery_ir.report.text import UNKNOWN, file_size, number, rounded

__all__ = ["run"]

FREE = {"params": 0, "nonzeros": 0, "bytes": 0, "macs": 0, "sparse_macs": 0}

NARROW = 100
"""Below this many characters in a line the operators, whom most names tell, are left out."""

WORTH_A_ROW = 0.01
"""Operators without parameters get a row of their own from this share of the time on."""


def run(options: argparse.Namespace) -> int:
    """Print the cost of every layer, and how long it takes."""
    runtime = OnnxRuntimeBackend()
    lowered = lower(options.model, options, runtime)
    graph = lowered.graph
    notes = []
    shapes: dict[str, tuple[int, ...]] = {}
    times: dict[str, float] | None = None
    try:
        shapes = sample_shapes(graph, runtime, feeds_of(lowered, options, batch=1))
        if not options.no_time:
            times = profile(graph, feeds_of(lowered, options, options.batch), threads=options.threads or 0)
    except DataError as error:
        if options.data is not None or options.dim:
            raise
        notes.append(f"time is not measured: {error}")
    layers = layer_costs(graph, shapes)
    whole = cost(graph, shapes)
    if whole.unknown:
        more = f" and {len(whole.unknown) - 1} more" if len(whole.unknown) > 1 else ""
        notes.append(f"MACs are not known for {whole.unknown[0]!r}{more}")
    if times:
        notes.append("an operator without a time is fused into another one, or takes next to none")
    rows = _rows(graph, layers, times)
    if options.json:
        total = {**asdict(whole), "unknown": list(whole.unknown), "time_ms": sum(times.values()) if times else None}
        print(
            json_bytes({"model": str(options.model), "layers": rows, "total": total, "notes": notes}).decode(), end=""
        )
        return 0
    total_time = sum(times.values()) if times else None
    cells = [_cells(row, total_time) for row in rows]
    totals = {"name": "total", "op_type": "", **asdict(whole), "time_ms": total_time}
    show(
        f"{options.model}: {len(graph.model.graph)} operators, MACs of one sample"
        + (f", time of one run of {options.batch}" if times else ""),
        "",
        _table([*cells, _cells(totals, total_time)]),
        *(f"note: {note}" for note in notes),
    )
    return 0


def _rows(graph: Graph, layers: Sequence[LayerCost], times: Mapping[str, float] | None) -> list[dict[str, Any]]:
    costs = {layer.name: layer for layer in layers}
    total = sum((times or {}).values())
    rows: list[dict[str, Any]] = []
    rest = 0.0
    others = 0
    for node in graph.model.graph:
        name = node.name or ""
        time = times.get(name, 0.0) if times is not None else None
        layer = costs.get(name)
        if layer is None and (time is None or time < WORTH_A_ROW * total):
            rest += time or 0.0
            others += 1
            continue
        rows.append({**(asdict(layer) if layer else FREE), "name": name, "op_type": node.op_type, "time_ms": time})
    if others:
        rows.append({**FREE, "name": f"({others} other operators)", "op_type": "", "time_ms": rest if times else None})
    if times and times.get(""):
        rows.append({**FREE, "name": "(inserted by the runtime)", "op_type": "", "time_ms": times[""]})
    return rows


def _table(rows: Sequence[Sequence[str]]) -> Table:
    columns = ["layer", "operator", ">params", ">nonzeros", ">MACs", ">bytes", ">time", ">share"]
    if width() < NARROW:
        columns, rows = [columns[0], *columns[2:]], [[row[0], *row[2:]] for row in rows]
    return table(columns, rows)


def _cells(row: Mapping[str, Any], total: float | None) -> list[str]:
    time = row["time_ms"]
    return [
        row["name"],
        row["op_type"],
        *(number(row[key]) if row[key] != 0 else UNKNOWN for key in ("params", "nonzeros")),
        "?" if row["macs"] is None else rounded(row["macs"]) if row["macs"] else UNKNOWN,
        file_size(row["bytes"]) if row["bytes"] else UNKNOWN,
        f"{time:.3f} ms" if time else UNKNOWN,
        f"{100 * time / total:.1f} %" if time and total else UNKNOWN,
    ]
