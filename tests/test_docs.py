"""The documentation runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"

FRAMEWORKS = {"frontends.md": ("torch", "onnxscript")}
"""What the blocks of a page need besides surgery-ir. Such a page writes files, and is run elsewhere."""


@pytest.mark.parametrize("page", ["writing_passes.md", "structural_pruning.md", "reconnection.md", "frontends.md"])
def test_python_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FRAMEWORKS.get(page, ()):
        pytest.importorskip(name)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    module = types.ModuleType("page")
    monkeypatch.chdir(tmp_path if page in FRAMEWORKS else DOCS.parent)
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses and type hints look their module up
    for block in blocks:
        exec(compile(block, page, "exec"), module.__dict__)


def test_every_link_leads_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
