"""One way in for models of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Frontend, Lowered, installed
from surgery_ir.frontends.graphsurgeon import GraphSurgeon
from surgery_ir.frontends.onnx_file import OnnxFile, OnnxModel
from surgery_ir.graph.model import Graph

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = ["load_model"]

BUILT_IN: tuple[Frontend, ...] = (OnnxFile(), OnnxModel(), GraphSurgeon())


def load_model(source: str | Path | onnx.ModelProto | gs.Graph | Graph) -> Lowered:
    """Lower ``source`` with the first frontend that accepts it; plug-ins are imported only when none of ours does.

    Raises
    ------
    ModelError
        No frontend accepts it, or the model is faulty.
    SpecError
        A plug-in cannot be imported.
    """
    frontends = list(BUILT_IN)
    for frontend in BUILT_IN:
        if frontend.accepts(source):
            return frontend.load(source)
    for frontend in installed():
        if frontend.accepts(source):
            return frontend.load(source)
        frontends.append(frontend)
    known = ", ".join(frontend.reads for frontend in frontends)
    if isinstance(source, str | Path):
        what = f"{source}: {'this kind of file' if Path(source).suffix else 'a path without a suffix'}"
    else:
        what = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ModelError(f"{what} cannot be read; what can be read is {known}")
