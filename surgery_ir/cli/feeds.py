"""Inputs for commands that run a model: samples of the user's, the model's own example, or random ones."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Samples, check_samples, read_samples
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.frontends.base import Lowered

__all__ = ["feeds_of"]


def feeds_of(lowered: Lowered, options: argparse.Namespace, batch: int) -> dict[str, NDArray[Any]]:
    """Make the inputs of one run.

    These are the first samples of ``--data``; without it, those that the model was compared with its framework on;
    without these, or where ``--dim`` asks for another size, random ones by the declared shapes.

    Raises
    ------
    DataError
        The samples do not fit, or a size is neither declared nor given by ``--dim``.
    """
    specs = input_specs(lowered.graph)
    if options.data is None and lowered.feeds and not options.dim:
        return {
            name: value[np.arange(batch) % len(value)] if value.ndim else value for name, value in lowered.feeds.items()
        }
    if options.data is None:
        return synthetic_feeds(specs, batch, dict(options.dim), options.seed)
    samples = read_samples(options.data, options.labels)
    if specs.keys() < samples.feeds.keys():  # labels are of no interest here, so nobody has to name them
        samples = Samples({name: samples.feeds[name] for name in specs}, source=samples.source)
    check_samples(samples, lowered.graph)
    return next(samples.take(np.arange(batch) % len(samples)).batches(specs, batch)).feeds
