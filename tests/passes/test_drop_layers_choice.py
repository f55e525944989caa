"""Which branch goes first, how its error is judged, and what the log says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from surgery_ir.analysis.rows import CHECK_EVERY
from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError, PassError
from surgery_ir.graph.edits import connections
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from tests.harness import assert_equivalent, run
from tests.passes.dropping import (
    LINEAR_BRANCH,
    LINEAR_CONVOLUTIONS,
    POSTPONED,
    chain,
    drop,
    error,
    inputs,
    mlp,
    reported,
)
from tests.passes.helpers import build, reasons

# --- choice


def test_the_branch_that_matters_least_goes_first() -> None:
    dense = chain(a=(1.0, 24), b=(0.05, 24), c=(1.0, 24))
    assert [name for name, _ in reported(dense, inputs(dense), count=1)] == ["b"]


@pytest.mark.parametrize(("scale", "dropped"), [(0.25, "b"), (4.0, "a")])
def test_an_error_is_weighed_against_what_it_saves(scale: float, dropped: str) -> None:
    dense = chain(a=(0.2, 16), b=(scale, 96))
    assert [name for name, _ in reported(dense, inputs(dense), count=1)] == [dropped]


def test_the_error_that_is_reported_is_that_of_the_sum_on_held_out_samples() -> None:
    dense = chain(a=(0.3, 24), b=(1.0, 24), c=(4.0, 24))
    given = inputs(dense)
    held_out = given.take(np.arange(CHECK_EVERY - 1, len(given), CHECK_EVERY))
    for count in (1, 2, 3):
        said = reported(dense, given, count=count)
        assert len(said) == count
        name, least = said[-1]
        graph = drop(dense, given, count=count).graph
        assert error(graph, dense, held_out, f"{name}y") == pytest.approx(least, rel=0.02)
        assert error(graph, dense, given, f"{name}y") != pytest.approx(least, rel=1e-3), "not on all samples"


def test_rectified_sums_are_judged_behind_the_relu() -> None:
    dense = build(POSTPONED.format("float", 24))
    given = inputs(dense)
    ((_, said),) = reported(dense, given, count=1)
    graph = drop(dense, given).graph
    held_out = given.take(np.arange(CHECK_EVERY - 1, len(given), CHECK_EVERY))
    assert error(graph, dense, held_out, "y") == pytest.approx(said, rel=0.01)
    assert error(graph, dense, held_out, "t") > 1.1 * said


def test_a_share_of_the_branches() -> None:
    dense = chain(a=(0.1, 24), b=(0.1, 24), c=(0.1, 24))
    counts = [len(reported(dense, inputs(dense), ratio=ratio)) for ratio in (0.3, 0.7, 1.0)]
    assert counts == [1, 2, 3]


def test_no_more_than_there_are() -> None:
    dense = chain(a=(0.1, 24), b=(0.1, 24))
    assert len(reported(dense, inputs(dense), count=5)) == 2


def test_a_run_is_no_longer_than_what_is_left_to_drop() -> None:
    dense = chain(a=(0.0, 24), b=(0.0, 24), c=(0.0, 24))
    for count in (1, 2, 3):
        graph = drop(dense, count=count, span=3).graph
        assert sum(node.op_type == "Relu" for node in graph.model.graph) == 3 - count


def cancelling() -> Graph:
    """Three branches, of which the second takes back what the first adds: both read features that neither writes."""
    drawn = chain(a=(1.0, 24), b=(1.0, 24))
    w1, w2 = drawn.array("a1").copy(), drawn.array("a2").copy()
    w1[:4], w2[:, 4:] = 0.0, 0.0
    parts = [mlp(name, entry, 24) for name, entry in (("a", "s"), ("b", "ay"), ("c", "by"))]
    weights, body = (", ".join(part[0] for part in parts), " ".join(part[1] for part in parts))
    for name in "ab":
        body = body.replace(f"{name}o = ", f"{name}p = ").replace(f"[{name}]", f"{name}o = Tanh({name}p) [{name}]")
    text = f"net (float[N,8] x) => (float[N,8] y) <{weights}> {{ s = Tanh(x) {body} y = Tanh(cy) }}"
    return build(text, a1=w1, a2=w2, b1=w1, b2=-w2)


def test_a_run_may_go_where_no_single_branch_may() -> None:
    dense = cancelling()
    assert reasons(drop(dense, count=2, most=1e-6)).keys() == {"a", "b", "c"}
    outcome = drop(dense, count=2, span=2, most=1e-6)
    assert outcome.graph.initializers.keys() == {"c1", "c2"}
    assert reasons(outcome).keys() == {"c"}
    assert_equivalent(outcome.graph, dense)
    assert not drop(dense, count=1, span=2, most=1e-6).changed, "a run of two is more than one branch"


def test_a_run_counts_for_as_many_as_it_holds() -> None:
    assert drop(cancelling(), count=2, span=2, most=10.0).graph.initializers.keys() == {"c1", "c2"}
    assert not {"c1", "c2"} & drop(cancelling(), count=3, span=2, most=10.0).graph.initializers.keys()


def test_the_error_of_the_best_map_is_the_reason() -> None:
    dense = chain(a=(4.0, 24))
    ((_, least),) = reported(dense, inputs(dense), count=1)
    expected = f"its linear map leaves a relative error of {least:.3g} on held-out samples"
    assert reasons(drop(dense, most=least / 2)) == {"a": expected}


def test_the_map_is_the_least_squares_one_of_the_samples_that_are_not_held_out() -> None:
    dense = chain(a=(4.0, 24))
    given = inputs(dense)
    found = drop(dense, given, most=10.0).graph
    values = run(with_outputs(dense, ["s", "ay"]), dict(given.feeds))
    fitted = np.arange(len(given)) % CHECK_EVERY != CHECK_EVERY - 1
    x = np.column_stack([values["s"][fitted], np.ones(fitted.sum())]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(x, values["ay"][fitted].astype(np.float64), rcond=None)
    assert np.allclose(found.array("ay/map.weight"), solution[:-1], atol=1e-4)
    assert np.allclose(found.array("ay/map.bias"), solution[-1], atol=1e-4)


def test_repeats_that_fill_a_fixed_batch_do_not_count() -> None:
    text = LINEAR_BRANCH.replace("c = Add(h, b)", "q = Add(h, b) c = Relu(q)")
    graphs = [build(text), build(text.replace("float[N,8]", "float[7,8]"))]
    one, other = (drop(graph, inputs(graphs[0], 40), most=10.0).graph.array("t/map.weight") for graph in graphs)
    assert np.allclose(one, other, atol=1e-5)


def test_what_cannot_be_dropped_is_named_beside_what_can() -> None:
    dense = chain(a=(4.0, 24), b=(0.05, 24))
    outcome = drop(dense, count=2, most=0.004)
    assert outcome.changed
    assert reasons(outcome).keys() == {"a"}
    match = re.search(r"relative error of (\S+) on held-out samples$", reasons(outcome)["a"])
    assert match is not None
    assert float(match[1]) == pytest.approx(reported(dense, inputs(dense), count=2)[1][1], rel=0.01)


# --- bookkeeping


@pytest.mark.parametrize("text", [LINEAR_BRANCH, LINEAR_CONVOLUTIONS])
def test_the_log_counts_what_came_and_went(text: str) -> None:
    w1 = build(text).array("w1").copy()
    w1[3] = 0
    dense = build(text, w1=w1)
    outcome = drop(dense)
    found = connections(outcome.edits)
    assert found.pruned == np.count_nonzero(w1) + dense.array("w2").size < w1.size + dense.array("w2").size
    assert found.created == np.count_nonzero(outcome.graph.array("t/map.weight")) > 0


def test_weights_that_are_an_output_stay() -> None:
    dense = build(LINEAR_BRANCH.replace("(float[N,8] y)", "(float[N,8] y, float[8,16] w1)"))
    outcome = drop(dense)
    assert outcome.changed
    assert np.array_equal(run(outcome.graph, {"x": np.zeros((1, 8), np.float32)})["w1"], dense.array("w1"))


def test_weights_that_others_read_stay() -> None:
    dense = build(
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] w1, float[8,8] w2> {
            s = Sigmoid(x)
            h = MatMul(s, w1)
            i = MatMul(h, w2)
            r = MatMul(i, w2)
            t = Add(s, r)
            u = Tanh(t)
            y = MatMul(u, w1)
        }"""
    )
    outcome = drop(dense, most=10.0)
    assert outcome.graph.initializers.keys() == {"w1", "t/map.weight", "t/map.bias"}
    assert np.array_equal(outcome.graph.array("w1"), dense.array("w1"))
    assert connections(outcome.edits).pruned == 64


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
@pytest.mark.parametrize("kind", ["own", "writer"])
def test_the_type_of_the_weights_stays(kind: str, dtype: str) -> None:
    text = POSTPONED.format(dtype, 4 if kind == "writer" else 24)
    dense = build(text if kind == "writer" else text.replace("s = Relu", "s = Sigmoid"))
    x = np.random.default_rng(0).standard_normal((256, 8)).astype(dense.array("w1").dtype)
    outcome = drop(dense, Samples({"x": x}), most=2.0)
    assert {outcome.graph.array(name).dtype for name in outcome.graph.initializers} == {dense.array("w1").dtype}
    assert ("t/map.weight" in outcome.graph.initializers) == (kind == "own")
    found, wanted = (run(item, {"x": x})["y"].astype(np.float64) for item in (outcome.graph, dense))
    assert ((found - wanted) ** 2).sum() < 0.3 * (wanted**2).sum()


def test_many_branches_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = chain(a=(1.0, 24), b=(0.3, 24), c=(0.5, 24))
    whole = drop(dense, count=2).graph.fingerprint()
    monkeypatch.setattr("surgery_ir.passes.prune.standins.MEMORY", 1)
    assert drop(dense, count=2).graph.fingerprint() == whole


def test_too_few_samples_to_hold_some_out() -> None:
    dense = chain(a=(1.0, 24))
    with pytest.raises(DataError, match="drop-layers needs at least 8 samples, there are 7"):
        drop(dense, inputs(dense, 7))


def test_activations_that_are_no_numbers() -> None:
    dense = build(
        """net (float[N,8] x) => (float[N,8] y) <float[8,16] w1, float[16,8] w2> {
            s = Log(x) h = MatMul(s, w1) f = MatMul(h, w2) [sum] t = Add(s, f) y = Tanh(t)
        }"""
    )
    with pytest.raises(PassError, match=r"drop-layers: activations of 'sum'.*NaN or infinity") as caught:
        drop(dense)
    assert "\n" not in str(caught.value)
