"""Every command takes what frontends read: shown with a framework of the tests' own, which a plug-in lowers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery_ir.cli import main
from surgery_ir.cli.parser import build_parser
from tests.plugins import install

NETS = """
import numpy as np

from tests.live import framework

TEXT = '''net (float[N,L,4] x) => (float[N,8] y) <float[4,16] enter, float[16,8] leave, int64[1] axes = {1}> {
  [enter] a = MatMul(x, enter)
  [relu] b = Relu(a)
  [mean] c = ReduceMean<keepdims = 0>(b, axes)
  [leave] y = MatMul(c, leave)
}'''


def create():
    print("creating")
    return framework(TEXT)


def with_example():
    return create(), {"x": np.ones((2, 3, 4), np.float32)}


def fails():
    raise OSError("no checkpoint")


def nothing():
    pass
"""

PLUGIN = """
from surgery_ir.errors import ModelError
from tests.live import lower

trusted = []


class plugin:
    reads = "Testflow models"

    def accepts(self, source):
        return type(source).__name__ == "Framework"

    def load(self, source, request):
        trusted.append(request.trust)
        if request.example_inputs is None:
            raise ModelError("<model>: there are no example inputs")
        assert request.runtime is not None
        return lower(source, request.example_inputs)
"""

MODEL = "nets:create"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The present folder, with the module ``nets``, samples with and without labels, and an old OUT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("surgery_ir.compiler.LATENCY_SECONDS", 0.01)
    install(tmp_path, monkeypatch, "surgery_ir.frontends", "testflow", PLUGIN)
    (tmp_path / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 5, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "labelled.npz", x=x, label=rng.integers(0, 8, 64))
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("nets", plugin_name(tmp_path)):
            del sys.modules[name]


def plugin_name(folder: Path) -> str:
    return f"{folder.name}_testflow".replace("-", "_")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must succeed; give its stdout. Of the function's prints nothing is in it."""
    status = main(arguments)
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "creating\n" * printed.err.count("creating\n"))
    assert "creating" not in printed.out
    return printed.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line and write nothing; give the line."""
    before = sorted(Path.cwd().iterdir())
    assert main(arguments) == 1
    assert sorted(Path.cwd().iterdir()) == before
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.removeprefix("creating\n").splitlines()
    assert line.startswith("error: ")
    return line


WAYS_TO_WRITE = {
    "apply": ["-p", "canonicalize,prune-weights{criterion=magnitude ends=true}"],
    "compile": ["--budget", "2", "--max-drop", "1", "--passes", "prune-weights{criterion=magnitude ends=true}"],
}


@pytest.mark.parametrize("command", WAYS_TO_WRITE)
def test_the_summary_says_where_the_model_came_from(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, command, MODEL, "-o", "o.onnx", "--data", "data.npz", *WAYS_TO_WRITE[command])
    line = next(line for line in text.splitlines() if line.startswith("lowered "))
    assert line == (
        "lowered     from Testflow, largest difference 0 of the scale, 2 parameters bound to 2 initializers"
    )
    assert {item.name for item in onnx.load("o.onnx").graph.initializer} >= {"enter", "leave"}


def test_a_model_of_onnx_came_from_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "apply", MODEL, "-o", "o.onnx", "--data", "data.npz", "-p", "canonicalize")
    assert "lowered" not in run(capsys, "apply", "o.onnx", "-o", "again.onnx", "-p", "canonicalize")


def test_labels_are_no_example_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--data", "labelled.npz", "--labels", "label"]
    run(capsys, "apply", MODEL, "-o", "o.onnx", *named, "-p", "canonicalize")
    for command in (["explain", MODEL], ["inspect", MODEL], ["bench", MODEL, "o.onnx", "--seconds", "0.05"]):
        run(capsys, *command, *named)
    assert "it takes x, the example has x, label" in refused(capsys, "inspect", MODEL, "--data", "labelled.npz")


@pytest.mark.parametrize("given", [[MODEL, "--data", "data.npz"], ["nets:with_example"]], ids=["data", "own example"])
def test_example_inputs_are_those_of_the_data_or_the_models_own(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    length = 5 if "--data" in given else 3
    found = json.loads(run(capsys, "inspect", *given, "--json"))
    assert found["total"]["macs"] == length * 4 * 16 + 16 * 8
    assert found["total"]["time_ms"] > 0
    explained = json.loads(run(capsys, "explain", *given, "--json"))
    assert [group["name"] for group in explained["groups"]] == ["enter"]
    run(capsys, "apply", MODEL, "-o", "o.onnx", "--data", "data.npz", "-p", "canonicalize")
    arguments = [given[0], "o.onnx", *given[1:], "--seconds", "0.05", "--batch", "7", "--json"]
    times = json.loads(run(capsys, "bench", *arguments))
    assert (times["batch"], len(times["models"])) == (7, 2)


def test_sizes_that_are_asked_for_take_precedence(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "inspect", "nets:with_example", "--dim", "L=11", "--json"))
    assert found["total"]["macs"] == 11 * 4 * 16 + 16 * 8


COMMANDS = {
    "compile": ["-o", "o.onnx", "--data", "data.npz", *WAYS_TO_WRITE["compile"]],
    "apply": ["-o", "o.onnx", "-p", "canonicalize"],
    "explain": [],
    "inspect": [],
    "bench": ["--seconds", "0.05"],
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_trust_is_passed_on(command: str, trust: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, command, "nets:with_example", *COMMANDS[command], *(["--trust"] if trust else []))
    assert sys.modules[plugin_name(folder)].trusted == [trust]


REFUSED = {
    "nets:absent": "nets:absent: nets has no 'absent'",
    "absent.module:create": "absent.module:create: there is no module 'absent', neither in {folder} nor installed",
    "nets:fails": "nets:fails: OSError: no checkpoint ({folder}/nets.py, line 24)",
    "nets:nothing": "nets:nothing: is or gives NoneType, which cannot be read as a model",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", REFUSED)
def test_names_that_stand_for_no_model(
    name: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, command, name, *COMMANDS[command]) == f"error: {REFUSED[name].format(folder=folder)}"


@pytest.mark.parametrize("command", ["apply", "explain", "inspect", "bench"])
def test_a_model_without_example_inputs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there are no example inputs" in refused(capsys, command, MODEL, *COMMANDS[command])


def test_lowering_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []

    @contextmanager
    def progress(verb: str) -> Iterator[None]:
        shown.append(verb)
        yield

    monkeypatch.setattr("surgery_ir.cli.models.progress", progress)
    for command in ("explain", "inspect", "bench"):
        run(capsys, command, "nets:with_example", *COMMANDS[command])
    assert shown == ["lowering"] * 3


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_can_be_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run(capsys, command, "--help").split())
    for kind in (".onnx", ".pt2", ".keras", ".tflite", "SavedModel", "package.module:function", "--trust"):
        assert kind in text
    options = build_parser().parse_args([command, "a.b:c", *COMMANDS[command]])
    assert str(getattr(options, "model", None) or options.models[0]) == "a.b:c"
