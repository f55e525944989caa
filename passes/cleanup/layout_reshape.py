"""Reshape as merging and splitting of axes, which commutes with a Transpose that keeps what is merged together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.cleanup.layout_frame import Frame, Order, Run
from surgery_ir.passes.cleanup.layout_site import Fixed, Site, Sizes, replace_constant

__all__ = ["reshape"]


def reshape(site: Site) -> Frame:
    """Frame of a Reshape to a shape that is constant or, besides one open axis, follows from the inputs.

    Raises
    ------
    Fixed
        More is open, or axes are cut across.
    """
    before = site.shape(site.data(0))
    target = _target(site, before)
    runs = _runs(before, target)
    if runs is None:
        raise Fixed("cuts across axes")
    rank, inputs, outputs = runs

    def rewrite(editor: Editor, node: ir.Node, order: Order) -> None:
        moved = [target[index] for index in frame.project(("out", 0), order)]
        sizes = np.array([-1 if size is None else size for size in moved], np.int64)
        if editor.graph.is_constant(node.inputs[1]):
            replace_constant(editor, node, 1, sizes)
        else:
            editor.set_input(node, 1, editor.add_initializer(f"{node.outputs[0].name}/shape", sizes))

    frame = Frame(rank, {("in", 0): inputs, ("out", 0): outputs}, rewrite=rewrite)
    return frame


def _target(site: Site, before: Sizes) -> Sizes:
    """Sizes after the Reshape, of which the one that is open before may stay open."""
    if site.is_data(1):
        after = site.shape(site.node.outputs[0])
        if after.count(None) != before.count(None) or after.count(None) > 1 or 0 in (*before, *after):
            raise Fixed("gets its shape computed")
        return after
    target = _resolve(before, site.constant(1, "its shape").tolist(), bool(site.integer("allowzero", 0)))
    if target is None:
        raise Fixed("merges or splits axes of unknown size")
    return target


def _resolve(before: Sizes, target: Sequence[int], allows_zero: bool) -> Sizes | None:
    """Resolve 0 and -1 in the target of a Reshape; ``None`` where more than one size stays open.

    The one size that may stay open is that of the only open axis, unmerged.
    """
    if 0 in before or (allows_zero and 0 in target) or before.count(None) > 1 or len(before) < target.count(0):
        return None
    sizes = [before[place] if size == 0 else size for place, size in enumerate(target)]
    if sizes.count(None) + sizes.count(-1) > 1:
        copied = None in sizes
        rest = math.prod(size for size in before if size is not None)
        known = math.prod(size for size in sizes if size is not None and size != -1)
        if not copied or rest % known:
            return None
        sizes[sizes.index(-1)] = rest // known
    elif -1 in sizes:
        rest = math.prod(size for size in before if size is not None)
        known = math.prod(size for size in sizes if size is not None and size != -1)
        if None not in before:
            if rest % known:
                return None
            sizes[sizes.index(-1)] = rest // known
        elif rest != known:
            return None
        else:
            sizes[sizes.index(-1)] = None
    elif None in before and None not in sizes:
        return None
    return tuple(sizes)


def _runs(before: Sizes, after: Sizes) -> tuple[int, tuple[Run, ...], tuple[Run, ...]] | None:
    """Number the finest axes: their number, and which of them each axis before and after is."""
    inputs: list[Run] = []
    outputs: list[Run] = []
    rank = 0
    while len(inputs) < len(before) or len(outputs) < len(after):
        left, right = before[len(inputs) :], after[len(outputs) :]
        if left[:1] == (1,):
            inputs.append((rank,))
            rank += 1
        elif right[:1] == (1,):
            outputs.append((rank,))
            rank += 1
        else:
            group = _group(left, right)
            if group is None:
                return None
            count = max(group)
            run = tuple(range(rank, rank + count))
            inputs += [(axis,) for axis in run] if group[0] == count else [run]
            outputs += [(axis,) for axis in run] if group[1] == count else [run]
            rank += count
    return rank, tuple(inputs), tuple(outputs)


def _group(left: Sizes, right: Sizes) -> tuple[int, int] | None:
    """How many leading axes of both sides hold the same entries, one axis on one of the sides at least."""
    if not left or not right:
        return None
    if left[0] == right[0]:
        return 1, 1
    for one, many, flipped in ((left[0], right, False), (right[0], left, True)):
        product = 1
        for count, size in enumerate(many, 1):
            if one is None or size is None:
                break
            product *= size
            if product == one:
                return (count, 1) if flipped else (1, count)
    return None
