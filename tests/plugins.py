"""Plug-ins for tests: a distribution that stands in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["install"]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, code: str) -> None:
    """Let the module ``code`` be found, whose attribute ``plugin`` is registered as ``name`` in ``group``."""
    module = f"{folder.name}_{name}".replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:plugin\n")
    monkeypatch.syspath_prepend(str(folder))
