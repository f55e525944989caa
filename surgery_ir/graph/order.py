"""Order of nodes: runtimes accept any, ONNX and onnx-ir only a topological one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Set

import onnx

from surgery_ir.errors import ModelError

__all__ = ["in_order"]


def in_order(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Give ``model`` itself where its nodes stand in topological order, else a sorted copy; ties keep their order.

    Parameters
    ----------
    model
        Model to look at; it is left as it is.
    source
        Where it came from, for messages.

    Raises
    ------
    ModelError
        A value is read that nothing writes, or written twice, or the nodes form a cycle.
    """
    unsorted = [function for function in model.functions if not _is_ordered(_body(function), source)]
    if not unsorted and _is_ordered(model.graph, source):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _sort_nodes(copy.graph, source)
    for function in copy.functions:
        body = _body(function)
        _sort_nodes(body, source)
        del function.node[:]
        function.node.extend(body.node)
    return copy


def _body(function: onnx.FunctionProto) -> onnx.GraphProto:
    return onnx.GraphProto(
        node=function.node,
        input=[onnx.ValueInfoProto(name=name) for name in function.input],
        output=[onnx.ValueInfoProto(name=name) for name in function.output],
    )


def _is_ordered(graph: onnx.GraphProto, source: str, outer: tuple[Set[str], ...] = ()) -> bool:
    """Whether every node comes after those that it reads from; ``outer``: names that the enclosing graphs define."""
    written = _given(graph)
    scopes = (written | {name for node in graph.node for name in node.output}, *outer)
    ordered = True
    for node in graph.node:
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise ModelError(f"{source}: node {_describe(node)} reads {name!r}, which nothing writes")
        for body in _bodies(node):
            ordered &= _is_ordered(body, source, scopes)
        ordered &= all(name in written or name not in scopes[0] for name in _reads(node))
        for name in node.output:
            if name and name in written:
                raise ModelError(f"{source}: node {_describe(node)} writes {name!r}, which is written already")
            written.add(name)
    for output in graph.output:
        if not any(output.name in scope for scope in scopes):
            raise ModelError(f"{source}: nothing writes the output {output.name!r}")
    return ordered


def _sort_nodes(graph: onnx.GraphProto, source: str) -> None:
    nodes = list(graph.node)
    writer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    readers: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for body in _bodies(node):
            _sort_nodes(body, source)
        for producer in {writer[name] for name in _reads(node) if name in writer}:
            readers[producer].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, missing, strict=True) if count)
        raise ModelError(f"{source}: the nodes form a cycle, which node {_describe(stuck)} is on or behind")
    if order != sorted(order):
        copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(copies)


def _given(graph: onnx.GraphProto) -> set[str]:
    """Names that ``graph`` defines without a node."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {tensor.values.name for tensor in graph.sparse_initializer}


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that ``node`` reads itself, and those that its subgraphs read from outside."""
    yield from (name for name in node.input if name)
    for body in _bodies(node):
        inner = _given(body) | {name for item in body.node for name in item.output}
        names = {name for item in body.node for name in _reads(item)} | {output.name for output in body.output}
        yield from names - inner


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.name!r} ({node.op_type})" if node.name else node.op_type
