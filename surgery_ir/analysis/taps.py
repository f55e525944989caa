"""Where new connections may start: earlier values that a layer could read besides its own input.

A tap is a virtual layer, a 1×1 convolution or a matrix product, that reads an earlier value, its *donor*, and whose
output is added to that of an existing layer, the *consumer*. Donors are ancestors of what the consumer writes, so
that no tap can close a cycle, whichever taps are written and in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from surgery_ir.analysis.layers import Geometry, Layer, Layers
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph

__all__ = ["Sizes", "Tap", "Taps", "find_taps"]

Sizes = Mapping[str, tuple[int, ...]]
"""Shapes of values in one run."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A layer that could be written beside another one.

    Parameters
    ----------
    donor
        Value that it reads.
    span
        Layers that it jumps over, at least 1.
    layer
        The virtual layer: a Conv whose kernel is 1 along every axis, or a MatMul; its ``outputs`` are all outputs of
        the consumer, groups in order. Its names are proposals.
    parallel
        Whether the donor has the shape of the consumer's own input but for the channels, so that its channels could
        become further channels of that input.
    """

    donor: str
    span: int
    layer: Layer
    parallel: bool = False


@dataclass(frozen=True)
class Taps:
    """Taps of every layer, the nearest first, and why a layer has none; both by the layer's name."""

    by_layer: Mapping[str, tuple[Tap, ...]]
    reasons: Mapping[str, str]


@collector_paused()
def find_taps(graph: Graph, layers: Layers, shapes: Sequence[Sizes], radius: int) -> Taps:
    """Find the taps of every layer.

    The depth of a value is the largest number of layers on a path to it. A donor is what some layer reads, and lies
    ``span`` layers before the consumer's own input, 1 ≤ ``span`` ≤ ``radius``. It fits where a stride, or nothing at
    all, brings it to the size of the consumer's output in every one of ``shapes``.

    Parameters
    ----------
    graph
        Graph to look at.
    layers
        Its layers.
    shapes
        Shapes of values in one or more runs, see :func:`~surgery_ir.analysis.runs.observe_shapes`.
    radius
        Most layers that a tap may jump over; 0 gives no taps.
    """
    candidates = _Candidates(graph, layers)
    by_layer: dict[str, tuple[Tap, ...]] = {}
    reasons: dict[str, str] = {}
    for layer in layers:
        taps, reason = _taps_of(layer, list(candidates.within(layer, radius)), shapes)
        by_layer[layer.name] = taps
        if not taps:
            reasons[layer.name] = f"no value lies within {radius} layers before it" if reason is None else reason
    return Taps(by_layer, reasons)


class _Candidates:
    """Donors of every layer by depth and descent, from one sweep over the graph.

    Sets of donors are the bits of integers, so that the ancestors of each value cost one machine word per 60 donors.
    """

    def __init__(self, graph: Graph, layers: Layers) -> None:
        self._types = {layer.name: graph.initializers[layer.weight].dtype for layer in layers}
        read = {layer.input: self._types[layer.name] for layer in layers}  # a layer reads the type of its weights
        depth = {value.name or "": 0 for value in graph.inputs}
        self.donors: list[str] = [name for name in depth if name in read]
        ancestors = {name: 1 << bit for bit, name in enumerate(self.donors)}
        names = {layer.name for layer in layers}
        for operator in graph.view().operators():
            sources = (*operator.inputs, *operator.captures)
            reached = max((depth.get(name, 0) for name in sources), default=0) + (operator.name in names)
            known = 0
            for name in sources:
                known |= ancestors.get(name, 0)
            for name in filter(None, operator.outputs):
                depth[name], ancestors[name] = reached, known
                if name in read:
                    ancestors[name] |= 1 << len(self.donors)
                    self.donors.append(name)
        self._depth, self._ancestors = depth, ancestors
        self._at: dict[int, int] = {}
        self._of_type: dict[ir.DataType | None, int] = {}
        for bit, name in enumerate(self.donors):
            self._at[depth[name]] = self._at.get(depth[name], 0) | 1 << bit
            self._of_type[read[name]] = self._of_type.get(read[name], 0) | 1 << bit

    def within(self, layer: Layer, radius: int) -> Iterator[tuple[str, int]]:
        """Yield donors of the layer's type and their spans, the nearest first, the latest first among equals."""
        usable = self._ancestors[layer.output] & self._of_type.get(self._types[layer.name], 0)
        depth = self._depth[layer.output]
        for span in range(1, min(radius, depth - 1) + 1):
            found = usable & self._at.get(depth - 1 - span, 0)
            while found:
                bit = found.bit_length() - 1
                found ^= 1 << bit
                yield self.donors[bit], span


def _taps_of(
    layer: Layer, candidates: Sequence[tuple[str, int]], shapes: Sequence[Sizes]
) -> tuple[tuple[Tap, ...], str | None]:
    """Taps of one layer; where there are none, why: ``None`` where there are no candidates."""
    if layer.left:
        return (), "its weights stand on the left of the product"
    if not candidates:
        return (), None
    if any(layer.output not in run for run in shapes):
        return (), f"the shape of its output {layer.output!r} is not known"
    fit = _fit_conv if layer.geometry is not None else _fit_product
    taps = []
    for donor, span in candidates:
        pairs = [(run[donor], run[layer.output]) for run in shapes if donor in run]
        virtual = fit(layer, donor, pairs) if len(pairs) == len(shapes) else None
        if virtual is not None:
            taps.append(Tap(donor, span, virtual, _is_parallel(layer, donor, shapes)))
    if taps:
        return tuple(taps), None
    nearest = candidates[0][0]
    wanted = list(shapes[0][layer.output])
    found = list(shapes[0].get(nearest, ()))
    return (), f"no value in reach can be aligned with its output {wanted}; the nearest, {nearest!r}, has shape {found}"


def _fit_conv(layer: Layer, donor: str, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Layer | None:
    """Give the 1×1 convolution from ``donor`` to the layer's output, if one stride per axis serves every run."""
    if any(len(have) != len(want) or have[0] != want[0] or have[1] != pairs[0][0][1] for have, want in pairs):
        return None
    rank = len(pairs[0][0]) - 2
    strides = [_stride([(have[axis], want[axis]) for have, want in pairs]) for axis in range(2, rank + 2)]
    if rank < 1 or None in strides:
        return None
    ones = (1,) * rank
    geometry = Geometry(ones, tuple(stride or 1 for stride in strides), ones, (0,) * (2 * rank))
    return _virtual(layer, donor, "Conv", pairs[0][0][1], geometry)


def _fit_product(layer: Layer, donor: str, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Layer | None:
    """Give the matrix product from ``donor`` to the layer's output, if all axes but the last agree in every run."""
    if any(not have or have[:-1] != want[:-1] or have[-1] != pairs[0][0][-1] for have, want in pairs):
        return None
    return _virtual(layer, donor, "MatMul", pairs[0][0][-1], None)


def _stride(sizes: Sequence[tuple[int, int]]) -> int | None:
    """Smallest stride s with ⌈have / s⌉ = want for every pair; every s in an interval serves a pair, or none does.

    A size that does not follow the donor's is no matter of strides: what is pooled to one position always has one.
    """
    if len({have for have, _ in sizes}) > 1 == len({want for _, want in sizes}):
        return None
    least, most = 1, max(have for have, _ in sizes)
    for have, want in sizes:
        if not 1 <= want <= have:
            return None
        least = max(least, -(-have // want))
        if want > 1:
            most = min(most, (have - 1) // (want - 1))
    return least if least <= most else None


def _virtual(layer: Layer, donor: str, op_type: str, channels: int, geometry: Geometry | None) -> Layer:
    name = f"{layer.name}/tap/{donor}"
    return Layer(
        name=name, op_type=op_type, weight=f"{name}.weight", bias=None, input=donor, output=f"{name}/output", groups=1,
        outputs=layer.groups * layer.outputs, inputs=channels, geometry=geometry, transposed=op_type == "MatMul",
    )  # fmt: skip


def _is_parallel(layer: Layer, donor: str, shapes: Sequence[Sizes]) -> bool:
    def rest(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:1] + shape[2:] if layer.geometry is not None else shape[:-1]

    own = [run.get(layer.input) for run in shapes]
    return all(shape is not None and rest(shape) == rest(run[donor]) for shape, run in zip(own, shapes, strict=True))
