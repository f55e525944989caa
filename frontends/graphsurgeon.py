"""onnx-graphsurgeon graphs."""

from __future__ import annotations

import sys

from surgery_ir.errors import ModelError, SurgeryError
from surgery_ir.frontends.base import Lowered, Request, check
from surgery_ir.graph.model import Graph

__all__ = ["GraphSurgeon"]


class GraphSurgeon:
    """Takes an ``onnx_graphsurgeon.Graph``. The package is not imported unless the caller did."""

    reads = "onnx_graphsurgeon.Graph"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a graph of onnx-graphsurgeon."""
        module = sys.modules.get("onnx_graphsurgeon")
        return module is not None and isinstance(source, module.Graph)

    def load(self, source: object, request: Request) -> Lowered:
        """Export and check the graph.

        Raises
        ------
        ModelError
            onnx-graphsurgeon cannot export it, or the model is faulty.
        """
        try:
            graph = Graph.from_graphsurgeon(source)
        except SurgeryError:
            raise
        except Exception as error:  # it lets whatever went wrong in its exporters through
            raise ModelError(
                f"<graphsurgeon>: the graph cannot be exported: {type(error).__name__}: {error}"
            ) from error
        return check(graph)
