"""What reconnection wins back: pruning with repair alone, and with each reconnecting pass in its place.

Fine: single weights, at the same number of nonzeros. Coarse: whole units, at the same MACs, and the latency that goes
with it, measured in turns with the control. Every model is judged on samples that nothing was fitted or chosen on;
a seed is that of the passes and chooses the calibration samples that they get::

    python -m benchmarks.reconnect                                     # all of it, some hours
    python -m benchmarks.reconnect --models resnet mlp --ratios 0.9 --shares --seeds 0
    python -m benchmarks.reconnect --models vit --json vit.json        # one line each as they come, kept in a file
    python -m benchmarks.reconnect --show resnet.json vit.json         # tables of what was run before
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table

from benchmarks.models import TASKS, Task, Unavailable
from benchmarks.models.task import RUNTIME
from surgery_ir.analysis.cost import Cost
from surgery_ir.backends.latency import measure, ratio
from surgery_ir.errors import SurgeryError
from surgery_ir.graph.edits import plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.network import Prefixes

PLAIN, REPAIR = "repair, plain targets", "repair"
"""The controls: layers solved for their own dense outputs, and layers that also absorb the error of their skips."""

FINE = {
    PLAIN: "repair{residual=false relu=0}",
    REPAIR: "repair",
    "regrow": "regrow",
    "rewire": "rewire",
    "skip": "skip",
    "shift": "shift",
    "reconnect": "reconnect",
}
"""What follows the pruning of single weights."""

COARSE = {
    REPAIR: "repair",
    "rewire": "rewire{granularity=channel}",
    "skip": "skip",
    "reconnect": "reconnect",
    "reconnect, channels": "reconnect{granularity=channel}",
    "reconnect, layers": "reconnect{granularity=layer}",
}
"""What follows the cutting of channels, heads and widths."""

PRUNE_WEIGHTS = "canonicalize,prune-weights{{criterion=obs ratio={ratio} compensate=false {more}}}"
PRUNE_CHANNELS = "canonicalize,prune-channels{{macs={share} multiple=8}}"

RATIOS = (0.7, 0.8, 0.9, 0.95)
SHARES = (0.6, 0.4)
SEEDS = (0, 1, 2)

LEAST_LOSS = 0.2
"""Points that a control has to lose before shares of its loss mean anything."""

LATENCY_SECONDS = 2.0
NOTES = 3

CAPTION = (
    "mean ± standard deviation over the seeds; vs repair: the same seed's difference; back: share of the loss of a "
    "control that is won back; KL: from the dense model, and relative to repair's; nonzeros and MACs (single weights: "
    "those of nonzero weights): of repair, and relative to them; "
    "time: latency as a ratio to the control's, one sample, one thread, timed in turns; made/cut: plasticity; "
    "s: seconds of the passes behind the pruning"
)


@dataclass(frozen=True)
class Row:
    """One model that was made and judged.

    ``dense`` and ``right`` are percent, ``latency`` is milliseconds relative to the control's, and ``macs`` are dense
    ones where units were cut, those of nonzero weights where single weights were. ``notes`` are the first refusals of
    the passes behind the pruning.
    """

    model: str
    measure: str
    level: str
    recipe: str
    seed: int
    dense: float
    right: float
    kl: float
    nonzeros: int
    macs: int
    latency: float
    plasticity: float
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = "" if self.plasticity or not self.notes or self.recipe in (PLAIN, REPAIR) else f" ({self.notes[0]})"
        return (
            f"{self.model} {self.level} seed {self.seed} {self.recipe}: "
            f"{self.right:.2f} ({self.right - self.dense:+.2f}), "
            f"KL {self.kl:.4f}, nonzeros {self.nonzeros}, MACs {self.macs}, time {self.latency:.2f}×, "
            f"plasticity {self.plasticity:.4f}, {self.seconds:.1f} s{why}"
        )


@dataclass(frozen=True)
class Level:
    """How much is pruned, by which passes, and what follows, the control among it."""

    name: str
    prune: str
    recipes: dict[str, str]
    coarse: bool


def levels(task: Task, ratios: Iterable[float], shares: Iterable[float]) -> Iterator[Level]:
    for item in ratios:
        prune = PRUNE_WEIGHTS.format(ratio=item, more=task.prune.format(ratio=item))
        yield Level(f"{item:.0%} zeros", prune, FINE, False)
    for item in shares:
        yield Level(f"{item:.0%} of MACs", PRUNE_CHANNELS.format(share=item), COARSE, True)


def run(task: Task, level: Level, seed: int, networks: Prefixes, chosen: set[str], console: Console) -> Iterator[Row]:
    """Make and judge a model by each chosen recipe; the control is made whether it is chosen or not."""
    pruned = networks.apply(parse_pipeline(level.prune))
    control = networks.apply(parse_pipeline(f"{level.prune},{level.recipes[REPAIR]}")).graph
    dense = task.quality(task.graph).right
    for recipe, passes in level.recipes.items():
        if recipe not in chosen:
            continue
        start = time.perf_counter()
        try:
            # Not by way of the prefixes: what is kept there would take no time.
            network = Prefixes(pruned.graph, networks.ctx).apply(parse_pipeline(passes))
        except SurgeryError as error:
            failure = f"{task.name} {level.name} seed {seed} {recipe}: {error}"
            console.print(failure, style="red", markup=False, soft_wrap=True)
            continue
        seconds = time.perf_counter() - start
        quality, costs = task.quality(network.graph), task.cost(network.graph)
        yield Row(
            model=task.name,
            measure=task.measure,
            level=level.name,
            recipe=recipe,
            seed=seed,
            dense=dense,
            right=quality.right,
            kl=quality.kl,
            nonzeros=costs.nonzeros,
            macs=_macs(costs, level.coarse),
            latency=_latency(task, network.graph, control),
            plasticity=plasticity((*pruned.edits, *network.edits)),
            seconds=seconds,
            notes=tuple(f"{item.pass_name}: {item.reason}" for item in network.refusals[:NOTES]),
        )


def _macs(costs: Cost, coarse: bool) -> int:
    return (costs.macs if coarse else costs.sparse_macs) or 0


def _latency(task: Task, graph: Graph, control: Graph) -> float:
    """Time of one sample on one thread, relative to the control's; measured in turns."""
    sessions = [RUNTIME.load(item, threads=1) for item in (graph, control)]
    feeds = next(task.report.take(1).batches(graph, 1)).feeds
    return ratio(*measure(sessions, feeds, seconds=LATENCY_SECONDS))


def table(rows: Sequence[Row]) -> Table:
    """Table of the rows of one model: a section for each level, a line for each recipe."""
    first = rows[0]
    title = f"{first.model}: {first.measure} on report data; dense {first.dense:.2f} %"
    made = Table(title=title, caption=CAPTION, caption_justify="left")
    made.add_column("pruned to", no_wrap=True)
    made.add_column("then", no_wrap=True)
    for heading in ("%", "vs repair", "back of plain", "back of repair", "KL", "nonzeros", "MACs", "time"):
        made.add_column(heading, justify="right", no_wrap=True)
    for heading in ("made/cut", "s"):
        made.add_column(heading, justify="right", no_wrap=True)
    for level in dict.fromkeys(row.level for row in rows):
        here = [row for row in rows if row.level == level]
        for number, recipe in enumerate(dict.fromkeys(row.recipe for row in here)):
            made.add_row("" if number else level, recipe, *_cells(recipe, here))
        made.add_section()
    return made


def _cells(recipe: str, rows: Sequence[Row]) -> tuple[str, ...]:
    mine = _by_seed(rows, recipe)
    control = _by_seed(rows, REPAIR)
    if recipe == REPAIR:
        versus, numbers = "", (f"{_mean(mine, 'kl'):.4f}", _short(_mean(mine, "nonzeros")), _short(_mean(mine, "macs")))
    else:
        versus = _spread([row.right - control[seed].right for seed, row in mine.items() if seed in control], sign="+")
        numbers = (
            f"{_mean(mine, 'kl'):.4f} {_relative(mine, control, 'kl') - 1:+.0%}",
            f"{_relative(mine, control, 'nonzeros'):.4f}×",
            f"{_relative(mine, control, 'macs'):.3f}×",
        )
    return (
        _spread([row.right for row in mine.values()]),
        versus,
        *(_won_back(mine, _by_seed(rows, other)) if recipe != other else "" for other in (PLAIN, REPAIR)),
        *numbers,
        f"{_mean(mine, 'latency'):.2f}×",
        f"{_mean(mine, 'plasticity'):.4f}",
        f"{_mean(mine, 'seconds'):.0f}",
    )


def _mean(rows: Mapping[int, Row], field: str) -> float:
    return fmean(getattr(row, field) for row in rows.values())


def _relative(mine: Mapping[int, Row], control: Mapping[int, Row], field: str) -> float:
    """Ratio of the sums over the seeds that both have, NaN where there is none."""
    seeds = mine.keys() & control.keys()
    whole = sum(getattr(control[seed], field) for seed in seeds)
    return sum(getattr(mine[seed], field) for seed in seeds) / whole if whole else nan


def _short(number: float) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.1f} k"


def _by_seed(rows: Sequence[Row], recipe: str) -> Mapping[int, Row]:
    return {row.seed: row for row in rows if row.recipe == recipe}


def _won_back(mine: Mapping[int, Row], baseline: Mapping[int, Row]) -> str:
    """Share of what the baseline loses, over the seeds that both have; none where that is next to nothing."""
    seeds = sorted(mine.keys() & baseline.keys())
    loss = sum(baseline[seed].dense - baseline[seed].right for seed in seeds)
    if loss <= LEAST_LOSS * len(seeds):
        return "–"
    return f"{sum(mine[seed].right - baseline[seed].right for seed in seeds) / loss:+.0%}"


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    return f"{fmean(values):{sign}.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:{sign}.2f}"


def read(files: Iterable[Path]) -> list[Row]:
    plain = [row for file in files for row in json.loads(file.read_text())]
    return [Row(**{**row, "notes": tuple(row["notes"])}) for row in plain]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipes = [*dict.fromkeys((*FINE, *COARSE))]
    parser.add_argument("--models", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, help="shares of zeros")
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES, help="shares of the MACs that stay")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--recipes", nargs="+", choices=recipes, default=recipes)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as they come")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print the tables of these rows instead")
    return parser.parse_args()


def main() -> None:
    given = options()
    console = Console(width=170)
    rows = read(given.show) if given.show else []
    for name in () if given.show else given.models:
        try:
            task = TASKS[name]()
        except Unavailable as error:
            console.print(f"{name} is left out: {error}")
            continue
        for seed in given.seeds:
            networks = Prefixes(task.graph, task.context(seed))
            for level in levels(task, given.ratios, given.shares):
                for row in run(task, level, seed, networks, set(given.recipes), console):
                    console.print(str(row), style="dim", highlight=False, soft_wrap=True)
                    rows.append(row)
                    if given.json:
                        given.json.write_text(json.dumps([asdict(item) for item in rows], indent=1))
    for name in dict.fromkeys(row.model for row in rows):
        console.print(table([row for row in rows if row.model == name]))


if __name__ == "__main__":
    main()
