"""Who gets which samples: calibration fits weights, selection scores candidates, report is touched once, at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgery_ir.analysis.archive import read_archive
from surgery_ir.analysis.samples import Samples, check_samples, require, split
from surgery_ir.errors import DataError
from surgery_ir.graph.model import Graph

__all__ = ["Data", "Roles", "check_labels", "deal", "example_inputs", "load_samples", "replayed_parts"]

Data = str | os.PathLike[str] | Mapping[str, ArrayLike] | Samples
"""Samples as a caller gives them: a path to an archive, arrays by input name, or samples."""

THREE_WAYS = (0.4, 0.4, 0.2)
TWO_WAYS = (0.5, 0.5)
LEAST = {"calibration": 8, "selection": 16, "report": 1}
"""Samples of each part without which a search makes no sense at all."""


@dataclass(frozen=True)
class Roles:
    """The three parts.

    ``shares`` are those by which the main set was dealt, calibration first; empty where all of it is calibration.
    ``selection_shares`` are those of a selection set that the report part was taken from, selection first.
    """

    calibration: Samples
    selection: Samples
    report: Samples
    shares: tuple[float, ...]
    selection_shares: tuple[float, ...] = ()


def load_samples(data: Data, labels: str | None, graph: Graph, what: str = "data") -> Samples:
    """Bring samples into one form and check that they fit the model.

    Parameters
    ----------
    data
        What the caller gave.
    labels
        Key of the array of labels; it need not be there.
    graph
        Model whose inputs are fed.
    what
        Name of the set, for messages.

    Raises
    ------
    DataError
        They cannot be read or do not fit.
    """
    if isinstance(data, Samples):
        samples = data
    else:
        if isinstance(data, Mapping):
            arrays, source = dict(data), f"<{what}>"
        else:
            arrays, source = dict(read_archive(Path(data))), os.fspath(data)
        target = arrays.pop(labels, None) if labels is not None else None
        if not arrays:
            raise DataError(f"{source}: there is no array for any input")
        samples = Samples.from_arrays(arrays, target, source)
    check_samples(samples, graph)
    return samples


def deal(graph: Graph, data: Data, selection: Data | None, report: Data | None, labels: str | None, seed: int) -> Roles:
    """Give every part its samples. What is not given separately is dealt from ``data``, by the seed.

    With a selection set of its own all of ``data`` is calibration, and a missing report part comes out of the
    selection set. So the main set can be unlabelled wherever there are labelled samples for the others.

    Raises
    ------
    DataError
        A set cannot be read, does not fit the model, has too few samples, or nobody has the labels that were named.
    """
    main = load_samples(data, labels, graph, "data")
    chosen = None if selection is None else load_samples(selection, labels, graph, "selection data")
    last = None if report is None else load_samples(report, labels, graph, "evaluation data")
    check_labels(labels, main, chosen, last)
    shares: tuple[float, ...] = ()
    selection_shares: tuple[float, ...] = ()
    parts: tuple[Samples, ...]
    if chosen is None:
        shares = TWO_WAYS if last is not None else THREE_WAYS
        require(main, 8 * len(shares), "dealing them to calibration, selection and report")
        parts = split(main, shares, seed)
    elif last is None:
        require(chosen, LEAST["selection"] + 1, "dealing them to selection and report")
        selection_shares = TWO_WAYS
        parts = (main, *split(chosen, selection_shares, seed))
    else:
        parts = (main, chosen)
    calibration, scored, final = (*parts, last) if last is not None else parts
    for part, name in ((calibration, "calibration"), (scored, "selection"), (final, "report")):
        require(part, LEAST[name], name)
    return Roles(calibration, scored, final, shares, selection_shares)


def example_inputs(data: Data, labels: str | None, count: int = 2) -> dict[str, NDArray[Any]]:
    """Give the first samples by input name, for models that have to be run before they are a graph.

    Raises
    ------
    DataError
        The samples cannot be read.
    """
    if isinstance(data, Samples):
        arrays: Mapping[str, ArrayLike] = data.feeds
    else:
        arrays = data if isinstance(data, Mapping) else read_archive(Path(data))
    return {name: np.asarray(array)[:count] for name, array in arrays.items() if name != labels}


def check_labels(labels: str | None, *sets: Samples | None) -> None:
    """Refuse a name for the labels that no set has an array for.

    Raises
    ------
    DataError
        Nobody has labels, though they were named.
    """
    given = [item for item in sets if item is not None]
    if labels is not None and all(item.labels is None for item in given):
        sources = ", ".join(item.source for item in given) or "no samples are given"
        raise DataError(f"{sources}: there is no array called {labels!r} for the labels")


def replayed_parts(
    samples: Samples | None,
    selection: Samples | None,
    shares: Sequence[float],
    selection_shares: Sequence[float],
    seed: int,
) -> tuple[Samples | None, Samples | None]:
    """Give the calibration and the selection part of sets that were dealt by these shares and seed.

    Where there are no shares, all of ``samples`` is calibration. ``selection`` takes precedence over what was dealt.

    Raises
    ------
    DataError
        There are too few samples.
    """
    parts = split(samples, shares, seed) if samples is not None and shares else (samples,)
    if selection is not None:
        return parts[0], split(selection, selection_shares, seed)[0] if selection_shares else selection
    return parts[0], parts[1] if len(parts) > 1 else None
