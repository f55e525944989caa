"""Measure a model before and after, on the same samples and in turns."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.base import Backend
from surgery_ir.backends.evaluate import Fidelity, Metric, Score, difference, fidelity, predict
from surgery_ir.backends.latency import measure
from surgery_ir.graph.model import Graph
from surgery_ir.report.attribution import adds_up, connections_by_layer
from surgery_ir.report.data import Measurement, compare_layers
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

    ``example`` tells the sizes of open axes where there are no samples to measure on.
    """
    compressed = network.graph
    sessions = [runtime.load(dense), runtime.load(compressed)]
    scores: list[Score | None] = [None, None]
    latencies: list[float | None] = [None, None]
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
        timed = [runtime.load(graph, threads=1) for graph in (dense, compressed)]
        latencies = [item.median_ms for item in measure(timed, feeds, seconds=LATENCY_SECONDS)]
    shapes = [_shapes(graph, runtime, samples or example) for graph in (dense, compressed)]
    costs = [cost(graph, known) for graph, known in zip((dense, compressed), shapes, strict=True)]
    baseline, smaller = (
        Measurement(total.params, total.nonzeros, total.bytes, total.macs, latency, score)
        for total, latency, score in zip(costs, latencies, scores, strict=True)
    )
    return {
        "model": dense.source,
        "baseline": baseline,
        "compressed": smaller,
        "fidelity": faithful,
        "verified": verified,
        "edits": network.edits,
        "layers": compare_layers(
            costs[0].layers, costs[1].layers, connections_by_layer(network.edits, dense, compressed)
        ),
    }


def _shapes(graph: Graph, runtime: Backend, samples: Samples | None) -> dict[str, tuple[int, ...]] | None:
    if samples is None:
        return None
    return sample_shapes(graph, runtime, next(samples.take(1).batches(graph, 1)).feeds)
