"""Which units of a group matter least: the order in which they go, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.readers import UnitReader, layers_by_weight, unit_readers
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.statistics import input_moments
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.prune.folding import distortions
from surgery_ir.solvers.quadratic import Moments
from surgery_ir.solvers.structured import Consumer, eliminate

__all__ = ["Criterion", "Ranking", "needs_samples", "rank"]

Criterion = Literal["obs", "wanda", "magnitude", "random", "fold"]

POSITIONS = 16
RIDGE = 0.01
MEMORY = 1 << 30
"""Bytes of second moments that are held at a time."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Units of one group, the least important first.

    Parameters
    ----------
    order : (units,) int
        Units in the order in which they go.
    errors : (units + 1,)
        What the loss of the first k units costs, relative to what the layers that read them put out; rising.
    """

    order: Indices
    errors: Array


def needs_samples(criterion: str) -> bool:
    """Whether a criterion looks at activations."""
    return criterion in ("obs", "wanda")


def rank(
    graph: Graph, coupling: Coupling, groups: Sequence[Group], criterion: Criterion, ctx: PassContext
) -> Mapping[str, Ranking]:
    """Rank the units of every group, each as if the other groups stayed whole; kept in the context.

    Parameters
    ----------
    graph, coupling
        The graph and its coupling.
    groups
        Groups of it to rank.
    criterion
        ``obs`` adds up the error that every layer that reads a unit is left with after compensation (ZipLM, Kurtić et
        al., 2023; OBSPA, Wang et al., 2024). ``wanda`` is Σ|w|·‖x‖ over what is read (Sun et al., 2024), ``magnitude``
        the squared weights that write and read a unit relative to those of their layers, ``random`` nothing. ``fold``
        says what it costs to fold units into others, without an order. Units that no layer with equations of its own
        reads are ranked by magnitude.
    """
    names = tuple(group.name for group in groups)
    key = ("rank", criterion, graph.fingerprint(), names, ctx.samples, ctx.seed)
    return ctx.cache.get(key, lambda: MappingProxyType(dict(_rank(graph, coupling, groups, criterion, ctx))))


def _rank(
    graph: Graph, coupling: Coupling, groups: Sequence[Group], criterion: Criterion, ctx: PassContext
) -> Iterator[tuple[str, Ranking]]:
    if criterion == "fold":
        for group in groups:
            yield group.name, Ranking(np.arange(group.units), distortions(graph, coupling, group))
        return
    layers = layers_by_weight(find_layers(graph).layers)
    readers = {group.name: unit_readers(group, layers) for group in groups}
    rng = np.random.default_rng(ctx.seed)
    solvable = [group for group in groups if readers[group.name]] if needs_samples(criterion) else []
    for group in groups:
        if group not in solvable:
            scores = rng.random(group.units) if criterion == "random" else _magnitudes(graph, group)
            yield group.name, _by_score(scores)
    done = 0
    for batch in _batches(solvable, readers):
        wanted = {reader.layer.name: reader.layer for group in batch for reader in readers[group.name]}
        moments = dict(_moments(graph, list(wanted.values()), ctx))
        for group in batch:
            ctx.progress("ranking units", done, len(solvable))
            if criterion == "wanda":
                scores = sum(
                    (_wanda(graph, reader, moments[reader.layer.name]) for reader in readers[group.name]),
                    start=np.zeros(group.units),
                )
                yield group.name, _by_score(scores)
            else:
                consumers = [
                    consumer
                    for reader in readers[group.name]
                    for consumer in _consumers(graph, reader, moments[reader.layer.name])
                ]
                found = eliminate(consumers, RIDGE)
                yield group.name, Ranking(found.order, found.errors)
            done += 1


def _moments(graph: Graph, layers: Sequence[Layer], ctx: PassContext) -> Iterator[tuple[str, tuple[Moments, ...]]]:
    assert ctx.samples is not None
    found = input_moments(
        graph, layers, ctx.samples, ctx.runtime, positions=POSITIONS, seed=ctx.seed, progress=ctx.progress
    )
    return ((layer.name, moments) for layer, moments in found)


def _batches(groups: Sequence[Group], readers: Mapping[str, Sequence[UnitReader]]) -> Iterator[list[Group]]:
    """Groups whose readers' moments fit the memory together."""
    batch: list[Group] = []
    room = MEMORY
    for group in groups:
        need = sum(8 * reader.layer.groups * reader.layer.inputs**2 for reader in readers[group.name])
        if batch and need > room:
            yield batch
            batch, room = [], MEMORY
        batch.append(group)
        room -= need
    if batch:
        yield batch


def _consumers(graph: Graph, reader: UnitReader, moments: Sequence[Moments]) -> Iterator[Consumer]:
    """Describe a layer as a consumer, its error relative to the energy of what it puts out."""
    layer = reader.layer
    matrix = layer.matrix(graph.array(layer.weight)).astype(np.float64)
    second = [part.second_moment(layer.takes_bias) for part in moments]
    energy = sum(float(np.einsum("od,od->", rows @ h, rows)) for rows, h in zip(matrix, second, strict=True))
    for rows, h in zip(matrix, second, strict=True):
        yield Consumer(h, rows, reader.columns, 1.0 / energy if energy > 0 else 0.0)


def _wanda(graph: Graph, reader: UnitReader, moments: Sequence[Moments]) -> Array:
    layer: Layer = reader.layer
    matrix = np.abs(layer.matrix(graph.array(layer.weight)).astype(np.float64))
    norms = np.stack([np.sqrt(np.diag(part.second_moment(False))) for part in moments])
    columns = (matrix * norms[:, None]).sum(axis=(0, 1))
    total = columns.sum()
    return np.asarray(columns[reader.columns].sum(axis=1) / (total if total > 0 else 1.0))


def _magnitudes(graph: Graph, group: Group) -> Array:
    """Squared weights of every unit, relative to those of all units, averaged over the weights it lies on."""
    scores = np.zeros(group.units)
    spans = group.written + group.read
    for span in spans:
        array = graph.array(span.axis.value).astype(np.float64)
        rows = np.moveaxis(array, span.axis.axis, 0).reshape(array.shape[span.axis.axis], -1)
        energy = np.einsum("ij,ij->i", rows, rows)[span.indices].sum(axis=1)
        total = energy.sum()
        scores += energy / (total if total > 0 else 1.0)
    return scores / len(spans)


def _by_score(scores: Array) -> Ranking:
    order = np.argsort(scores, kind="stable")
    total = scores.sum()
    errors = np.concatenate([[0.0], np.cumsum(scores[order])]) / (total if total > 0 else 1.0)
    return Ranking(order, errors)
