"""Merge units: those that share a label become one, which stands for their sum wherever they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling, Group, Span
from surgery_ir.analysis.coupling.relations import Axis, Indices
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph

__all__ = ["Summation", "constants_along", "merge", "reason_against_merge", "summations", "unit_rows"]

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, slots=True, eq=False)
class Summation:
    """An operator that sums over the units of a group, which it reads nowhere else.

    Parameters
    ----------
    node, op_type
        The operator.
    weights
        Constants that it multiplies the units with: one, unless it computes all factors or has several.
    inputs
        Computed values in which it reads the units; none where a recurrent layer reads its own state.
    """

    node: str
    op_type: str
    weights: tuple[Span, ...]
    inputs: tuple[Span, ...]


def summations(graph: Graph, coupling: Coupling, group: Group) -> tuple[Summation, ...]:
    """Find every operator that sums over the units of ``group``, in topological order of what it reads."""
    found: dict[str, list[Span]] = {}
    transposed = {
        Axis(node.inputs[0].name or "", 1): node.name or ""
        for node in graph.model.graph
        if node.op_type == "ConvTranspose" and node.inputs[0] is not None and _groups(node) > 1
    }  # they may sum over every group, and are not known to
    for span in group.spans:
        names = dict.fromkeys(coupling.contracted.get(span.axis, ()))
        if span.axis in transposed:
            names[transposed[span.axis]] = None
        for name in names:
            found.setdefault(name, []).append(span)
    return tuple(item for name, spans in found.items() for item in _split(graph, name, spans))


def _groups(node: ir.Node) -> int:
    return int(node.attributes["group"].as_int()) if "group" in node.attributes else 1


def _split(graph: Graph, name: str, spans: list[Span]) -> Iterator[Summation]:
    """Make one summation of an operator, or two of a recurrent layer: over what it reads, and over its own state."""
    node = graph.node(name)
    weights = tuple(span for span in spans if graph.is_constant(graph.initializers.get(span.axis.value)))
    inputs = tuple(span for span in spans if span not in weights)
    if node.op_type in RECURRENT:
        for span in weights:
            own_state = node.inputs[2] is not None and node.inputs[2].name == span.axis.value
            yield Summation(name, node.op_type, (span,), () if own_state else inputs)
    elif weights or node.op_type != "Conv" or _groups(node) == 1:  # else whole groups are units: it passes them
        yield Summation(name, node.op_type, weights, inputs)


def constants_along(graph: Graph, coupling: Coupling, group: Group) -> tuple[Span, ...]:
    """Axes of constants along which the units lie without being summed over: rows of weights, biases, scales."""
    summed = {(span.axis, name) for name, span in _summed(graph, coupling, group)}
    return tuple(
        span
        for span in group.spans
        if graph.is_constant(graph.initializers.get(span.axis.value))
        and any((span.axis, reader) not in summed for reader in _readers(graph, span))
    )


def _summed(graph: Graph, coupling: Coupling, group: Group) -> Iterator[tuple[str, Span]]:
    for item in summations(graph, coupling, group):
        yield from ((item.node, span) for span in item.weights)


def _readers(graph: Graph, span: Span) -> set[str]:
    """Operators that read the entries of a constant, not only its sizes."""
    if span.axis.use is not None:
        return {span.axis.use[0]}
    uses = graph.initializers[span.axis.value].uses()
    return {use.node.name or "" for use in uses if use.node.op_type != "Shape"}


def unit_rows(array: NDArray[Any], span: Span) -> NDArray[Any]:
    """Entries of ``array`` that belong to each unit of ``span``: (units, entries)."""
    taken = np.moveaxis(array, span.axis.axis, 0)[span.indices]
    return taken.reshape(len(span.indices), -1)


def reason_against_merge(graph: Graph, coupling: Coupling, group: Group, labels: Indices | None = None) -> str | None:
    """Say why units of ``group`` cannot be merged, or ``None``.

    Parameters
    ----------
    graph, coupling, group
        The graph, its coupling, and one group of it.
    labels : (units,) int, optional
        The units to be merged; without them any.
    """
    for item in summations(graph, coupling, group):
        if not item.weights:
            return f"{item.op_type} {item.node!r} sums over products of computed values"
        if len(item.weights) > 1:
            return f"{item.op_type} {item.node!r} multiplies them with several constants"
    for span in group.spans:
        value = graph.initializers.get(span.axis.value)
        if value is not None and not graph.is_constant(value):
            return f"a caller may override {span.axis.value!r}"
    along = constants_along(graph, coupling, group)
    summed = {span.axis for _, span in _summed(graph, coupling, group)}
    seen: set[str] = set()
    for span in along:
        name = span.axis.value
        if span.axis in summed:
            return f"{name!r} is read with and without a sum over them"
        if name in seen and span.axis.use is None:
            return f"{name!r} holds them along two axes"
        seen.add(name)
        if _stays(graph, span, labels):
            continue
        if graph.array(name).dtype.kind != "f":
            return f"{name!r} holds whole numbers that differ between them"
        if span.axis.use is not None and not _is_held_alone(graph, along, span):
            return f"{name!r}, which differs between them, is shared by operators outside the group"
    return None


def _stays(graph: Graph, span: Span, labels: Indices | None) -> bool:
    """Whether merging changes nothing in what units that stay have in ``span``."""
    rows = unit_rows(graph.array(span.axis.value), span)
    leaders = np.zeros(len(rows), np.intp) if labels is None else _leaders(labels)
    return np.array_equal(rows, rows[leaders])


def _is_held_alone(graph: Graph, along: tuple[Span, ...], span: Span) -> bool:
    """Whether all copies of a shared constant hold the same units at the same indices."""
    copies = [other for other in along if other.axis[:2] == span.axis[:2]]
    alike = all(np.array_equal(other.indices, span.indices) for other in copies)
    return alike and len(copies) == len(graph.initializers[span.axis.value].uses())


def merge(editor: Editor, coupling: Coupling, group: Group, labels: Indices) -> NDArray[np.intp]:
    """Let the first unit of every label stand for all that share it; the others are still there, to be cut.

    What writes a unit, and every constant on its way, becomes the mean over the members; what reads it becomes the sum
    of their columns. Exact where members are equal. Several groups of one coupling may be merged before
    :func:`~surgery_ir.passes.prune.cutting.cut` removes what this returns.

    Folding of Wang et al. (ICLR 2025); sums of columns as in data-free parameter pruning (Srinivas & Babu, 2015).

    Parameters
    ----------
    editor
        Of the graph that ``coupling`` was found in.
    coupling, group
        Its groups, and the one to merge; :func:`reason_against_merge` has nothing against it.
    labels : (units,) int
        Units that become one share a label.

    Returns
    -------
    (removed,) int
        Units that their first members stand for now.
    """
    leaders = _leaders(labels)
    done: set[tuple[str, int]] = set()
    for span in constants_along(editor.graph, coupling, group):
        if span.axis[:2] not in done:
            done.add(span.axis[:2])
            _combine(editor, span, leaders, mean=True)
    for span in {span.axis: span for _, span in _summed(editor.graph, coupling, group)}.values():
        _combine(editor, span, leaders, mean=False)
    return np.flatnonzero(leaders != np.arange(len(leaders)))


def _leaders(labels: Indices) -> Indices:
    """First unit of the label of every unit."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.intp)


def _combine(editor: Editor, span: Span, leaders: Indices, mean: bool) -> None:
    """Write the mean, or the sum, over the members of every label into the place of the first."""
    old = editor.graph.array(span.axis.value)
    rows = unit_rows(old, span)
    if mean and np.array_equal(rows, rows[leaders]):
        return
    chosen, place, sizes = np.unique(leaders, return_inverse=True, return_counts=True)
    total = np.zeros((len(chosen), rows.shape[1]))
    np.add.at(total, place, rows)
    if mean:
        total /= sizes[:, None]
    merged = sizes > 1
    new = np.array(old)
    view = np.moveaxis(new, span.axis.axis, 0)
    where = span.indices[chosen[merged]]
    view[where] = total[merged].reshape(view[where].shape)
    editor.set_weights(span.axis.value, new, kind="merge")
