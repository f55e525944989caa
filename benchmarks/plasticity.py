"""Whether plastic models lose less: networks of one sparsity, made with more or less plasticity, are pruned further.

Plasticity is connections created / connections pruned. The claim is that a network with more of it is less vulnerable
to pruning. All networks of a group have the same number of nonzeros; they differ in what made them: repair alone,
reconnecting passes, or, as a placebo, connections exchanged at random. Each then loses the same share of what is left
of every layer. The claim wants a negative rank correlation between plasticity and what is lost; where the placebos
carry it, it is not reconnection that helps::

    python -m benchmarks.plasticity                                    # resnet, half an hour
    python -m benchmarks.plasticity --models vit mlp --ratios 0.9 --seeds 0 --json vit.json
    python -m benchmarks.plasticity --show resnet.json vit.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.models import TASKS, Task, Unavailable
from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.errors import SurgeryError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.network import Network, Prefixes

RATIOS = (0.8, 0.9)
SEEDS = (0, 1, 2)
CUTS = (0.2, 0.4, 0.6)
"""Shares of what is left of a layer that the network loses later."""

PRUNE = "canonicalize,prune-weights{{criterion=obs ratio={ratio} compensate=false {more}}}"
PRUNED = 0.1
"""Layers with at least this share of zeros were pruned; the others are ends, which stay dense."""

MOST_ZEROS = 0.99
SMALL = 1e-3
"""What a connection created at random starts from, relative to the layer's weights; repair finds its value."""

PERMUTATIONS = 2000


@dataclass(frozen=True)
class RandomRewiring(Pass):
    """Exchange the smallest weights of every pruned layer for as many pruned ones, chosen at random.

    The step of sparse evolutionary training (Mocanu et al., 2018), here without any training.
    """

    name: ClassVar[str] = "random-rewiring"
    share: Annotated[float, Range(0.0, 1.0), Help("share of a layer's weights that are exchanged")] = 0.1

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        rng = np.random.default_rng(ctx.seed)
        for layer in _pruned_layers(editor.graph):
            matrix = layer.matrix(editor.graph.array(layer.weight)).copy()
            flat = matrix.reshape(-1)
            kept, free = np.flatnonzero(flat), np.flatnonzero(flat == 0)
            count = min(round(self.share * len(kept)), len(free))
            born = rng.choice(free, count, replace=False)
            typical = float(np.abs(flat[kept]).mean())
            flat[kept[np.argsort(np.abs(flat[kept]), kind="stable")[:count]]] = 0
            flat[born] = SMALL * typical * rng.choice((-1.0, 1.0), count)
            editor.set_weights(layer.weight, layer.array(matrix))
        return () if editor.edits else [Refusal("there is no layer with zeros")]


MAKERS: Mapping[str, tuple[Pass | str, ...]] = {
    "repair": ("repair",),
    "regrow, few": ("regrow{budget=0.002}",),
    "regrow, some": ("regrow{budget=0.005}",),
    "regrow": ("regrow",),
    "rewire": ("rewire",),
    "reconnect": ("reconnect",),
    "random, 5 % (placebo)": (RandomRewiring(0.05), "repair"),
    "random, 20 % (placebo)": (RandomRewiring(0.2), "repair"),
}
"""What follows the pruning of a network; all leave the same number of nonzeros."""


@dataclass(frozen=True)
class Way:
    """How a network is pruned further."""

    name: str
    criterion: Literal["magnitude", "obs"]
    repaired: bool


WAYS = (
    Way("magnitude", "magnitude", False),
    Way("obs", "obs", False),
    Way("magnitude, repair", "magnitude", True),
    Way("obs, repair", "obs", True),
)


@dataclass(frozen=True)
class Row:
    """One network before and after it is pruned further: percent right on report data, KL from the dense model."""

    model: str
    ratio: float
    maker: str
    seed: int
    plasticity: float
    way: str
    cut: float
    before: float
    after: float
    kl_before: float
    kl_after: float
    nonzeros_before: int
    nonzeros_after: int

    def __str__(self) -> str:
        return (
            f"{self.model} {self.ratio:.0%} zeros seed {self.seed} {self.maker} (plasticity {self.plasticity:.4f}), "
            f"{self.cut:.0%} more by {self.way}: {self.before:.2f} -> {self.after:.2f}, KL {self.kl_before:.4f} -> "
            f"{self.kl_after:.4f}, nonzeros {self.nonzeros_before} -> {self.nonzeros_after}"
        )


def rows_of(task: Task, ratio: float, seed: int, cuts: Sequence[float], console: Console) -> Iterator[Row]:
    ctx = task.context(seed)
    prune = PRUNE.format(ratio=ratio, more=task.prune.format(ratio=ratio))
    pruned = Prefixes(task.graph, ctx).apply(parse_pipeline(prune))
    known: dict[str, str] = {}
    for maker, passes in MAKERS.items():
        try:
            made = Prefixes(pruned.graph, ctx).apply(_passes(passes))
        except SurgeryError as error:
            failure = f"{task.name} {ratio:.0%} zeros seed {seed} {maker}: {error}"
            console.print(failure, style="red", markup=False, soft_wrap=True)
            continue
        twin = known.setdefault(made.graph.fingerprint(), maker)
        if twin != maker:  # it would count twice in the correlations
            console.print(f"{task.name} {ratio:.0%} zeros seed {seed}: {maker} gives the network of {twin}")
            continue
        plastic = plasticity((*pruned.edits, *made.edits))
        quality, nonzeros = task.quality(made.graph), task.cost(made.graph).nonzeros
        for way in WAYS:
            for share in cuts:
                smaller = prune_further(made.graph, way, share, ctx)
                left = task.quality(smaller.graph)
                yield Row(
                    model=task.name,
                    ratio=ratio,
                    maker=maker,
                    seed=seed,
                    plasticity=plastic,
                    way=way.name,
                    cut=share,
                    before=quality.right,
                    after=left.right,
                    kl_before=quality.kl,
                    kl_after=left.kl,
                    nonzeros_before=nonzeros,
                    nonzeros_after=task.cost(smaller.graph).nonzeros,
                )


def prune_further(graph: Graph, way: Way, share: float, ctx: PassContext) -> Network:
    """Take ``share`` of what is left of every layer that was pruned or created."""
    ratios = {}
    for layer in _pruned_layers(graph):
        zeros = _zeros(graph, layer)
        ratios[layer.name] = min(MOST_ZEROS, 1 - (1 - zeros) * (1 - share))
    prune = PruneWeights(0.0, way.criterion, ratios=ratios, compensate=not way.repaired)
    return Prefixes(graph, ctx).apply((prune, *(parse_pipeline("repair") if way.repaired else ())))


def _passes(parts: Iterable[Pass | str]) -> tuple[Pass, ...]:
    return tuple(one for part in parts for one in (parse_pipeline(part) if isinstance(part, str) else (part,)))


def _pruned_layers(graph: Graph) -> list[Layer]:
    """Layers of which a good part is zero, those that share their weights left out."""
    return [layer for layer in find_layers(graph) if not layer.sharers and _zeros(graph, layer) >= PRUNED]


def _zeros(graph: Graph, layer: Layer) -> float:
    array = graph.array(layer.weight)
    return 1 - np.count_nonzero(array) / array.size


Loss = Callable[[Row], float]
LOSSES: Mapping[str, Loss] = {
    "points lost": lambda row: row.before - row.after,
    "KL gained": lambda row: row.kl_after - row.kl_before,
    "KL in the end": lambda row: row.kl_after,
}


def blocks(rows: Iterable[Row]) -> Mapping[tuple[str, float, int], list[Row]]:
    """Rows whose networks may be compared: of one model, sparsity and seed."""
    found = defaultdict(list)
    for row in rows:
        found[row.model, row.ratio, row.seed].append(row)
    return found


def correlations(rows: Sequence[Row], loss: Loss) -> tuple[float, float]:
    """Mean rank correlation (Spearman) of plasticity and loss, and its p-value.

    Networks are compared where model, sparsity, seed, way and share are the same. For the p-value, two-sided, the
    plasticities of the networks of a block are exchanged at random: the ways and shares of one block belong together.
    """
    rng = np.random.default_rng(0)
    total, count = np.zeros(1 + PERMUTATIONS), 0
    for block in blocks(rows).values():
        makers = list(dict.fromkeys(row.maker for row in block))
        plastic = rankdata([next(row.plasticity for row in block if row.maker == maker) for maker in makers])
        if len(makers) < 3 or np.ptp(plastic) == 0:
            continue
        orders = [np.arange(len(makers)), *(rng.permutation(len(makers)) for _ in range(PERMUTATIONS))]
        ranks = _standard(plastic)[np.stack(orders)]
        for way, share in dict.fromkeys((row.way, row.cut) for row in block):
            here = {row.maker: loss(row) for row in block if (row.way, row.cut) == (way, share)}
            lost = np.array([here[maker] for maker in makers])
            if np.ptp(lost) > 0:
                total += ranks @ _standard(rankdata(lost))
                count += 1
    if not count:
        return float("nan"), float("nan")
    mean = total / count
    return float(mean[0]), float((np.abs(mean) >= abs(mean[0]) - 1e-12).mean())


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    return np.asarray(centred / np.linalg.norm(centred))


def losses_table(rows: Sequence[Row]) -> Table:
    """What each network loses, mean and standard deviation over the seeds."""
    first = rows[0]
    made = Table(title=f"{first.model} at {first.ratio:.0%} zeros: points lost when pruned further, and KL in the end")
    for heading in ("made by", "further by", "plasticity", "before"):
        made.add_column(heading, no_wrap=True)
    cuts = list(dict.fromkeys(row.cut for row in rows))
    for share in cuts:
        made.add_column(f"−{share:.0%}", justify="right", no_wrap=True)
    for way in dict.fromkeys(row.way for row in rows):
        for maker in dict.fromkeys(row.maker for row in rows):
            here = [row for row in rows if (row.way, row.maker) == (way, maker)]
            if here:
                start = (_spread([row.plasticity for row in here], 4), _spread([row.before for row in here]))
                cells = [_lost([row for row in here if row.cut == share]) for share in cuts]
                made.add_row(maker, way, *start, *cells)
        made.add_section()
    return made


def _lost(rows: Sequence[Row]) -> str:
    return f"{_spread([row.before - row.after for row in rows])}; {fmean(row.kl_after for row in rows):.3f}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    distinct = len(set(values)) > 1
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if distinct else "")


def correlations_table(rows: Sequence[Row]) -> Table:
    made = Table(
        title="rank correlation of plasticity with loss: below 0, plastic networks lose less",
        caption="mean over the comparisons; p: two-sided, from exchanging plasticities within a model, sparsity, seed",
    )
    made.add_column("networks", no_wrap=True)
    for name in LOSSES:
        made.add_column(name, justify="right", no_wrap=True)
    kinds = {
        "all": rows,
        "all but the placebos": [row for row in rows if "placebo" not in row.maker],
        "repair and the placebos": [row for row in rows if "placebo" in row.maker or row.maker == "repair"],
    }
    groups = dict(kinds)
    models = list(dict.fromkeys(row.model for row in rows))
    for model in models if len(models) > 1 else ():
        for name, part in kinds.items():
            groups[f"{model}: {name}"] = [row for row in part if row.model == model]
    for way in dict.fromkeys(row.way for row in rows):
        groups[f"all, by {way}"] = [row for row in rows if row.way == way]
    for share in dict.fromkeys(row.cut for row in rows):
        groups[f"all, −{share:.0%}"] = [row for row in rows if row.cut == share]
    for name, part in groups.items():
        found = [correlations(part, loss) for loss in LOSSES.values()]
        made.add_row(name, *(f"{rho:+.2f} (p {p:.3f})" if np.isfinite(rho) else "–" for rho, p in found))
    return made


def uneven(rows: Iterable[Row]) -> list[str]:
    """Blocks whose networks did not have the same number of nonzeros, before or after."""
    told = []
    for (model, ratio, seed), block in blocks(rows).items():
        for share in dict.fromkeys(row.cut for row in block):
            counts = [(row.nonzeros_before, row.nonzeros_after) for row in block if row.cut == share]
            spans = [(min(column), max(column)) for column in zip(*counts, strict=True)]
            if any(low != high for low, high in spans):
                text = " and ".join(f"{low} to {high}" for low, high in spans)
                told.append(f"{model} {ratio:.0%} zeros seed {seed} −{share:.0%}: nonzeros before and after {text}")
    return told


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=["resnet"])
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS, help="shares of zeros to start from")
    parser.add_argument("--cuts", nargs="+", type=float, default=CUTS, help="shares of what is left that go")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as they come")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print the tables of these rows instead")
    return parser.parse_args()


def main() -> None:
    given = options()
    console = Console(width=150)
    rows = [Row(**row) for file in given.show or () for row in json.loads(file.read_text())]
    for name in () if given.show else given.models:
        try:
            task = TASKS[name]()
        except Unavailable as error:
            console.print(f"{name} is left out: {error}")
            continue
        for ratio, seed in ((ratio, seed) for ratio in given.ratios for seed in given.seeds):
            for row in rows_of(task, ratio, seed, given.cuts, console):
                console.print(str(row), style="dim", highlight=False, soft_wrap=True)
                rows.append(row)
                if given.json:
                    given.json.write_text(json.dumps([asdict(item) for item in rows], indent=1))
    for model, ratio in dict.fromkeys((row.model, row.ratio) for row in rows):
        console.print(losses_table([row for row in rows if (row.model, row.ratio) == (model, ratio)]))
    if rows:
        console.print(correlations_table(rows))
    for line in uneven(rows):
        console.print(line)


if __name__ == "__main__":
    main()
