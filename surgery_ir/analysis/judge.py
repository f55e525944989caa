"""Judge a model, or a part of one, by what it does to the network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import Divergence, has_classes
from surgery_ir.analysis.runtime import Runtime, Session
from surgery_ir.analysis.samples import Batch, Samples
from surgery_ir.errors import DataError
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph

__all__ = ["BATCH", "Judge"]

Array = NDArray[Any]
Outputs = dict[str, Array]

BATCH = 64
"""Samples per run, as in :class:`~surgery_ir.analysis.walk.Walk`."""


@dataclass(frozen=True, eq=False)
class _Dense:
    """What the reference gives for one batch: the samples from ``start`` on of all that ``measure`` knows.

    Where outputs cannot be told apart by sample, ``single`` is set, and the batch counts as one sample of its own.
    """

    batch: Batch
    measure: Divergence
    start: int
    single: bool

    def outputs(self) -> Outputs:
        """The outputs, as :meth:`comparable` gives them."""
        stop = self.start + self.batch.count
        return {name: array[self.start : stop] for name, array in self.measure.reference.items()}

    def comparable(self, found: Mapping[str, Array]) -> Outputs:
        """Give every array a first axis that runs over samples."""
        make = _as_one if self.single else _by_sample
        return {name: make(self.batch, array) for name, array in found.items()}


class Judge:
    """How far outputs of a model are from the dense one's, on samples that nothing was fitted on.

    The unit is that of :class:`~surgery_ir.analysis.fidelity.Divergence`. Outputs of the reference are computed once,
    when they are first needed, and kept; sessions are not. Outputs that have no axis of samples are compared batch by
    batch. Outputs that are no arrays (sequences, maps) are left out.

    Parameters
    ----------
    reference
        The dense model; it must not change any more.
    samples
        Selection samples.
    runtime
        Runs the graphs.
    limit
        How many of the samples are used, the first ones.
    """

    def __init__(self, reference: Graph, samples: Samples, runtime: Runtime, *, limit: int = 256) -> None:
        self.reference = reference
        self.samples = samples.take(limit)
        self.runtime = runtime

    def whole(self, graph: Graph) -> float:
        """Give the divergence of the outputs of ``graph``, which takes the same inputs as the reference.

        Raises
        ------
        DataError
            The samples do not fit, or outputs have other names or shapes than those of the reference.
        BackendError
            The runtime failed.
        """
        session = self.runtime.load(graph)
        total = 0.0
        for dense in self._dense:
            outputs = dense.comparable(_arrays(session.run(dense.batch.feeds)))
            total += self._total(dense, outputs)
        return total / len(self.samples)

    def patched(self, name: str, values: Iterable[Array]) -> float:
        """Give the divergence of the reference's own outputs when one value in it is replaced.

        Whatever follows the value is dense. It costs one run of what the outputs that depend on it need.

        Parameters
        ----------
        name
            A value of the reference.
        values
            What it becomes, of its own element type, batch by batch as
            :meth:`~surgery_ir.analysis.walk.Walk.values` gives it on :attr:`samples`: :data:`BATCH` samples, or as
            many as the model fixes, repeats trimmed.

        Returns
        -------
        float
            Infinite where ``values`` hold NaN or infinity, whether or not an output shows it.

        Raises
        ------
        ModelError
            The reference has no such value.
        ValueError
            There are more or fewer batches than the samples have.
        BackendError
            The runtime failed, for one because the values have another type or shape.
        """
        suffix = _Suffix(self._cutter, self.runtime, name, list(self._dense[0].measure.reference))
        total = 0.0
        for dense, array in zip(self._dense, values, strict=True):
            fed = suffix.fit(dense.batch, array)
            if not _is_finite(fed):
                return float(np.inf)
            found = dense.comparable(suffix.run(dense.batch, fed))
            total += self._total(dense, {**dense.outputs(), **found})
        return total / len(self.samples)

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter(self.reference)

    @cached_property
    def _dense(self) -> list[_Dense]:
        session = self.runtime.load(self.reference)
        batches = list(self.samples.batches(self.reference, BATCH))
        if not batches:
            raise DataError(f"{self.samples.source}: there are no samples to judge by")
        found = [_arrays(session.run(batch.feeds)) for batch in batches]
        if not found[0]:
            raise DataError(f"{self.samples.source}: no output of the model is an array")
        starts = np.cumsum([0, *(batch.count for batch in batches)])
        if _can_be_joined(batches, found):
            parts = [
                {name: _by_sample(batch, array) for name, array in outputs.items()}
                for batch, outputs in zip(batches, found, strict=True)
            ]
            measure = Divergence({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
            return [_Dense(batch, measure, int(start), False) for batch, start in zip(batches, starts, strict=False)]
        return [
            _Dense(batch, Divergence({name: _as_one(batch, array) for name, array in outputs.items()}), 0, True)
            for batch, outputs in zip(batches, found, strict=True)
        ]

    def _total(self, dense: _Dense, outputs: Outputs) -> float:
        """Divergence of a batch times its number of samples."""
        try:
            shares = dense.measure.shares(outputs, dense.start)
        except ValueError as error:
            raise DataError(f"{self.samples.source}: outputs cannot be compared: {error}") from error
        return dense.batch.count * float(shares.mean())


class _Suffix:
    """The part of a graph from one value to those of its outputs that depend on it.

    It is loaded when it is first run: only then is the type of the value known.
    """

    def __init__(self, cutter: Cutter, runtime: Runtime, name: str, outputs: Sequence[str]) -> None:
        self._cutter = cutter
        self._runtime = runtime
        self._value = cutter.value(name)
        self._name = name
        reached = self._reached()
        self._outputs = [item for item in outputs if cutter.value(item) in reached]
        self._computed = [item for item in self._outputs if item != name]
        self._inputs: list[str] = []
        self._session: Session | None = None
        self._along = True

    def fit(self, batch: Batch, array: Array) -> Array:
        """Repeat the last sample of ``array`` where the model fixes the batch size and the repeats were trimmed."""
        if batch.count == batch.size:
            self._along = batch.has_axis(array)
        elif self._along and array.ndim and len(array) == batch.count:
            array = array[np.arange(batch.size).clip(max=batch.count - 1)]
        return array

    def run(self, batch: Batch, array: Array) -> Outputs:
        """Give the outputs that depend on the value, for ``array`` from :meth:`fit`."""
        found = {self._name: array} if self._name in self._outputs else {}
        if self._computed:
            if self._session is None:
                self._session = self._load(array.dtype)
            feeds = {**batch.feeds, self._name: array}
            found.update(_arrays(self._session.run({name: feeds[name] for name in self._inputs})))
        return found

    def _load(self, dtype: np.dtype[Any]) -> Session:
        cutter = self._cutter
        given = dict.fromkeys((*cutter.graph.inputs, self._value))
        needed = cutter.needed([cutter.value(name) for name in self._computed], set(given))
        read = {value for node in needed for value in cutter.read_by(node)}
        self._inputs = [value.name or "" for value in given if value in read]
        types: dict[str, ir.TypeProtocol | None] = dict.fromkeys(self._inputs)
        types[self._name] = ir.TensorType(ir.DataType.from_numpy(dtype))
        return self._runtime.load(cutter.cut(needed, types, self._computed))

    def _reached(self) -> set[ir.Value]:
        reached = {self._value}
        for node in self._cutter.position:
            if not reached.isdisjoint(self._cutter.read_by(node)):
                reached.update(node.outputs)
        return reached


def _arrays(outputs: Mapping[str, Any]) -> Outputs:
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def _is_finite(array: Array) -> bool:
    return not np.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())


def _can_be_joined(batches: Sequence[Batch], found: Sequence[Mapping[str, Array]]) -> bool:
    """Whether every output has an axis of samples, and the same shape for every sample."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for batch, outputs in zip(batches, found, strict=True):
        for name, array in outputs.items():
            if batch.size > 1 and not batch.has_axis(array):
                return False
            shapes.setdefault(name, set()).add(_by_sample(batch, array).shape[1:])
    return all(len(kinds) == 1 for kinds in shapes.values())


def _by_sample(batch: Batch, array: Array) -> Array:
    return batch.trim(array) if batch.has_axis(array) else array[None]


def _as_one(batch: Batch, array: Array) -> Array:
    """Make one sample of a whole batch, keeping the axis of classes; repeats that cannot be told apart stay in it."""
    array = batch.trim(array)
    return array.reshape(1, -1, array.shape[-1] if has_classes(array) else 1)
