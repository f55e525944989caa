"""The documentation runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("page", ["writing_passes.md", "structural_pruning.md", "reconnection.md"])
def test_python_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    module = types.ModuleType("page")
    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses and type hints look their module up
    for block in blocks:
        exec(compile(block, page, "exec"), module.__dict__)
