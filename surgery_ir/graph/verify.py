"""The verifier: what must hold for every graph between two passes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import suppress

import numpy as np
import onnx
import onnx_ir as ir
from onnx import checker

from surgery_ir.errors import ModelError, VerificationError
from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.model import Graph, skeleton
from surgery_ir.graph.shapes import shape_faults
from surgery_ir.graph.view import bodies

__all__ = ["check_finite", "check_operators", "verify"]

CHUNK = 1 << 24

STANDARD_DOMAINS = frozenset(schema.domain for schema in onnx.defs.get_all_schemas()) | {"ai.onnx"}

RUNTIME_DOMAINS = frozenset(
    ("com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc")
)
"""Domains that ONNX Runtime knows, and that a model may use without importing them."""


@collector_paused()
def verify(graph: Graph) -> None:
    """Check structure, operator schemas and shapes; linear in the number of nodes, free of weights.

    Raises
    ------
    VerificationError
        A value is read before it is written or written twice, a node's name is not unique, an operator of a
        standard domain does not exist or has wrong inputs or attributes, or shapes or types contradict.
    """
    _check_structure(graph)
    proto = skeleton(graph)
    proto.graph.name = proto.graph.name or "graph"
    imported = {opset.domain for opset in proto.opset_import}
    implied = {node.domain for node in _nodes(graph)} & RUNTIME_DOMAINS - imported
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(implied))
    shapeless = [
        value.type.tensor_type
        for value in (*proto.graph.input, *proto.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for tensor_type in shapeless:
        tensor_type.shape.SetInParent()  # the checker insists on a shape, no runtime does
    try:
        checker.check_model(proto)
    except checker.ValidationError as error:
        raise _located(graph, str(error)) from error
    for tensor_type in shapeless:
        tensor_type.ClearField("shape")
    for fault in shape_faults(graph, proto):
        raise _broken(graph, fault.node, fault.text)


def check_operators(graph: Graph) -> None:
    """Refuse operators of domains that neither ONNX, ONNX Runtime nor the model's own functions define.

    Raises
    ------
    VerificationError
        An operator's domain is unknown.
    """
    known = STANDARD_DOMAINS | RUNTIME_DOMAINS
    for node in _nodes(graph):
        if node.domain not in known and node.op_identifier() not in graph.model.functions:
            raise _broken(
                graph,
                node.name or "",
                f"there is no operator {node.domain}.{node.op_type} in ONNX, ONNX Runtime or the model's own functions",
            )


def _nodes(graph: Graph) -> Iterator[ir.Node]:
    """Yield every node, those in subgraphs and functions too."""
    yield from ir.traversal.RecursiveGraphIterator(graph.model.graph)
    for function in graph.model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def _check_structure(graph: Graph) -> None:
    inner = graph.model.graph
    value_names: set[str | None] = {value.name for value in (*inner.inputs, *inner.initializers.values())}
    node_names: set[str] = set()
    for node in inner:
        name = node.name or ""
        if not name or name in node_names:
            raise VerificationError(f"{graph.source}: the node name {name!r} is empty or not unique")
        node_names.add(name)
        for value in node.outputs:
            if value.name and value.name in value_names:
                raise _broken(graph, name, f"writes {value.name!r}, which is written already")
            value_names.add(value.name)
    _check_order(graph, inner, (), None)


def _check_order(graph: Graph, body: ir.Graph, outer: tuple[Set[ir.Value], ...], owner: str | None) -> None:
    """Refuse reads of what nothing in ``body`` or the graphs around it writes before; ``owner`` holds the body."""
    written = set(body.inputs) | set(body.initializers.values())
    scopes = (written, *outer)
    for node in body:
        name = owner if owner is not None else node.name or ""
        for value in node.inputs:
            if value is not None and not any(value in scope for scope in scopes):
                raise _broken(graph, name, f"reads {value.name!r}, which nothing before it writes")
        for inner in bodies(node):
            _check_order(graph, inner, scopes, name)
        written.update(node.outputs)
    for value in body.outputs:
        if not any(value in scope for scope in scopes):
            raise _broken(graph, owner or "", f"nothing writes the output {value.name!r}")


def _broken(graph: Graph, node: str, what: str) -> VerificationError:
    view = graph.view()
    if node not in view:
        where = f"node {node!r}: " if node else ""
        return VerificationError(f"{graph.source}: {where}{what}")
    return VerificationError(
        f"{graph.source}: node {node!r} ({view.operator(node).op_type}): {what}", view.around(node)
    )


def _located(graph: Graph, text: str) -> VerificationError:
    """Turn a message of the checker into one line, with the operators around the node it names."""
    text = " ".join(text.split())
    what, _, context = text.partition(" ==> Context: ")
    found = re.search(r"Name: (.*?) OpType: \S+$", context) or re.search(r"Node ?\((.*?)\) with schema", text)
    return _broken(graph, found[1] if found else "", what)


def check_finite(graph: Graph) -> None:
    """Refuse NaN in weights. Infinities pass: attention masks hold them on purpose.

    Weights are read in pieces, so memory stays small however big the model is.

    Raises
    ------
    ModelError
        An initializer holds NaN.
    """
    for inner in graph.model.graphs():
        for name, value in inner.initializers.items():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 16:
                continue
            index = _first_nan(tensor)
            if index is not None:
                raise ModelError(f"{graph.source}: initializer {name!r} holds NaN, first at flat index {index}")
            if isinstance(tensor, ir.ExternalTensor):
                with suppress(BufferError):  # somebody else is looking at it
                    tensor.release()


def _first_nan(tensor: ir.TensorProtocol) -> int | None:
    flat = np.asarray(tensor.numpy()).reshape(-1)
    for start in range(0, flat.size, CHUNK):
        bad = np.isnan(flat[start : start + CHUNK])
        if bad.any():
            return start + int(np.argmax(bad))
    return None
