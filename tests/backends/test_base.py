"""Backends are found by name; plug-ins are imported only when they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery_ir.backends.base import Backend, backend, backend_names, baseline_of
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.errors import SpecError
from tests.plugins import install
from tests.recording import RecordingBackend

GROUP = "surgery_ir.backends"

GOOD = """
from surgery_ir.backends.base import Capabilities

class plugin:
    name = "other"
    capabilities = Capabilities("1.0", sparse_speedup=True)

    def load(self, graph, *, threads=0):
        raise NotImplementedError
"""


def test_built_in() -> None:
    found = backend("onnxruntime")
    assert found == OnnxRuntimeBackend()
    assert isinstance(found, Backend)
    assert found.name == "onnxruntime"
    assert found.capabilities.threads
    assert not found.capabilities.sparse_speedup
    assert found.capabilities.version


def test_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "other", GOOD)
    assert backend_names() == ("onnxruntime", "sparse", "other")
    assert backend("other").capabilities.sparse_speedup


def test_plugins_that_nobody_names_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "broken", "raise SystemError('imported')")
    install(tmp_path, monkeypatch, GROUP, "onnxruntime", "raise SystemError('imported')")
    assert backend("onnxruntime") == OnnxRuntimeBackend()
    with pytest.raises(SpecError, match=r"there is no backend called 'fast'; there are onnxruntime, sparse, broken$"):
        backend("fast")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import a_module_that_is_not_there", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("def plugin(): raise ValueError('no licence')", "cannot be loaded: ValueError: no licence"),
        ("plugin = 3", "cannot be loaded: TypeError"),
        ("plugin = dict", r"\(dict\) lacks name, capabilities or load"),
    ],
)
def test_broken_plugins(code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "broken", code)
    with pytest.raises(SpecError, match=f"the backend 'broken' {message}"):
        backend("broken")


def test_a_backend_is_compared_with_itself_unless_it_names_another_one() -> None:
    plain = backend("onnxruntime")
    assert baseline_of(plain) is plain
    assert baseline_of(RecordingBackend()) == plain
