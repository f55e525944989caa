"""Shapes of values in runs of several sizes: what holds in all of them holds for a model with open axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.analysis.runtime import Runtime, Session
from surgery_ir.errors import BackendError
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph

__all__ = ["observe_shapes"]

Feeds = Mapping[str, NDArray[Any]]
Axis = str | tuple[str, int]
"""An open axis: its symbol, or the input and the position of one that has none of its own."""

CHANGES = ((1, 1), (1, -1), (1, 3), (2, 0), (2, 1))
"""Factor and summand that give the other sizes of the open axes: odd ones, which floor and ceiling tell apart."""


def observe_shapes(
    graph: Graph, runtime: Runtime, feeds: Feeds, names: Iterable[str]
) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Find the shapes that values have for ``feeds``, and for every other size of the open axes that the model takes.

    All open axes change together, and each of them alone, so that two that are equal by chance are told apart. The
    inputs of other sizes are ``feeds`` repeated or cut; sizes with which the model does not run are left out.

    Parameters
    ----------
    graph
        Graph to run.
    runtime
        Runs it: once, where no axis is open.
    feeds
        Inputs of a run, best of two samples.
    names
        Values to look at.

    Returns
    -------
    tuple of dict
        Shapes by name of value for each run, that of ``feeds`` first; sequences have none.

    Raises
    ------
    BackendError
        The graph does not run with ``feeds``.
    """
    inputs = {value.name or "" for value in graph.inputs}
    outputs = [value.name or "" for value in graph.outputs]  # sizes count only where all of the model runs
    cut = with_outputs(graph, dict.fromkeys(name for name in (*names, *outputs) if name not in inputs))
    needed = {value.name for value in cut.inputs}
    session = runtime.load(cut)
    runs = [_run(session, {name: array for name, array in feeds.items() if name in needed})]
    for resized in _resized(input_specs(cut), feeds):
        with suppress(BackendError):
            runs.append(_run(session, resized))
    return tuple(runs)


def _run(session: Session, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    arrays = {**feeds, **session.run(feeds)}
    return {name: array.shape for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _resized(specs: Mapping[str, InputSpec], feeds: Feeds) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield inputs of other sizes."""
    axes = {name: _open_axes(name, spec, feeds[name].ndim) for name, spec in specs.items()}
    sizes = {axis: feeds[name].shape[index] for name, found in axes.items() for index, axis in found.items()}
    leading = {found[0] for found in axes.values() if 0 in found}
    batches = {axis: size + 1 for axis, size in sizes.items() if axis in leading}
    trials = [{axis: factor * size + more for axis, size in sizes.items()} | batches for factor, more in CHANGES]
    trials += [{**sizes, axis: change} for axis, size in sizes.items() for change in (size + 1, 2 * size)]
    if sizes.keys() == batches.keys():
        trials = [batches]
    for index, trial in enumerate(trials if sizes else ()):
        if min(trial.values()) >= 1 and trial not in trials[:index]:
            yield {name: _resize(feeds[name], {i: trial[axis] for i, axis in axes[name].items()}) for name in specs}


def _open_axes(name: str, spec: InputSpec, rank: int) -> dict[int, Axis]:
    """Open axes of an input by position; a symbol that stands there twice is a placeholder such as ``?``."""
    shape = spec.shape if spec.shape is not None else (None,) * rank
    found: dict[int, Axis] = {}
    for index, size in enumerate(shape):
        if not isinstance(size, int):
            found[index] = size if size is not None and shape.count(size) == 1 else (name, index)
    return found


def _resize(array: NDArray[Any], sizes: Mapping[int, int]) -> NDArray[Any]:
    for axis, size in sizes.items():
        array = np.take(array, np.arange(size) % array.shape[axis], axis)
    return array
