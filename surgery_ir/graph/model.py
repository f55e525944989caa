"""The graph: an onnx-ir model, its revision, and cheap copies that share weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.graph import external, lift, order, sparse
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.view import View, build_view

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Graph"]

DIGEST = "surgery_ir.digest"
PROTOBUF_LIMIT = (1 << 31) - 1


class Graph:
    """A model as a graph of connections.

    Only :class:`~surgery_ir.graph.editor.Editor` changes a graph; it bumps :attr:`revision`, which keys what is
    derived from the graph. :meth:`clone` copies structure and shares tensors, so a candidate costs no weights.

    Parameters
    ----------
    model
        The onnx-ir model, with every weight reachable as an initializer (see :meth:`from_proto`).
    source
        Where it came from, for messages.
    leftover
        Fields of the original file that onnx-ir does not carry; they are written back unchanged.
    """

    def __init__(self, model: ir.Model, source: str = "<memory>", leftover: onnx.ModelProto | None = None) -> None:
        self.model = model
        self.source = source
        self.leftover = leftover if leftover is not None else onnx.ModelProto()
        self.revision = 0
        self._cuts: dict[str, Mapping[int, NDArray[np.intp]]] = {}
        self._view: tuple[int, View] | None = None
        self._nodes: tuple[int, dict[str, ir.Node]] | None = None

    @classmethod
    @collector_paused()
    def from_proto(cls, proto: onnx.ModelProto, source: str = "<memory>", folder: str = "") -> Graph:
        """Take a protobuf model. External data are looked up in ``folder`` and stay memory-mapped.

        Raises
        ------
        ModelError
            The protobuf does not hold a usable graph.
        """
        try:
            proto = order.in_order(proto, source)
            if any(graph.sparse_initializer for graph in sparse.graphs_of(proto.graph)):
                copy = onnx.ModelProto()
                copy.CopyFrom(proto)
                proto = copy
            names = sparse.densify(proto.graph, source)
            model = ir.from_proto(proto)
            external.attach(model, folder, source)
            _check_tensors(model, source)
            sparse.mark_all(model.graph, names)
            lift.lift_constants(model)
            lift.follow_identities(model)
            lift.name_nodes(model)
        except ModelError:
            raise
        except Exception as error:  # a corrupt protobuf breaks onnx-ir anywhere, and it wraps whatever went wrong
            raise ModelError(f"{source}: {_root_cause(error)}") from error
        leftover = onnx.ModelProto(training_info=proto.training_info)
        return cls(model, source, leftover)

    @classmethod
    def from_graphsurgeon(cls, graph: gs.Graph, source: str = "<graphsurgeon>") -> Graph:
        """Take an onnx-graphsurgeon graph."""
        import onnx_graphsurgeon

        with redirect_stdout(sys.stderr):  # where its logger belongs
            return cls.from_proto(onnx_graphsurgeon.export_onnx(graph), source)

    def to_graphsurgeon(self) -> gs.Graph:
        """Give the graph to onnx-graphsurgeon. Metadata that it does not know are lost there, not here."""
        import onnx_graphsurgeon

        with redirect_stdout(sys.stderr):  # where its logger belongs
            return onnx_graphsurgeon.import_onnx(self.to_proto())

    @collector_paused()
    def to_proto(self, inlined: bool = True) -> onnx.ModelProto:
        """Write the graph as one protobuf.

        Parameters
        ----------
        inlined
            Put weights from external data inside. Otherwise they stay references to their files.

        Raises
        ------
        ModelError
            The weights do not fit a protobuf (2 GB); save with external data instead.
        """
        model = self.model
        if inlined:
            model = model.clone()
            external.inline(model)
            size = sum(value.const_value.nbytes for value in self._all_initializers() if value.const_value is not None)
            if size > PROTOBUF_LIMIT:
                raise ModelError(f"{self.source}: {size} bytes of weights do not fit one protobuf; save to a file")
        proto = _to_proto(model, self.source)
        proto.training_info.extend(self.leftover.training_info)
        sparse.encode(proto.graph, model.graph)
        return proto

    @collector_paused()
    def clone(self) -> Graph:
        """Copy the structure; share every tensor."""
        copy = Graph(self.model.clone(), self.source, self.leftover)
        copy.revision = self.revision
        copy._cuts = dict(self._cuts)
        return copy

    def take_over(self, other: Graph) -> None:
        """Become what ``other``, a changed clone, is; for the editor alone."""
        self.model = other.model
        self._cuts = dict(other._cuts)
        self.revision = max(self.revision, other.revision) + 1

    @property
    def cuts(self) -> Mapping[str, Mapping[int, NDArray[np.intp]]]:
        """Values that hold only a part of what they held when the model was loaded: the indices kept, by axis."""
        return MappingProxyType(self._cuts)

    def note_cut(self, name: str, axis: int, kept: NDArray[np.intp]) -> None:
        """Record that value ``name`` keeps only the indices ``kept`` of what it holds now; for the editor alone."""
        known = self._cuts.get(name, {})
        before = known.get(axis)
        kept = kept if before is None else before[kept]
        self._cuts[name] = MappingProxyType({**known, axis: kept})

    def view(self) -> View:
        """Give the frozen NetworkX view of the main graph, built once per revision."""
        if self._view is None or self._view[0] != self.revision:
            self._view = (self.revision, build_view(self.model.graph))
        return self._view[1]

    @collector_paused()
    def fingerprint(self) -> str:
        """Digest of structure and weights: equal for equal graphs, whatever their history.

        Each tensor is hashed once, however many clones share it.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(skeleton(self).SerializeToString(deterministic=True))
        for value in sorted(self._all_initializers(), key=lambda item: item.name or ""):
            tensor = value.const_value
            if tensor is None:
                continue
            if DIGEST not in tensor.meta:
                tensor.meta[DIGEST] = _digest(tensor)
            digest.update(f"{value.name}:{int(sparse.is_sparse(value))}:".encode())
            digest.update(tensor.meta[DIGEST])
        return digest.hexdigest()

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """Inputs that a caller must feed; initializers listed as inputs are not among them."""
        return tuple(value for value in self.model.graph.inputs if not value.is_initializer())

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """Outputs of the graph."""
        return tuple(self.model.graph.outputs)

    @property
    def initializers(self) -> Mapping[str, ir.Value]:
        """Initializers of the main graph by name."""
        return MappingProxyType(self.model.graph.initializers)

    def node(self, name: str) -> ir.Node:
        """Give the node called ``name`` of the main graph; looked up in an index built once per revision."""
        if self._nodes is None or self._nodes[0] != self.revision:
            self._nodes = (self.revision, {node.name or "": node for node in self.model.graph})
        return self._nodes[1][name]

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether ``value`` is a weight that no caller can override."""
        if value is None or value.const_value is None or not value.is_initializer():
            return False
        return not value.is_graph_input() or (self.model.ir_version or 0) <= lift.LAST_IR_WITH_INPUTS

    def array(self, name: str) -> NDArray[Any]:
        """Values of the initializer called ``name``: read-only, memory-mapped where the file is.

        Raises
        ------
        ModelError
            There is no such initializer.
        """
        value = self.initializers.get(name)
        if value is None or value.const_value is None:
            raise ModelError(f"{self.source}: there is no initializer called {name!r}")
        array = np.asarray(value.const_value.numpy()).view()
        array.flags.writeable = False
        return array

    def _all_initializers(self) -> Iterator[ir.Value]:
        for graph in self.model.graphs():
            yield from graph.initializers.values()


@collector_paused()
def skeleton(graph: Graph, limit: int = 1024) -> onnx.ModelProto:
    """Write the model without its big weights: initializers over ``limit`` bytes become typed inputs.

    It is what checkers and shape inference need, and it stays small however big the model is.
    """
    model = graph.model.clone()
    for inner in model.graphs():
        small = []
        for name, value in sorted(inner.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= limit:
                small.append(value)
                continue
            value.shape = ir.Shape(tensor.shape.numpy())
            value.type = ir.TensorType(tensor.dtype)
            del inner.initializers[name]
            if inner is model.graph and not value.is_graph_input():
                inner.inputs.append(value)
            elif inner is not model.graph:
                inner.initializers[name] = value
        for value in small:  # in the order of names, so that equal graphs have equal skeletons
            del inner.initializers[value.name or ""]
            inner.initializers[value.name or ""] = value
    external.inline(model)
    return _to_proto(model, graph.source)


def _to_proto(model: ir.Model, source: str) -> onnx.ModelProto:
    try:
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:  # names that are no text, for one
        raise ModelError(f"{source}: {_root_cause(error)}") from error


class _Hash:
    """A file that keeps a digest of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, chunk: bytes) -> int:
        self.digest.update(chunk)
        return len(chunk)


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """Digest of the values; external ones are read piece by piece, texts each behind its length."""
    target = _Hash()
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(target)
    elif tensor.dtype == ir.DataType.STRING:
        target.write(b"".join(b"%d:%b" % (len(text), text) for text in tensor.numpy().flat))
    else:
        target.write(tensor.tobytes())
    return target.digest.digest()


def _check_tensors(model: ir.Model, source: str) -> None:
    """Refuse initializers whose values are fewer or more than type and shape say."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or isinstance(tensor, ir.ExternalTensor):
                continue
            try:
                fits = tensor.dtype == ir.DataType.STRING or tuple(tensor.numpy().shape) == tuple(tensor.shape.numpy())
            except Exception as error:  # onnx-ir raises whatever numpy does on such data
                raise ModelError(f"{source}: the values of {name!r} do not fit its type and shape: {error}") from error
            if not fits:
                raise ModelError(f"{source}: the values of {name!r} do not fit its shape")


def _root_cause(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    text = " ".join(str(error).split())
    return text or type(error).__name__
