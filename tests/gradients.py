"""A gradient provider in numpy: reverse mode over a few operators, one sample at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import softmax

from surgery_ir.analysis.coupling.site import Facts, Site
from surgery_ir.analysis.fidelity import has_classes
from surgery_ir.analysis.gradients import Gradient
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import BackendError, DataError
from surgery_ir.graph.model import Graph

__all__ = ["NumpyGradients"]

Array = NDArray[Any]
Tape = dict[str, Array]


@dataclass(frozen=True)
class NumpyGradients:
    """Gradients of the divergence from the reference, see :class:`~surgery_ir.analysis.gradients.GradientProvider`."""

    def gradients(
        self, graph: Graph, names: Sequence[str], samples: Samples, reference: Graph
    ) -> Mapping[str, Gradient]:
        """Differentiate sample by sample, so that squares are those of single samples.

        Raises
        ------
        DataError
            There are no samples.
        BackendError
            An operator has no derivative here.
        """
        if not len(samples):
            raise DataError(f"{samples.source}: there are no samples")
        wanted = [_outputs(reference, _forward(reference, samples, index)) for index in range(len(samples))]
        spreads = {name: _spread([item[name] for item in wanted]) for name in wanted[0]}
        sums = {name: np.zeros(graph.array(name).shape) for name in names}
        squares = {name: np.zeros_like(total) for name, total in sums.items()}
        for index, target in enumerate(wanted):
            tape = _forward(graph, samples, index)
            seeds = {name: _slope(tape[name], y, spreads[name]) / len(target) for name, y in target.items()}
            found = _backward(graph, tape, seeds)
            for name in names:
                slope = found.get(name, np.zeros(()))
                sums[name] += slope
                squares[name] += np.square(slope)
        return {name: Gradient(sums[name] / len(samples), squares[name] / len(samples)) for name in names}


def _outputs(graph: Graph, tape: Tape) -> Tape:
    return {value.name or "": tape[value.name or ""] for value in graph.outputs}


def _spread(outputs: Sequence[Array]) -> float:
    """Mean squared deviation of a sample from the mean sample; of a single one from the mean of its values."""
    y = np.concatenate(outputs).reshape(len(outputs), -1)
    centre = y.mean(0) if len(y) > 1 else y.mean()
    return float(np.square(y - centre).sum()) / len(y)


def _slope(output: Array, wanted: Array, spread: float) -> Array:
    """Derivative of a sample's share in the divergence with respect to its output."""
    if not has_classes(wanted):
        slope: Array = 2.0 * (output - wanted) / spread
        return slope
    rows = wanted.size // wanted.shape[-1]
    return np.asarray((softmax(output, axis=-1) - softmax(wanted, axis=-1)) / rows)


def _forward(graph: Graph, samples: Samples, index: int) -> Tape:
    """Compute every value for one sample, floats in float64."""
    batch = next(iter(samples.take(slice(index, index + 1)).batches(graph, 1)))
    constants = {name: graph.array(name) for name in graph.initializers}
    tape = {name: _wide(array) for name, array in {**constants, **batch.feeds}.items()}
    for node in graph.model.graph:
        tape[node.outputs[0].name or ""] = _operator(node).forward(_site(graph, node, tape), *_inputs(node, tape))
    return tape


def _backward(graph: Graph, tape: Tape, seeds: Mapping[str, Array]) -> Tape:
    """Give the derivative with respect to every value that the outputs depend on."""
    slopes = dict(seeds)
    for node in reversed(list(graph.model.graph)):
        slope = slopes.get(node.outputs[0].name or "")
        if slope is None:
            continue
        found = _operator(node).backward(_site(graph, node, tape), slope, *_inputs(node, tape))
        for value, item in zip(node.inputs, found, strict=False):
            if value is not None and item is not None:
                name = value.name or ""
                slopes[name] = slopes.get(name, 0.0) + item
    return slopes


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _inputs(node: ir.Node, tape: Tape) -> list[Array]:
    return [tape[value.name or ""] for value in node.inputs if value is not None]


def _site(graph: Graph, node: ir.Node, tape: Tape) -> Site:
    return Site(node, graph, Facts({name: array.shape for name, array in tape.items()}, tape))


@dataclass(frozen=True)
class _Operator:
    """What an operator computes, and the slopes of its inputs given that of its output."""

    forward: Callable[..., Array]
    backward: Callable[..., Sequence[Array | None]]


def _operator(node: ir.Node) -> _Operator:
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise BackendError(f"gradients: {node.op_type} {node.name!r} has no derivative here")
    return OPERATORS[node.op_type]


def _fold(slope: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an operand of ``shape`` was broadcast."""
    slope = slope.sum(tuple(range(slope.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and slope.shape[axis] > 1)
    return np.asarray(slope.sum(repeated, keepdims=True)).reshape(shape)


def _conv(site: Site, x: Array, w: Array, b: Array | None = None) -> Array:
    groups = site.number("group", 1)
    windows = _windows(site, x, w)
    n, _, height, width = windows.shape[:4]
    split = windows.reshape(n, groups, -1, *windows.shape[2:])
    y = np.einsum("ngchwij,gocij->ngohw", split, w.reshape(groups, -1, *w.shape[1:]), optimize=True)
    result: Array = y.reshape(n, -1, height, width)
    return result if b is None else result + b[:, None, None]


def _conv_backward(site: Site, slope: Array, x: Array, w: Array, b: Array | None = None) -> Sequence[Array | None]:
    groups = site.number("group", 1)
    windows = _windows(site, x, w)
    n, _, height, width = windows.shape[:4]
    split = windows.reshape(n, groups, -1, *windows.shape[2:])
    dy = slope.reshape(n, groups, -1, height, width)
    dw = np.einsum("ngchwij,ngohw->gocij", split, dy, optimize=True).reshape(w.shape)
    dwindows = np.einsum("gocij,ngohw->ngchwij", w.reshape(groups, -1, *w.shape[1:]), dy, optimize=True)
    dx = np.zeros_like(_padded(site, x))
    view = _windows(site, dx, w, padded=True)
    for i, j in np.ndindex(*w.shape[2:]):  # windows overlap, but not those of one position of the kernel
        view[..., i, j] += dwindows.reshape(windows.shape)[..., i, j]
    top, left = site.numbers("pads", (0, 0, 0, 0))[:2]
    inner = dx[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return inner, dw, None if b is None else slope.sum((0, 2, 3))


def _padded(site: Site, x: Array) -> Array:
    if x.ndim != 4 or site.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise BackendError(f"gradients: Conv {site.name!r} is not over images, or pads by itself")
    top, left, bottom, right = site.numbers("pads", (0, 0, 0, 0))
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _windows(site: Site, x: Array, w: Array, padded: bool = False) -> Array:
    """View what every output position reads, (samples, channels, height, width, kernel height, kernel width)."""
    image = x if padded else _padded(site, x)
    (sh, sw), (dh, dw) = site.numbers("strides", (1, 1)), site.numbers("dilations", (1, 1))
    kh, kw = w.shape[2:]
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    view = np.lib.stride_tricks.sliding_window_view(image, reach, (2, 3), writeable=padded)
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def _oriented(site: Site, a: Array, b: Array) -> tuple[Array, Array]:
    return (a.T if site.number("transA", 0) else a), (b.T if site.number("transB", 0) else b)


def _factors(site: Site) -> tuple[float, float]:
    attributes = site.node.attributes
    alpha, beta = (attributes[name].as_float() if name in attributes else 1.0 for name in ("alpha", "beta"))
    return alpha, beta


def _gemm(site: Site, a: Array, b: Array, c: Array | None = None) -> Array:
    (left, right), (alpha, beta) = _oriented(site, a, b), _factors(site)
    product: Array = alpha * (left @ right)
    return product if c is None else product + beta * c


def _gemm_backward(site: Site, slope: Array, a: Array, b: Array, c: Array | None = None) -> Sequence[Array | None]:
    (left, right), (alpha, beta) = _oriented(site, a, b), _factors(site)
    da, db = _oriented(site, alpha * slope @ right.T, alpha * left.T @ slope)
    return da, db, None if c is None else beta * _fold(slope, c.shape)


def _matmul_backward(site: Site, slope: Array, a: Array, b: Array) -> Sequence[Array]:
    if min(a.ndim, b.ndim) < 2:
        raise BackendError(f"gradients: MatMul {site.name!r} has a vector for an operand")
    return _fold(slope @ np.swapaxes(b, -1, -2), a.shape), _fold(np.swapaxes(a, -1, -2) @ slope, b.shape)


def _axes(site: Site, x: Array, axes: Array | None) -> tuple[int, ...]:
    if site.node.op_type == "GlobalAveragePool":
        return tuple(range(2, x.ndim))
    listed = site.numbers("axes") if axes is None else tuple(int(axis) for axis in axes)
    return tuple(axis % x.ndim for axis in listed) or tuple(range(x.ndim))


def _mean(site: Site, x: Array, axes: Array | None = None) -> Array:
    return np.asarray(x.mean(_axes(site, x, axes), keepdims=bool(site.number("keepdims", 1))))


def _mean_backward(site: Site, slope: Array, x: Array, axes: Array | None = None) -> Sequence[Array]:
    along = _axes(site, x, axes)
    shape = [1 if axis in along else size for axis, size in enumerate(x.shape)]
    return (np.broadcast_to(slope.reshape(shape), x.shape) / np.prod([x.shape[axis] for axis in along]),)


def _flatten(site: Site, x: Array) -> Array:
    axis = site.number("axis", 1)
    axis = axis if axis >= 0 else axis + x.ndim
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _reshape(site: Site, x: Array, shape: Array) -> Array:
    zero_copies = not site.number("allowzero", 0)
    sizes = [x.shape[axis] if size == 0 and zero_copies else int(size) for axis, size in enumerate(shape)]
    return x.reshape(sizes)


def _back_to_shape(site: Site, slope: Array, x: Array, *operands: Array) -> Sequence[Array]:
    return (slope.reshape(x.shape),)


OPERATORS: Mapping[str, _Operator] = {
    "Conv": _Operator(_conv, _conv_backward),
    "Gemm": _Operator(_gemm, _gemm_backward),
    "MatMul": _Operator(lambda site, a, b: a @ b, _matmul_backward),
    "Relu": _Operator(lambda site, x: np.maximum(x, 0.0), lambda site, slope, x: (slope * (x > 0),)),
    "Add": _Operator(
        lambda site, a, b: a + b, lambda site, slope, a, b: (_fold(slope, a.shape), _fold(slope, b.shape))
    ),
    "Identity": _Operator(lambda site, x: x, lambda site, slope, x: (slope,)),
    "Flatten": _Operator(_flatten, _back_to_shape),
    "Reshape": _Operator(_reshape, _back_to_shape),
    "GlobalAveragePool": _Operator(_mean, _mean_backward),
    "ReduceMean": _Operator(_mean, _mean_backward),
}
