"""The examples run, and print and write what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"

NEEDS = {
    "pytorch": ("torch", "onnxscript"),
    "keras_model": ("keras", "tensorflow", "tf2onnx"),
    "tensorflow_saved_model": ("tensorflow", "tf2onnx"),
    "tflite_file": ("tensorflow", "tf2onnx"),
    "jax_flax": ("jax", "flax", "jax2onnx"),
    "huggingface": ("torch", "onnxscript", "transformers"),
}

LEFT = r"([\d,]+) of ([\d,]+) (weights|MACs|parameters) are left, (\S+) from [\w ]+ when it was lowered"
BACK = r"(\d+) (parameters|variables) written back; the m\w+ is within (\S+) of the file"


def environment() -> dict[str, str]:
    """Give examples the interpreter of the tests, and one thread."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **quiet, "PATH": path}


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == NEEDS.keys()
    assert [path.name for path in EXAMPLES.iterdir() if path.suffix not in (".py", ".sh")] == []


@pytest.mark.parametrize("name", NEEDS)
def test_example(name: str, tmp_path: Path) -> None:
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    code = (EXAMPLES / f"{name}.py").read_text()
    assert len(code.splitlines()) <= 40
    done = run(tmp_path, sys.executable, str(EXAMPLES / f"{name}.py"))
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    left = re.fullmatch(LEFT, first)
    assert left is not None, first
    assert number(left[1]) < 0.8 * number(left[2])
    assert number(left[4]) <= 1e-4
    assert bool(others) == ("write_back" in code)
    for line in others:
        back = re.fullmatch(BACK, line)
        assert back is not None, line
        assert int(back[1]) > 0
        assert number(back[3]) <= 1e-4
    inputs = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"]).get_inputs()
    assert not any(isinstance(item.shape[0], int) for item in inputs)


@pytest.fixture
def samples(tmp_path: Path, samples_dir: Path) -> str:
    with np.load(samples_dir / "calibration.npz") as archive:
        np.savez(tmp_path / "samples.npz", image=archive["image"][:256])
    return str(tmp_path / "samples.npz")


def build(folder: Path, samples_dir: Path, samples: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the build's script on the sample model, with a search that takes seconds."""
    model = str(samples_dir / "fashion_resnet.onnx")
    quick = ["--budget", "2", "--passes", "prune-weights{criterion=magnitude},repair"]
    bash = shutil.which("bash")
    if bash is None or shutil.which("surgery-ir", path=environment()["PATH"]) is None:
        pytest.skip("bash or the command surgery-ir is not installed")
    return run(folder, bash, str(EXAMPLES / "ci.sh"), model, samples, "out", *quick, **variables)


def test_a_build_that_goes_well(tmp_path: Path, samples_dir: Path, samples: str) -> None:
    done = build(tmp_path, samples_dir, samples, MAX_DROP="0.2")
    assert done.returncode == 0, done.stderr
    measured = re.search(
        r"^fidelity: drop (\S+), limit 0.2; share of weights: (\S+), limit 0.5$", done.stdout, re.MULTILINE
    )
    assert measured is not None, done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    share = report["compressed"]["nonzeros"] / report["baseline"]["nonzeros"]
    assert float(measured[2]) == pytest.approx(share, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "small.onnx"]


def test_a_build_whose_limits_cannot_be_met(tmp_path: Path, samples_dir: Path, samples: str) -> None:
    done = build(tmp_path, samples_dir, samples, MAX_SHARE="0.001")
    assert done.returncode == 3, done.stderr
    assert "error: no candidate of 2 meets" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_build_whose_report_breaks_a_threshold(tmp_path: Path, samples_dir: Path, samples: str) -> None:
    """The search is made to be content with what the report then is not."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "surgery-ir").write_text(f"#!{shutil.which('bash')}\n{COMMAND}")
    (fake / "surgery-ir").chmod(0o755)
    done = build(tmp_path, samples_dir, samples, PATH=f"{fake}{os.pathsep}{environment()['PATH']}")
    assert done.returncode == 4, done.stderr
    assert done.stdout == "fidelity: drop 0.0300, limit 0.02; share of weights: 0.4000, limit 0.5\n"
    assert done.stderr == "build failed: the report breaks a threshold\n"


COMMAND = """
while [ "$1" != --json ]; do shift; done
cat > "$2" <<'JSON'
{"baseline": {"nonzeros": 100, "metric": {"name": "fidelity", "value": 1.0}},
 "compressed": {"nonzeros": 40, "metric": {"name": "fidelity", "value": 0.97}}}
JSON
"""
