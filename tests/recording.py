"""A backend that is ONNX Runtime under another name, says that zeros make it faster, and notes what it loads."""

from __future__ import annotations

import pytest

from surgery_ir.backends import base
from surgery_ir.backends.base import Capabilities
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeSession
from surgery_ir.graph.model import Graph

__all__ = ["RecordingBackend", "install"]


class RecordingBackend:
    """Compared with plain ONNX Runtime; :attr:`loaded` are fingerprints and threads of what was loaded."""

    name = "recording"
    capabilities = Capabilities("1.0", sparse_speedup=True, patterns=("4x1", "1x4"), baseline="onnxruntime")

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int]] = []

    def load(self, graph: Graph, *, threads: int = 0) -> OnnxRuntimeSession:
        self.loaded.append((graph.fingerprint(), threads))
        return OnnxRuntimeBackend().load(graph, threads=threads)


def install(monkeypatch: pytest.MonkeyPatch) -> RecordingBackend:
    """Let the backend be found by its name, and give it."""
    made = RecordingBackend()
    monkeypatch.setattr("tests.recording.make", lambda: made, raising=False)
    monkeypatch.setattr(base, "BUILT_IN", {**base.BUILT_IN, "recording": "tests.recording:make"})
    return made
