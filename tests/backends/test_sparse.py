"""The sparse provider: what is said where it is missing, and, where it is not, that it computes what the file says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from surgery_ir.backends.base import Backend, backend, baseline_of
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend, session_options
from surgery_ir.backends.sparse import SparseBackend
from surgery_ir.cli import main
from surgery_ir.errors import BackendError
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.prune.weights import PruneWeights
from tests import harness

PACKAGE = "onnxruntime_ep_sparse"
ABSENT = (
    r"the provider 'sparse' needs onnxruntime_ep_sparse, which is not installed: pip install 'surgery-ir\[sparse\]'"
)

CONVNET = """g (float[n,8,12,12] x) => (float[n,10] y)
    <float[32,8,3,3] w1, float[32] b1, float[32,32,3,3] w2, float[32] b2, float[48,32,1,1] w3, float[48,10] w4> {
    c1 = Conv<pads = [1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r1, w2, b2)
    s = Add(c2, r1)
    r2 = Relu(s)
    c3 = Conv<strides = [2,2]>(r2, w3)
    p = GlobalAveragePool(c3)
    f = Flatten(p)
    y = MatMul(f, w4)
}"""


def images(count: int = 3, channels: int = 8) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(0).standard_normal((count, channels, 12, 12)).astype(np.float32)}


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def blocked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, PACKAGE, None)

    def test_it_says_what_to_install(self) -> None:
        with pytest.raises(BackendError, match=ABSENT) as caught:
            backend("sparse")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("command", ["compile", "apply", "bench"])
    def test_commands_say_so_before_any_work(
        self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        onnx.save(harness.proto(CONVNET), tmp_path / "net.onnx")
        np.savez(tmp_path / "data.npz", x=images(40)["x"])
        out = tmp_path / "small.onnx"
        rest = {
            "compile": ["-o", str(out), "--data", str(tmp_path / "data.npz"), "--budget", "2"],
            "apply": ["-o", str(out), "-p", "canonicalize"],
            "bench": [],
        }
        assert main([command, str(tmp_path / "net.onnx"), "--provider", "sparse", *rest[command]]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: the provider 'sparse' needs onnxruntime_ep_sparse")
        assert not out.exists()


BROKEN = {
    "another version": (
        "def register(): raise RuntimeError('made for ONNX Runtime 9.9\\nand later')",
        "ONNX Runtime refuses the provider 'sparse': made for ONNX Runtime 9.9 and later",
    ),
    "no library": (
        "def register(): raise FileNotFoundError('libsparse.so: no such file')",
        "ONNX Runtime refuses the provider 'sparse': libsparse.so: no such file",
    ),
    "something it needs": (
        "import a_module_that_is_not_there",
        "the provider 'sparse' needs a_module_that_is_not_there, which is not installed",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_package_that_does_not_work(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, message = BROKEN[fault]
    (tmp_path / f"{PACKAGE}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    with pytest.raises(BackendError) as caught:
        SparseBackend()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    sys.modules.pop(PACKAGE, None)


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def present(self) -> None:
        pytest.importorskip(PACKAGE, reason="onnxruntime-ep-sparse is not installed")

    @pytest.fixture
    def sparse(self) -> SparseBackend:
        """Every layer that it has kernels for is run by them."""
        return SparseBackend({"threshold": "0", "tuning": "off"})

    def test_it_is_a_backend(self) -> None:
        found = backend("sparse")
        assert isinstance(found, Backend)
        assert isinstance(found, SparseBackend)
        able = found.capabilities
        assert able.sparse_speedup
        assert "onnxruntime-ep-sparse" in able.version
        assert able.version.startswith(OnnxRuntimeBackend().capabilities.version)
        assert baseline_of(found) == OnnxRuntimeBackend()
        for pattern in able.patterns:
            PruneWeights(pattern=pattern)

    @pytest.mark.parametrize("pattern", ["dense", "unstructured", "4x1", "1x4", "2:4"])
    @pytest.mark.parametrize("threads", [0, 1, 2])
    def test_the_same_outputs_as_onnx_runtime(self, sparse: SparseBackend, pattern: str, threads: int) -> None:
        graph = pruned(pattern)
        wanted = OnnxRuntimeBackend().load(graph, threads=threads).run(images())["y"]
        for runtime in (sparse, SparseBackend()):
            session = runtime.load(graph, threads=threads)
            assert session.output_names == ("y",)
            found = session.run(images())["y"]
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()

    def test_it_runs_pruned_layers(self, sparse: SparseBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        """Weights reach it whether they come as arrays or inside the protobuf, which small ones do."""
        monkeypatch.setattr("surgery_ir.backends.sparse.session_options", recorded)
        session = sparse.load(pruned("unstructured"))
        assert placed(session, "SparseExecutionProvider") >= {"Conv"}
        assert placed(session, "CPUExecutionProvider") & {"Conv"} == set()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"thresold": "0.5"}, "thresold"),
            ({"threshold": "half"}, "threshold"),
            ({"tuning": "maybe"}, "tuning"),
            ({"isa": "abacus"}, "isa"),
            ({"threads": "-1"}, "threads"),
        ],
    )
    def test_bad_options_are_one_line(
        self, options: dict[str, str], message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(BackendError, match=message) as caught:
            SparseBackend(options).load(pruned("unstructured"))
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", ""), "ONNX Runtime must not go on without the provider"

    def test_what_was_measured_is_shared_and_goes_with_the_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[Any] = []
        monkeypatch.setattr("surgery_ir.backends.sparse.session_options", lambda threads: kept(made, threads))
        runtime = SparseBackend()
        folder = Path(runtime.measured)
        for pattern in ("unstructured", "4x1"):
            runtime.load(pruned(pattern)).run(images())
        found = [item.get_session_config_entry("ep.sparseexecutionprovider.cache") for item in made]
        assert found == [str(folder)] * 2
        assert folder.is_dir()
        del runtime
        assert not folder.exists()

    def test_a_model_that_it_does_not_take_runs_all_the_same(self, sparse: SparseBackend) -> None:
        text = "g (string[n] x) => (string[n] y) { y = Identity(x) }"
        assert sparse.load(harness.graph(text)).run({"x": np.array(["a"])})["y"].tolist() == ["a"]

    def test_compile_measures_with_it_and_apply_replays(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.05)
        monkeypatch.setattr("surgery_ir.search.winner.CONFIRMING_SECONDS", 0.05)
        monkeypatch.setattr("surgery_ir.report.measure.LATENCY_SECONDS", 0.05)
        onnx.save(harness.proto(CONVNET), tmp_path / "net.onnx")
        np.savez(tmp_path / "data.npz", x=images(120)["x"])
        paths = {name: tmp_path / name for name in ("small.onnx", "r.json", "p.yaml", "again.onnx")}
        arguments = [
            "compile", tmp_path / "net.onnx", "-o", paths["small.onnx"], "--data", tmp_path / "data.npz",
            "--provider", "sparse", "--max-drop", "0.9", "--budget", "4",
            "--json", paths["r.json"], "--profile-out", paths["p.yaml"],
        ]  # fmt: skip
        assert main([str(item) for item in arguments]) == 0, capsys.readouterr().err
        report = json.loads(paths["r.json"].read_text())
        assert (report["provider"], report["baseline_provider"]) == ("sparse", "onnxruntime")
        assert report["latencies_ms"]["baseline"].keys() == {"sparse", "onnxruntime"}
        assert report["ratios"]["nonzeros"] > 1
        assert "onnxruntime-ep-sparse" in report["versions"]
        again = ["apply", tmp_path / "net.onnx", "--profile", paths["p.yaml"], "-o", paths["again.onnx"]]
        assert main([str(item) for item in (*again, "--data", tmp_path / "data.npz")]) == 0, capsys.readouterr().err
        assert paths["again.onnx"].read_bytes() == paths["small.onnx"].read_bytes()

    @pytest.mark.slow
    def test_the_sample_model(self, samples_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report, small, again = tmp_path / "r.json", tmp_path / "small.onnx", tmp_path / "again.onnx"
        data = ["--data", samples_dir / "calibration.npz", "--selection-data", samples_dir / "selection.npz"]
        data += ["--eval-data", samples_dir / "report.npz", "--labels", "label", "--provider", "sparse"]
        model = samples_dir / "fashion_resnet.onnx"
        arguments = ["compile", model, "-o", small, *data, "--max-drop", "0.02", "--budget", "6", "--json", report]
        arguments += ["--passes", "prune-weights,repair", "--profile-out", tmp_path / "p.yaml"]
        assert main([str(item) for item in arguments]) == 0, capsys.readouterr().err
        found = json.loads(report.read_text())
        assert found["compressed"]["nonzeros"] < 0.4 * found["baseline"]["nonzeros"]
        assert found["verified"]["drop"] < 0.03
        replay = ["apply", model, "-o", again, *data, "--profile", tmp_path / "p.yaml", "--json", report]
        assert main([str(item) for item in replay]) == 0, capsys.readouterr().err
        assert again.read_bytes() == small.read_bytes()
        assert json.loads(report.read_text())["verified"]["drop"] == pytest.approx(found["verified"]["drop"], abs=1e-3)


def pruned(pattern: str) -> Graph:
    dense = harness.graph(CONVNET)
    if pattern == "dense":
        return dense
    ratio = {} if ":" in pattern else {"ratio": 0.8}
    item = PruneWeights(criterion="magnitude", pattern=pattern, ends=True, **ratio)  # type: ignore[arg-type]
    return run_pass(item, dense, PassContext(dense, OnnxRuntimeBackend())).graph


def kept(made: list[Any], threads: int) -> Any:
    made.append(session_options(threads))
    return made[-1]


def recorded(threads: int) -> Any:
    """Options of a session that notes which provider runs what."""
    options = session_options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def placed(session: Any, provider: str) -> set[str]:
    parts = session._session.get_provider_graph_assignment_info()
    return {node.op_type for part in parts if part.ep_name == provider for node in part.get_nodes()}
