"""The coupling of the graph at hand, for passes that cut units."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from surgery_ir.analysis.coupling.facts import observe
from surgery_ir.analysis.coupling.groups import Coupling, find_groups
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Batch
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.errors import BackendError, DataError
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext

__all__ = ["BATCH", "feeds", "find_coupling", "whole"]

OPEN_SIZES = (12, 32, 64, 224)
"""Sizes that are tried for open axes where no samples tell them: sequences, then images."""

BATCH = 2
"""Samples whose shapes are looked at: with one, a batch that is merged with another axis could not be told from it."""


def find_coupling(graph: Graph, ctx: PassContext) -> Coupling:
    """Find the groups of ``graph`` for the shapes of a batch; kept in the context for other candidates.

    Raises
    ------
    DataError
        There are no samples, and none can be made up from what the inputs declare.
    """
    key = ("coupling", graph.fingerprint())
    return ctx.cache.get(key, lambda: find_groups(graph, observe(graph, ctx.runtime, feeds(graph, ctx, BATCH))))


def whole(graph: Graph, ctx: PassContext) -> Coupling:
    """Give the coupling of a graph that is not cut: no groups, but the shapes of a batch."""
    key = ("shapes", graph.fingerprint())
    facts = ctx.cache.get(key, lambda: observe(graph, ctx.runtime, feeds(graph, ctx, BATCH)))
    return Coupling((), (), facts, {}, {})


def feeds(graph: Graph, ctx: PassContext, count: int = 1) -> dict[str, NDArray[Any]]:
    """Give inputs for one run: calibration samples, or random ones where there are none."""
    if ctx.samples is None:
        size = ctx.cache.get(("open sizes", ctx.reference.fingerprint()), lambda: _open_size(ctx.reference, ctx))
        return _made_up(graph, count, size, ctx.seed)
    batch: Batch = next(iter(ctx.samples.take(count).batches(graph, count)))
    return batch.feeds


def _open_size(graph: Graph, ctx: PassContext) -> int:
    """Find a size of open axes with which the model runs."""
    if all(isinstance(size, int) for spec in input_specs(graph).values() for size in (spec.shape or ())[1:]):
        return 0
    session = ctx.runtime.load(graph)
    for size in OPEN_SIZES:
        with suppress(BackendError):
            session.run(_made_up(graph, BATCH, size, ctx.seed))
            return size
    inputs = ", ".join(f"{name!r} ({spec})" for name, spec in input_specs(graph).items())
    raise DataError(f"{graph.source}: no sizes for the open axes of {inputs} were found: give samples (--data)")


def _made_up(graph: Graph, count: int, size: int, seed: int) -> dict[str, NDArray[Any]]:
    """Random inputs of ``count`` samples, with ``size`` for every axis that is open besides the batch."""
    specs = {}
    for name, spec in input_specs(graph).items():
        shape = spec.shape
        if shape is not None:
            symbols = (spec.shape or ())[:1] if isinstance(shape[0] if shape else None, str) else ()
            shape = tuple(
                item if isinstance(item, int) else count if axis == 0 or item in symbols else size
                for axis, item in enumerate(shape)
            )
        specs[name] = replace(spec, shape=shape)
    return synthetic_feeds(specs, batch=count, seed=seed)
