"""Scale equalisation between layers: units get the same range in the layer that writes them and in those that read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.coupled import find_coupling
from surgery_ir.passes.reconnect.segments import Scaled, Segment, find_segments

__all__ = ["equalise"]

Array = NDArray[np.float64]

Key = tuple[str, tuple[str, int] | None]
"""A constant: its name, and the reader for which it counts as a copy of its own."""

SWEEPS = 100
SETTLED = 1e-4
"""Sweeps end when no scale changes by more than this, relative to itself."""

WORTH = 1e-2
"""A segment whose scales are all this close to 1 is equalised already."""

LARGEST = 256.0
"""No unit is scaled by more: what is all but dead would become loud, and half precision would overflow."""

NOTHING = "there is no layer whose units another layer reads"


def equalise(editor: Editor, ctx: PassContext) -> list[Refusal]:
    """Scale units so that their ranges in the layers that write and that read them are equal; the function stays.

    Unit c of a segment has the range r₁ = max |w| over the weights that write it and r₂ = max |w| over those that read
    it. What writes it is divided by s = √(r₁ / r₂), bias included, and what reads it multiplied, so that both ranges
    are √(r₁ r₂). It is repeated until all segments agree. A depthwise Conv takes part with both segments beside it.

    Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (ICCV 2019), §4.1. Their
    absorption of large biases (§4.1.3) is exact on samples only, moves no connection, and is left out.

    Parameters
    ----------
    editor
        Of the graph to change. No connection is pruned or created.
    ctx
        Samples and runtime tell shapes, nothing else.

    Returns
    -------
    list of Refusal
        Layers whose units keep their scale, and why.
    """
    try:
        coupling = find_coupling(editor.graph, ctx)
    except DataError as error:
        return [Refusal(f"shapes are not known: {error}")]
    refusals = [Refusal(str(item.frost), (item.name,)) for item in coupling.frozen]
    segments: list[Segment] = []
    for group in coupling.groups:
        found, against = find_segments(editor.graph, coupling, group)
        segments.extend(found)
        refusals.extend(against)
    scales, dropped = _scales(editor.graph, segments)
    refusals.extend(Refusal(reason, (segments[index].node,)) for index, reason in dropped.items())
    for key, array in list(_scaled_constants(editor.graph, segments, scales)):
        _write(editor, key, array)
    return list(dict.fromkeys(refusals)) if segments or refusals else [Refusal(NOTHING)]


def _scales(graph: Graph, segments: Sequence[Segment]) -> tuple[list[Array], dict[int, str]]:
    """Logarithm of the scale of every unit of every segment, 0 in those that are dropped; and why they are."""
    scales = _settled(graph, segments, range(len(segments)))
    dropped = {
        index: "the ranges of its units are equal already"
        for index, scale in enumerate(scales)
        if np.abs(scale).max() < WORTH
    }
    while True:
        for index in dropped:
            scales[index] = np.zeros_like(scales[index])
        lost = _lost(graph, segments, scales)
        if not lost:
            return scales, dropped
        dropped |= lost
        scales = _settled(graph, segments, [index for index in range(len(segments)) if index not in dropped])


def _settled(graph: Graph, segments: Sequence[Segment], chosen: Iterable[int]) -> list[Array]:
    """Equalise the segments ``chosen`` one after the other until no scale changes any more.

    A segment that a layer both reads and writes is balanced as a matrix is (Osborne, 1960), by half a step at a time:
    all its units move at once, and a whole one would oscillate.
    """
    scales = [np.zeros(segment.units) for segment in segments]
    constants = _by_constant(segments)
    magnitudes = {key: np.abs(graph.array(key[0]).astype(np.float64)) for key in constants}
    steps = [0.5 if _loops(segment) else 1.0 for segment in segments]
    for _ in range(SWEEPS):
        change = 0.0
        for index in chosen:
            read, written = (
                _range(segments, index, scales, constants, magnitudes, reads=reads) for reads in (True, False)
            )
            alive = (read > 0) & (written > 0)
            ratio = np.where(alive, written, 1.0) / np.where(alive, read, 1.0)
            new = np.clip(scales[index] + 0.5 * steps[index] * np.log(ratio), -np.log(LARGEST), np.log(LARGEST))
            change = max(change, float(np.abs(new - scales[index]).max()))
            scales[index] = new
        if change < SETTLED:
            break
    return scales


def _loops(segment: Segment) -> bool:
    read = {item.axis[:1] for item in segment.constants if item.weight and item.reads}
    return any(item.axis[:1] in read for item in segment.constants if item.weight and not item.reads)


def _by_constant(segments: Sequence[Segment]) -> dict[Key, list[tuple[int, Scaled]]]:
    """All that is scaled of every constant, with the number of the segment that it goes with."""
    found: dict[Key, list[tuple[int, Scaled]]] = {}
    for index, segment in enumerate(segments):
        for item in segment.constants:
            found.setdefault((item.axis.value, item.axis.use), []).append((index, item))
    return found


def _range(
    segments: Sequence[Segment], index: int, scales: Sequence[Array], constants: Mapping[Key, list[tuple[int, Scaled]]],
    magnitudes: Mapping[Key, Array], *, reads: bool,
) -> Array:  # fmt: skip
    """Largest magnitude of the weights that read every unit of a segment, or that write it: (units,)."""
    found = np.zeros(segments[index].units)
    for item in segments[index].constants:
        if item.weight and item.reads == reads:
            key = (item.axis.value, item.axis.use)
            array = magnitudes[key] * _factor(magnitudes[key].shape, constants[key], scales)
            rows = np.moveaxis(array, item.axis.axis, 0)[item.indices]
            found = np.maximum(found, rows.reshape(len(item.indices), -1).max(axis=1))
    return found


def _factor(shape: tuple[int, ...], items: Iterable[tuple[int, Scaled]], scales: Sequence[Array]) -> Array:
    """What a constant of ``shape`` is multiplied by, broadcast to it."""
    factor = np.ones((1,) * len(shape))
    for index, item in items:
        exponents = np.zeros(shape[item.axis.axis])
        exponents[item.indices] = (scales[index] if item.reads else -scales[index])[:, None]
        factor = factor * np.exp(exponents).reshape([-1 if axis == item.axis.axis else 1 for axis in range(len(shape))])
    return factor


def _scaled_constants(
    graph: Graph, segments: Sequence[Segment], scales: Sequence[Array]
) -> Iterator[tuple[Key, NDArray[Any]]]:
    """Yield new values of every constant that changes, in its own type."""
    for key, items in _by_constant(segments).items():
        if any(np.any(scales[index]) for index, _ in items):
            old = graph.array(key[0])
            with np.errstate(over="ignore"):
                yield key, (old.astype(np.float64) * _factor(old.shape, items, scales)).astype(old.dtype)


def _lost(graph: Graph, segments: Sequence[Segment], scales: Sequence[Array]) -> dict[int, str]:
    """Segments whose scales take a constant out of the range of its type, and what becomes of it."""
    found: dict[int, str] = {}
    constants = _by_constant(segments)
    for key, new in _scaled_constants(graph, segments, scales):
        old = graph.array(key[0])
        if not np.array_equal(np.isfinite(old), np.isfinite(new)) or not np.array_equal(old != 0, new != 0):
            reason = f"{key[0]!r} holds {old.dtype} and would leave their range"
            found.update((index, reason) for index, _ in constants[key] if np.any(scales[index]))
    return found


def _write(editor: Editor, key: Key, array: NDArray[Any]) -> None:
    """Set a constant, or give its reader one of its own where others read it too."""
    name, use = key
    if use is None:
        editor.set_weights(name, array, kind="equalise")
    elif not np.array_equal(array, editor.graph.array(name)):
        node, index = editor.graph.node(use[0]), use[1]
        old = node.inputs[index]
        editor.set_input(node, index, editor.add_initializer(name, array))
        if old is not None and not old.uses() and not old.is_graph_output():
            editor.remove_initializer(name)
