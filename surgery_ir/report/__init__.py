"""What was measured before and after, and what was done in between: as data, as JSON, and as a page to look at."""

from __future__ import annotations

from surgery_ir.report.attribution import adds_up, connections_by_layer, count_connections
from surgery_ir.report.data import Candidate, Latencies, Layer, Measurement, Report, Search, compare_layers, versions
from surgery_ir.report.html import render_html

__all__ = [
    "Candidate",
    "Latencies",
    "Layer",
    "Measurement",
    "Report",
    "Search",
    "adds_up",
    "compare_layers",
    "connections_by_layer",
    "count_connections",
    "render_html",
    "versions",
]
