"""Streaming second moments of layer inputs: one instrumented run for many layers, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from surgery_ir.analysis.columns import Sampler
from surgery_ir.analysis.layers import Layer
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.solvers.quadratic import Moments

__all__ = ["input_moments"]

MEMORY = 512 << 20
"""Bytes that the moments and activations of one run may take."""

BATCH = 64


def input_moments(
    graph: Graph,
    layers: Sequence[Layer],
    samples: Samples,
    runtime: Runtime,
    *,
    positions: int = 16,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[tuple[Layer, tuple[Moments, ...]]]:
    """Accumulate E[x xᵀ] of every layer's input columns over ``samples``.

    Layers are served together as far as memory allows; each further group costs one more run over the samples.

    Parameters
    ----------
    graph
        Graph to run.
    layers
        Layers of ``graph``.
    samples
        Calibration samples.
    runtime
        Runs the instrumented graph.
    positions
        Output positions of each sample to look at, drawn anew for every batch.
    seed
        Seed of the positions.
    progress
        Told how far the runs have come.

    Yields
    ------
    layer, moments
        One :class:`~surgery_ir.solvers.quadratic.Moments` for each group of the layer.

    Raises
    ------
    DataError
        The samples drive the model to NaN or infinity.
    """
    rngs = {layer.name: np.random.default_rng([seed, index]) for index, layer in enumerate(layers)}
    groups = _groups(graph, layers, samples, runtime)
    total = len(groups) * len(samples)
    done = 0
    for group in groups:
        moments = {layer.name: tuple(Moments(layer.inputs) for _ in range(layer.groups)) for layer in group}
        session = runtime.load(with_outputs(graph, [layer.input for layer in group]))
        for batch in samples.batches(graph, BATCH):
            values = session.run(batch.feeds)
            for layer in group:
                x = batch.trim(values[layer.input])
                sampler = Sampler(layer, positions)
                rows = sampler.inputs(x, sampler.pick(x.shape, rngs[layer.name]))
                for accumulator, part in zip(moments[layer.name], rows, strict=True):
                    try:
                        accumulator.add(part)
                    except ValueError as error:
                        raise DataError(f"{graph.source}: what {layer.name!r} reads on the samples: {error}") from error
            done += batch.count
            progress("reading activations", done, total)
        for layer in group:
            yield layer, moments.pop(layer.name)


def _groups(graph: Graph, layers: Sequence[Layer], samples: Samples, runtime: Runtime) -> list[list[Layer]]:
    """Split ``layers`` into runs whose moments and activations fit the memory bound, by one sample's activations."""
    if not layers:
        return []
    session = runtime.load(with_outputs(graph, [layer.input for layer in layers]))
    batch = next(iter(samples.take(1).batches(graph, 1)))
    values = session.run(batch.feeds)
    groups: list[list[Layer]] = []
    room = 0
    for layer in layers:
        need = 8 * layer.groups * layer.inputs**2 + BATCH * values[layer.input].nbytes // max(batch.size, 1)
        if not groups or need > room:
            groups.append([])
            room = MEMORY
        groups[-1].append(layer)
        room -= need
    return groups
