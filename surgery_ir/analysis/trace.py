"""Shapes from a run, where shape inference does not find them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from surgery_ir.analysis.macs import node_macs
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.shapes import infer_shapes
from surgery_ir.errors import BackendError
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph

__all__ = ["sample_shapes"]


def sample_shapes(graph: Graph, runtime: Runtime, feeds: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Find the shapes that counting multiply-accumulates needs.

    Parameters
    ----------
    graph
        Graph to look at.
    runtime
        Runs it once, if shape inference leaves something open.
    feeds
        One sample.

    Returns
    -------
    dict
        Shapes for :func:`~surgery_ir.analysis.cost.cost`: those of the inputs, and those of inner values that only a
        run tells. Where the runtime cannot give such a value its shape stays unknown.
    """
    found = {name: array.shape for name, array in feeds.items()}
    known = infer_shapes(graph, found)
    names = [
        value.name
        for node in graph.model.graph
        if node_macs(node, known) is None
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.name and not value.is_initializer() and not value.is_graph_input()
    ]
    if names:
        cut = with_outputs(graph, dict.fromkeys(names))
        needed = {value.name for value in cut.inputs}
        try:
            outputs = runtime.load(cut).run({name: array for name, array in feeds.items() if name in needed})
        except BackendError:
            return found
        found.update((name, array.shape) for name, array in outputs.items())
    return found
