"""Inputs for commands that measure time: samples of the user's, or random ones by the declared shapes."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Samples, check_samples, read_samples
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.graph.model import Graph

__all__ = ["feeds_of"]


def feeds_of(graph: Graph, options: argparse.Namespace, batch: int) -> dict[str, NDArray[Any]]:
    """Make the inputs of one run: the first samples of ``--data``, or random ones.

    Raises
    ------
    DataError
        The samples do not fit, or a size is neither declared nor given by ``--dim``.
    """
    specs = input_specs(graph)
    if options.data is None:
        return synthetic_feeds(specs, batch, dict(options.dim), options.seed)
    samples = read_samples(options.data)
    if specs.keys() < samples.feeds.keys():  # labels are of no interest here, so nobody has to name them
        samples = Samples({name: samples.feeds[name] for name in specs}, source=samples.source)
    check_samples(samples, graph)
    return next(samples.take(np.arange(batch) % len(samples)).batches(specs, batch)).feeds
