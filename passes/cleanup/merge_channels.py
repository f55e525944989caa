"""Remove units without which the model computes the same: dead ones, constant ones, and duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.errors import BackendError, DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.cleanup.constant_units import ConstantUnits, has_zero_rows, zero_rows
from surgery_ir.passes.coupled import BATCH, feeds, find_coupling
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.prune.merging import (
    Summation,
    constants_along,
    merge,
    reason_against_merge,
    summations,
    unit_rows,
)
from surgery_ir.passes.prune.proof import SAMPLES, TOLERANCE
from surgery_ir.solvers.clusters import duplicates

__all__ = ["MergeChannels"]

NOTHING = "no unit is dead, constant or equal to another"


@dataclass
class Step:
    """What is done at once, all found in one coupling.

    Parameters
    ----------
    removed
        Units that go, by the name of their group.
    labels
        Units that become one share a label, by the name of their group.
    biases
        What units that go add to biases, (groups, outputs), by the name of their group and of the layer.
    """

    removed: dict[str, Indices] = field(default_factory=dict)
    labels: dict[str, Indices] = field(default_factory=dict)
    biases: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.removed or self.labels)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all groups concerned."""
        return (*self.removed, *self.labels)

    def with_group(self, other: Step, name: str) -> Step:
        """Give this step together with what ``other`` does to one group."""
        return Step(
            self.removed | {key: item for key, item in other.removed.items() if key == name},
            self.labels | {key: item for key, item in other.labels.items() if key == name},
            self.biases | {key: item for key, item in other.biases.items() if key == name},
        )

    def apply(self, editor: Editor, coupling: Coupling, ctx: PassContext) -> None:
        """Do it."""
        if self.biases:
            for layer in find_layers(editor.graph):
                added = [biases[layer.name] for biases in self.biases.values() if layer.name in biases]
                if added:
                    set_layer_bias(editor, layer, layer_bias(editor.graph, layer) + sum(added))
            coupling = find_coupling(editor.graph, ctx)  # a layer may have its first bias now, to be cut with its rows
        merged = {name: merge(editor, coupling, coupling[name], labels) for name, labels in self.labels.items()}
        cut(editor, coupling, {**self.removed, **merged})


@dataclass(frozen=True)
class MergeChannels(Pass):
    """Cut channels, neurons and heads that are dead or constant, and merge those that are equal. Exact, without data.

    Dead is what nobody reads, or what is 0 wherever it is read. A unit that is another constant number, since all
    weights that write it are 0, is cut once the biases of its readers have taken it up; a Conv that pads with zeros
    cannot do that. Units with equal weights and constants are merged, and the columns that read them added up. This is
    repeated until nothing changes.

    The merging of Srinivas & Babu (2015), restricted to what is exact.
    """

    name: ClassVar[str] = "merge-channels"
    proves: ClassVar[bool] = True

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Cut what is dead or constant; where nothing is, merge; again and again."""
        changed = True
        while changed:
            try:
                coupling = find_coupling(editor.graph, ctx)
            except DataError as error:
                return [Refusal(f"shapes are not known: {error}")]
            refusals = [Refusal(str(item.frost), (item.name,)) for item in coupling.frozen]
            changed = False
            for find in (_removals, _merges):
                step, reasons = find(editor.graph, coupling, ctx)
                refusals += reasons
                if step:
                    step.apply(editor, coupling, ctx)
                    changed = True
                    break
        return refusals if editor.edits else [*refusals, Refusal(NOTHING)]


def _removals(graph: Graph, coupling: Coupling, ctx: PassContext) -> tuple[Step, list[Refusal]]:
    """Find units that are dead or that biases can take up."""
    step = Step()
    refusals: list[Refusal] = []
    layers = {layer.name: layer for layer in find_layers(graph)}
    starting = [group for group in coupling.groups if has_zero_rows(graph, coupling, group)]
    seen = _observe(graph, coupling, starting, ctx) if starting else {}
    for group in coupling.groups:
        known = ConstantUnits(graph, group, seen if group in starting else {})
        readers = [_Reader(graph, layers.get(item.node), item, known) for item in summations(graph, coupling, group)]
        goes = np.ones(group.units, bool)
        for reader in readers:
            goes &= reader.silent | reader.taken
            stay = int(np.count_nonzero(reader.constant & ~reader.silent & ~reader.taken))
            if stay:
                refusals.append(Refusal(f"{stay} constant units stay: it {reader.reason}", (reader.item.node,)))
        if goes.all():
            goes[0] = False  # a group keeps a unit
        if not goes.any():
            continue
        step.removed[group.name] = np.flatnonzero(goes)
        loud = [reader for reader in readers if np.any(goes & ~reader.silent)]
        if loud:
            step.biases[group.name] = {reader.item.node: reader.contribution(goes) for reader in loud}
    return _proven(step, refusals, graph, coupling, ctx)


def _observe(graph: Graph, coupling: Coupling, groups: Iterable[Group], ctx: PassContext) -> Mapping[str, NDArray[Any]]:
    """Run the graph once and give all values on which units of ``groups`` lie; none where it does not run."""
    computed = {value.name for node in graph.model.graph for value in node.outputs}
    names = {span.axis.value: None for group in groups for span in group.spans if span.axis.value in computed}
    inputs = feeds(graph, ctx, BATCH)
    part = with_outputs(graph, names)
    needed = {value.name for value in part.inputs}
    try:
        found = ctx.runtime.load(part).run({name: array for name, array in inputs.items() if name in needed})
    except BackendError:
        return {}
    shapes = coupling.facts.shapes
    return {name: item for name, item in found.items() if isinstance(item, np.ndarray) and item.shape == shapes[name]}


class _Reader:
    """What one operator that sums over the units of a group makes of them.

    Attributes
    ----------
    silent : (units,) bool
        Units that add nothing to the sum.
    constant : (units,) bool
        Units that are numbers.
    taken : (units,) bool
        Those of them that the operator's bias can take up.
    reason
        Why it cannot take up others.
    """

    def __init__(self, graph: Graph, layer: Layer | None, item: Summation, known: ConstantUnits) -> None:
        self.graph = graph
        self.layer = layer
        self.item = item
        units = known.group.units
        self.silent = np.zeros(units, bool)
        for span in item.weights:
            self.silent |= zero_rows(graph, span)
        for span in item.inputs:
            self.silent |= known.zero(span.axis.value)
        self.constant, self.numbers = np.zeros(units, bool), np.zeros((units, 1))
        if len(item.inputs) == 1:
            self.constant, self.numbers = known.numbers(item.inputs[0].axis.value)
        self.reason = self._reason()
        self.taken = self.constant & (not self.reason)

    def _reason(self) -> str:
        if self.layer is None or not self.layer.takes_bias:
            return "has no bias that could take up what they add"
        geometry = self.layer.geometry
        if geometry is not None and (any(geometry.pads) or geometry.auto_pad not in ("NOTSET", "VALID")):
            return "pads with zeros, and they are other numbers"
        return ""

    def contribution(self, units: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What constant ``units`` add to the layer's output: (groups, outputs)."""
        assert self.layer is not None
        layer = self.layer
        inputs = np.zeros(layer.groups * layer.channels)
        inputs[self.item.inputs[0].indices[units]] = self.numbers[units]
        matrix = layer.matrix(self.graph.array(layer.weight)).astype(np.float64)
        columns = matrix.reshape(layer.groups, layer.outputs, -1, layer.channels).sum(axis=2)
        added: NDArray[np.float64] = np.einsum("goc,gc->go", columns, inputs.reshape(layer.groups, layer.channels))
        return added


def _merges(graph: Graph, coupling: Coupling, ctx: PassContext) -> tuple[Step, list[Refusal]]:
    """Find units that are equal in every constant that they meet."""
    step = Step()
    refusals: list[Refusal] = []
    for group in coupling.groups:
        rows = [unit_rows(graph.array(item.axis.value), item) for item in constants_along(graph, coupling, group)]
        features = np.concatenate([np.zeros((group.units, 0)), *rows], axis=1)
        if not np.isfinite(features).all():
            refusals.append(Refusal("constants that its units meet are not finite", (group.node,)))
            continue
        labels = duplicates(features, 0.0)
        if np.array_equal(labels, np.arange(group.units)):
            continue
        reason = reason_against_merge(graph, coupling, group, labels)
        if reason is None:
            step.labels[group.name] = labels
        else:
            refusals.append(Refusal(f"it has equal units that cannot be merged: {reason}", (group.node,)))
    return _proven(step, refusals, graph, coupling, ctx)


def _proven(
    step: Step, refusals: list[Refusal], graph: Graph, coupling: Coupling, ctx: PassContext
) -> tuple[Step, list[Refusal]]:
    """Leave out groups for which a run shows that the model would not compute the same."""
    if not step or not ctx.prove or _reason_against(step, graph, coupling, ctx) is None:
        return step, refusals
    kept = Step()
    for name in step.groups:
        more = kept.with_group(step, name)
        reason = _reason_against(more, graph, coupling, ctx)
        if reason is None:
            kept = more
        else:
            refusals.append(Refusal(reason, (coupling[name].node,)))
    return kept, refusals


def _reason_against(step: Step, graph: Graph, coupling: Coupling, ctx: PassContext) -> str | None:
    """Try a step and compare what the model computes: units of several indices may be laid out oddly."""
    trial = Editor(graph.clone(), "proof")
    step.apply(trial, coupling, ctx)
    inputs = feeds(graph, ctx, SAMPLES)
    try:
        wanted, found = ctx.runtime.load(graph).run(inputs), ctx.runtime.load(trial.graph).run(inputs)
    except BackendError as error:
        return f"that the model computes the same without its spare units cannot be proven: {error}"
    for name, expected in wanted.items():
        if isinstance(expected, np.ndarray) and not _is_close(found[name], expected):
            return f"output {name!r} would not be the same without its spare units"
    return None


def _is_close(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    return np.allclose(found, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
