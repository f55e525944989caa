"""Walk a graph from its inputs to its outputs for all samples at once, every operator run exactly once.

Sequential repair needs each layer's inputs from the part of the model that is already compressed. Running the model
anew for every layer costs layers × model; a walk keeps the values that are still to be read and moves on from there.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.samples import Batch, Samples
from surgery_ir.errors import BackendError
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph

__all__ = ["Walk"]

MEMORY = 512 << 20
"""Bytes of activations that one walk keeps in memory; beyond that they go to a temporary file."""


class Walk:
    """The state of a walk: which operators have run, and the values that later ones, or the caller, will read.

    Weights of operators that have not run may change at any time; that is what makes repair sequential.

    Parameters
    ----------
    graph
        Graph to walk.
    samples
        Samples to feed.
    runtime
        Runs the pieces.
    keep
        Values that the caller will ask for, each as often as it will be forgotten: it is kept until then.
    batch
        Samples per run.
    """

    def __init__(
        self, graph: Graph, samples: Samples, runtime: Runtime, keep: Iterable[str] = (), batch: int = 64
    ) -> None:
        self.graph = graph
        self.runtime = runtime
        self._cutter = Cutter(graph)
        self._readers = self._find_readers()
        self._keep = Counter(keep)
        self._ran: dict[ir.Node, int] = {}
        self._live: dict[str, list[Any]] = {}
        self._stored: dict[str, int] = {}
        self.batches: list[Batch] = []
        for item in samples.batches(graph, batch):
            for name, array in item.feeds.items():
                self._live.setdefault(name, []).append(array)
            self.batches.append(Batch({}, item.count, item.size, item.stacked))

    def renew(self) -> None:
        """Take note of operators that were added behind those that have run, and of what a Concat has got since."""
        self._cutter = Cutter(self.graph)
        self._readers = self._find_readers()
        for node, known in list(self._ran.items()):
            name, extra = node.outputs[0].name or "", [value.name or "" for value in node.inputs[known:] if value]
            if node.op_type == "Concat" and extra and name in self._live:
                kept = Counter(self._keep)
                self.compute(extra)
                joined = zip(self._live[name], *(self._live[item] for item in extra), strict=True)
                axis = node.attributes["axis"].as_int()
                self._stored.pop(name, None)
                self._live[name] = [self._store(name, np.concatenate(arrays, axis)) for arrays in joined]
                self._ran[node] = len(node.inputs)
                self._keep = kept

    def compute(self, names: Sequence[str]) -> None:
        """Run what ``names`` still need. Afterwards :meth:`values` gives them until they are forgotten or read up."""
        for name in names:
            self._keep[name] = max(self._keep[name], 1)
        wanted = [self._cutter.value(name) for name in names if name not in self._live]
        if not wanted:
            return
        available = {self._cutter.value(name) for name in self._live}
        needed = self._cutter.needed(wanted, available)
        nodes = sorted(needed, key=self._cutter.position.__getitem__)
        self._ran |= {node: len(node.inputs) for node in needed}
        inputs: dict[str, list[Any]] = {}
        for node in nodes:
            for value in self._cutter.read_by(node):
                if value.name in self._live:
                    inputs[value.name or ""] = self._live[value.name or ""]
        outputs = [value.name for node in nodes for value in node.outputs if value.name and self._is_read_later(value)]
        types = {name: _type_of(arrays[0]) for name, arrays in inputs.items()}
        session = self.runtime.load(self._cutter.cut(needed, types, outputs))
        for index in range(len(self.batches)):
            found = session.run({name: arrays[index] for name, arrays in inputs.items()})
            for name in outputs:
                if name not in found:
                    raise BackendError(f"{self.graph.source}: {self.runtime.name} does not hand out the value {name!r}")
                self._live.setdefault(name, []).append(self._store(name, found[name]))
        for name in [name for name in self._live if not self._is_read_later(self._cutter.value(name))]:
            self._drop(name)

    def values(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the computed value ``name`` batch by batch, repeats of a fixed batch size trimmed."""
        for batch, array in zip(self.batches, self._live[name], strict=True):
            yield batch.trim(array)

    def forget(self, names: Iterable[str]) -> None:
        """Let values go that the caller does not need any more; operators that have not run may still."""
        for name in names:
            self._keep[name] -= 1
            if name in self._live and not self._is_read_later(self._cutter.value(name)):
                self._drop(name)

    def peek(self, name: str, weights: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yield what ``name`` would be with other ``weights``, batch by batch; the walk stays where it is."""
        wanted = self._cutter.value(name)
        needed = self._cutter.needed([wanted], {self._cutter.value(item) for item in self._live})
        read = {value.name or "" for node in needed for value in self._cutter.read_by(node)}
        inputs = {item: arrays for item, arrays in self._live.items() if item in read}
        part = self._cutter.cut(needed, {item: _type_of(arrays[0]) for item, arrays in inputs.items()}, [name])
        for item, array in weights.items():
            value = part.initializers[item]
            assert value.const_value is not None
            value.const_value = ir.Tensor(array.astype(value.const_value.numpy().dtype), name=item)
        session = self.runtime.load(part)
        for index, batch in enumerate(self.batches):
            yield batch.trim(session.run({item: arrays[index] for item, arrays in inputs.items()})[name])

    def _find_readers(self) -> dict[ir.Value, list[ir.Node]]:
        readers: dict[ir.Value, list[ir.Node]] = {}
        for node in self._cutter.position:
            for value in self._cutter.read_by(node):
                readers.setdefault(value, []).append(node)
        return readers

    def _is_read_later(self, value: ir.Value) -> bool:
        if self._keep[value.name or ""] > 0:
            return True
        return any(node not in self._ran for node in self._readers.get(value, ()))

    def _store(self, name: str, array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype == object or array.size == 0:
            return array
        if sum(self._stored.values()) + array.nbytes <= MEMORY:
            self._stored[name] = self._stored.get(name, 0) + array.nbytes
            return array
        with tempfile.TemporaryFile(prefix="surgery-ir-") as file:
            array.tofile(file)
            return np.memmap(file, array.dtype, "r", shape=array.shape)

    def _drop(self, name: str) -> None:
        del self._live[name]
        self._stored.pop(name, None)


def _type_of(value: Any) -> ir.TypeProtocol | None:
    """Type of what a runtime handed out; ``None`` for an empty sequence."""
    if isinstance(value, list):
        element = _type_of(value[0]) if value else None
        return None if element is None else ir.SequenceType(element)
    return ir.TensorType(ir.DataType.from_numpy(np.asarray(value).dtype))
