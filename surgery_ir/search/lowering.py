"""Models of every kind become graphs; the user's samples are the example where a framework needs one."""

from __future__ import annotations

from dataclasses import replace

from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.load import is_onnx, load_model
from surgery_ir.search.dealing import Data, example_inputs

__all__ = ["lower"]


def lower(model: object, request: Request, data: Data | None, labels: str | None) -> Lowered:
    """Lower ``model``, on the first of ``data`` where the request has no example inputs and the model is not ONNX.

    Raises
    ------
    ModelError
        It cannot be read, or needs example inputs and has none.
    DataError
        The samples cannot be read.
    """
    if request.example_inputs is None and data is not None and not is_onnx(model):
        request = replace(request, example_inputs=example_inputs(data, labels))
    return load_model(model, request)
