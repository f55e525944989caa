"""Whatever is wrong with what a user gives: one line that says what and where, exit 1, and no file touched."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from surgery_ir.cli import main
from surgery_ir.graph.serialize import read_model

OLD = b"what stood there before"
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def tiny(**weights: NDArray[Any]) -> onnx.ModelProto:
    """A network of three convolutions and a Gemm, 1,890 weights; ``weights`` replace those of the same name."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 1, 3, 3), "w1": (8, 8, 3, 3), "w2": (16, 8, 3, 3), "w3": (16, 5)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) / 6 for name, shape in shapes.items()} | weights
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4, name="stem"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4, name="inner"),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Conv", ["d", "w2"], ["e"], strides=[2, 2], name="wide"),
            helper.make_node("GlobalAveragePool", ["e"], ["f"]),
            helper.make_node("Flatten", ["f"], ["g"]),
            helper.make_node("Gemm", ["g", "w3"], ["y"], name="head"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def inputs(count: int = 96) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 1, 8, 8)).astype(np.float32)


def labels(count: int = 96) -> NDArray[np.int64]:
    return np.random.default_rng(2).integers(0, 5, count)


class Case:
    """A folder with a good model, good data and an old OUT, in which one thing will be wrong."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.model = folder / "model.onnx"
        self.data = folder / "data.npz"
        self.out = folder / "out.onnx"
        onnx.save(tiny(), self.model)
        np.savez(self.data, x=inputs())
        self.out.write_bytes(OLD)

    def snapshot(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def refused(self, *arguments: object, says: str, status: int = 1) -> None:
        """Run a command that must fail with one line that holds every part of ``says``, and write nothing."""
        before = self.snapshot()
        assert main([str(item) for item in arguments]) == status
        assert self.snapshot() == before
        printed = self.capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        for part in says.split(" … "):
            assert part in line, f"{part!r} is not in {line!r}"


@pytest.fixture
def case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case(tmp_path, capsys)


def save(path: Path, proto: onnx.ModelProto) -> None:
    path.write_bytes(proto.SerializeToString())


def external(path: Path, location: str, *, data: bytes | None = None, offset: int = 0) -> None:
    """Save the tiny model with one weight in an external file; ``data`` is what that file holds."""
    proto = tiny()
    tensor = next(item for item in proto.graph.initializer if item.name == "w2")
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    save(path, proto)
    if data is not None:
        (path.parent / location).write_bytes(data)


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = (item for item in proto.graph.node if item.name == name)
    return cast(onnx.NodeProto, found)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def linked(path: Path) -> None:
    """A link inside the folder that leads out of it."""
    outside = path.parent.parent / f"{path.parent.name}-outside.bin"
    outside.write_bytes(b"\0" * 9999)
    (path.parent / "w.bin").symlink_to(outside)
    external(path, "w.bin")


def truncated(path: Path) -> None:
    path.write_bytes(tiny().SerializeToString()[:4000])


def corrupt(path: Path) -> None:
    data = bytearray(tiny().SerializeToString())
    data[10:60] = b"\xff" * 50
    path.write_bytes(data)


def empty_message(path: Path) -> None:
    path.write_bytes(onnx.ModelProto(ir_version=9, producer_name="nobody").SerializeToString())


def unknown_operator(path: Path) -> None:
    proto = tiny()
    node(proto, "inner").op_type = "Frobnicate"
    save(path, proto)


def unknown_domain(path: Path) -> None:
    proto = tiny()
    node(proto, "inner").domain = "com.nobody"
    proto.opset_import.append(helper.make_opsetid("com.nobody", 1))
    save(path, proto)


def not_a_number(path: Path) -> None:
    w1 = np.ones((8, 8, 3, 3), np.float32)
    w1[2, 0, 0, 1] = np.nan
    save(path, tiny(w1=w1))


def contradictory_shapes(path: Path) -> None:
    save(path, tiny(w3=np.ones((17, 5), np.float32)))


def read_before_written(path: Path) -> None:
    proto = tiny()
    node(proto, "stem").input[0] = "d"
    save(path, proto)


def written_twice(path: Path) -> None:
    proto = tiny()
    proto.graph.node.append(helper.make_node("Relu", ["x"], ["d"], name="second"))
    save(path, proto)


def nothing_writes_the_output(path: Path) -> None:
    proto = tiny()
    proto.graph.output[0].name = "z"
    save(path, proto)


def short_weights(path: Path) -> None:
    proto = tiny()
    proto.graph.initializer[1].raw_data = proto.graph.initializer[1].raw_data[:-4]
    save(path, proto)


MODELS: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "model.onnx: no such file"),
    "a folder": (folder, "model.onnx: is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "model.onnx: the file is empty"),
    "text": (lambda path: path.write_text("weights\n" * 500), "model.onnx: not an ONNX model"),
    "another protobuf": (empty_message, "model.onnx: not an ONNX model"),
    "truncated": (truncated, "model.onnx: not an ONNX model, or truncated"),
    "corrupt": (corrupt, "model.onnx: not an ONNX model, or truncated or corrupt"),
    "external data missing": (lambda path: external(path, "w.bin"), "'w2' … 'w.bin' is missing"),
    "external data short": (lambda path: external(path, "w.bin", data=b"\0" * 99), "'w2' … 'w.bin' has 99"),
    "external data before the file": (lambda path: external(path, "w.bin", data=b"\0" * 9999, offset=-8), "'w2'"),
    "external data above": (lambda path: external(path, "../w.bin"), "'../w.bin' leaves the model's folder"),
    "external data elsewhere": (lambda path: external(path, "/etc/passwd"), "'/etc/passwd' leaves the model's folder"),
    "external data behind a link": (linked, "'w.bin' leaves the model's folder"),
    "unknown operator": (unknown_operator, "model.onnx … Frobnicate"),
    "unknown domain": (unknown_domain, "model.onnx … com.nobody"),
    "NaN weights": (not_a_number, "model.onnx … 'w1' holds NaN … 145"),
    "contradictory shapes": (contradictory_shapes, "model.onnx … head"),
    "a cycle": (read_before_written, "model.onnx … 'stem'"),
    "written twice": (written_twice, "model.onnx … 'd'"),
    "no such output": (nothing_writes_the_output, "model.onnx … 'z'"),
    "short weights": (short_weights, "model.onnx … w1"),
}


@pytest.mark.parametrize("fault", MODELS)
def test_bad_model(case: Case, fault: str) -> None:
    spoil, says = MODELS[fault]
    spoil(case.model)
    case.refused("apply", case.model, "-p", "canonicalize", "-o", case.out, says=says)


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


def objects(path: Path) -> None:
    np.savez(path, x=np.array([Exploit(path.with_name("unpickled"))], dtype=object))
    with zipfile.ZipFile(path) as archive:
        assert b"unpickled" in archive.read("x.npy")


def with_value(value: float) -> NDArray[np.float32]:
    array = inputs()
    array[3, 0, 1, 2] = value
    return array


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 0xFF
    path.write_bytes(data)


DATA: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "data.npz: no such file"),
    "a folder": (folder, "data.npz: is not a file"),
    "text": (lambda path: path.write_text("1, 2, 3"), "data.npz: not an .npz archive"),
    "empty": (lambda path: path.write_bytes(b""), "data.npz: not an .npz archive"),
    "truncated": (cut, "data.npz: truncated or corrupt"),
    "corrupt": (flipped, "data.npz … 'x' cannot be read, truncated or corrupt"),
    "Python objects": (objects, "data.npz … 'x' holds Python objects, which are never unpickled"),
    "no array": (lambda path: np.savez(path), "data.npz"),
    "another name": (lambda path: np.savez(path, image=inputs()), "data.npz … 'x' … 'image' is no input"),
    "an array too many": (lambda path: np.savez(path, x=inputs(), y=inputs()), "data.npz … 'y' is no input"),
    "another type": (lambda path: np.savez(path, x=inputs().astype(np.float64)), "'x' needs float32 … float64"),
    "another shape": (lambda path: np.savez(path, x=inputs().reshape(96, 1, 4, 16)), "'x' … axis 2 is 4, not 8"),
    "another rank": (lambda path: np.savez(path, x=inputs().reshape(96, 64)), "'x' … shape [96, 64]"),
    "a scalar": (lambda path: np.savez(path, x=np.float32(1)), "'x' is a scalar"),
    "NaN": (lambda path: np.savez(path, x=with_value(np.nan)), "'x' holds nan at [3, 0, 1, 2]"),
    "infinity": (lambda path: np.savez(path, x=with_value(np.inf)), "'x' holds inf at [3, 0, 1, 2]"),
    "no samples": (lambda path: np.savez(path, x=inputs(0)), "data.npz: there are no samples"),
}


@pytest.mark.parametrize("fault", DATA)
@pytest.mark.parametrize("command", ["compile", "apply"])
def test_bad_data(case: Case, command: str, fault: str) -> None:
    spoil, says = DATA[fault]
    spoil(case.data)
    what = ["-p", "canonicalize,prune-weights,repair"] if command == "apply" else ["--budget", "1"]
    case.refused(command, case.model, *what, "-o", case.out, "--data", case.data, says=says)
    assert not case.data.with_name("unpickled").exists()


def test_too_few_samples(case: Case) -> None:
    np.savez(case.data, x=inputs(20))
    says = "data.npz … needs at least 24 samples, there are 20"
    case.refused("compile", case.model, "-o", case.out, "--data", case.data, "--budget", "1", says=says)


def test_too_few_samples_for_a_repair(case: Case) -> None:
    np.savez(case.data, x=inputs(5))
    says = "data.npz … repair needs at least 8 samples, there are 5"
    case.refused("apply", case.model, "-p", "repair", "-o", case.out, "--data", case.data, says=says)


LABELS: Mapping[str, tuple[NDArray[Any] | None, str]] = {
    "missing": (None, "data.npz: there is no array called 'label'"),
    "too few": (labels(95), "'x' holds 96 samples, but 'labels' holds 95"),
    "out of range": (labels() + 3, "classes 0 to 4"),
    "fractions": (labels() + 0.5, "labels of type float64"),
    "not finite": (np.full(96, np.nan), "labels"),
    "of another shape": (np.zeros((96, 7), np.int64), "labels have shape"),
}


@pytest.mark.parametrize("fault", LABELS)
@pytest.mark.parametrize("command", ["compile", "apply"])
def test_bad_labels(case: Case, command: str, fault: str) -> None:
    array, says = LABELS[fault]
    if array is not None:
        np.savez(case.data, x=inputs(), label=array)
    what = (
        ["-p", "canonicalize", "--eval-data", case.data]
        if command == "apply"
        else ["--budget", "1", "--data", case.data]
    )
    case.refused(command, case.model, *what, "-o", case.out, "--labels", "label", says=says)


PIPELINES = [
    ("frobnicate", "no pass called 'frobnicate' … canonicalize"),
    ("prune-weights{strength=0.5}", "prune-weights: there is no option 'strength' … ratio"),
    ("prune-weights{ratio=1.5}", "prune-weights … 'ratio' … 1.5 is out of range (0 to 0.99)"),
    ("prune-weights{ratio=-0.1}", "prune-weights … 'ratio' … -0.1 is out of range"),
    ("prune-weights{ratio=nan}", "prune-weights … 'ratio' … nan"),
    ("prune-weights{ratio=much}", "prune-weights … 'ratio' … 'much' is not valid"),
    ("prune-weights{criterion=luck}", "prune-weights … 'criterion' … obs | wanda | magnitude"),
    ("prune-weights{pattern=4:2}", "prune-weights … 'pattern'"),
    ("prune-weights{ratio=0.5 ratio=0.6}", "prune-weights … 'ratio' is given twice"),
    ("prune-weights{ratios=[stem:2]}", "prune-weights … 'ratios' … 2 is out of range"),
    ("prune-weights{ratio=0.5", "ends where"),
    ("canonicalize,,repair", "expected"),
    ("graphsurgeon", "graphsurgeon: option 'function' is required"),
    ("graphsurgeon{function=nowhere.to.be.found:f}", "graphsurgeon … nowhere.to.be.found"),
    ("", "the pipeline is empty"),
]


@pytest.mark.parametrize(("pipeline", "says"), PIPELINES)
def test_bad_pipeline(case: Case, pipeline: str, says: str) -> None:
    case.refused("apply", case.model, "-p", pipeline, "-o", case.out, "--data", case.data, says=says)


PROFILES = [
    ("", "profile.yaml: not a profile of surgery-ir"),
    ("passes: [canonicalize", "profile.yaml: not YAML"),
    ("- canonicalize", "profile.yaml: not a profile of surgery-ir"),
    ("surgery-ir profile: 99\npasses: [canonicalize]", "profile.yaml: format 99 is not known"),
    ("surgery-ir profile: 1\npasses: [frobnicate]", "profile.yaml … 'frobnicate'"),
    ("surgery-ir profile: 1\npasses: [{prune-weights: {ratio: 7}}]", "profile.yaml … 'ratio' … 7 is out of range"),
    ("surgery-ir profile: 1\npasses: [{graphsurgeon: {function: 'os:getcwd'}}]", "profile.yaml … runs Python code"),
    ("surgery-ir profile: 1\npasses: [!!python/object/apply:os.getcwd []]", "profile.yaml: not YAML"),
]


@pytest.mark.parametrize(("text", "says"), PROFILES)
def test_bad_profile(case: Case, text: str, says: str) -> None:
    profile = case.folder / "profile.yaml"
    profile.write_text(text)
    case.refused("apply", case.model, "--profile", profile, "-o", case.out, "--data", case.data, says=says)


OPTIONS = [
    (["--policy", "{folder}/no.yaml"], "no.yaml: cannot be read: No such file"),
    (["--policy", "{folder}/data.npz"], "data.npz: not YAML"),
    (["--metric", "beauty"], "no metric called 'beauty'"),
    (["--metric", "nowhere:found"], "metric 'nowhere:found' cannot be imported"),
    (["--metric", "accuracy"], "accuracy needs labels"),
    (["--target", "beauty<=1"], "no quantity 'beauty'"),
    (["--target", "macs<0.5"], "target 'macs<0.5'"),
    (["--passes", "frobnicate"], "no pass called 'frobnicate'"),
    (["--provider", "abacus"], "'abacus'"),
    (["--eval-data", "{folder}/no.npz"], "no.npz: no such file"),
    (["--selection-data", "{folder}/no.npz"], "no.npz: no such file"),
    (["--json", "{folder}/no/report.json"], "--json … the folder … does not exist"),
    (["--report", "{folder}/no/report.html"], "--report … the folder … does not exist"),
    (["--profile-out", "{folder}/no/profile.yaml"], "--profile-out … the folder … does not exist"),
    (["--policy-out", "{folder}/no/policy.yaml"], "--policy-out … the folder … does not exist"),
    (["--json", "{folder}/out.onnx"], "is the same file as -o"),
    (["--json", "{folder}/model.onnx"], "is the same file as MODEL"),
    (["--json", "{folder}/data.npz"], "is the same file as --data"),
]


@pytest.mark.parametrize(("arguments", "says"), OPTIONS, ids=[" ".join(row[0]) for row in OPTIONS])
def test_bad_option(case: Case, arguments: list[str], says: str) -> None:
    filled = [item.format(folder=case.folder) for item in arguments]
    case.refused("compile", case.model, "-o", case.out, "--data", case.data, "--budget", "1", *filled, says=says)


def test_out_in_a_folder_that_does_not_exist(case: Case) -> None:
    out = case.folder / "no" / "out.onnx"
    case.refused("apply", case.model, "-p", "canonicalize", "-o", out, says="-o … the folder … does not exist")


def test_out_is_a_folder(case: Case) -> None:
    case.refused("apply", case.model, "-p", "canonicalize", "-o", case.folder, says="is a folder")


def test_constraints_that_nothing_meets(case: Case) -> None:
    before = case.snapshot()
    command = ["compile", case.model, "-o", case.out, "--data", case.data, "--budget", "2"]
    assert main([str(item) for item in (*command, "--target", "nonzeros<=0.001")]) == 3
    assert case.snapshot() == before
    printed = case.capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: no candidate of 2 meets")
    assert "nonzeros<=0.001" in line
    title, *table = printed.out.splitlines()
    assert title.startswith("Closest candidates")
    assert "prune-weights{" in table[3]


def command_line(case: Case, *extra: object) -> list[str]:
    arguments = ["apply", case.model, "-p", "canonicalize,prune-weights{criterion=magnitude}", "-o", case.out, *extra]
    return [str(item) for item in arguments]


SIDE_FILES = ("report.json", "report.html")


def side_files(case: Case) -> list[object]:
    return ["--json", case.folder / "report.json", "--report", case.folder / "report.html"]


@pytest.mark.parametrize("limit", [100, 1000, 6000])
def test_full_disk(case: Case, limit: int) -> None:
    """Files end at ``limit`` bytes: at 100 none can be written, at 1000 not the page, at 6000 not the model."""
    before = case.snapshot()
    done = subprocess.run(
        [sys.executable, "-m", "surgery_ir", *command_line(case, *side_files(case))],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},  # or it would leave truncated bytecode in the checkout
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "cannot be written" in line
    assert "tmp" not in line.removeprefix(f"error: {case.folder}")
    assert case.snapshot() == before


KILLED = """
import os, signal, sys
from surgery_ir.cli import main
real, calls = os.{function}, 0
def dying(*arguments, **options):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIG{signal})
    return real(*arguments, **options)
os.{function} = dying
sys.exit(main(sys.argv[1:]))
"""


def died(case: Case, function: str, call: int, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run a command that is killed when it calls ``os.function`` for the ``call``-th time."""
    code = KILLED.format(function=function, call=call, signal=number.name.removeprefix("SIG"))
    return subprocess.run(
        [sys.executable, "-c", code, *command_line(case, *side_files(case))],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(("function", "call"), [("fsync", 1), ("fsync", 3), ("replace", 1), ("replace", 3)])
def test_killed_while_writing_leaves_the_old_file(case: Case, function: str, call: int) -> None:
    assert died(case, function, call, signal.SIGKILL).returncode == -signal.SIGKILL
    assert case.out.read_bytes() == OLD
    assert not any((case.folder / name).exists() for name in SIDE_FILES)


def test_killed_after_the_model_was_replaced_leaves_a_whole_model(case: Case) -> None:
    assert died(case, "replace", 4, signal.SIGKILL).returncode == -signal.SIGKILL
    assert len(read_model(case.out).initializers) >= 4


def test_terminated_while_writing_cleans_up(case: Case) -> None:
    before = case.snapshot()
    done = died(case, "fsync", 3, signal.SIGTERM)
    assert (done.returncode, done.stderr) == (143, "error: terminated\n")
    assert case.snapshot() == before


@pytest.mark.slow
def test_compile_killed_at_any_moment_leaves_no_half_written_file(case: Case) -> None:
    command = [sys.executable, "-m", "surgery_ir", "compile", str(case.model), "-o", str(case.out)]
    command += ["--data", str(case.data), "--budget", "3"]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=True, timeout=300)
    seconds = time.perf_counter() - started
    for share in np.random.default_rng(0).uniform(0.0, 1.0, 8):
        case.out.write_bytes(OLD)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        try:
            running.wait(share * seconds)
        except subprocess.TimeoutExpired:
            running.kill()
        running.wait()
        if case.out.read_bytes() != OLD:
            read_model(case.out)
