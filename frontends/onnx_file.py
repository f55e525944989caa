"""ONNX: files, and models in memory."""

from __future__ import annotations

from pathlib import Path

import onnx

from surgery_ir.frontends.base import Lowered, Request, check
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model

__all__ = ["OnnxFile", "OnnxModel"]


class OnnxFile:
    """Reads ``.onnx`` files, with their external data beside them."""

    reads = ".onnx files"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a path that ends in ``.onnx``."""
        return isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx"

    def load(self, source: object, request: Request) -> Lowered:
        """Read and check the file.

        Raises
        ------
        ModelError
            The file cannot be read, or the model in it is faulty.
        """
        assert isinstance(source, str | Path)
        return check(read_model(source))


class OnnxModel:
    """Takes a model in memory: ``onnx.ModelProto``, or a graph of ours. It is left as it is."""

    reads = "onnx.ModelProto"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a model in memory."""
        return isinstance(source, onnx.ModelProto | Graph)

    def load(self, source: object, request: Request) -> Lowered:
        """Check the model.

        Raises
        ------
        ModelError
            The model is faulty, or refers to external data, which only a file can.
        """
        assert isinstance(source, onnx.ModelProto | Graph)
        return check(source.clone() if isinstance(source, Graph) else Graph.from_proto(source))
