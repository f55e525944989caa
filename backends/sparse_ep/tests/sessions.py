"""Sessions of the provider and of ONNX Runtime alone, and comparing what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]
NAME = "SparseExecutionProvider"
MATRIX_OPERATORS = {"Conv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"}


def session(
    model: onnx.ModelProto, options: Mapping[str, str] | None = None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session of the model: with the provider if there are options for it, else of the CPU provider alone."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if options is not None:
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]
        settings.add_provider_for_devices(devices, dict(options))
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, enable_fallback=False)


def placement(running: onnxruntime.InferenceSession) -> dict[str, list[str]]:
    """Types of the operators by the provider that runs them."""
    found: dict[str, list[str]] = {}
    for part in running.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def claimed(running: onnxruntime.InferenceSession) -> int:
    """How many Conv, Gemm and MatMul operators the provider runs."""
    return sum(kind in MATRIX_OPERATORS for kind in placement(running).get(NAME, []))


def difference(ours: Sequence[Array], theirs: Sequence[Array], relative: float) -> str:
    """What is wrong with our outputs, or ""."""
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.shape != other.shape or mine.dtype != other.dtype:
            return f"output {index} is {mine.dtype}{mine.shape} and not {other.dtype}{other.shape}"
        odd = ~np.isfinite(other)
        if not np.array_equal(mine[odd], other[odd], equal_nan=True):
            return f"output {index} differs where it is not finite"
        if not np.isfinite(mine[~odd]).all():
            return f"output {index} is not finite where it has to be"
        error = np.zeros(mine.shape)
        error[~odd] = np.abs(mine[~odd].astype(np.float64) - other[~odd])
        bound = relative * max(1.0, float(np.abs(other[~odd]).max(initial=0.0)))
        if error.max(initial=0.0) > bound:
            worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
            return f"output {index} is off by {error.max():.3g} (allowed {bound:.3g}) at {worst}"
    return ""
