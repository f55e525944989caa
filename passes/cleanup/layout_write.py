"""Write a network's states into its graph: axes and constants first, then names, Transposes and readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx_ir as ir

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.cleanup.layout_frame import Order, compose, identity, inverse
from surgery_ir.passes.cleanup.layout_network import Network, Source, Use
from surgery_ir.passes.cleanup.layout_site import SUFFIX

__all__ = ["write"]

KIND = "move-transposes"


def write(editor: Editor, network: Network) -> dict[ir.Node, tuple[Source, Order]]:
    """Change the graph so that every operator works in its state; give the Transposes that this takes."""
    readers: dict[Use, ir.Node] = {}
    changed: list[ir.Value] = []
    for source in network.sources:
        for use in source.absorbing():
            assert use.absorber is not None
            readers[use], values = use.absorber.write(editor, use.from_layout(source.layout()))
            changed += values
    for operator in network.touching:
        if operator.frame is not None and operator.order != identity(operator.frame.rank):
            operator.frame.rewrite(editor, operator.node, operator.order)
    written: dict[ir.Node, tuple[Source, Order]] = {}

    def rewire(model: ir.Model) -> bool:
        names = _Names(model)
        for value in changed:
            value.shape = None
            names.invent(value, f"{value.name}/{SUFFIX}")
        for source in network.sources:
            if source.aliases or source.layout() != identity(source.rank) or source.transposed():
                written.update(_rewire(model.graph, source, readers, names))
        names.settle()
        return True

    editor.transform(KIND, rewire)
    return written


def _rewire(
    graph: ir.Graph, source: Source, readers: Mapping[Use, ir.Node], names: _Names
) -> dict[ir.Node, tuple[Source, Order]]:
    """Connect every reader of a tensor to the layout that it reads, and remove Transposes that nobody reads."""
    base, value = source.layout(), source.value
    layouts = [base, *source.transposed()]
    known = {order: _preferred(nodes) for order, nodes in source.aliases.items()}
    identities = {layout: _identity(source, layout, known) for layout in layouts}
    family = {value, *(node.outputs[0] for items in source.aliases.values() for node in items)}
    nodes: dict[Order, ir.Node] = {}
    last = source.writer.node if source.writer is not None else None
    for layout in layouts[1:]:
        node = known.get(layout)
        if node is None:
            node = ir.node("Transpose", [value])
            names.name_node(node, f"{value.name}/Transpose")
        else:
            graph.remove(node)
            node.replace_input_with(0, value)
        node.attributes["perm"] = ir.AttrInt64s("perm", compose(inverse(base), layout))
        if last is not None:
            graph.insert_after(last, node)
        elif (first := next(iter(graph), None)) is not None:
            graph.insert_before(first, node)
        else:
            graph.append(node)
        nodes[layout] = node
    values = {base: value} | {layout: node.outputs[0] for layout, node in nodes.items()}
    for use in source.uses:
        target = values.get(use.wants(), value)
        if use.operator is None:
            graph.outputs[use.index] = target
            continue
        reader = readers.get(use, use.operator.node)
        if reader.inputs[use.index] in family:  # a rewritten operator may read a constant instead
            reader.replace_input_with(use.index, target)
    graph.remove([node for items in source.aliases.values() for node in items if node not in nodes.values()], safe=True)
    for layout, target in values.items():
        known_as = identities[layout]
        target.type, target.shape = known_as.type, known_as.shape
        if known_as.name is None:
            names.invent(target, f"{value.name}/{SUFFIX}")
        elif known_as.name != target.name:
            names.hand_over(target, known_as.name)
    return {node: (source, layout) for layout, node in nodes.items()}


def _preferred(nodes: list[ir.Node]) -> ir.Node:
    """Of Transposes that give the same, the one whose name the graph's interface needs."""
    return next((node for node in nodes if node.outputs[0].is_graph_output()), nodes[0])


class _Identity(NamedTuple):
    """What a value is known as; without a name it is new."""

    name: str | None
    type: ir.TypeProtocol | None
    shape: ir.Shape | None


def _identity(source: Source, layout: Order, known: Mapping[Order, ir.Node]) -> _Identity:
    """Name, type and shape of a tensor in a layout: those of the value that held just this, where there was one."""
    value, is_original = source.value, layout == identity(source.rank)
    shape = None if value.shape is None else ir.Shape([value.shape.dims[axis] for axis in layout])
    node = known.get(layout)
    if node is not None and (not is_original or node.outputs[0].is_graph_output()):
        alias = node.outputs[0]
        return _Identity(alias.name, alias.type or value.type, alias.shape or shape)
    return _Identity(value.name if is_original else None, value.type, shape)


class _Names:
    """Names that values hand over to each other, and new ones; all are given at once."""

    def __init__(self, model: ir.Model) -> None:
        self.taken = {name for graph in model.graphs() for name in _names(graph)}
        self.wanted: dict[ir.Value, str] = {}

    def hand_over(self, value: ir.Value, name: str) -> None:
        """Let ``value`` have the name of a value that goes or gets another one."""
        self.wanted[value] = name

    def invent(self, value: ir.Value, name: str) -> None:
        """Give ``value`` a new name: ``name``, with a number behind it where that is taken."""
        self.wanted[value] = self._unique(name)

    def name_node(self, node: ir.Node, name: str) -> None:
        """Name a new node."""
        node.name = self._unique(name)

    def settle(self) -> None:
        """Give the names."""
        for value in self.wanted:
            value.name = None
        for value, name in self.wanted.items():
            value.name = name

    def _unique(self, name: str) -> str:
        stem, suffix = name, 1
        while name in self.taken:
            name, suffix = f"{stem}_{suffix}", suffix + 1
        self.taken.add(name)
        return name


def _names(graph: ir.Graph) -> Iterator[str | None]:
    yield from graph.initializers
    yield from (value.name for value in graph.inputs)
    yield from (node.name for node in graph)
    yield from (value.name for node in graph for value in node.outputs)
