"""What every test module may ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """The folder of the committed sample model and its data."""
    return TESTS.parent / "samples"


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the plug-in of ``tests/plugin``, and nothing else."""
    root = tmp_path_factory.mktemp("plugin")
    shutil.copytree(TESTS / "plugin", root / "source")  # pip builds inside of it
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(root / "target"), str(root / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root / "target"
