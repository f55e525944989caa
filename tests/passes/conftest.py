"""What tests of passes may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def plugin_installed(plugin_folder: Path) -> Iterator[None]:
    """Let ``round-weights``, the plug-in of ``tests/plugin``, be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(plugin_folder))
        yield
