"""Rows of results, and the tables made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SLOWER = 0.97  # a ratio below this is slower beyond what noise explains


@dataclass(frozen=True)
class Row:
    """One configuration: the milliseconds of everyone who ran it, the first of them the one to beat."""

    model: str
    batch: int
    threads: int
    sparsity: float
    pattern: str
    milliseconds: dict[str, float]
    claimed: int = 0  # matrix operators that the provider took
    notes: dict[str, float] = field(default_factory=dict)  # further columns

    def ratio(self, contestant: str) -> float:
        """How many times faster than the first contestant."""
        return next(iter(self.milliseconds.values())) / self.milliseconds[contestant]


def geomean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def markdown(rows: Sequence[Row]) -> str:
    """A table with milliseconds and speed-ups over the first contestant, and the geometric means of those."""
    names = list(dict.fromkeys(name for row in rows for name in row.milliseconds))
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    others = names[1:]
    head = ["model", "batch", "threads", "sparsity", *(f"{name}, ms" for name in names)]
    head += [f"{name}, ×" for name in others] + notes
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for row in rows:
        cells = [row.model, str(row.batch), str(row.threads), _share(row.sparsity, row.pattern)]
        cells += [_number(row.milliseconds.get(name)) for name in names]
        cells += [_number(row.ratio(name) if name in row.milliseconds else None) for name in others]
        lines.append(_line([*cells, *(_number(row.notes.get(note)) for note in notes)]))
    kinds = list(dict.fromkeys((row.batch, row.threads, row.sparsity, row.pattern) for row in rows))
    for kind in kinds:
        alike = [row for row in rows if (row.batch, row.threads, row.sparsity, row.pattern) == kind]
        if len(alike) < 2:
            continue
        ratios = [[row.ratio(name) for row in alike if name in row.milliseconds] for name in others]
        cells = ["**geomean**", str(kind[0]), str(kind[1]), _share(*kind[2:])] + [""] * len(names)
        cells += [_number(geomean(values) if values else None) for values in ratios]
        lines.append(_line(cells + [""] * len(notes)))
    return "\n".join(lines)


def slower(rows: Sequence[Row], contestant: str) -> list[str]:
    """Rows in which the provider claimed something and was slower than the first contestant."""
    losers = [row for row in rows if row.claimed and row.ratio(contestant) < SLOWER]
    return [
        f"{row.model}, batch {row.batch}, {row.threads} threads, {_share(row.sparsity, row.pattern)}: "
        f"{row.ratio(contestant):.2f}×"
        for row in losers
    ]


def _share(sparsity: float, pattern: str) -> str:
    if ":" in pattern:
        return pattern
    return f"{100 * sparsity:g} %" + ("" if pattern == "unstructured" else f" {pattern}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
