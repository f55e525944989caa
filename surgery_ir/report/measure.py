"""Measure a model before and after, on the same samples and in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.base import Backend, baseline_of
from surgery_ir.backends.evaluate import Fidelity, Metric, Score, difference, fidelity, predict
from surgery_ir.backends.latency import measure
from surgery_ir.graph.model import Graph
from surgery_ir.report.attribution import adds_up, connections_by_layer
from surgery_ir.report.data import Latencies, Measurement, compare_layers
from surgery_ir.search.network import Network

__all__ = ["LATENCY_SECONDS", "measure_both"]

LATENCY_SECONDS = 2.0
"""Time for measuring latency: of one sample, on one thread, because several make it a matter of luck."""


def measure_both(
    dense: Graph,
    network: Network,
    runtime: Backend,
    samples: Samples | None,
    metric: Metric,
    example: Samples | None = None,
) -> dict[str, Any]:
    """Measure both models on the same samples and in turns; give fields of a report.

    The baseline is the dense model on the backend that ``runtime`` is compared with. Where these are two, both models
    are timed on both. ``example`` tells the sizes of open axes where there are no samples to measure on.
    """
    compressed = network.graph
    stock = baseline_of(runtime)
    sessions = [stock.load(dense), runtime.load(compressed)]
    scores: list[Score | None] = [None, None]
    latencies = Latencies(runtime.name, stock.name)
    verified: dict[str, Any] = {"loads": True, "connections_add_up": adds_up(network.edits, dense, compressed)}
    faithful: Fidelity | None = None
    if samples is not None:
        reference, outputs = (predict(session, samples) for session in sessions)
        before, after = (metric(item, samples.labels, reference) for item in (reference, outputs))
        scores = [before, after]
        faithful = fidelity(outputs, reference)
        gap = difference(after, before)
        verified |= {
            "finite": all(bool(np.isfinite(item).all()) for item in outputs.values() if item.dtype.kind == "f"),
            "drop": -gap.value,
            "standard_error": gap.standard_error,
        }
        feeds = next(samples.take(1).batches(dense, 1)).feeds
        latencies = _latencies(dense, compressed, runtime, stock, feeds)
    shapes = [_shapes(graph, stock, samples or example) for graph in (dense, compressed)]
    costs = [cost(graph, known) for graph, known in zip((dense, compressed), shapes, strict=True)]
    baseline, smaller = (
        Measurement(total.params, total.nonzeros, total.bytes, total.macs, latency, score)
        for total, latency, score in zip(costs, latencies.pair(), scores, strict=True)
    )
    return {
        "model": dense.source,
        "baseline": baseline,
        "compressed": smaller,
        "fidelity": faithful,
        "verified": verified,
        "latencies": latencies,
        "edits": network.edits,
        "layers": compare_layers(
            costs[0].layers, costs[1].layers, connections_by_layer(network.edits, dense, compressed)
        ),
    }


def _latencies(
    dense: Graph, compressed: Graph, runtime: Backend, stock: Backend, feeds: Mapping[str, NDArray[Any]]
) -> Latencies:
    """Time both models on both backends, all in turns."""
    backends = {item.name: item for item in (stock, runtime)}
    timed = [item.load(graph, threads=1) for graph in (dense, compressed) for item in backends.values()]
    times = [item.median_ms for item in measure(timed, feeds, seconds=LATENCY_SECONDS)]
    before, after = times[: len(backends)], times[len(backends) :]
    names = tuple(backends)
    return Latencies(
        runtime.name, stock.name, dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True))
    )


def _shapes(graph: Graph, runtime: Backend, samples: Samples | None) -> dict[str, tuple[int, ...]] | None:
    if samples is None:
        return None
    return sample_shapes(graph, runtime, next(samples.take(1).batches(graph, 1)).feeds)
