"""A lowered model is compared with the model in its framework before anything else happens to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.errors import BackendError, ModelError
from surgery_ir.frontends.base import LiveModel, Lowered, check
from surgery_ir.frontends.parameters import Binding
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph

__all__ = ["TOLERANCE", "compare", "settle"]

TOLERANCE = 1e-4
"""Largest difference, relative to the largest magnitude of an output."""

TINY = float(np.finfo(np.float32).tiny)

Feeds = Mapping[str, NDArray[Any]]


def settle(
    graph: Graph, bindings: tuple[Binding, ...], live: LiveModel, feeds: Feeds, runtime: Runtime | None
) -> Lowered:
    """Check a graph that a framework's model was just lowered to, and compare it with the model.

    Parameters
    ----------
    graph
        The graph.
    bindings
        Which initializers hold the model's parameters; see :func:`~surgery_ir.frontends.parameters.bind`.
    live
        The model that it was lowered from.
    feeds
        One batch, first axis = samples.
    runtime
        Runs the graph.

    Raises
    ------
    ModelError
        The graph is faulty, does not run, or does not compute what the model computes.
    """
    if runtime is None:
        raise ModelError(f"{graph.source}: a runtime is needed to compare it with what {live.framework} computes")
    lowered = check(graph)
    difference = compare(lowered.graph, live, feeds, runtime)
    return replace(lowered, bindings=bindings, live=live, difference=difference, feeds=dict(feeds))


def compare(graph: Graph, live: LiveModel, feeds: Feeds, runtime: Runtime, what: str = "the lowered model") -> float:
    """Run the graph and the model on batches of two sizes, and sequences of two lengths where they may differ.

    Returns
    -------
    The largest difference of an output, relative to its largest magnitude.

    Raises
    ------
    ModelError
        It is more than :data:`TOLERANCE`, shapes or numbers of outputs differ, or a batch can have one size only.
    """
    session = runtime.load(graph)
    worst = 0.0
    for batch in _batches(graph, feeds):
        wanted = live.run(batch)
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
        try:
            found = list(session.run(batch).values())
        except BackendError as error:
            raise ModelError(f"{graph.source}: {what} does not take {sizes}: {error}") from error
        if len(found) != len(wanted):
            raise ModelError(f"{graph.source}: {live.framework} gives {len(wanted)} outputs, {what} {len(found)}")
        for output, actual, expected in zip(graph.outputs, found, wanted, strict=True):
            difference = _difference(actual, expected)
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"{graph.source}: {what} computes something else than {live.framework}: output "
                    f"{output.name!r} of {_shape(actual)} differs from {_shape(expected)} by {difference:.2g} of its "
                    f"scale (limit {TOLERANCE}) for {sizes}{_where(graph, live, batch, runtime)}"
                )
            worst = max(worst, difference)
    return worst


def _batches(graph: Graph, feeds: Feeds) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the batch, and one in which every axis of open size is longer by one entry, repeated from its beginning.

    Raises
    ------
    ModelError
        The first axis of an input is not open.
    """
    specs = input_specs(graph)
    if feeds.keys() != specs.keys():
        raise ModelError(f"{graph.source}: it takes {', '.join(specs)}, the example has {', '.join(feeds)}")
    yield dict(feeds)
    longer = {}
    for name, value in feeds.items():
        shape = specs[name].shape or (None,) * value.ndim
        if shape and isinstance(shape[0], int):
            raise ModelError(
                f"{graph.source}: the first axis of {name!r} is fixed at {shape[0]}, it does not take batches of "
                "other sizes; the model computes something from the size of its batch"
            )
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                value = np.take(value, np.arange(value.shape[axis] + 1) % value.shape[axis], axis)
        longer[name] = value
    yield longer


def _difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference relative to the largest magnitude; infinite where they cannot be compared."""
    if actual.shape != expected.shape:
        return np.inf
    if actual.dtype.kind not in "fc" or expected.dtype.kind not in "fc":
        return 0.0 if np.array_equal(actual, expected) else np.inf
    if not expected.size:
        return 0.0
    scale = float(np.abs(expected.astype(np.float64)).max())
    return float(np.abs(actual.astype(np.float64) - expected).max()) / max(scale, TINY)


def _where(graph: Graph, live: LiveModel, batch: Feeds, runtime: Runtime) -> str:
    """Name the first layer whose output differs, where the framework tells."""
    inner = live.inner(batch)
    known = {value.name for node in graph.model.graph for value in node.outputs}
    names = [name for name in inner if name in known]
    if not names:
        return ""
    found = runtime.load(with_outputs(graph, names)).run(batch)
    for name in names:
        layer, expected = inner[name]
        difference = _difference(found[name], expected)
        if not difference <= TOLERANCE:
            return f"; the first layer that differs is {layer!r}, by {difference:.2g}"
    return "; no layer inside differs"


def _shape(array: NDArray[Any]) -> str:
    return f"shape {list(array.shape)}"
