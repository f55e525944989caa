"""Fit what may replace residual branches, and judge it on samples that are held out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.rows import CHECK_EVERY
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.shapes import Shape
from surgery_ir.errors import PassError
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.branches import Branch
from surgery_ir.passes.prune.replacements import Replacement, is_rectified
from surgery_ir.solvers.linear_map import LinearMap, fit_map, identity

__all__ = ["Case", "Fitted", "fit"]

BATCH = 64
POSITIONS = 16
"""Positions of a sample that are looked at."""

MEMORY = 512 << 20
"""Bytes of activations that are held at a time."""

RECTIFIED = 1
"""Rounds of a fit in which targets that a Relu cuts off are free."""

Table = Mapping[tuple[str, int], NDArray[Any]]
"""Rows (n, features) of values, by name and axis of the features."""


@dataclass(frozen=True, slots=True)
class Case:
    """A branch and the ways to do without it."""

    branch: Branch
    ways: tuple[Replacement, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A way to do without a branch, solved.

    Parameters
    ----------
    branch, way
        What is replaced, and how.
    map
        T and b.
    error
        Squared error of y on held-out samples relative to the energy of y, behind the Relu if one follows.
    dtype
        Type of y.
    """

    branch: Branch
    way: Replacement
    map: LinearMap
    error: float
    dtype: np.dtype[Any]


def fit(
    graph: Graph, dense: Graph, cases: Sequence[Case], shapes: Mapping[str, Shape], samples: Samples,
    runtime: Runtime, *, ridge: float, seed: int,
) -> Iterator[Fitted]:  # fmt: skip
    """Solve every way of every case.

    Parameters
    ----------
    graph
        Graph that what is read is taken from.
    dense
        Graph that the targets y are taken from, by name.
    cases
        What to solve.
    shapes
        Shapes of the values of ``graph`` for one sample.
    samples
        Calibration samples; one in :data:`~surgery_ir.analysis.rows.CHECK_EVERY` is held out.
    runtime
        Runs both graphs, once over the samples for as many cases as memory holds.
    ridge, seed
        Pull towards the identity; seed of the positions that are looked at.

    Raises
    ------
    PassError
        Activations are NaN or infinite.
    """
    places = np.arange(len(samples))
    held_out = places % CHECK_EVERY == CHECK_EVERY - 1
    parts = [samples.take(places[~held_out]), samples.take(places[held_out])]
    for group in _groups(cases, shapes, len(samples)):
        fits, checks = (_read(graph, dense, group, part, runtime, seed) for part in parts)
        for case in group:
            rectified = is_rectified(graph, case.branch.total)
            for way in case.ways:
                try:
                    yield _fit(case.branch, way, fits, checks, ridge, RECTIFIED if rectified else 0)
                except ValueError as error:
                    raise PassError(f"drop-layers: activations of {case.branch.node!r}: {error}") from error


def _fit(branch: Branch, way: Replacement, fits: Table, checks: Table, ridge: float, rectified: int) -> Fitted:
    def rows(table: Table) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        rest = None if way.rest is None else table[way.rest, way.axis]
        return table[way.source, way.axis], table[_target(branch), way.axis], rest

    x, y, rest = rows(fits)
    if way.kind == "identity":
        found = identity(x.shape[1])
    else:
        found = fit_map(x, y, ridge, offset=rest, bias=way.bias, rectified=rectified)
    x, y, rest = rows(checks)
    output, wanted = found(x), y.astype(np.float64)
    if rest is not None:
        output = output + rest
    if rectified:
        output, wanted = np.maximum(output, 0), np.maximum(wanted, 0)
    energy = float((wanted**2).sum())
    error = float(((output - wanted) ** 2).sum())
    return Fitted(branch, way, found, error / energy if energy > 0 else error, y.dtype)


def _target(branch: Branch) -> str:
    """Key of the target among the values that are read: ahead of every name of a value."""
    return f"dense:{branch.total}"


def _read(
    graph: Graph, dense: Graph, cases: Sequence[Case], samples: Samples, runtime: Runtime, seed: int
) -> dict[tuple[str, int], NDArray[Any]]:
    """Run both graphs and keep rows of what the cases need, at the same random positions."""
    wanted: dict[tuple[str, int], None] = {}
    targets: dict[tuple[str, int], str] = {}
    for case in cases:
        for way in case.ways:
            targets[_target(case.branch), way.axis] = case.branch.total
            wanted.update({(value, way.axis): None for value in (way.source, way.rest) if value is not None})
    small = runtime.load(with_outputs(graph, dict.fromkeys(name for name, _ in wanted)))
    large = runtime.load(with_outputs(dense, dict.fromkeys(targets.values())))
    found: dict[tuple[str, int], list[NDArray[Any]]] = {}
    for index, batch in enumerate(samples.batches(graph, BATCH)):
        values, totals = small.run(batch.feeds), large.run(batch.feeds)
        for name, axis in wanted:
            rows = _rows(batch.trim(values[name]), axis, batch.count, [seed, index])
            found.setdefault((name, axis), []).append(rows)
        for (key, axis), name in targets.items():
            rows = _rows(batch.trim(totals[name]), axis, batch.count, [seed, index])
            found.setdefault((key, axis), []).append(rows)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _rows(value: NDArray[Any], axis: int, count: int, seed: list[int]) -> NDArray[Any]:
    """Features at random positions, the same ones for values of the same shape: (rows, features)."""
    rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
    limit = POSITIONS * count
    if len(rows) <= limit:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))]


def _groups(cases: Sequence[Case], shapes: Mapping[str, Shape], samples: int) -> Iterator[list[Case]]:
    """Split ``cases`` into runs whose rows fit the memory bound."""
    group: list[Case] = []
    room = MEMORY
    for case in cases:
        values = {(name, way.axis) for way in case.ways for name in (way.source, way.rest, case.branch.total)}
        need = sum(_bytes(shapes[name], axis, samples) for name, axis in values if name is not None)
        if group and need > room:
            yield group
            group, room = [], MEMORY
        group.append(case)
        room -= need
    if group:
        yield group


def _bytes(shape: Shape, axis: int, samples: int) -> int:
    sizes = [size or 1 for size in shape]
    return 8 * samples * sizes[axis] * min(POSITIONS, math.prod(sizes) // max(1, sizes[axis]))
