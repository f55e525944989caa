from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery_ir.backends.latency import Latency
from surgery_ir.cli import main
from surgery_ir.cli import outputs as outputs_module
from surgery_ir.cli.console import progress, show, table
from surgery_ir.cli.outputs import check_outputs, write_bytes, write_outputs
from surgery_ir.cli.parser import EXAMPLES, build_parser
from surgery_ir.errors import OutputError
from surgery_ir.passes import registry
from tests.harness import proto
from tests.recording import install
from tests.search.toys import Regrow
from tests.test_report import FIELDS, mismatch

COMMANDS = ("compile", "apply", "explain", "inspect", "passes", "bench")

MODEL = """
net (float[N,1,8,8] x) => (float[N,5] y) <float[8,1,3,3] w0, float[8,8,3,3] w1, float[8,5] w2> {
  [stem] a = Conv<pads=[1,1,1,1]>(x, w0)
  [relu] b = Relu(a)
  [inner] c = Conv<pads=[1,1,1,1]>(b, w1)
  [pool] d = GlobalAveragePool(c)
  [flat] e = Flatten(d)
  [head] y = Gemm(e, w2)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(proto(MODEL), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((96, 1, 8, 8)).astype(np.float32))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must succeed; give its stdout."""
    status = main([str(item) for item in arguments])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, command, "--help")
    assert "examples:" in text
    assert EXAMPLES[command] in text
    for example in EXAMPLES[command].replace("\\\n", "").splitlines():
        words = subprocess.run(
            ["xargs", "-n1"], input=example, capture_output=True, text=True, check=True
        ).stdout.split("\n")
        arguments = [word for word in words[1:] if word]
        if ">" in arguments:
            arguments = arguments[: arguments.index(">")]
        assert build_parser().parse_args(arguments).command == command


def test_top_level_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "--help")
    assert all(command in text for command in COMMANDS)
    assert "exit codes" in text
    assert run(capsys, "--version").startswith("surgery-ir ")


USAGE = [
    [],
    ["frobnicate"],
    ["compile"],
    ["compile", "m.onnx"],
    ["compile", "m.onnx", "-o", "o.onnx"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--minimize", "beauty"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--max-drop", "-1"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--max-drop", "nan"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--budget", "0"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--budget", "2.5"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--time-limit", "0"],
    ["compile", "m.onnx", "-o", "o.onnx", "--data", "d.npz", "--minim", "macs"],
    ["apply", "m.onnx", "-o", "o.onnx"],
    ["apply", "m.onnx", "-o", "o.onnx", "-p", "canonicalize", "--profile", "p.yaml"],
    ["bench"],
    ["bench", "m.onnx", "--batch", "0"],
    ["bench", "m.onnx", "--dim", "batch"],
    ["bench", "m.onnx", "--dim", "batch=0"],
    ["inspect", "m.onnx", "surplus"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: ")
    assert "error: " in printed.err.splitlines()[-1]


def test_passes_lists_options_with_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "passes")
    listed = {item["name"]: item for item in json.loads(run(capsys, "passes", "--json"))["passes"]}
    for name in ("canonicalize", "prune-weights", "repair"):
        assert name in text
        assert listed[name]["summary"].endswith(".")
    ratio = next(option for option in listed["prune-weights"]["options"] if option["name"] == "ratio")
    assert ratio["range"] == [0.0, 0.99]
    assert ratio["default"] == 0.5
    assert "from 0 to 0.99" in text
    assert listed["repair"]["needs_samples"]


def test_explain_says_what_can_be_pruned_and_why_not(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explained = json.loads(run(capsys, "explain", model, "--json"))
    assert {layer["name"]: layer["pruned"] for layer in explained["layers"]} == {
        "stem": False,
        "inner": True,
        "head": False,
    }
    reasons = explained["layers"][0]["reasons"]
    assert [(item["pass"], "first and last" in item["reason"]) for item in reasons] == [("prune-weights", True)]
    text = run(capsys, "explain", model)
    assert "1 of 3 layers can be pruned" in text
    assert "no: first and last layers" in text


def test_explain_shows_the_matrices_of_recurrent_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lstm.onnx"
    text = """
    net (float[3,N,2] x) => (float[3,1,N,4] y) <float[1,16,2] w, float[1,16,4] r> {
      [cell] y = LSTM<hidden_size=4>(x, w, r)
    }"""
    onnx.save(proto(text), path)
    assert main(["explain", str(path)]) == 1
    printed, failed = capsys.readouterr()
    assert "0 of 2 layers can be pruned" in printed
    assert re.search(r"cell +LSTM W +16 × 2 +32 +no: first and last layers are left dense", printed)
    assert re.search(r"cell +LSTM R +16 × 4 +64 +no: first and last layers are left dense", printed)
    assert failed.splitlines()[-1].endswith("0 of 1 groups of units can be cut: 'y' is an output of the model")


def test_explain_lists_groups_and_what_freezes_others(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explained = json.loads(run(capsys, "explain", model, "--json"))
    groups = {group["name"]: group for group in explained["groups"]}
    assert {name: (group["kind"], group["units"], group["read_by"]) for name, group in groups.items()} == {
        "stem": ("channels", 8, ["inner"]),
        "inner": ("channels", 8, ["head"]),
    }
    assert groups["stem"]["macs_per_unit"] == 64 * 9 + 64 * 72
    assert groups["inner"]["macs_per_unit"] == 64 * 72 + 5
    assert explained["frozen"] == [
        {"name": "head", "units": 5, "operator": "", "op_type": "", "reason": "'y' is an output of the model"}
    ]
    text = run(capsys, "explain", model)
    assert "2 of 3 groups of units can be cut." in text
    assert "'y' is an output of the model" in text


def test_inspect_adds_up(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "inspect", model, "--data", data, "--threads", "1", "--json"))
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["inner"]["params"] == 576
    assert rows["inner"]["macs"] == 64 * 576
    assert found["total"]["params"] == 72 + 576 + 40
    assert found["total"]["time_ms"] == pytest.approx(sum(row["time_ms"] for row in found["layers"]))
    assert rows["inner"]["time_ms"] > 0
    text = run(capsys, "inspect", model, "--no-time")
    assert "36.9 k" in text
    assert " ms" not in text


def test_inspect_says_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.onnx"
    onnx.save(proto("net (float[N,L,4] x) => (float[N,L,2] y) <float[4,2] w> { [m] y = MatMul(x, w) }"), path)
    text = run(capsys, "inspect", path)
    assert "time is not measured: input 'x'" in text
    assert "MACs are not known for 'm'" in text
    assert "--dim L=N" in text
    known = json.loads(run(capsys, "inspect", path, "--dim", "L=3", "--json"))
    assert known["total"]["macs"] == 3 * 8
    assert known["notes"] == ["an operator without a time is fused into another one, or takes next to none"]


def test_bench_compares_to_the_first(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", model, model, "--threads", "1", "--seconds", "0.05"]
    found = json.loads(run(capsys, *arguments, "--batch", "3", "--json"))
    assert found["batch"] == 3
    assert found["models"][0]["ratio"] == 1.0
    assert all(item["low_ms"] <= item["median_ms"] <= item["high_ms"] for item in found["models"])
    assert found["provider"] == found["baseline"]["provider"] == "onnxruntime"
    text = run(capsys, *arguments, "--data", data)
    assert "1.00×" in text
    assert "against" not in text


def test_bench_compares_a_provider_with_its_baseline(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = install(monkeypatch)
    times = [Latency(ms, ms, ms, (ms,)) for ms in (2.0, 4.0, 8.0)]
    monkeypatch.setattr("surgery_ir.cli.bench.measure", lambda sessions, feeds, seconds: times[: len(sessions)])
    arguments = ["bench", model, model, "--threads", "1", "--provider", "recording"]
    found = json.loads(run(capsys, *arguments, "--json"))
    assert found["provider"] == "recording"
    assert (found["baseline"]["provider"], found["baseline"]["median_ms"]) == ("onnxruntime", 8.0)
    assert len(recording.loaded) == 2
    assert [item["ratio"] for item in found["models"]] == [1.0, 0.5]
    assert [item["ratio_to_baseline"] for item in found["models"]] == [4.0, 2.0]
    header, _, *rows = run(capsys, *arguments).splitlines()[2:]
    assert header.endswith("against onnxruntime")
    assert f"{model} on onnxruntime" in rows[0]
    assert len(rows) == 3


def test_bench_refuses_models_with_other_inputs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(proto("net (float[N,4] z) => (float[N,2] y) <float[4,2] w> { [m] y = MatMul(z, w) }"), other)
    assert main(["bench", str(model), str(other)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "other.onnx: its inputs (z: float32 [N, 4])" in line


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.npz"
    rng = np.random.default_rng(1)
    np.savez(path, x=rng.standard_normal((64, 1, 8, 8)).astype(np.float32), label=rng.integers(0, 5, 64))
    return path


def test_apply_writes_the_model_and_its_reports(
    model: Path, data: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain, page = tmp_path / "out.onnx", tmp_path / "report.json", tmp_path / "report.html"
    text = run(
        capsys, "apply", model, "-p", "canonicalize,prune-weights{ratio=0.75},repair", "-o", out, "--data", data,
        "--eval-data", labelled, "--labels", "label", "--json", plain, "--report", page,
    )  # fmt: skip
    report = json.loads(plain.read_text())
    assert mismatch(report, {**FIELDS, "policy": type(None), "search": type(None)}) == []
    inner = onnx.numpy_helper.to_array(next(item for item in onnx.load(out).graph.initializer if item.name == "w1"))
    assert np.count_nonzero(inner) == 144
    assert report["compressed"]["nonzeros"] < report["baseline"]["nonzeros"]
    assert report["connections"]["pruned"] == 432
    assert report["baseline"]["metric"]["name"] == "accuracy"
    assert report["compressed"]["metric"]["samples"] == 64
    assert report["compressed"]["bytes"] == pytest.approx(out.stat().st_size, rel=0.01)
    assert page.read_text().startswith("<!doctype html>")
    for part in ("before", "nonzeros", "accuracy", "Left alone:", f"wrote {out}", f"wrote {plain}", f"wrote {page}"):
        assert part in text


def test_apply_without_samples_measures_costs_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "out.onnx", tmp_path / "report.json"
    run(capsys, "apply", model, "-p", "prune-weights{criterion=magnitude}", "-o", out, "--json", plain)
    report = json.loads(plain.read_text())
    assert report["baseline"]["metric"] is report["fidelity"] is None
    assert report["ratios"]["nonzeros"] > 1


def test_compile_writes_all_files_and_its_profile_repeats_the_model(
    model: Path, data: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"{name}.out" for name in ("json", "report", "profile-out", "policy-out")}
    out = tmp_path / "out.onnx"
    arguments: list[object] = [
        "compile", model, "-o", out, "--data", data, "--selection-data", labelled, "--labels", "label",
        "--max-drop", "0.9", "--minimize", "nonzeros", "--budget", "4", "--seed", "3",
    ]  # fmt: skip
    for option, path in files.items():
        arguments += [f"--{option}", path]
    text = run(capsys, *arguments)
    report = json.loads(files["json"].read_text())
    assert mismatch(report, FIELDS) == []
    assert report["search"]["seed"] == 3
    assert report["search"]["evaluated"] <= 4
    assert report["ratios"]["nonzeros"] > 1
    assert report["pareto"]
    assert all(f"wrote {path}" in text for path in (out, *files.values()))
    assert "<svg" in files["report"].read_text()

    again = tmp_path / "again.onnx"
    run(capsys, "apply", model, "--profile", files["profile-out"], "--data", data, "-o", again)
    assert again.read_bytes() == out.read_bytes()

    first, policy = out.read_bytes(), files["policy-out"].read_bytes()
    run(capsys, *arguments)
    assert out.read_bytes() == first
    assert files["policy-out"].read_bytes() == policy
    run(capsys, *arguments, "--policy", files["policy-out"])
    assert files["policy-out"].read_bytes() != policy


def test_a_target_for_plasticity_and_where_connections_were_created(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**registry.builtin_passes(), "toy-regrow": Regrow}
    monkeypatch.setattr(registry, "builtin_passes", lambda: known)
    monkeypatch.setattr("tests.search.toys.UNITS", {"w1": 576})
    monkeypatch.setattr("surgery_ir.compiler.LATENCY_SECONDS", 0.01)
    text = run(
        capsys, "compile", model, "-o", tmp_path / "o.onnx", "--data", data, "--target", "plasticity>=0.05",
        "--max-drop", 0.9, "--budget", 12, "--passes", "repeat(2){prune-weights{criterion=magnitude},toy-regrow}",
        "--json", tmp_path / "r.json", "--report", tmp_path / "r.html",
    )  # fmt: skip
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["plasticity"] >= 0.05
    created = re.search(r"^created     by toy-regrow ([\d,]+); in inner ([\d,]+)$", text, re.MULTILINE)
    assert created is not None
    assert created[1] == created[2] == f"{report['connections']['created']:,}"
    assert "Plasticity, layer by layer" in (tmp_path / "r.html").read_text()
    assert "does not add up" not in text


def test_repetitions_are_applied(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery_ir.compiler.LATENCY_SECONDS", 0.01)
    options = "criterion=magnitude compensate=false"
    run(
        capsys, "apply", model, "-p", f"repeat(2){{prune-weights{{{options} ratio=0.5..0.75}}}}",
        "-o", tmp_path / "o.onnx", "--json", tmp_path / "r.json",
    )  # fmt: skip
    profile = json.loads((tmp_path / "r.json").read_text())["profile"]
    assert profile.count("prune-weights{") == 2
    assert "ratio=0.75" in profile
    again = run(capsys, "apply", model, "-p", profile, "-o", tmp_path / "again.onnx")
    assert "created " not in again
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def test_a_reader_that_goes_away_is_no_error(model: Path) -> None:
    command = [sys.executable, "-m", "surgery_ir", "passes"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False, timeout=60
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (MemoryError(), 1, "error: out of memory"),
        (OSError(28, "No space left on device", "/x/y"), 1, "error: /x/y: No space left on device"),
        (ZeroDivisionError("a\nb"), 1, "error: internal error, please report it: ZeroDivisionError: a b "),
    ],
    ids=["interrupt", "memory", "disk", "bug"],
)
def test_every_failure_is_one_line(
    raised: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: Any) -> int:
        raise raised

    monkeypatch.setattr("surgery_ir.cli.passes.run", fail)
    monkeypatch.delenv("SURGERY_IR_DEBUG", raising=False)
    assert main(["passes"]) == status
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith(line)
    monkeypatch.setenv("SURGERY_IR_DEBUG", "1")
    assert main(["passes"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_tables_are_plain_and_whole_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/a/very/long/name/[bold]that/is/never/cut" * 6
    show(table(["layer", ">n"], [(name, "1"), ("b", "22")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [name, "1"]
    assert all("\x1b" not in line and line == line.rstrip() for line in lines)


class Listener(io.StringIO):
    """A stream that is no terminal and tells when a line arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()

    def write(self, text: str) -> int:
        if text.endswith("\n"):
            self.arrived.set()
        return super().write(text)


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Listener()
    monkeypatch.setattr("surgery_ir.cli.console.LINE_SECONDS", 0.001)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("loading") as callback:
        assert stream.arrived.wait(60)
        callback("searching", 3, 40)
        stream.arrived.clear()
        assert stream.arrived.wait(60)
        stream.arrived.clear()
        assert stream.arrived.wait(60)
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[ *\d+ s\] loading", lines[0])
    assert re.fullmatch(r"\[ *\d+ s\] searching 3/40", lines[-1])
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"m")
    for path, says in (
        (tmp_path / "no" / "out.onnx", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "." / "model.onnx", "is the same file as MODEL"),
    ):
        with pytest.raises(OutputError, match=says):
            check_outputs({"-o": None, "--json": path}, {"MODEL": model})


def test_outputs_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text("old")

    def fail() -> None:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="disk is full"):
        write_outputs({one: write_bytes(b"new"), two: write_bytes(b"new")}, fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("one.json", "old")]
    write_outputs({one: write_bytes(b"new"), two: write_bytes(b"new")}, lambda: None)
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == [
        ("one.json", "new"),
        ("two.json", "new"),
    ]
    assert outputs_module.json_bytes({"a": 1}) == b'{\n  "a": 1\n}\n'
