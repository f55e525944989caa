"""Compile and apply as a whole, from models in memory and on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import surgery_ir
from surgery_ir.analysis.samples import Samples
from surgery_ir.compiler import Result, apply, compile
from surgery_ir.errors import ConstraintError, DataError, SpecError
from surgery_ir.graph.model import Graph
from surgery_ir.passes import registry
from surgery_ir.search.goal import Goal
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.profile import CompressionProfile
from tests import harness
from tests.recording import install
from tests.search.toys import Regrow

NET = """
net (float[N,6] x) => (float[N,4] y) <float[24,6] w1, float[24] b1, float[24,24] w2, float[24] b2, float[4,24] w3> {
    h1 = Gemm<transB=1>(x, w1, b1)
    r1 = Relu(h1)
    h2 = Gemm<transB=1>(r1, w2, b2)
    r2 = Relu(h2)
    y = Gemm<transB=1>(r2, w3)
}
"""
GOAL = Goal(max_drop=0.1)


@pytest.fixture(autouse=True)
def no_time_for_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.compiler.LATENCY_SECONDS", 0.01)


def inputs(count: int = 600, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)}


def labelled(count: int = 600, seed: int = 1) -> dict[str, Any]:
    feeds = inputs(count, seed)
    return {**feeds, "label": harness.run(harness.graph(NET), feeds)["y"].argmax(1)}


def content(graph: Graph) -> bytes:
    return bytes(graph.to_proto().SerializeToString(deterministic=True))


def smaller(budget: int = 8, **options: Any) -> Result:
    given = {"data": inputs(), "goal": GOAL, "budget": budget, **options}
    return compile(harness.proto(NET), given.pop("data"), given.pop("goal"), **given)


def test_it_makes_a_net_smaller_and_says_by_how_much() -> None:
    result = smaller(selection_data=labelled(), eval_data=labelled(500, 2), labels="label")
    report = result.report.to_json()
    assert report["compressed"]["nonzeros"] < 0.8 * report["baseline"]["nonzeros"]
    assert report["baseline"]["metric"] == {"name": "accuracy", "value": 1.0, "samples": 500}
    assert 0.7 < report["compressed"]["metric"]["value"] <= 1.0
    assert report["verified"]["drop"] == pytest.approx(1 - report["compressed"]["metric"]["value"])
    assert report["verified"]["finite"]
    assert report["fidelity"]["kl"] > 0
    assert report["connections"]["pruned"] > 100
    assert report["profile"] == str(result.profile)
    assert report["policy"] == (result.policy.to_plain() if result.policy else None)
    assert report["search"]["evaluated"] == 8
    assert {item["profile"] for item in report["pareto"]} >= {report["profile"]}
    assert all(item["metric"]["samples"] == 600 for item in report["pareto"])
    assert report["ratios"]["nonzeros"] > 1.25
    assert report["baseline"]["latency_ms"] > 0


SETS: list[dict[str, Any]] = [
    {},
    {"eval_data": inputs(100, 3)},
    {"selection_data": labelled(), "labels": "label"},
    {"selection_data": labelled(), "eval_data": labelled(100, 4), "labels": "label"},
]


@pytest.mark.parametrize("sets", SETS, ids=["data", "data+eval", "data+selection", "all three"])
def test_a_profile_replays_to_the_same_bytes(sets: dict[str, Any], tmp_path: Path) -> None:
    result = smaller(6, seed=5, **sets)
    result.profile.write(tmp_path / "p.yaml")
    replayed = apply(harness.proto(NET), CompressionProfile.read(tmp_path / "p.yaml"), inputs())
    assert content(replayed.graph) == content(result.graph)
    assert content(result.graph) != content(harness.graph(NET))
    assert replayed.report.verified["profile_made_for_this_model"] is True


WIDE = """
net (float[N,6] x) => (float[N,4] y) <float[48,6] w1, float[48] b1, float[48,48] w2, float[48] b2, float[4,48] w3> {
    h1 = Gemm<transB=1>(x, w1, b1)
    r1 = Relu(h1)
    h2 = Gemm<transB=1>(r1, w2, b2)
    r2 = Relu(h2)
    y = Gemm<transB=1>(r2, w3)
}
"""
MACS = Goal("macs", max_drop=0.2)


def narrower(goal: Goal = MACS, **options: Any) -> Result:
    feeds = inputs(600, 1)
    labels = harness.run(harness.graph(WIDE), feeds)["y"].argmax(1)
    given = {"selection_data": {**feeds, "label": labels}, "labels": "label", "budget": 8, **options}
    return compile(harness.proto(WIDE), inputs(), goal, **given)


def test_fewer_macs_means_smaller_layers() -> None:
    result = narrower()
    report = result.report.to_json()
    assert report["compressed"]["macs"] < 0.8 * report["baseline"]["macs"]
    assert max(result.graph.array("w2").shape) < 48
    shrunk = [layer for layer in report["layers"] if layer["compressed"]["macs"] < layer["baseline"]["macs"]]
    assert len(shrunk) >= 2
    assert report["edits"]["prune-channels"]["slice"] > 2
    assert report["connections"]["pruned"] > 500
    assert report["plasticity"] == 0
    assert {item["profile"] for item in report["pareto"]} >= {report["profile"]}
    assert "macs=" not in report["profile"]


@pytest.mark.parametrize("minimize", ["macs", "nonzeros", "size"])
def test_the_same_command_gives_the_same_bytes_and_so_does_its_profile(minimize: Any) -> None:
    goal = Goal(minimize, max_drop=0.2)
    one, other = narrower(goal), narrower(goal)
    assert content(one.graph) == content(other.graph)
    replayed = apply(harness.proto(WIDE), one.profile, inputs())
    assert content(replayed.graph) == content(one.graph)
    assert content(one.graph) != content(harness.graph(WIDE))


def test_a_target_for_macs_is_met_whatever_is_minimised() -> None:
    result = narrower(Goal("nonzeros", max_drop=0.5, targets=("macs<=0.6",)))  # type: ignore[arg-type]
    assert result.report.compressed.macs is not None
    assert result.report.baseline.macs is not None
    assert result.report.compressed.macs <= 0.6 * result.report.baseline.macs
    assert {"prune-channels", "prune-weights"} <= {item.name for item in result.profile.passes}


def test_what_is_not_proven_stays_whole_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.passes.prune.proven.reason_against_cut", lambda *args: "differs")
    result = narrower(passes="prune-channels{compensate=false criterion=magnitude},repair")
    assert result.report.compressed.macs == result.report.baseline.macs
    reasons = [item.reason for item in result.report.refusals]
    assert any("not every cut" in item for item in reasons), reasons


def test_what_gets_no_quicker_stays_as_it_is_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.001)
    monkeypatch.setattr("surgery_ir.search.evaluator.ratio", lambda candidate, baseline: 0.98)
    result = narrower(Goal("latency", max_drop=0.3), passes="prune-channels{multiple=8},repair")
    assert result.report.compressed.macs == result.report.baseline.macs
    assert any("measurably less latency" in item.reason for item in result.report.refusals)


def test_a_provider_runs_what_is_measured_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes and the dense model stay on what the provider is compared with; both models are timed on both."""
    monkeypatch.setattr("surgery_ir.search.evaluator.TIMING_SECONDS", 0.001)
    monkeypatch.setattr("surgery_ir.search.evaluator.ratio", lambda candidate, baseline: 0.5)
    monkeypatch.setattr("surgery_ir.search.winner.CONFIRMING_SECONDS", 0.001)
    recording = install(monkeypatch)
    result = smaller(6, goal=Goal("latency", max_drop=0.5), provider="recording")
    report = result.report.to_json()
    assert (report["provider"], report["baseline_provider"]) == ("recording", "onnxruntime")
    times = report["latencies_ms"]
    assert times["baseline"].keys() == times["compressed"].keys() == {"onnxruntime", "recording"}
    assert report["baseline"]["latency_ms"] == times["baseline"]["onnxruntime"]
    assert report["compressed"]["latency_ms"] == times["compressed"]["recording"]
    assert result.policy is not None
    assert {"prune-weights/strength", "prune-weights#1.pattern"} <= result.policy.beliefs.keys()

    dense = harness.graph(NET).fingerprint()
    small = result.graph.fingerprint()
    assert recording.loaded[-3:] == [(small, 0), (dense, 1), (small, 1)], "for the report"
    assert len(recording.loaded[:-3]) <= 2 * 6 + 1, "six candidates scored and timed, the winner timed again"
    replayed = apply(harness.proto(NET), result.profile, inputs(), provider="onnxruntime")
    assert content(replayed.graph) == content(result.graph)


def test_apply_measures_on_a_provider_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery_ir.report.measure.LATENCY_SECONDS", 0.01)
    recording = install(monkeypatch)
    pipeline = "prune-weights,repair"
    found = apply(harness.proto(NET), pipeline, inputs(), eval_data=inputs(60, 3), provider="recording")
    dense, small = harness.graph(NET).fingerprint(), found.graph.fingerprint()
    assert recording.loaded == [(small, 0), (dense, 1), (small, 1)]
    assert found.report.latencies.provider == "recording"
    assert content(found.graph) == content(apply(harness.proto(NET), pipeline, inputs()).graph)


def test_patterns_are_not_searched_where_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    result = smaller(3, provider="recording")
    assert result.policy is not None
    assert not any("pattern" in name for name in result.policy.beliefs)
    assert content(result.graph) == content(smaller(3).graph)


def test_files_in_and_out(tmp_path: Path) -> None:
    onnx.save(harness.proto(NET), str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "data.npz", **labelled())
    result = surgery_ir.compile(
        str(tmp_path / "net.onnx"), tmp_path / "data.npz", surgery_ir.Goal(max_drop=0.2), labels="label", budget=5
    )
    result.save(tmp_path / "small.onnx")
    saved = onnx.load(str(tmp_path / "small.onnx"))
    assert saved.SerializeToString(deterministic=True) == content(result.graph)
    assert result.report.model == str(tmp_path / "net.onnx")
    assert result.plasticity == result.report.plasticity


@pytest.mark.parametrize("workers", [1, 2])
def test_same_seed_and_budget_same_bytes(workers: int) -> None:
    one, other = smaller(12), smaller(12, workers=workers)
    assert content(one.graph) == content(other.graph)
    assert one.profile == other.profile
    assert one.policy == other.policy


def test_a_policy_is_continued() -> None:
    first = smaller(8)
    assert first.policy is not None
    again = smaller(6, policy=first.policy)
    assert again.policy is not None
    assert again.policy.evaluations == 14
    assert again.report.compressed.nonzeros <= first.report.compressed.nonzeros


def test_a_study_is_resumed(tmp_path: Path) -> None:
    whole = smaller(9)
    smaller(4, study=tmp_path / "s")
    resumed = smaller(9, study=tmp_path / "s")
    assert content(resumed.graph) == content(whole.graph)
    with pytest.raises(SpecError, match="another goal"):
        smaller(4, study=tmp_path / "s", goal=Goal(max_drop=0.3))


def test_passes_bound_the_choice() -> None:
    result = smaller(6, passes="prune-weights{criterion=magnitude}")
    assert {item.name for item in result.profile.passes} == {"canonicalize", "prune-weights"}
    assert all(getattr(item, "criterion", "magnitude") == "magnitude" for item in result.profile.passes)


def test_targets_that_cannot_be_met_are_said_with_what_comes_closest() -> None:
    with pytest.raises(ConstraintError, match=r"nonzeros<=0.01; the closest is .*nonzeros 0\.") as caught:
        smaller(6, goal=Goal(max_drop=0.1, targets=("nonzeros<=0.01",)))  # type: ignore[arg-type]
    assert len(caught.value.closest) == 3
    assert "\n" not in str(caught.value)


def test_a_drop_that_nothing_keeps_leaves_the_net_and_says_so() -> None:
    result = smaller(4, goal=Goal(max_drop=0.0))
    assert result.report.compressed.nonzeros == result.report.baseline.nonzeros
    assert any("closest" in item.reason for item in result.report.refusals)


LSTM = """
net (float[4,N,6] x) => (float[4,1,N,5] y) <float[1,20,6] w, float[1,20,5] r> { y = LSTM<hidden_size=5>(x, w, r) }
"""
BRANCH = """
net (float[N,6] x, bool[N] c) => (float[N,6] y) <float[6,6] w> {
    n = Shape(x)
    zero = Constant<value = int64[1] {0}>()
    rows = Gather(n, zero)
    limit = Constant<value = int64[1] {2}>()
    many = Greater(rows, limit)
    y = If(many) <
        then_branch = g1 () => (float[N,6] a) { a = MatMul(x, w) },
        else_branch = g2 () => (float[N,6] b) { b = Relu(x) }
    >
}
"""
INT8 = """
net (uint8[N,6] x) => (int32[N,4] y) <int8[6,4] w> { y = MatMulInteger(x, w) }
"""


@pytest.mark.parametrize(
    ("text", "feeds", "reason"),
    [
        (LSTM, {"x": (np.random.default_rng(0).standard_normal((60, 4, 1, 6))).astype(np.float32)}, "LSTM has no rule"),
        (BRANCH, {"x": inputs(60)["x"], "c": np.ones(60, bool)}, "subgraph"),
        (INT8, {"x": np.random.default_rng(0).integers(0, 255, (60, 6), np.uint8)}, "MatMulInteger has no rule"),
    ],
    ids=["LSTM", "control flow", "int8"],
)
def test_what_cannot_be_cut_comes_through_unchanged_with_reasons(text: str, feeds: dict[str, Any], reason: str) -> None:
    model = harness.proto(text)
    result = compile(model, feeds, budget=20)
    harness.assert_equivalent(result.graph, Graph.from_proto(model))
    assert any(reason in item.reason for item in result.report.refusals), result.report.refusals
    assert result.report.search is not None
    assert result.report.search.evaluated < 10
    assert result.plasticity == 0
    assert result.report.fidelity is not None
    assert result.report.fidelity.max_abs <= 1e-5
    with pytest.raises(ConstraintError):
        compile(model, feeds, Goal(targets=("nonzeros<=0.5",)), budget=20)  # type: ignore[arg-type]


def test_apply_without_data_runs_what_needs_none() -> None:
    result = apply(harness.proto(NET), "canonicalize,prune-weights{criterion=magnitude ratio=0.5}")
    assert result.report.compressed.nonzeros == result.report.baseline.nonzeros - 288
    assert result.report.fidelity is None
    assert result.report.compressed.metric is None
    assert result.policy is None


def test_apply_measures_on_what_it_is_given_for_that() -> None:
    result = apply(harness.proto(NET), "prune-weights{criterion=magnitude}", eval_data=labelled(80), labels="label")
    assert result.report.compressed.metric is not None
    assert (result.report.compressed.metric.name, result.report.compressed.metric.samples) == ("accuracy", 80)


def test_apply_refuses_passes_without_their_data() -> None:
    with pytest.raises(DataError, match="repair needs sample inputs"):
        apply(harness.proto(NET), "prune-weights{criterion=magnitude},repair")


def test_apply_takes_samples_and_graphs_as_they_are() -> None:
    graph = harness.graph(NET)
    before = graph.fingerprint()
    result = apply(graph, "prune-weights{ratio=0.5},repair", Samples(inputs(64)))
    assert graph.fingerprint() == before
    assert result.report.compressed.nonzeros < result.report.baseline.nonzeros


def test_a_profile_of_another_model_is_noted() -> None:
    profile = CompressionProfile(apply(harness.proto(NET), "canonicalize").profile.passes, source={"fingerprint": "x"})
    assert apply(harness.proto(NET), profile).report.verified["profile_made_for_this_model"] is False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": {"z": np.zeros((60, 6), np.float32)}}, DataError, "no array for input 'x'"),
        ({"data": {"x": np.full((60, 6), np.nan, np.float32)}}, DataError, "nan"),
        ({"data": inputs(5)}, DataError, "samples"),
        ({"labels": "label"}, DataError, "'label'"),
        ({"metric": "accuracy"}, DataError, "labels"),
        ({"metric": "speed"}, SpecError, "no metric"),
        ({"passes": "prune-wights"}, SpecError, "prune-wights"),
        ({"provider": "abacus"}, SpecError, "abacus"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        smaller(2, **options)
    assert "\n" not in str(caught.value)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import surgery_ir, sys; print(sorted({'numpy', 'onnx', 'onnxruntime', 'nevergrad'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in surgery_ir.__all__ if name != "__version__"])
def test_what_the_package_lists_is_there(name: str) -> None:
    assert getattr(surgery_ir, name).__name__ == name
    assert name in dir(surgery_ir)


def test_what_it_does_not_list_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        surgery_ir.nothing  # noqa: B018


def test_policy_of_the_package_is_the_policy_of_the_search() -> None:
    assert surgery_ir.SearchPolicy is SearchPolicy


PLASTIC = "prune-weights{criterion=magnitude},toy-regrow"


@pytest.fixture
def regrowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass be there that swaps pruned weights of the layers ``w1`` and ``w2`` for others."""
    known = {**registry.builtin_passes(), "toy-regrow": Regrow}
    monkeypatch.setattr(registry, "builtin_passes", lambda: known)
    monkeypatch.setattr("tests.search.toys.UNITS", {"w1": 144, "w2": 576})


@pytest.mark.usefixtures("regrowing")
def test_plasticity_by_pass_and_layer() -> None:
    report = apply(harness.proto(NET), PLASTIC, data=inputs()).report.to_json()
    assert report["verified"]["connections_add_up"]
    passes, total = report["connections"]["passes"], report["connections"]
    assert passes["toy-regrow"]["created"] == passes["toy-regrow"]["pruned"] == total["created"] > 0
    assert passes["prune-weights"]["plasticity"] == 0
    assert report["plasticity"] == passes["toy-regrow"]["plasticity"] == total["created"] / total["pruned"]
    created = {item["name"]: item["created"] for item in report["layers"] if item["created"]}
    assert sum(created.values()) == total["created"]
    assert total["elsewhere"] == {"pruned": 0, "created": 0, "plasticity": 0.0}


def test_a_log_that_does_not_add_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def adds_up() -> object:
        return apply(harness.proto(NET), "prune-weights{criterion=magnitude}", inputs()).report.verified[
            "connections_add_up"
        ]

    assert adds_up() is True
    monkeypatch.setattr("surgery_ir.report.attribution.count_connections", lambda graph: 7)
    assert adds_up() is False


@pytest.mark.usefixtures("regrowing")
def test_a_target_for_plasticity() -> None:
    goal = Goal(max_drop=0.5, targets=("plasticity>=0.05",))  # type: ignore[arg-type] # texts are read
    report = smaller(16, goal=goal, passes=PLASTIC).report.to_json()
    assert report["plasticity"] >= 0.05
    assert report["compressed"]["nonzeros"] < report["baseline"]["nonzeros"]
    assert "toy-regrow" in report["profile"]
    assert report["profile"] in [item["profile"] for item in report["pareto"]]
    assert len({item["plasticity"] for item in report["pareto"]}) > 1
    with pytest.raises(ConstraintError, match=r"plasticity>=0\.05"):
        smaller(8, goal=goal, passes="prune-weights{criterion=magnitude}")
