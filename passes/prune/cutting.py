"""Cut units out of a graph, and the masked graph that the result must equal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.index import copied_constants
from surgery_ir.analysis.coupling.relations import Axis, Choice, Mapped, Same
from surgery_ir.analysis.coupling.rules import find_rule
from surgery_ir.analysis.coupling.site import Change, Facts, Kept, Site
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph

__all__ = ["Removed", "cut", "masked"]

Removed = Mapping[str, Iterable[int] | NDArray[np.intp]]
"""Units that go, by the name of their group."""

Masks = Mapping[Axis, NDArray[np.bool_]]


LARGEST = 2**31
"""A larger position means "to the end" and cannot be scaled."""


def cut(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    """Remove units: slice every weight they lie on, and change whatever holds their number.

    Parameters
    ----------
    editor
        Of the graph that ``coupling`` was found in.
    coupling
        Its groups.
    removed
        Units that go.
    """
    graph = editor.graph
    masks = coupling.masks(removed)
    touched = {axis.value for axis in masks}
    copied = copied_constants(graph)
    changes: list[tuple[ir.Node, Change]] = []
    for node in graph.model.graph:
        names = (value.name for value in (*node.inputs, *node.outputs) if value is not None)
        rule = find_rule(node.domain, node.op_type)
        if rule is not None and not touched.isdisjoint(names):
            site = Site(node, graph, coupling.facts, copied)
            if not masks.keys().isdisjoint(site.axes()):  # a copy of its own may stay whole
                changes.append((node, rule.resize(site, Kept(site, masks))))
    _slice_constants(editor, masks)
    for node in graph.model.graph:
        for value in node.outputs:
            for axis in range(len(coupling.facts.shapes.get(value.name or "", ()))) if value.name in touched else ():
                mask = masks.get(Axis(value.name or "", axis))
                if mask is not None:
                    editor.slice_value(value, axis, np.flatnonzero(mask))
    for node, change in changes:
        _apply(editor, node, change, coupling.facts)
    held = [(node, change) for node, change in changes if change.results]
    order = {node: place for place, node in enumerate(graph.model.graph)} if held else {}
    for node, change in held:  # last, so that operands are still known by their names
        for index, elements in change.results.items():
            _hold_result(editor, node.outputs[index], elements, coupling.facts, order)


def masked(graph: Graph, coupling: Coupling, removed: Removed) -> Graph:
    """Give a copy of ``graph`` in which nothing reads the units ``removed``.

    Wherever an operator sums over units, its constant operand gets zeros there; where both operands are computed, one
    is multiplied by a mask. It computes what the cut graph has to compute.
    """
    editor = Editor(graph.clone(), "mask")
    by_node: dict[str, list[tuple[Axis, NDArray[np.bool_]]]] = {}
    for axis, mask in coupling.masks(removed).items():
        for name in coupling.contracted.get(axis, ()):
            by_node.setdefault(name, []).append((axis, mask))
    copied = copied_constants(graph)
    for name, cuts in by_node.items():
        node = editor.graph.node(name)
        partners = _partners(Site(graph.node(name), graph, coupling.facts, copied))
        zeroed = {axis for axis, _ in cuts if axis.value in graph.initializers}
        for axis, mask in cuts:
            if axis in zeroed:
                array = editor.graph.array(axis.value)
                editor.set_weights(axis.value, np.where(_along(mask, axis.axis, array.ndim), array, 0))
        open_cuts = {axis: mask for axis, mask in cuts if not {axis, *partners[axis]} & zeroed}
        _mask_inputs(editor, node, open_cuts, partners, coupling)
    return editor.graph


def _partners(site: Site) -> dict[Axis, set[Axis]]:
    """Axes that an operator multiplies with each other where it sums over them."""
    rule = find_rule(site.node.domain, site.node.op_type)
    found: dict[Axis, set[Axis]] = {}
    for relation in rule.couple(site) if rule is not None else ():
        parts = itertools.chain(*relation.alternatives) if isinstance(relation, Choice) else (relation,)
        for part in parts:
            if isinstance(part, Same | Mapped) and part.contracted:
                found.setdefault(part.one, set()).add(part.other)
                found.setdefault(part.other, set()).add(part.one)
    return found


def _mask_inputs(
    editor: Editor,
    node: ir.Node,
    open_cuts: Mapping[Axis, NDArray[np.bool_]],
    partners: Mapping[Axis, set[Axis]],
    coupling: Coupling,
) -> None:
    """Multiply inputs of ``node`` by masks, one of each two that are multiplied with each other."""
    done: set[Axis] = set()
    for index, value in enumerate(node.inputs):
        name = (value.name or "") if value is not None else ""
        axes = [axis for axis in open_cuts if axis.value == name and partners[axis].isdisjoint(done)]
        if value is None or not axes:
            continue
        rank = len(coupling.facts.shapes[name])
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        factor = np.ones((), dtype)
        for axis in axes:
            factor = factor * _along(open_cuts[axis], axis.axis, rank).astype(dtype)
        constant = editor.add_initializer(f"{name}/mask", factor)
        product = editor.insert_node("Mul", [value, constant], [f"{name}/masked"], before=node)
        editor.set_input(node, index, product.outputs[0])
        done.update(axes)


def _along(mask: NDArray[np.bool_], axis: int, rank: int) -> NDArray[np.bool_]:
    return mask.reshape([-1 if place == axis else 1 for place in range(rank)])


def _slice_constants(editor: Editor, masks: Masks) -> None:
    graph = editor.graph
    shared: dict[str, dict[int, NDArray[np.intp]]] = {}
    copies: dict[tuple[str, tuple[str, int]], dict[int, NDArray[np.intp]]] = {}
    for axis, mask in masks.items():
        if axis.value in graph.initializers:
            kept = np.flatnonzero(mask)
            if axis.use is None:
                shared.setdefault(axis.value, {})[axis.axis] = kept
            else:
                copies.setdefault((axis.value, axis.use), {})[axis.axis] = kept
    for name, kept_by_axis in shared.items():
        editor.slice_weights(name, kept_by_axis)
    for (name, (reader, index)), kept_by_axis in copies.items():
        array = graph.array(name)
        for number, indices in kept_by_axis.items():
            array = np.take(array, indices, number)
        _replace_constant(editor, graph.node(reader), index, name, array)


def _replace_constant(editor: Editor, node: ir.Node, index: int, name: str, array: NDArray[np.generic]) -> None:
    """Let input ``index`` read ``array`` instead of the constant ``name``, which goes where nobody else reads it."""
    editor.set_input(node, index, editor.add_initializer(name, array))
    _remove_unread(editor, editor.graph.initializers[name])


def _remove_unread(editor: Editor, value: ir.Value) -> None:
    if not value.uses() and not value.is_graph_output():
        editor.remove_initializer(value.name or "")


def _apply(editor: Editor, node: ir.Node, change: Change, facts: Facts) -> None:
    if change.attributes and change.op_type is None:
        editor.set_attributes(node, change.attributes)
    if change.op_type is not None:
        operands = [editor.add_initializer(f"{node.name}/operand", array) for array in change.operands.values()]
        old = [item for item in node.inputs[1:] if item is not None and editor.graph.is_constant(item)]
        editor.rewrite_node(node, change.op_type, [node.inputs[0], *operands], change.attributes)
        for item in dict.fromkeys(old):
            _remove_unread(editor, item)
        return
    for index, array in change.operands.items():
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and editor.graph.is_constant(value):
            _replace_constant(editor, node, index, value.name or "", array)
        else:
            editor.set_input(node, index, editor.add_initializer(f"{node.name}/operand", array))
    for index, elements in change.elements.items():
        _set_elements(editor, node, index, elements, facts)


def _set_elements(editor: Editor, node: ir.Node, index: int, elements: Mapping[int, int], facts: Facts) -> None:
    """Change elements of an integer operand; those of one that is computed are scaled behind it.

    Scaled, since a size that is computed may be a product with one that varies: batch × heads.
    """
    value = node.inputs[index]
    assert value is not None and value.name is not None
    if editor.graph.is_constant(value):
        array = editor.graph.array(value.name).copy()
        array[list(elements)] = list(elements.values())
        _replace_constant(editor, node, index, value.name, array)
        return
    old = facts.operands.get(value.name)
    if old is None or not all(0 < old[place] < LARGEST for place in elements):
        editor.set_input(node, index, _overridden(editor, value, elements, facts, node))
        return
    factor, divisor = np.ones_like(old), np.ones_like(old)
    factor[list(elements)] = list(elements.values())
    divisor[list(elements)] = old[list(elements)]
    stem = f"{value.name}/resized"
    raised = editor.insert_node("Mul", [value, editor.add_initializer(f"{stem}/new", factor)], [stem], before=node)
    operands = [raised.outputs[0], editor.add_initializer(f"{stem}/old", divisor)]
    editor.set_input(node, index, editor.insert_node("Div", operands, [stem], before=node).outputs[0])


def _hold_result(
    editor: Editor, value: ir.Value, elements: Mapping[int, int], facts: Facts, order: Mapping[ir.Node, int]
) -> None:
    """Let whoever reads the integer ``value`` find ``elements`` in it, whatever its operator computes."""
    readers = sorted(value.uses(), key=lambda use: (order[use.node], use.idx))
    if readers:
        held = _overridden(editor, value, elements, facts, readers[0].node)
        for use in readers:
            editor.set_input(use.node, use.idx, held)


def _overridden(
    editor: Editor, value: ir.Value, elements: Mapping[int, int], facts: Facts, before: ir.Node
) -> ir.Value:
    """Give ``value`` with other ``elements``, whatever it is computed to be."""
    assert value.name is not None
    override, new = (np.zeros(facts.shapes[value.name], dtype) for dtype in (np.bool_, np.int64))
    override[list(elements)] = True
    new[list(elements)] = list(elements.values())
    condition = editor.add_initializer(f"{value.name}/cut", override)
    sizes = editor.add_initializer(f"{value.name}/sizes", new)
    return editor.insert_node("Where", [condition, sizes, value], [f"{value.name}/resized"], before=before).outputs[0]
