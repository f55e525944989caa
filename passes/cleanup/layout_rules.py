"""Which operators are free in the order of their axes, and what they have to change for another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from surgery_ir.analysis.coupling.rules.elementwise import BROADCAST, UNARY
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.view import STANDARD, bodies
from surgery_ir.passes.cleanup.layout_frame import Frame, Operand, Order, Rewrite, Run, inverse, plain
from surgery_ir.passes.cleanup.layout_reshape import reshape
from surgery_ir.passes.cleanup.layout_site import Fixed, Site, permute_broadcast, replace_constant, set_axes

__all__ = ["PLACES", "frame_of"]

PLACES = "has its axes in fixed places"
"""Why an operator without a rule is fixed."""

COERCING = 13
"""Opset up to which Softmax flattened what follows its axis."""

Frames = Callable[[Site], Frame]


def frame_of(site: Site) -> Frame:
    """Give the frame of an operator.

    Raises
    ------
    Fixed
        It does not let its axes be reordered.
    """
    rule = RULES.get(site.node.op_type)
    if rule is None or site.node.domain not in STANDARD or next(bodies(site.node), None) is not None:
        raise Fixed(PLACES)
    return rule(site)


def _alike(site: Site, inputs: Iterable[int], *, pinned: Iterable[int] = (), rewrite: Rewrite | None = None) -> Frame:
    """Frame of an operator whose operands all have the same axes: some inputs, and every output."""
    values: dict[Operand, ir.Value] = {("in", index): site.data(index) for index in inputs}
    values |= {("out", index): value for index, value in enumerate(site.node.outputs) if value.name}
    ranks = {site.rank(value) for value in values.values()}
    if len(ranks) != 1:
        raise Fixed("has operands of different ranks")
    rank = ranks.pop()
    frame = Frame(rank, dict.fromkeys(values, plain(range(rank))), frozenset(axis % rank for axis in pinned))
    return frame if rewrite is None else Frame(rank, frame.operands, frame.pinned, rewrite)


def _unary(site: Site) -> Frame:
    return _alike(site, [0])


def _dropout(site: Site) -> Frame:
    if site.has(2) and np.any(site.constant(2, "its mode")):
        raise Fixed("draws at random")
    return _alike(site, [0])


def _broadcast(site: Site) -> Frame:
    rank = site.rank(site.node.outputs[0])
    operands: dict[Operand, tuple[Run, ...]] = {("out", 0): plain(range(rank))}
    pinned: set[int] = set()
    for index in range(len(site.node.inputs)):
        if not site.is_data(index):
            continue
        own = site.rank(site.input(index))
        if own == rank:
            operands["in", index] = plain(range(rank))
        else:  # its axes are found from the back
            pinned.update(range(rank - own, rank))
    return Frame(rank, operands, frozenset(pinned), permute_broadcast)


def _along(site: Site, default: int, inputs: Iterable[int] = (0,)) -> Frame:
    """Operators with one attribute ``axis``, which leave the rank as it is."""
    rank = site.rank(site.node.outputs[0])
    axis = site.axis(default, rank)

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        editor.set_attributes(node, {"axis": order.index(axis)})

    return _alike(site, inputs, rewrite=rewrite)


def _softmax(site: Site) -> Frame:
    if site.opset >= COERCING:
        return _along(site, -1)
    rank = site.rank(site.input(0))
    if site.axis(1, rank) != rank - 1:
        raise Fixed("flattens what follows its axis")
    return _alike(site, [0], pinned=[-1])


def _concat(site: Site) -> Frame:
    axis = site.axis(0, site.rank(site.node.outputs[0]))

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        editor.set_attributes(node, {"axis": order.index(axis)})
        permute_broadcast(editor, node, order)

    return _alike(site, [index for index in range(len(site.node.inputs)) if site.is_data(index)], rewrite=rewrite)


def _cumsum(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    stored = site.constant(1, "its axis")
    axis = int(stored.reshape(-1)[0]) % rank

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        replace_constant(editor, node, 1, np.full_like(stored, order.index(axis)))

    return _alike(site, [0], rewrite=rewrite)


def _arg(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    return _dropping(site, (site.axis(0, rank),), bool(site.integer("keepdims", 1)), _write_axis)


def _reduce(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    axes = site.axes(1, rank)
    keeps = bool(site.integer("keepdims", 1))
    if not axes:  # all of them, or none
        if site.integer("noop_with_empty_axes", 0):
            return _alike(site, [0])
        return _dropping(site, range(rank), keeps, lambda editor, node, axes: None)
    return _dropping(site, axes, keeps, partial(_write_axes, 1))


def _squeeze(site: Site) -> Frame:
    axes = site.axes(1, site.rank(site.input(0)))
    if not axes:
        raise Fixed("drops whatever axes have size 1")
    return _dropping(site, axes, False, partial(_write_axes, 1))


def _write_axes(index: int, editor: Editor, node: ir.Node, axes: Iterable[int]) -> None:
    set_axes(editor, node, index, list(axes))


def _write_axis(editor: Editor, node: ir.Node, axes: Iterable[int]) -> None:
    editor.set_attributes(node, {"axis": next(iter(axes))})


def _dropping(
    site: Site, axes: Iterable[int], keeps: bool, write: Callable[[Editor, ir.Node, Iterable[int]], None]
) -> Frame:
    """Operators that work along axes of their input, and drop them unless they keep them."""
    rank = site.rank(site.data(0))
    axes = tuple(axes)
    kept = range(rank) if keeps else [axis for axis in range(rank) if axis not in axes]

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        place = inverse(order)
        write(editor, node, [place[axis] for axis in axes])

    return Frame(rank, {("in", 0): plain(range(rank)), ("out", 0): plain(kept)}, rewrite=rewrite)


def _unsqueeze(site: Site) -> Frame:
    rank = site.rank(site.node.outputs[0])
    axes = site.axes(1, rank) or ()
    kept = [axis for axis in range(site.rank(site.data(0)) + len(axes)) if axis not in axes]

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        place = inverse(order)
        set_axes(editor, node, 1, [place[axis] for axis in axes])

    return Frame(rank, {("in", 0): plain(kept), ("out", 0): plain(range(rank))}, rewrite=rewrite)


def _gather(site: Site) -> Frame:
    rank = site.rank(site.data(0))
    axis = site.axis(0, rank)
    indices = site.rank(site.input(1))
    if indices > 1:
        raise Fixed("gathers along several axes")
    kept = range(rank) if indices else [item for item in range(rank) if item != axis]

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        editor.set_attributes(node, {"axis": order.index(axis)})

    return Frame(rank, {("in", 0): plain(range(rank)), ("out", 0): plain(kept)}, rewrite=rewrite)


def _pad(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    pads = site.constant(1, "its pads") if site.has(1) else None
    axes = site.axes(3, rank)
    if pads is None:
        raise Fixed("has its pads in an attribute")

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        if axes is not None:
            place = inverse(order)
            set_axes(editor, node, 3, [place[axis] for axis in axes])
        else:
            replace_constant(editor, node, 1, pads.reshape(2, rank)[:, order].reshape(-1))

    return _alike(site, [0], rewrite=rewrite)


def _slice(site: Site) -> Frame:
    if "starts" in site.node.attributes:
        raise Fixed("has its bounds in attributes")
    starts = site.input(1)
    axes = site.axes(3, site.rank(site.input(0)))
    if axes is None:
        (count,) = site.shape(starts)
        if count is None or starts.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
            raise Fixed("gets an unknown number of bounds")
        axes = tuple(range(count))
    known = axes

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        place = inverse(order)
        moved = [place[axis] for axis in known]
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            set_axes(editor, node, 3, moved)
        elif moved != list(range(len(moved))):
            assert starts.dtype is not None
            name = f"{node.outputs[0].name}/axes"
            editor.set_input(node, 3, editor.add_initializer(name, np.array(moved, starts.dtype.numpy())))

    return _alike(site, [0], rewrite=rewrite)


def _per_axis_operand(site: Site, index: int, what: str) -> Frame:
    """Operators with a constant operand that has one entry per axis, as Expand and Tile have."""
    rank = site.rank(site.input(0))
    entries = site.constant(index, what)
    if len(entries) > rank:
        raise Fixed("adds axes in front")

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        padded = np.concatenate([np.ones(rank - len(entries), entries.dtype), entries])
        replace_constant(editor, node, index, padded[list(order)])

    return _alike(site, [0], rewrite=rewrite)


def _resize(site: Site) -> Frame:
    if site.text("mode", "nearest") != "nearest":
        raise Fixed("interpolates along its last axes")
    if site.opset < 11 or site.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Fixed(PLACES)
    index = 3 if site.has(3) else 2
    axes = site.node.attributes.get("axes")
    rank = site.rank(site.input(0))
    if axes is None and len(site.constant(index, "its sizes")) != rank:
        raise Fixed(PLACES)

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        place = inverse(order)
        if axes is not None:
            editor.set_attributes(node, {"axes": [place[axis % rank] for axis in axes.as_ints()]})
        else:
            replace_constant(editor, node, index, site.constant(index, "its sizes")[list(order)])

    return _alike(site, [0], rewrite=rewrite)


def _quantize(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    scales = site.shape(site.input(1))
    if len(scales) > 1 or site.integer("block_size", 0):
        raise Fixed("has scales by block")
    if scales in ((), (1,)):
        return _alike(site, [0])
    return _along(site, 1) if rank else _alike(site, [0])


def _matmul(site: Site) -> Frame:
    """Leading axes are a batch, however many; the last one or two are multiplied."""
    ranks = [site.rank(site.input(index)) for index in (0, 1)]
    if site.is_data(0) and not site.is_data(1) and ranks[0] >= 2 and ranks[1] == 2:
        return _alike(site, [0], pinned=[-1])
    if ranks[0] == ranks[1] >= 2 and site.is_data(0) and site.is_data(1):
        return _alike(site, [0, 1], pinned=[-1, -2])
    if site.is_data(1) and not site.is_data(0) and ranks[1] >= 2 and ranks[0] == 2:
        return _alike(site, [1], pinned=[-1, -2])
    raise Fixed("has operands of different ranks")


def _channels_first(site: Site, pinned: Iterable[int]) -> Frame:
    rank = site.rank(site.input(0))
    if site.integer("training_mode", 0) or any(value.name for value in site.node.outputs[1:]) or rank < 2:
        raise Fixed(PLACES)
    return _alike(site, [0], pinned=pinned)


def _last_normalised(site: Site) -> Frame:
    rank = site.rank(site.input(0))
    axis = site.axis(-1, rank)
    if any(site.has(index) and site.rank(site.input(index)) > rank - axis for index in (1, 2)):
        raise Fixed("has scales along more axes than it normalises")
    return _alike(site, [0], pinned=range(axis, rank))


RULES: Mapping[str, Frames] = (
    dict.fromkeys(UNARY, _unary)
    | dict.fromkeys(BROADCAST, _broadcast)
    | dict.fromkeys((f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min")), _reduce)
    | dict.fromkeys((f"Reduce{kind}" for kind in ("Prod", "Sum", "SumSquare")), _reduce)
    | dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax)
    | dict.fromkeys(("ArgMax", "ArgMin"), _arg)
    | dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize)
    | dict.fromkeys(("LpNormalization", "TopK"), partial(_along, default=-1))
    | dict.fromkeys(("BatchNormalization", "LRN"), partial(_channels_first, pinned=(1,)))
    | dict.fromkeys(("LayerNormalization", "RMSNormalization"), _last_normalised)
    | dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization"),
        partial(_channels_first, pinned=(0, 1)),
    )
    | {
        "Concat": _concat,
        "CumSum": _cumsum,
        "Dropout": _dropout,
        "Expand": partial(_per_axis_operand, index=1, what="its shape"),
        "Gather": _gather,
        "MatMul": _matmul,
        "Pad": _pad,
        "Reshape": reshape,
        "Resize": _resize,
        "Slice": _slice,
        "Split": partial(_along, default=0),
        "Squeeze": _squeeze,
        "Tile": partial(_per_axis_operand, index=1, what="its repeats"),
        "Unsqueeze": _unsqueeze,
    }
)
