"""The editor: the only thing that changes a graph. Every change is an entry in the edit log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.errors import PassError
from surgery_ir.graph import sparse
from surgery_ir.graph.edits import Edit
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import captured_values

__all__ = ["Editor", "carries_connections"]

WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Einsum": (0, 1),
    "FusedConv": (1,),
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    "Attention": (1,),
}
"""Inputs whose scalars are connections between two units; biases, scales and shapes are not."""


LOOKED_THROUGH = ("DequantizeLinear", "Transpose", "Cast")
"""Operators behind which weights are still weights."""


def carries_connections(value: ir.Value) -> bool:
    """Whether the scalars of initializer ``value`` are connections, by what its consumers do with it."""
    return any(
        use.idx in WEIGHT_INPUTS.get(use.node.op_type, ())
        or (use.node.op_type in LOOKED_THROUGH and use.idx == 0 and carries_connections(use.node.outputs[0]))
        for use in value.uses()
    )


class Editor:
    """Changes one graph on behalf of one pass.

    Parameters
    ----------
    graph
        Graph to change, in place.
    pass_name
        Written into every :class:`~surgery_ir.graph.edits.Edit`.
    """

    def __init__(self, graph: Graph, pass_name: str) -> None:
        self.graph = graph
        self.pass_name = pass_name
        self.edits: list[Edit] = []
        self._names: set[str | None] | None = None

    def set_weights(self, name: str, array: NDArray[Any], kind: str = "set-weights") -> None:
        """Give initializer ``name`` new values of the same shape; the element type stays.

        Connections are counted where it holds connections: an entry that became zero was pruned, one that was
        zero and no longer is was created. Writing equal values is no edit.

        Raises
        ------
        PassError
            The shape differs, a value is NaN or infinite where none was before, or it holds text.
        """
        value = self._initializer(name)
        old = self.graph.array(name)
        if value.dtype == ir.DataType.STRING:
            raise PassError(f"{self.pass_name}: {name!r} holds text, not weights")
        with np.errstate(over="ignore"):  # what does not fit a narrow type becomes infinite and is refused
            new = np.asarray(array, dtype=old.dtype)
        if new.shape != old.shape:
            raise PassError(f"{self.pass_name}: {name!r} has shape {old.shape}, new values have {new.shape}")
        if not np.all(np.isfinite(new)) and np.all(np.isfinite(old)):
            raise PassError(f"{self.pass_name}: new values of {name!r} are not finite")
        if new is old or np.array_equal(old, new):
            return
        pruned = created = 0
        if carries_connections(value):
            before, after = old != 0, new != 0
            pruned = int(np.count_nonzero(before & ~after))
            created = int(np.count_nonzero(after & ~before))
        value.const_value = _tensor(name, new, value.const_value)
        self._log(kind, name, pruned, created)

    def slice_weights(self, name: str, kept: Mapping[int, NDArray[np.intp]], kind: str = "slice") -> None:
        """Keep only some indices along axes of initializer ``name``; the connections of the others are pruned.

        Parameters
        ----------
        name
            Initializer.
        kept
            Indices that stay, in their new order, by axis.
        kind
            Kind of the edit.
        """
        value = self._initializer(name)
        old = self.graph.array(name)
        new = old
        for axis, indices in kept.items():
            new = np.take(new, indices, axis)
        value.const_value = _tensor(name, new, value.const_value)
        value.shape = ir.Shape(new.shape)
        connected = carries_connections(value)
        self._log(kind, name, int(np.count_nonzero(old) - np.count_nonzero(new)) if connected else 0)

    def widen_weights(self, name: str, axis: int, extra: NDArray[Any], kind: str = "widen") -> None:
        """Append ``extra`` to initializer ``name`` along ``axis``; what is not zero there was created.

        Raises
        ------
        PassError
            The other axes differ, or a value is NaN or infinite.
        """
        value, old = self._initializer(name), self.graph.array(name)
        with np.errstate(over="ignore"):
            extra = np.asarray(extra, dtype=old.dtype)
        if extra.ndim != old.ndim or np.delete(extra.shape, axis).tolist() != np.delete(old.shape, axis).tolist():
            raise PassError(f"{self.pass_name}: {name!r} has shape {old.shape}, {extra.shape} cannot be appended to it")
        if not np.all(np.isfinite(extra)):
            raise PassError(f"{self.pass_name}: new values of {name!r} are not finite")
        new = np.concatenate([old, extra], axis)
        value.const_value = _tensor(name, new, value.const_value)
        value.shape = ir.Shape(new.shape)
        self._log(kind, name, created=int(np.count_nonzero(extra)) if carries_connections(value) else 0)

    def slice_value(self, value: ir.Value, axis: int, kept: NDArray[np.intp]) -> None:
        """Note that ``value``, which an operator writes, holds only the indices ``kept`` of what it held before."""
        if value.shape is not None and len(value.shape) > axis:
            sizes: list[int | ir.SymbolicDim] = list(value.shape.dims)
            sizes[axis] = len(kept)
            value.shape = ir.Shape(sizes)
        self.graph.note_cut(value.name or "", axis, kept)
        self.graph.revision += 1

    def set_attributes(self, node: ir.Node, attributes: Mapping[str, Any]) -> None:
        """Give attributes of ``node`` new values."""
        for name, item in attributes.items():
            node.attributes[name] = ir.convenience.convert_attribute(name, item)
        self._log("set-attributes", node.name or "")

    def rewrite_node(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
    ) -> None:
        """Let another operator compute the outputs of ``node``, under its name."""
        node.op_type = op_type
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        node.attributes.clear()
        for name, item in attributes.items():
            node.attributes[name] = ir.convenience.convert_attribute(name, item)
        self._log("rewrite-node", node.name or "")

    def remove_initializer(self, name: str) -> None:
        """Remove a constant that nobody reads any more; its connections were counted when its edges went."""
        value = self._initializer(name)
        if value.uses() or value.is_graph_output():
            raise PassError(f"{self.pass_name}: {name!r} is still read and cannot be removed")
        del self.graph.model.graph.initializers[name]
        self._log("remove-initializer", name)

    def add_initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add a constant under ``name`` (made unique where taken). It counts once an edge reads it."""
        name = self._unique(name)
        tensor = _tensor(name, np.asarray(array), None)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.model.graph.register_initializer(value)
        if (self.graph.model.ir_version or 0) < 4:
            self.graph.model.graph.inputs.append(value)
        self._log("add-initializer", name)
        return value

    def replace_by_constant(self, value: ir.Value, array: NDArray[Any]) -> None:
        """Let whoever reads ``value`` read a constant of its name; the operator that wrote it is left unread."""
        name = value.name or ""
        value.name = self._unique(name)
        self._taken.discard(name)
        value.replace_all_uses_with(self.add_initializer(name, array))

    def store_sparse(self, name: str) -> None:
        """Have initializer ``name`` saved in its sparse encoding."""
        value = self._initializer(name)
        if not sparse.is_sparse(value):
            sparse.mark_sparse(value)
            self._log("store-sparse", name)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None, created: int = 0, pruned: int = 0) -> None:
        """Let input ``index`` of ``node`` read ``value``; the inputs are extended where they are too few."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
        self._log("set-input", node.name or "", pruned, created)

    def insert_node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        *,
        before: ir.Node,
        attributes: Mapping[str, Any] | None = None,
        name: str | None = None,
        created: int = 0,
    ) -> ir.Node:
        """Add an operator ahead of ``before``; its outputs are new values with the names ``outputs``."""
        node = ir.node(op_type, inputs, attributes=attributes, num_outputs=len(outputs))
        node.name = self._unique(name or f"{self.pass_name}/{op_type}")
        for value, output in zip(node.outputs, outputs, strict=True):
            value.name = self._unique(output)
        self.graph.model.graph.insert_before(before, node)
        self._log("insert-node", node.name, created=created)
        return node

    def add_summand(self, value: ir.Value, summand: ir.Value, kind: str = "reconnect") -> ir.Value:
        """Let whoever reads ``value``, outputs of the graph included, read ``value`` + ``summand``, and give this sum.

        The sum takes over the name, so that it is what is compared with the value of this name in other versions of
        the model; ``value`` becomes ``<name>/own``. The summand has its shape and type, or is broadcast to them.

        Raises
        ------
        PassError
            No operator writes ``value``, or it is read before ``summand`` is computed.
        """
        inner, name = self.graph.model.graph, value.name or ""
        position = {node: index for index, node in enumerate(inner)}
        producers = [node for node in (value.producer(), summand.producer()) if node in position]
        if value.producer() not in producers:
            raise PassError(f"{self.pass_name}: no operator of the main graph writes {name!r}, nothing can be added")
        own, last = producers[0], max(producers, key=position.__getitem__)
        for node in itertools.islice(inner, position[own] + 1, position[last] + 1):
            if value in node.inputs or name in captured_values(node):
                raise PassError(f"{self.pass_name}: {node.name!r} reads {name!r} before {summand.name!r} is computed")
        node = ir.node("Add", [value, summand])
        total = node.outputs[0]
        value.replace_all_uses_with(total, replace_graph_outputs=True)
        for index, operand in enumerate((value, summand)):
            node.replace_input_with(index, operand)
        node.name = self._unique(f"{name}/sum")
        value.name, total.name = self._unique(f"{name}/own"), name
        total.type, total.shape = value.type, value.shape.copy() if value.shape is not None else None
        inner.insert_after(last, node)
        self._log(kind, node.name)
        return total

    def bypass(self, node: ir.Node, source: ir.Value, kind: str = "remove-node") -> None:
        """Remove ``node`` and let whoever reads its first output read ``source``, an equal value.

        The name of the removed output survives where ``source`` is written by an operator that nobody else reads.

        Raises
        ------
        PassError
            The output is an output of the graph and its name cannot be kept, or another output is read.
        """
        target = node.outputs[0]
        exclusive = (
            source.producer() is not None
            and all(use.node is node for use in source.uses())
            and not source.is_graph_output()
        )
        if target.is_graph_output() and not exclusive:
            raise PassError(f"{self.pass_name}: {node.name!r} writes an output of the graph and cannot be removed")
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise PassError(f"{self.pass_name}: another output of {node.name!r} is read, it cannot be removed")
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        self.graph.model.graph.remove(node, safe=True)
        if exclusive:
            name, target.name = target.name, None
            source.name = name
            if target.shape is not None:
                source.shape = target.shape
            if target.type is not None:
                source.type = target.type
        self._log(kind, node.name or "")

    def remove_node(self, node: ir.Node, pruned: int = 0) -> None:
        """Remove ``node``, whose outputs nobody reads any more."""
        self.graph.model.graph.remove(node, safe=True)
        self._log("remove-node", node.name or "", pruned)

    def transform(self, kind: str, function: Callable[[ir.Model], bool]) -> None:
        """Run an exact rewrite of the whole model, such as one of onnx-ir's own passes.

        Parameters
        ----------
        kind
            Kind of the edits that are logged: one for every node and every initializer that disappeared. The
            connections of an initializer go with it.
        function
            Changes the model in place and says whether it did.
        """
        nodes = {node.name: None for node in self.graph.model.graph}
        constants = {
            name: (value.const_value, carries_connections(value)) for name, value in self.graph.initializers.items()
        }
        if not function(self.graph.model):
            return
        self._names = None
        kept = {node.name for node in self.graph.model.graph}
        logged = len(self.edits)
        for name in nodes:
            if name not in kept:
                self._log(kind, name or "")
        for name, (tensor, connected) in constants.items():
            if name not in self.graph.initializers:
                self._log(kind, name, int(np.count_nonzero(tensor.numpy())) if connected and tensor is not None else 0)
        if len(self.edits) == logged:
            self._log(kind, "graph")

    def adopt(self, other: Editor) -> None:
        """Take over what ``other`` made of a clone of this editor's graph, and its edits."""
        self.graph.take_over(other.graph)
        self.edits += other.edits
        self._names = None

    def replace_graph(self, graph: Graph) -> None:
        """Take over the model of ``graph``; connections are counted initializer by initializer, by name."""
        old = _connection_masks(self.graph)
        new = _connection_masks(graph)
        self.graph.model = graph.model
        self._names = None
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            if before is not None and after is not None and before.shape == after.shape:
                pruned = int(np.count_nonzero(before & ~after))
                created = int(np.count_nonzero(after & ~before))
            else:
                pruned = int(np.count_nonzero(before)) if before is not None else 0
                created = int(np.count_nonzero(after)) if after is not None else 0
                pruned, created = max(pruned - created, 0), max(created - pruned, 0)
            if pruned or created:
                self._log("replace", name, pruned, created)
        self._log("replace", "graph")

    def _log(self, kind: str, where: str, pruned: int = 0, created: int = 0) -> None:
        self.graph.revision += 1
        self.edits.append(Edit(kind, self.pass_name, where, pruned, created))

    def _initializer(self, name: str) -> ir.Value:
        value = self.graph.initializers.get(name)
        if value is None or value.const_value is None:
            raise PassError(f"{self.pass_name}: there is no initializer called {name!r}")
        return value

    def _unique(self, name: str) -> str:
        """Give ``name``, or ``name_1`` … where a node or value bears it."""
        stem, suffix = name, 1
        while name in self._taken:
            name, suffix = f"{stem}_{suffix}", suffix + 1
        self._taken.add(name)
        return name

    @property
    def _taken(self) -> set[str | None]:
        """Names of values and nodes, those of subgraphs too; collected once per editor."""
        if self._names is None:
            self._names = set()
            for graph in self.graph.model.graphs():  # a subgraph's own value would hide a new one of its name
                self._names.update(graph.initializers)
                self._names.update(value.name for value in graph.inputs)
                self._names.update(value.name for node in graph for value in node.outputs)
                self._names.update(node.name for node in graph)
        return self._names


def _tensor(name: str, array: NDArray[Any], like: ir.TensorProtocol | None) -> ir.TensorProtocol:
    if array.dtype == object:
        texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        return ir.StringTensor(texts, name=name, shape=ir.Shape(array.shape))
    array = array.copy(order="C")
    array.flags.writeable = False
    return ir.Tensor(array, name=name, dtype=like.dtype if like is not None else None)


def _connection_masks(graph: Graph) -> dict[str, NDArray[np.bool_]]:
    return {
        name: graph.array(name) != 0
        for name, value in graph.initializers.items()
        if value.const_value is not None and carries_connections(value)
    }
