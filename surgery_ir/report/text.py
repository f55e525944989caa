"""Numbers as people read them, the same on the terminal and in the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "LABELS",
    "SHARES",
    "UNKNOWN",
    "against",
    "change",
    "file_size",
    "number",
    "percent",
    "quantity",
    "ratio",
    "rounded",
    "score",
]

LABELS = {
    "params": "parameters",
    "nonzeros": "nonzeros",
    "bytes": "file size",
    "macs": "MACs",
    "latency_ms": "latency",
}
"""What a report measures of a model, and what to call it."""

SHARES = ("accuracy", "fidelity")
"""Metrics that are shares of the samples."""

UNKNOWN = "–"


def number(value: int | None) -> str:
    """Group digits: ``1,234,567``."""
    return UNKNOWN if value is None else f"{value:,}"


def file_size(value: int | None) -> str:
    """Give bytes in the unit that fits, powers of 1000: ``1.35 MB``."""
    if value is None:
        return UNKNOWN
    size, units = float(value), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"


def rounded(value: int | None) -> str:
    """Give three digits and a power of 1000: ``12.3 M``."""
    if value is None:
        return UNKNOWN
    size, units = float(value), ["", " k", " M", " G", " T"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g}{units[0]}"


def percent(value: float | None) -> str:
    """Give a share in percent: ``92.90 %``."""
    return UNKNOWN if value is None else f"{100 * value:.2f} %"


def ratio(value: float | None) -> str:
    """Give a ratio: ``4.03×``."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def quantity(name: str, value: float | None) -> str:
    """Give a quantity of :data:`LABELS` with its unit."""
    if value is None:
        return UNKNOWN
    if name == "latency_ms":
        return f"{value:.3g} ms"
    return file_size(int(value)) if name == "bytes" else number(int(value))


def score(metric: Mapping[str, Any] | None) -> str:
    """Give a metric's value, as a share where it is one; ``metric`` is its JSON form."""
    if metric is None or metric["value"] is None:
        return UNKNOWN
    return percent(metric["value"]) if metric["name"] in SHARES else f"{metric['value']:.6g}"


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Give the difference of two values of one metric, in points where they are shares."""
    if before is None or after is None or before["value"] is None or after["value"] is None:
        return UNKNOWN
    difference = after["value"] - before["value"]
    return f"{100 * difference:+.2f} points" if before["name"] in SHARES else f"{difference:+.4g}"


def spread(name: str, value: float) -> str:
    """Give the error of a difference of two values of the metric ``name``."""
    return f"{100 * value:.2f} points" if name in SHARES else f"{value:.2g}"


def against(report: Mapping[str, Any]) -> str:
    """Say which latencies are compared, where they are of two backends; else nothing."""
    own, other, times = report["provider"], report["baseline_provider"], report["latencies_ms"]
    if own == other or not times["baseline"]:
        return ""
    before, after = times["baseline"], times["compressed"]
    return (
        f"{own} against the dense model on {other}; the dense model on {own} takes "
        f"{quantity('latency_ms', before[own])}, this one on {other} {quantity('latency_ms', after[other])}"
    )
