"""Measured time of a model's layers as a function of how many units every group keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.products import Shares, evaluate, macs_by_node
from surgery_ir.analysis.coupling.relations import Axis, Indices
from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.multiples import Use, preferred_multiple
from surgery_ir.analysis.probe import Kind, Probe, kind_of
from surgery_ir.analysis.timing import shared_timings
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.coupled import BATCH
from surgery_ir.passes.prune.sizes import tables
from surgery_ir.solvers.allocation import Term

__all__ = ["Pace"]

MOST_SAMPLES = 64
MOST_MACS = 1e9
"""Layers are timed for as many samples as take no more multiply-accumulates, and for no more than that many."""


class Pace:
    """Times the layers of one graph on one thread, at the widths that cuts may leave.

    Parameters
    ----------
    graph
        The graph.
    coupling
        Its groups.
    ctx
        Whose runtime is timed.
    """

    def __init__(self, graph: Graph, coupling: Coupling, ctx: PassContext) -> None:
        self.graph = graph
        self.coupling = coupling
        self.shares = Shares(coupling)
        self.timings = shared_timings(ctx.runtime)
        self.macs = macs_by_node(graph, coupling)
        self.whole = [group.units for group in coupling.groups]
        total = sum(evaluate(self.macs[name], self.whole) for name in self.macs) / BATCH
        samples = max(1, min(MOST_SAMPLES, int(MOST_MACS / total))) if total else 1
        inputs = {value.name for value in graph.inputs}
        self.kinds: dict[str, tuple[Layer, Kind]] = {}
        for layer in find_layers(graph):
            kind = kind_of(layer, coupling.facts.shapes, fed=layer.input in inputs)
            if kind is not None:
                rows = max(1, kind.rows * samples // BATCH)
                self.kinds[layer.name] = layer, replace(kind, rows=rows)

    def multiple(self, group: Group) -> int:
        """Multiple that the width of ``group``, in indices of the weights that write it, had best be rounded to."""
        weights = {span.axis.value: span.contracted for span in group.spans if span.weight}
        uses = []
        for layer, kind in self.kinds.values():
            if layer.weight in weights:
                axis: Literal["inputs", "outputs", "both"] = "inputs" if weights[layer.weight] else "outputs"
                other = layer.outputs if weights[layer.weight] else layer.channels
                uses.append(Use(kind, "both" if kind.group_shape is not None else axis, other))
        spans = group.written or group.read
        return preferred_multiple(self.timings, uses, spans[0].indices.size)

    def terms(self, sizes: Sequence[Indices]) -> list[Term]:
        """Seconds of all operators that multiply, at the ``sizes`` that every group may have.

        Layers that depend on one group for each of their widths are timed. Others are taken to be as fast for their
        multiply-accumulates as those are on the whole.
        """
        found: list[Term] = []
        timed = counted = 0.0
        rest = []
        for name, polynomial in self.macs.items():
            term = self._term(name, sizes)
            if term is None:
                rest.append(polynomial)
            else:
                found.append(term)
                timed += float(term.table[(0,) * term.table.ndim])
                counted += evaluate(self.macs[name], self.whole)
        rate = timed / counted if counted else 1.0
        for polynomial in rest:
            found += [Term(term.groups, term.table * rate) for term in tables(polynomial, sizes)]
        return found

    def seconds(self) -> float:
        """Seconds of all operators that multiply, at full width."""
        sizes = [np.array([units]) for units in self.whole]
        return sum(float(term.table.sum()) for term in self.terms(sizes))

    def _term(self, name: str, sizes: Sequence[Indices]) -> Term | None:
        if name not in self.kinds:
            return None
        layer, kind = self.kinds[name]
        axes = [Axis(layer.weight, axis) for axis in (_input_axis(layer), _output_axis(layer))]
        owners = [[number for number, _ in self.shares.owners.get(axis, [])] for axis in axes]
        if any(len(item) > 1 for item in owners):
            return None
        if kind.group_shape is not None:
            widths = [self._widths(axes[1], owners[1], sizes, layer.groups)] * 2
            return Term(tuple(owners[1]), self._squeeze(np.diag(self._table(kind, *widths)), owners[1]))
        inputs = self._widths(axes[0], owners[0], sizes, layer.channels)
        outputs = self._widths(axes[1], owners[1], sizes, layer.outputs)
        table = self._table(kind, inputs, outputs)
        if owners[0] and owners[0] == owners[1]:
            return Term(tuple(owners[0]), np.diag(table))
        return Term((*owners[0], *owners[1]), self._squeeze(table, owners[0], owners[1]))

    def _widths(self, axis: Axis, owners: Sequence[int], sizes: Sequence[Indices], width: int) -> NDArray[np.intp]:
        """Width of a layer at every size of the group that owns it; a single one where none does."""
        if not owners:
            return np.array([width])
        (number,) = owners
        shares = [self.shares.share(axis, {number: int(size)}) for size in sizes[number]]
        return np.array([max(1, round(share * width)) for share in shares], dtype=np.intp)

    def _table(self, kind: Kind, inputs: NDArray[np.intp], outputs: NDArray[np.intp]) -> NDArray[np.float64]:
        if len(inputs) == len(outputs) == 1:
            return np.array([self.timings.layer_times([Probe(kind, int(inputs[0]), int(outputs[0]))])])
        rows, row = np.unique(inputs, return_inverse=True)
        columns, column = np.unique(outputs, return_inverse=True)
        return self.timings.time_table(kind, rows.tolist(), columns.tolist())[np.ix_(row, column)]

    @staticmethod
    def _squeeze(table: NDArray[np.float64], *owners: Sequence[int]) -> NDArray[np.float64]:
        """Drop the axes of widths that no group owns."""
        return table[tuple(slice(None) if item else 0 for item in owners)]


def _input_axis(layer: Layer) -> int:
    return 1 if layer.op_type == "Conv" or not layer.transposed else 0


def _output_axis(layer: Layer) -> int:
    return 1 - _input_axis(layer)
