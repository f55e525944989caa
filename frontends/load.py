"""One way in for models of every kind."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Frontend, LiveFrontend, LiveModel, Lowered, Request, installed
from surgery_ir.frontends.callables import PythonName
from surgery_ir.frontends.graphsurgeon import GraphSurgeon
from surgery_ir.frontends.jax.frontend import JaxFunction
from surgery_ir.frontends.onnx_file import OnnxFile, OnnxModel
from surgery_ir.frontends.pytorch.frontend import TorchCheckpoint, TorchModule, TorchProgram
from surgery_ir.frontends.tensorflow.keras import KerasFile, KerasModel
from surgery_ir.frontends.tensorflow.saved_model import SavedModel
from surgery_ir.frontends.tensorflow.tflite import TfliteFile

__all__ = ["is_onnx", "live_model", "load_model"]

ONNX: tuple[Frontend, ...] = (OnnxFile(), OnnxModel(), GraphSurgeon())
FRAMEWORKS: tuple[Frontend, ...] = (
    TorchModule(),
    TorchProgram(),
    TorchCheckpoint(),
    KerasModel(),
    KerasFile(),
    SavedModel(),
    TfliteFile(),
    JaxFunction(),
    PythonName(),
)
BUILT_IN: tuple[Frontend, ...] = (*ONNX, *FRAMEWORKS)


def load_model(source: object, request: Request | None = None) -> Lowered:
    """Lower ``source`` with the first frontend that accepts it; plug-ins are imported only when none of ours does.

    Raises
    ------
    ModelError
        No frontend accepts it, or the model is faulty.
    SpecError
        A plug-in cannot be imported.
    """
    return _accepting(source).load(source, request or Request())


def live_model(source: object, lowered: Lowered) -> LiveModel:
    """Give access to a model in memory, that which was lowered or another one of the same architecture.

    Raises
    ------
    ModelError
        No frontend accepts it, or models of its kind cannot be written to.
    """
    frontend = _accepting(source)
    if not isinstance(frontend, LiveFrontend):
        raise ModelError(f"weights cannot be put back into {frontend.reads}")
    return frontend.live(source, lowered)


def is_onnx(source: object) -> bool:
    """Whether ``source`` is a model of ONNX already, which needs no example inputs to become a graph."""
    return any(frontend.accepts(source) for frontend in ONNX)


def _accepting(source: object) -> Frontend:
    seen: list[Frontend] = []
    for frontend in chain(BUILT_IN, installed()):  # plug-ins are imported only where none of ours accepts it
        if frontend.accepts(source):
            return frontend
        seen.append(frontend)
    known = ", ".join(frontend.reads for frontend in seen)
    if isinstance(source, str | Path):
        what = f"{source}: {'this kind of file' if Path(source).suffix else 'a path without a suffix'}"
    else:
        what = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ModelError(f"{what} cannot be read; what can be read is {known}")
