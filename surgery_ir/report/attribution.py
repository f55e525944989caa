"""Which layer the connections of an edit belong to.

An edit names an initializer or a node. An initializer belongs to the operator that is the first to read it, as in
:func:`~surgery_ir.analysis.cost.layer_costs`. An operator that a pass has added, and whose output is added to that of a
layer, is a *tap*: its connections are connections of that layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from surgery_ir.graph.editor import WEIGHT_INPUTS, carries_connections
from surgery_ir.graph.edits import Connections, Edit, connections, tally
from surgery_ir.graph.model import Graph

__all__ = ["adds_up", "connections_by_layer", "count_connections"]


def count_connections(graph: Graph) -> int:
    """Count the connections of a model: scalars other than 0 of the weights between units."""
    return sum(
        int(np.count_nonzero(graph.array(name)))
        for name, value in graph.initializers.items()
        if value.const_value is not None and carries_connections(value)
    )


def adds_up(edits: Iterable[Edit], dense: Graph, compressed: Graph) -> bool:
    """Whether what was created less what was pruned is by how much the connections of the two models differ."""
    total = connections(edits)
    return total.created - total.pruned == count_connections(compressed) - count_connections(dense)


def connections_by_layer(edits: Iterable[Edit], dense: Graph, compressed: Graph) -> dict[str, Connections]:
    """Add up what was pruned and created by the operator that it belongs to.

    Parameters
    ----------
    edits
        What was done to ``dense``, and gave ``compressed``.
    dense, compressed
        The model before and after.

    Returns
    -------
    dict
        Totals by the name of the operator. What is in neither of the models any more is under the name that the edit
        gives.
    """
    before = {node.name or "": node for node in dense.model.graph}
    owners = {**_owners(dense), **_owners(compressed)}
    fed = {
        node.name or "": found
        for node in compressed.model.graph
        if node.name not in before and (found := _fed(node, before)) is not None
    }

    def layer(edit: Edit) -> str:
        name = edit.where if edit.where in before or edit.where in fed else owners.get(edit.where, edit.where)
        return fed.get(name, name)

    return tally(edits, layer)


def _owners(graph: Graph) -> dict[str, str]:
    """Name the operator that is the first to read each initializer, be it through operators on constants alone."""
    behind: dict[ir.Value, list[str]] = {}
    owners: dict[str, str] = {}
    for node in graph.model.graph:
        read = [value for value in node.inputs if value is not None]
        sources = [behind.get(value, [value.name or ""] if value.is_initializer() else []) for value in read]
        names = [name for source in sources for name in source]
        if read and all(sources):
            behind.update(dict.fromkeys(node.outputs, names))
        else:
            for name in names:
                owners.setdefault(name, node.name or "")
    return owners


def _fed(tap: ir.Node, before: dict[str, ir.Node]) -> str | None:
    """Name the layer that a new operator is added to, through new operators only; ``None`` where there is none."""
    waiting, seen = [tap], {tap}
    while waiting:
        node = waiting.pop(0)
        if node.op_type == "Add":
            for layer in _summands(node, before):
                return layer
        readers = [use.node for value in node.outputs for use in value.uses()]
        new = [item for item in dict.fromkeys(readers) if item.name not in before and item not in seen]
        seen.update(new)
        waiting += new
    return None


def _summands(add: ir.Node, before: dict[str, ir.Node]) -> Iterator[str]:
    """Name the layers of the original model that a new sum adds up."""
    for value in add.inputs:
        node = None if value is None else value.producer()
        if node is not None and node.name not in before and node.op_type == "Add":
            yield from _summands(node, before)
        elif node is not None and node.name in before:
            yield _behind_bias(node).name or ""


def _behind_bias(node: ir.Node) -> ir.Node:
    """Find the layer whose output an operator with one computed operand, such as the Add of a bias, passes on."""
    start = node
    while node.op_type not in WEIGHT_INPUTS:
        computed = [item for value in node.inputs if value is not None and (item := value.producer()) is not None]
        if len(computed) != 1:
            return start
        node = computed[0]
    return node
