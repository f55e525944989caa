"""What reconnecting a layer was predicted to gain, against what it gained: the calibration of predicted gains.

Predicted is the share by which the error of the layer falls on held-out rows, times the divergence that the layer
causes; measured is by how much that divergence falls on selection samples when the layer is patched into the dense
model. Nothing of this looks at labels. One line per model and share of zeros, and a plot of all layers::

    python -m benchmarks.gains                                         # five minutes
    python -m benchmarks.gains --models vit --ratios 0.9 --json vit.json
    python -m benchmarks.gains --show vit.json --svg docs/images/gains.svg
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.models import TASKS, Unavailable
from surgery_ir.analysis.threads import single_threaded_blas
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.reconnect.exchange import Rules, exchange
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.network import Prefixes

PRUNE = "canonicalize,prune-weights{{criterion=obs ratio={ratio} compensate=false {more}}}"

WIRINGS: Mapping[str, Rules] = {
    "regrow": Rules(rounds=8),
    "rewire": Rules(own=False, radius=4, budget=0.25, per="nonzeros", rounds=8),
    "both": Rules(radius=2, rounds=8),
}
"""The defaults of ``regrow``, of ``rewire``, and of ``reconnect`` with counts that stay."""

MODELS = ("resnet", "vit")
RATIOS = (0.8, 0.9, 0.95)

LEAST_SPREAD = 3
"""Layers that a correlation needs to mean anything."""


@dataclass(frozen=True)
class Row:
    """New connections of one layer: gains are in the unit of the divergence, KL in nats where there are classes."""

    model: str
    ratio: float
    wiring: str
    layer: str
    created: int
    before: float
    predicted: float
    measured: float
    kept: bool


@dataclass(frozen=True)
class Calibration:
    """How well predictions did.

    Parameters
    ----------
    layers, helped
        Layers that were tried, and those of them where the divergence did fall.
    rank
        Spearman's rank correlation of predicted and measured gains.
    relative_rank
        The same for gains relative to the divergence that the layer causes; how much a layer matters, which both
        gains are in proportion to, is no part of it.
    ratio
        Median of measured / predicted.
    level
        The same as a geometric mean, over layers where the divergence fell: a line parallel to the diagonal.
    slope
        Of the logarithm of measured over that of predicted, over the same layers; 1 where they are in proportion.
    """

    layers: int
    helped: int
    rank: float
    relative_rank: float
    ratio: float
    level: float
    slope: float


def calibrate(rows: Sequence[Row]) -> Calibration:
    """Compare predicted and measured gains of layers that a gain was predicted for."""
    found = [row for row in rows if row.predicted > 0 and row.before > 0]
    predicted, measured, before = (
        np.array([getattr(row, name) for row in found]) for name in ("predicted", "measured", "before")
    )
    positive = measured > 0
    x, y = np.log(predicted[positive]), np.log(measured[positive])
    return Calibration(
        layers=len(found),
        helped=int(positive.sum()),
        rank=_spearman(predicted, measured),
        relative_rank=_spearman(predicted / before, measured / before),
        ratio=float(np.median(measured / predicted)) if len(found) else math.nan,
        level=float(np.exp((y - x).mean())) if len(x) else math.nan,
        slope=float(np.polyfit(x, y, 1)[0]) if len(x) >= LEAST_SPREAD else math.nan,
    )


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1]) if len(one) >= LEAST_SPREAD else math.nan


def run(name: str, ratios: Iterable[float], wirings: Iterable[str], console: Console) -> Iterator[Row]:
    """Prune a model and try every wiring on it, layer by layer."""
    task = TASKS[name]()
    ctx: PassContext = task.context(0)
    networks = Prefixes(task.graph, ctx)
    for ratio in ratios:
        pruned = networks.apply(parse_pipeline(PRUNE.format(ratio=ratio, more=task.prune.format(ratio=ratio)))).graph
        for wiring in wirings:
            with single_threaded_blas():
                found = exchange(Editor(pruned.clone(), "gains"), ctx, WIRINGS[wiring]).gains
            console.print(f"{name} {ratio:.0%} {wiring}: {len(found)} layers tried", style="dim", highlight=False)
            for item in found:
                yield Row(model=name, ratio=ratio, wiring=wiring, **asdict(item))


# --- what is printed and drawn


def table(rows: Sequence[Row]) -> Table:
    """One line per model and share of zeros, one per model, one for all."""
    made = Table(title="predicted and measured gains of reconnecting single layers")
    made.add_column("model")
    made.add_column("zeros")
    for heading in ("layers", "helped", "rank", "rank, relative", "measured/predicted", "level", "slope"):
        made.add_column(heading, justify="right")
    models = list(dict.fromkeys(row.model for row in rows))
    for model in models:
        mine = [row for row in rows if row.model == model]
        for ratio in dict.fromkeys(row.ratio for row in mine):
            made.add_row(model, f"{ratio:.0%}", *_cells([row for row in mine if row.ratio == ratio]))
        made.add_row(model, "all", *_cells(mine))
        made.add_section()
    if len(models) > 1:
        made.add_row("all", "all", *_cells(rows))
    return made


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    found = calibrate(rows)
    numbers = (found.rank, found.relative_rank, found.ratio, found.level, found.slope)
    return str(found.layers), str(found.helped), *(f"{number:.2f}" for number in numbers)


WIDTH, HEIGHT = 640, 480
LEFT, RIGHT, TOP, STRIP, BOTTOM = 74, 18, 34, 26, 52
COLOURS = ("#0b6e99", "#c2571a", "#5b7f2b", "#8a4f9e")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}line{stroke:#ddd}.diagonal{stroke:#888;stroke-dasharray:5 4}"
    "circle{fill-opacity:.55;stroke-width:1}.undone{fill:none}"
)


def svg(rows: Sequence[Row]) -> str:
    """Draw measured over predicted gains, both logarithmic; gains that are not above 0 lie on a strip of their own."""
    shown = [row for row in rows if row.predicted > 0]
    models = sorted({row.model for row in shown})
    xs, ys = _powers(row.predicted for row in shown), _powers(row.measured for row in shown if row.measured > 0)
    floor = HEIGHT - BOTTOM - STRIP

    def across(value: float) -> float:
        return LEFT + (math.log10(value) - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return floor - (math.log10(value) - ys[0]) / (ys[-1] - ys[0]) * (floor - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="measured against predicted gains">',
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for power in xs:
        x = across(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_power(power)}</text>')
    for power in ys:
        y = up(10.0**power)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_power(power)}</text>')
    strip = floor + STRIP / 2
    parts.append(f'<text x="{LEFT - 8}" y="{strip + 4:.1f}" text-anchor="end">≤ 0</text>')
    ends = [(across(10.0**power), up(10.0**power)) for power in (max(xs[0], ys[0]), min(xs[-1], ys[-1]))]
    (x1, y1), (x2, y2) = ends
    parts.append(f'<line class="diagonal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    parts += _titles(models)
    for row in shown:
        y = up(row.measured) if row.measured > 0 else strip
        parts.append(_dot(row, across(row.predicted), y, _colour(models.index(row.model))))
    return "\n".join([*parts, "</svg>", ""])


def _powers(values: Iterable[float]) -> range:
    """Powers of ten around positive ``values``, at least two."""
    logs = [math.log10(value) for value in values] or [0.0]
    low = math.floor(min(logs))
    return range(low, max(math.ceil(max(logs)), low + 1) + 1)


def _power(power: int) -> str:
    return f'10<tspan dy="-5" style="font-size:9px">{power}</tspan>'


def _titles(models: Sequence[str]) -> list[str]:
    parts = [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">predicted gain</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        "measured gain</text>",
    ]
    for place, model in enumerate(models):
        x = LEFT + 100 * place
        parts.append(f'<circle cx="{x + 6}" cy="18" r="5" fill="{_colour(place)}" stroke="{_colour(place)}"/>')
        parts.append(f'<text x="{x + 16}" y="22">{escape(model)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="22" text-anchor="end">open circles: undone</text>')
    return parts


def _dot(row: Row, x: float, y: float, colour: str) -> str:
    title = (
        f"{row.model} {row.ratio:.0%} zeros, {row.wiring}, {row.layer}: {row.created} connections, "
        f"predicted {row.predicted:.2g}, measured {row.measured:.2g}"
    )
    look = f'fill="{colour}"' if row.kept else 'class="undone"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {look} stroke="{colour}"><title>{escape(title)}</title></circle>'


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=MODELS)
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS, help="shares of zeros")
    parser.add_argument("--wirings", nargs="+", choices=WIRINGS, default=[*WIRINGS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the gains of all layers here as they come")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw them here")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="use the gains in these files instead")
    return parser.parse_args()


def main() -> None:
    given = options()
    console = Console(width=120)
    rows = [Row(**plain) for file in given.show or () for plain in json.loads(file.read_text())]
    for name in () if given.show else given.models:
        try:
            for row in run(name, given.ratios, given.wirings, console):
                rows.append(row)
                if given.json:
                    given.json.write_text(json.dumps([asdict(item) for item in rows], indent=1))
        except Unavailable as error:
            console.print(f"{name} is left out: {error}")
    console.print(table(rows))
    if given.svg:
        given.svg.write_text(svg(rows))


if __name__ == "__main__":
    main()
