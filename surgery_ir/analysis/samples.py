"""Samples: arrays by input name, first axis = samples; reading, checking, batching and splitting them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgery_ir.analysis.archive import read_archive
from surgery_ir.analysis.inputs import InputSpec, input_specs, show_shape
from surgery_ir.errors import DataError
from surgery_ir.graph.model import Graph

__all__ = ["Batch", "InputSpec", "Samples", "check_samples", "input_specs", "read_samples", "require", "split"]

FINITE_CHUNK = 1 << 22
"""Elements that are looked at in one go when NaN are searched for."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run of a model takes.

    Parameters
    ----------
    feeds
        Array by input name.
    count
        Samples in it. ``size - count`` repeats of the last one follow where the model's batch size is fixed.
    size
        Samples that are fed, the repeats included.
    stacked
        Whether the feeds have an axis of samples; without one the batch is a single whole input.
    fixed
        Whether the model dictates ``size``.
    """

    feeds: dict[str, NDArray[Any]]
    count: int
    size: int
    stacked: bool
    fixed: bool = False

    def has_axis(self, output: NDArray[Any]) -> bool:
        """Whether the first axis of ``output`` runs over the samples of this batch."""
        return self.stacked and output.ndim > 0 and output.shape[0] == self.size

    def trim(self, output: NDArray[Any]) -> NDArray[Any]:
        """Cut what the repeats produced off ``output``, where its first axis runs over samples."""
        return output[: self.count] if self.has_axis(output) else output


@dataclass(frozen=True, eq=False)
class Samples:
    """Arrays by input name, whose first axes run over the same samples.

    An array with the rank of the model's input holds the samples along the input's own first axis. An array with
    one axis more holds a whole input per sample (a state, a sampling rate), and each sample is run alone.

    Parameters
    ----------
    feeds
        Array by input name.
    labels
        Array of shape (samples,) or (samples, positions), or none.
    source
        Where they came from, for messages.

    Raises
    ------
    DataError
        There is no array, or the arrays hold different numbers of samples.
    """

    feeds: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    source: str = "<memory>"
    _length: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        if not self.feeds:
            raise DataError(f"{self.source}: there is no array for any input")
        arrays = dict(self.feeds)
        if self.labels is not None:
            arrays["labels"] = self.labels
        for name, array in arrays.items():
            if array.ndim == 0:
                raise DataError(f"{self.source}: {name!r} is a scalar; the first axis must run over the samples")
        first, *others = arrays
        length = len(arrays[first])
        for name in others:
            if len(arrays[name]) != length:
                raise DataError(
                    f"{self.source}: {first!r} holds {length} samples, but {name!r} holds {len(arrays[name])}"
                )
        object.__setattr__(self, "_length", length)

    @classmethod
    def from_arrays(
        cls, feeds: Mapping[str, ArrayLike], labels: ArrayLike | None = None, source: str = "<memory>"
    ) -> Samples:
        """Take arrays that a user gave, and check what can be checked without a model.

        Raises
        ------
        DataError
            Lengths differ, there are no samples, or a number is NaN or infinite.
        """
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        samples = cls(arrays, None if labels is None else np.asarray(labels), source)
        if len(samples) == 0:
            raise DataError(f"{source}: there are no samples")
        for name, array in arrays.items():
            _check_finite(array, f"{source}: input {name!r}")
        if samples.labels is not None:
            _check_finite(samples.labels, f"{source}: labels")
        return samples

    def __len__(self) -> int:
        return self._length

    def take(self, which: int | slice | Sequence[int] | NDArray[np.integer[Any]]) -> Samples:
        """Give the first ``which`` samples, or those at the positions of a slice or an array.

        A count and a slice share memory with the original. A count above the length gives all.
        """
        index = slice(which) if isinstance(which, int | np.integer) else which
        labels = None if self.labels is None else self.labels[index]
        return Samples({name: array[index] for name, array in self.feeds.items()}, labels, self.source)

    def batches(self, model: Graph | Mapping[str, InputSpec], size: int = 64) -> Iterator[Batch]:
        """Cut the samples into runs of ``model``.

        Parameters
        ----------
        model
            Whose inputs are fed: a graph, or what :func:`input_specs` says of it.
        size
            Samples per run. A batch size that the model fixes takes precedence, and so does 1 where a sample is a
            whole input.

        Raises
        ------
        DataError
            The samples do not fit the model's inputs.
        """
        specs = input_specs(model) if isinstance(model, Graph) else model
        whole = _check_names_and_ranks(self, specs)
        stacked = [name for name in specs if name not in whole]
        fixed = _fixed_size(self, specs, whole)
        size = fixed or size
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            index = np.arange(start, start + size).clip(max=stop - 1) if fixed else slice(start, stop)
            feeds = {name: self.feeds[name][index] for name in stacked}
            feeds.update((name, np.asarray(self.feeds[name][start])) for name in whole)
            yield Batch(feeds, stop - start, size if fixed else stop - start, bool(stacked), fixed is not None)


def _fixed_size(samples: Samples, specs: Mapping[str, InputSpec], whole: set[str]) -> int | None:
    """Batch size that the model dictates, ``None`` where it takes any."""
    fixed = {}
    for name, spec in specs.items():
        if name in whole:
            fixed[name] = 1
        elif spec.shape and isinstance(spec.shape[0], int):
            fixed[name] = spec.shape[0]
    if len(set(fixed.values())) > 1:
        sizes = ", ".join(f"{name!r}: {size}" for name, size in fixed.items())
        raise DataError(
            f"{samples.source}: the inputs cannot be fed together, they take different numbers of samples ({sizes})"
        )
    return next(iter(fixed.values()), None)


def read_samples(path: str | os.PathLike[str], labels: str | None = None) -> Samples:
    """Read an ``.npz`` archive whose keys are the names of the model's inputs. Nothing in it is ever unpickled.

    Parameters
    ----------
    path
        File to read.
    labels
        Key of the array of labels, if there is one.

    Raises
    ------
    DataError
        The file is missing, no archive, truncated or corrupt; it holds Python objects, arrays of different lengths,
        no samples, NaN or infinities; it has no array called ``labels``.
    """
    path = Path(path)
    arrays = read_archive(path)
    if labels is not None and labels not in arrays:
        raise DataError(f"{path}: there is no array called {labels!r} for the labels; there are {_names(arrays)}")
    target = arrays.pop(labels) if labels is not None else None
    if not arrays:
        raise DataError(f"{path}: the archive holds no array for any input")
    return Samples.from_arrays(arrays, target, str(path))


def _check_finite(array: NDArray[Any], where: str) -> None:
    if not np.issubdtype(array.dtype, np.inexact):
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, FINITE_CHUNK):
        bad = ~np.isfinite(flat[start : start + FINITE_CHUNK])
        if bad.any():
            first = start + int(np.argmax(bad))
            index = [int(axis) for axis in np.unravel_index(first, array.shape)]
            raise DataError(f"{where} holds {flat[first]} at {index}; remove such samples")


def check_samples(samples: Samples, graph: Graph) -> None:
    """Refuse samples that do not fit the inputs of ``graph``.

    Raises
    ------
    DataError
        A name is missing or unknown, an element type differs, or a size contradicts the declared shape.
    """
    specs = input_specs(graph)
    whole = _check_names_and_ranks(samples, specs)
    for name, spec in specs.items():
        array = samples.feeds[name]
        where = f"{samples.source}: input {name!r}"
        _check_dtype(array, spec, where)
        if spec.shape is None:
            continue
        first = 0 if name in whole else 1
        for axis, (size, declared) in enumerate(zip(array.shape[1:], spec.shape[first:], strict=True), start=1):
            if isinstance(declared, int) and size != declared:
                raise DataError(
                    f"{where} must be {spec}, but the samples have shape {show_shape(array.shape)}: "
                    f"axis {axis} is {size}, not {declared}"
                )
    _fixed_size(samples, specs, whole)


def _check_names_and_ranks(samples: Samples, specs: Mapping[str, InputSpec]) -> set[str]:
    """Check names and ranks; give the inputs of which every sample holds a whole one."""
    missing = [name for name in specs if name not in samples.feeds]
    unknown = [name for name in samples.feeds if name not in specs]
    if missing or unknown:
        parts = [f"no array for input {_names(missing)}"] if missing else []
        if unknown:
            parts.append(f"{_names(unknown)} is no input (an array of labels must be named as such)")
        raise DataError(f"{samples.source}: {'; '.join(parts)}; the model's inputs are {_names(specs)}")
    whole = set()
    for name, spec in specs.items():
        if spec.other:
            raise DataError(
                f"{samples.source}: the model's input {name!r} is no tensor but {spec}; samples cannot hold it"
            )
        rank = samples.feeds[name].ndim
        if spec.shape is None or rank == len(spec.shape):
            continue
        if rank != len(spec.shape) + 1:
            raise DataError(
                f"{samples.source}: input {name!r} must be {spec}, but the samples have shape "
                f"{show_shape(samples.feeds[name].shape)}; give it that many axes, or one more ahead"
            )
        whole.add(name)
    return whole


def _check_dtype(array: NDArray[Any], spec: InputSpec, where: str) -> None:
    if spec.dtype is None or array.dtype == spec.dtype:
        return
    if spec.dtype == object:
        if array.dtype.kind != "U":
            raise DataError(f"{where} needs strings, the samples are {array.dtype}")
        return
    raise DataError(f"{where} needs {spec.dtype}, the samples are {array.dtype}; cast with .astype(np.{spec.dtype})")


def require(samples: Samples, minimum: int, what: str) -> None:
    """Refuse too few samples.

    Raises
    ------
    DataError
        There are fewer than ``minimum``; ``what`` says what needs them.
    """
    if len(samples) < minimum:
        raise DataError(f"{samples.source}: {what} needs at least {minimum} samples, there are {len(samples)}")


def split(samples: Samples, weights: Sequence[float], seed: int) -> tuple[Samples, ...]:
    """Deal the samples into disjoint parts at random; together the parts hold every sample once.

    Parameters
    ----------
    samples
        What to deal.
    weights
        Relative size of each part, e.g. ``(0.6, 0.2, 0.2)``.
    seed
        The same seed gives the same parts. Within a part the samples keep their order.

    Raises
    ------
    DataError
        There are too few samples for a part to get one.
    """
    if not weights or min(weights) <= 0 or not math.isfinite(sum(weights)):
        raise ValueError(f"weights must be positive, got {tuple(weights)}")
    bounds = np.rint(np.cumsum(weights) / sum(weights) * len(samples)).astype(int)
    if np.any(np.diff(bounds, prepend=0) < 1):
        raise DataError(f"{samples.source}: {len(samples)} samples are too few to be split into {len(weights)} parts")
    order = np.random.default_rng(seed).permutation(len(samples))
    return tuple(samples.take(np.sort(part)) for part in np.split(order, bounds[:-1]))


def _names(names: Mapping[str, Any] | Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
