"""Inline SVG: the Pareto front and the bars of the layers. Nothing is loaded from anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Point", "balance", "bar", "scatter"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44


@dataclass(frozen=True, slots=True)
class Point:
    """A dot: where, what to say when pointed at, and whether it is the one that was chosen."""

    x: float
    y: float
    label: str
    chosen: bool = False


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Draw ``points`` with axes, joined from left to right."""
    xs, ys = _ticks([point.x for point in points]), _ticks([point.y for point in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0])
        up = (y - ys[0]) / (ys[-1] - ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{y_title} against {x_title}")}">']
    for tick in xs:
        x, bottom = place(tick, ys[0])
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{tick:.4g}</text>')
    for tick in ys:
        left, y = place(xs[0], tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{height}" text-anchor="middle" transform="rotate(-90 14 {height})">{escape(y_title)}</text>'
    )
    ordered = sorted(points, key=lambda point: (point.x, point.y))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(point.x, point.y) for point in ordered))
    parts.append(f'<polyline class="front" points="{line}"/>')
    for point in sorted(ordered, key=lambda item: item.chosen):
        x, y = place(point.x, point.y)
        kind, radius = ("dot chosen", 6) if point.chosen else ("dot", 4)
        title = f"<title>{escape(point.label)}</title>"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>')
    return "".join([*parts, "</svg>"])


def bar(share: float) -> str:
    """Draw a bar that is filled to ``share``, 0 to 1."""
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="100" height="8"/><rect class="kept" width="{_filled(share)}" height="8"/></svg>'
    )


def balance(lost: float, gained: float) -> str:
    """Draw two bars, one above the other, as long as ``lost`` and ``gained``, 0 to 1."""
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="gone" width="{_filled(lost)}" height="3.5"/>'
        f'<rect class="kept" y="4.5" width="{_filled(gained)}" height="3.5"/></svg>'
    )


def _filled(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}"


def _ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Round numbers around ``values``, at least two; steps are 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = max(abs(low) * 0.05, 1e-6)
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]
