"""Shapes: what inference says of a graph, and which of the shapes that a file declares are wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import shape_inference

from surgery_ir.graph import sparse
from surgery_ir.graph.model import Graph, skeleton
from surgery_ir.graph.operands import operand_faults

__all__ = ["STANDARD_DOMAINS", "Fault", "infer_types", "settle_shapes", "shape_faults"]

FAULT = re.compile(r"^\(op_type:(?P<op_type>\S+?)(?:, node name: (?P<node>.*?))?\): (?P<text>.*)$")
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


@dataclass(frozen=True)
class Fault:
    """What shape inference holds against a graph.

    Parameters
    ----------
    node
        Name of the node, empty where it is not known.
    text
        What is wrong there.
    """

    node: str
    text: str


def infer_types(graph: Graph) -> dict[str, onnx.TypeProto]:
    """Infer the type of every value of the main graph that onnx can infer; weights are not read."""
    inferred = shape_inference.infer_shapes(skeleton(graph), data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {value.name: value.type for value in values}


def shape_faults(graph: Graph, proto: onnx.ModelProto) -> list[Fault]:
    """Infer shapes and types strictly, and list what contradicts.

    A standard operator that onnx defines by a body of other operators (MeanVarianceNormalization) may fail inside
    that body for reasons of onnx's own: such a failure is no fault of the graph.

    Parameters
    ----------
    graph
        The graph.
    proto
        Its skeleton.
    """
    try:
        inferred = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        return [fault for fault in _parse(str(error)) if not _is_own_body(graph, fault)]
    return [Fault(node, text) for node, text in operand_faults(graph, inferred.graph)]


def _parse(message: str) -> list[Fault]:
    message = message.replace("Inference error(s): (op_type:", "Inference error(s):\n(op_type:", 1)
    faults = []
    for line in message.splitlines():
        found = FAULT.match(line.removeprefix("[ShapeInferenceError] ").strip())
        if found:
            faults.append(Fault(found["node"] or "", _plain(found["text"])))
    return faults or [Fault("", _plain(message))]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\[(Shape|Type)InferenceError\] ", "", text).split())


def _is_own_body(graph: Graph, fault: Fault) -> bool:
    if not fault.text.startswith("Inference error(s): (op_type:") or fault.node not in graph.view():
        return False
    node = graph.node(fault.node)
    has_subgraph = any(
        not attribute.is_ref() and attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )
    return node.domain in STANDARD_DOMAINS and not has_subgraph


def settle_shapes(graph: Graph) -> tuple[str, ...]:
    """Correct declared shapes that contradict what follows from the inputs and weights.

    Exporters and editors leave stale shapes behind, and runtimes ignore them. Nothing is changed where the
    operators themselves contradict each other: that is for :func:`~surgery_ir.graph.verify.verify` to refuse.

    Returns
    -------
    tuple of str
        Names of the values whose declared shapes were wrong or whose types were not declared; the name of the graph
        itself where shapes inside of subgraphs had to be dropped.
    """
    inner = graph.model.graph
    untyped = [value for value in inner.outputs if value.type is None]
    if not untyped and not shape_faults(graph, skeleton(graph)):
        return ()
    bare = skeleton(graph)
    _undeclare(bare.graph)
    if shape_faults(graph, bare):
        return ()
    inferred = shape_inference.infer_shapes(bare, data_prop=True).graph
    types = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    wrong = []
    for value in dict.fromkeys((*(output for node in inner for output in node.outputs), *inner.outputs)):
        known = types.get(value.name or "")
        if known is None or value.is_graph_input() or value.is_initializer():
            continue
        if value in untyped or _contradicts(value.shape, known):
            value.type = ir.serde.deserialize_type_proto_for_type(known)
            value.shape = ir.serde.deserialize_type_proto_for_shape(known)
            wrong.append(value.name or "")
    if shape_faults(graph, skeleton(graph)):
        for body in graph.model.graph.subgraphs():
            for value in (*(output for node in body for output in node.outputs), *body.outputs):
                value.shape = None
        wrong.append(inner.name or "")
    return tuple(wrong)


def _undeclare(graph: onnx.GraphProto) -> None:
    """Drop the declared shapes of whatever onnx can infer by itself."""
    for body in sparse.graphs_of(graph):
        inferable = {name for node in body.node if node.domain in STANDARD_DOMAINS for name in node.output}
        kept = [value for value in body.value_info if value.name not in inferable]
        del body.value_info[:]
        body.value_info.extend(kept)
        for value in body.output:
            if value.name in inferable and value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")


def _contradicts(declared: ir.Shape | None, known: onnx.TypeProto) -> bool:
    if declared is None or not known.HasField("tensor_type") or not known.tensor_type.HasField("shape"):
        return False
    dims = known.tensor_type.shape.dim
    if len(declared) != len(dims):
        return True
    return any(
        isinstance(size, int) and dim.HasField("dim_value") and size != dim.dim_value
        for size, dim in zip(declared, dims, strict=True)
    )
