"""Metrics by name: accuracy against labels, fidelity against a reference, or a user's own function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import agreement
from surgery_ir.backends.scores import Score, jackknife
from surgery_ir.errors import DataError, SpecError

__all__ = ["Metric", "accuracy", "find_metric"]

Outputs = Mapping[str, NDArray[Any]]
Function = Callable[[dict[str, NDArray[Any]], NDArray[Any] | None, dict[str, NDArray[Any]]], float]

BLOCKS = 10
"""Blocks of the jackknife that tells how sure a user's own metric is."""


class Metric(Protocol):
    """Scores outputs; higher is better."""

    @property
    def name(self) -> str:
        """Name, as on the command line."""
        ...

    def __call__(self, outputs: Outputs, labels: NDArray[Any] | None, reference: Outputs) -> Score:
        """Score ``outputs``, whose first axes run over the samples, as those of ``labels`` and ``reference`` do."""
        ...


def find_metric(name: str) -> Metric:
    """Give the metric called ``name``: ``accuracy``, ``fidelity``, or ``module:function``, imported now.

    A function of one's own is called as ``function(outputs, labels, reference)`` with dictionaries of arrays and
    the labels or ``None``; what it returns must be higher where the model is better.

    Raises
    ------
    SpecError
        There is no such metric, or its module cannot be imported.
    """
    if name == "accuracy":
        return _Accuracy()
    if name == "fidelity":
        return _Fidelity()
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise SpecError(f"there is no metric called {name!r}; there are accuracy, fidelity and module:function")
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a stranger's module may raise anything
        raise SpecError(f"metric {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise SpecError(f"metric {name!r} is not a function")
    return _Custom(name, found)


def accuracy(outputs: Outputs, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Tell of each sample whether it is classified rightly: (samples,), the share of positions where it has many.

    The class is the argmax over the last axis of the first float output of rank ≥ 2 with at least two classes, or
    else the first integer or string output itself.

    Parameters
    ----------
    outputs
        Arrays by name, first axis = samples.
    labels
        Classes from 0, of shape (samples,) or (samples, positions).

    Raises
    ------
    DataError
        No output says a class, or the labels do not fit it.
    """
    name, predicted, classes = _predicted(outputs)
    if np.issubdtype(labels.dtype, np.floating) and np.array_equal(labels, np.rint(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in ("SU" if predicted.dtype.kind in "SUO" else "biu"):
        raise DataError(
            f"labels of type {labels.dtype} do not fit output {name!r}, which says a class by {predicted.dtype}"
        )
    if labels.size != predicted.size or len(labels) != len(predicted):
        raise DataError(
            f"labels have shape {list(labels.shape)}, but output {name!r} says classes of shape {list(predicted.shape)}"
        )
    if classes is not None and labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but output {name!r} has the classes 0 to {classes - 1}"
        )
    correct = predicted.reshape(len(labels), -1) == labels.reshape(len(labels), -1)
    return np.asarray(correct.mean(1), np.float64)


def _predicted(outputs: Outputs) -> tuple[str, NDArray[Any], int | None]:
    for name, output in outputs.items():
        if np.issubdtype(output.dtype, np.floating) and output.ndim >= 2 and output.shape[-1] >= 2:
            classes = output.argmax(-1)
            return name, np.where(np.isnan(output).any(-1), -1, classes), output.shape[-1]
    for name, output in outputs.items():
        if output.dtype.kind in "biuSUO":
            return name, output, None
    shapes = ", ".join(f"{name!r} {output.dtype}{list(output.shape)}" for name, output in outputs.items())
    raise DataError(f"accuracy needs an output with classes along its last axis; the model gives {shapes}")


@dataclass(frozen=True)
class _Accuracy:
    name: str = "accuracy"

    def __call__(self, outputs: Outputs, labels: NDArray[Any] | None, reference: Outputs) -> Score:
        if labels is None:
            raise DataError("accuracy needs labels; name their array, or choose fidelity")
        correct = accuracy(outputs, labels)
        return Score(self.name, float(correct.mean()), len(correct), correct)


@dataclass(frozen=True)
class _Fidelity:
    name: str = "fidelity"

    def __call__(self, outputs: Outputs, labels: NDArray[Any] | None, reference: Outputs) -> Score:
        shares = agreement(outputs, reference)
        return Score(self.name, max(float(shares.mean()), 0.0), len(shares), shares)


@dataclass(frozen=True)
class _Custom:
    name: str
    function: Callable[..., Any]

    def __call__(self, outputs: Outputs, labels: NDArray[Any] | None, reference: Outputs) -> Score:
        samples = len(next(iter(outputs.values())))
        value = self._call(outputs, labels, reference, np.arange(samples))
        blocks = np.array_split(np.arange(samples), min(BLOCKS, samples))
        if len(blocks) == 1:
            return Score(self.name, value, samples, np.array([value]))
        without = [
            self._call(outputs, labels, reference, np.setdiff1d(np.arange(samples), block, assume_unique=True))
            for block in blocks
        ]
        return Score(self.name, value, samples, jackknife(value, without))

    def _call(self, outputs: Outputs, labels: NDArray[Any] | None, reference: Outputs, rows: NDArray[np.intp]) -> float:
        try:
            value = float(
                self.function(
                    {name: array[rows] for name, array in outputs.items()},
                    None if labels is None else labels[rows],
                    {name: array[rows] for name, array in reference.items()},
                )
            )
        except Exception as error:  # a stranger's function may raise anything
            raise SpecError(f"metric {self.name!r} failed: {type(error).__name__}: {error}") from error
        if not np.isfinite(value):
            raise SpecError(
                f"metric {self.name!r} gave {value}; it must give a finite number, higher for better models"
            )
        return value
