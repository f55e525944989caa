"""A small graph to edit."""

from __future__ import annotations

import onnx_ir as ir

from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from tests.harness import graph

__all__ = ["TEXT", "example", "value"]

TEXT = """
g (float[N,3] x) => (float[N,2] y) <float[3,4] w, float[4] b, float[4,2] v, float[4] s, float k> {
    h = Gemm(x, w, b)
    n = Mul(h, s)
    r = Relu(n)
    c = Mul(r, k)
    y = MatMul(c, v)
}
"""


def example() -> tuple[Graph, Editor]:
    found = graph(TEXT)
    return found, Editor(found, "test")


def value(graph: Graph, name: str) -> ir.Value:
    return next(value for node in graph.model.graph for value in node.outputs if value.name == name)
