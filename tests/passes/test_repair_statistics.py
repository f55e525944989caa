from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError, PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.prune.cutting import cut
from surgery_ir.passes.repair.statistics import RepairStatistics
from tests.coupling import groups
from tests.harness import assert_equivalent, run
from tests.passes.helpers import apply, build, correlated, reasons, samples

CNN = """net (float[N,4,6,6] x) => (float[N,3,4,4] y)
    <float[12,4,3,3] w, float[12] c, float[12,12,1,1] v, float[3,12,1,1] u, float[3] d> {
        a = Conv(x, w, c) b = Relu(a) e = Conv(b, v) f = Relu(e) y = Conv(f, u, d)
}"""


def changed(graph: Graph, **weights: NDArray[np.float64]) -> Graph:
    """A copy with other weights: what a compression may have left."""
    editor = Editor(graph.clone(), "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return editor.graph


def repair(small: Graph, dense: Graph, inputs: Samples, **options: float) -> Outcome:
    return apply(RepairStatistics(**options), small, inputs, reference=dense)  # type: ignore[arg-type]


def output(graph: Graph, inputs: Samples, value: str = "y") -> NDArray[np.float64]:
    """What one value is on all samples, in double precision."""
    found: NDArray[np.float64] = run(with_outputs(graph, [value]), dict(inputs.feeds))[value].astype(np.float64)
    return found


def error(graph: Graph, dense: Graph, inputs: Samples) -> float:
    """Relative squared error of the output."""
    wanted = output(dense, inputs)
    return float(((output(graph, inputs) - wanted) ** 2).sum() / (wanted**2).sum())


LAYERS = {
    "Conv": "net (float[N,4,6,6] x) => (float[N,5,4,4] y) <float[5,4,3,3] w, float[5] c> { y = Conv(x, w, c) }",
    "Conv without a bias": "net (float[N,4,6,6] x) => (float[N,5,4,4] y) <float[5,4,3,3] w> { y = Conv(x, w) }",
    "grouped Conv": """net (float[N,4,6,6] x) => (float[N,6,6,6] y) <float[6,2,3,3] w, float[6] c> {
        y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w, c)
    }""",
    "Gemm": """net (float[N,4] x) => (float[N,5] y) <float[5,4] w, float[5] c> {
        y = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(x, w, c)
    }""",
    "MatMul with a bias": """net (float[N,6,4] x) => (float[N,6,5] y) <float[4,5] w, float[5] c> {
        h = MatMul(x, w) y = Add(h, c)
    }""",
    "MatMul": "net (float[N,6,4] x) => (float[N,6,5] y) <float[4,5] w> { y = MatMul(x, w) }",
    "MatMul from the left": "net (float[N,4,6] x) => (float[N,5,6] y) <float[5,4] w> { y = MatMul(w, x) }",
}  # fmt: skip


@pytest.mark.parametrize("shrink", [0.0, 1.0])
@pytest.mark.parametrize("case", LAYERS)
def test_a_channel_that_was_scaled_and_shifted_comes_back(case: str, shrink: float) -> None:
    dense = build(LAYERS[case])
    outputs = 6 if case == "grouped Conv" else 5
    factors = np.geomspace(0.2, 3.0, outputs)
    axis = 1 if dense.array("w").shape == (4, 5) else 0
    weights = dense.array("w") * np.moveaxis(factors.reshape(-1, *[1] * (dense.array("w").ndim - 1)), 0, axis)
    spoilt = {"w": weights} | ({"c": dense.array("c") * 0.5 + 1} if "c" in dense.initializers else {})
    shape = {"Gemm": (4,), "MatMul": (6, 4), "MatMul with a bias": (6, 4), "MatMul from the left": (4, 6)}
    inputs = samples(x=np.random.default_rng(0).standard_normal((160, *shape.get(case, (4, 6, 6)))))
    outcome = repair(changed(dense, **spoilt), dense, inputs, shrink=shrink)
    assert not outcome.refusals
    assert np.allclose(outcome.graph.array("w"), dense.array("w"), rtol=1e-3 if shrink == 0 else 0.02, atol=1e-6)
    assert_equivalent(with_outputs(outcome.graph, ["y"]), dense, tolerance=2e-3 if shrink == 0 else 0.05)


def compressed(dense: Graph, how: str) -> Graph:
    if how == "zeros":
        rng = np.random.default_rng(1)
        return changed(
            dense, **{name: dense.array(name) * (rng.random(dense.array(name).shape) > 0.4) for name in "wv"}
        )
    coupling = groups(dense)
    editor = Editor(dense.clone(), "test")
    cut(editor, coupling, {group.name: [1, 4, 7, 8] for group in coupling.groups})
    return editor.graph


@pytest.mark.parametrize("how", ["zeros", "cut"])
def test_mean_and_deviation_come_back(how: str) -> None:
    """Layer after layer, of the channels that are left; what the output has lost returns with them."""
    dense = build(CNN)
    inputs, others = (samples(x=correlated(128, 4, 6, 6, seed=seed)) for seed in (0, 1))
    small = compressed(dense, how)
    outcome = repair(small, dense, inputs, positions=36, shrink=0.0)
    assert error(outcome.graph, dense, others) < 0.5 * error(small, dense, others)
    for value in ("a", "y"):
        kept = outcome.graph.cuts.get(value, {}).get(1)
        wanted = output(dense, inputs, value)
        wanted = wanted if kept is None else wanted[:, kept]
        before, after = (output(graph, inputs, value) for graph in (small, outcome.graph))
        off = [np.abs(found.mean((0, 2, 3)) - wanted.mean((0, 2, 3))).max() for found in (before, after)]
        assert off[1] <= 0.1 * off[0] + 0.05 * wanted.std()


def test_zeros_stay_zero_and_nothing_is_counted() -> None:
    dense = build(CNN)
    small = compressed(dense, "zeros")
    outcome = repair(small, dense, samples(x=correlated(64, 4, 6, 6)))
    for name in "wvu":
        assert np.array_equal(outcome.graph.array(name) == 0, small.array(name) == 0)
    assert all(edit.pruned == edit.created == 0 for edit in outcome.edits)


def test_little_evidence_leaves_scales_near_one() -> None:
    """Random weights of equal size: ratios of deviations are sampling error, and shrinking takes them out."""
    dense = build("net (float[N,40] x) => (float[N,60] y) <float[40,60] w> { y = MatMul(x, w) }")
    rng = np.random.default_rng(3)
    noise = changed(dense, w=0.9 * dense.array("w") + 0.4 * rng.standard_normal((40, 60)) / np.sqrt(40))
    inputs = samples(x=rng.standard_normal((24, 40)))

    def scales(shrink: float) -> NDArray[np.float64]:
        found = repair(noise, dense, inputs, shrink=shrink).graph.array("w") / noise.array("w")
        return np.asarray(found.mean(axis=0))

    assert np.abs(np.log(scales(100.0))).max() < 0.5 * np.abs(np.log(scales(0.0))).max()


GEMM = "net (float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] c> { [one] y = Gemm(x, w, c) }"


def test_what_held_out_samples_do_not_confirm_is_dropped() -> None:
    """An input that is 1 in seven samples of eight and -1 in the last: the mean of the seven is wrong for the last."""
    dense = build(GEMM)
    x = np.random.default_rng(0).standard_normal((64, 4))
    x[:, 0] = np.where(np.arange(64) % 8 == 7, -1, 1)
    weights = dense.array("w").copy()
    weights[0] = 0
    outcome = repair(changed(dense, w=weights), dense, samples(x=x))
    assert set(reasons(outcome)) == {"one"}
    assert not outcome.changed
    x[:, 0] = 1
    assert repair(changed(dense, w=weights), dense, samples(x=x)).changed


def test_moments_are_those_of_all_batches() -> None:
    """Inputs that drift from batch to batch: most of the deviation lies between batches."""
    dense = build(GEMM)
    x = np.random.default_rng(0).standard_normal((256, 4)) + np.linspace(-20, 20, 256)[:, None]
    factors = np.array([0.3, 1.0, 2.5])
    small = changed(dense, w=dense.array("w") * factors, c=dense.array("c") * factors)
    result = repair(small, dense, samples(x=x), shrink=0.0).graph
    assert result.array("w") == pytest.approx(dense.array("w"), rel=1e-4)
    noise = changed(dense, w=dense.array("w") + 0.3 * np.random.default_rng(1).standard_normal((4, 3)))
    corrected = repair(noise, dense, samples(x=x), shrink=0.0).graph
    fitted = np.arange(256) % 8 != 7
    found, wanted = (output(graph, samples(x=x[fitted])) for graph in (corrected, dense))
    assert found.std(0) == pytest.approx(wanted.std(0), rel=1e-4)


SHARED = """net (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] c, float[4] d> {
    [one] a = Gemm(x, w, c) b = Tanh(a) [two] y = Gemm(b, w, d)
}"""


def test_shared_weights_stay_and_biases_shift() -> None:
    dense = build(SHARED)
    inputs = samples(x=np.random.default_rng(0).standard_normal((64, 4)))
    outcome = repair(changed(dense, c=dense.array("c") + 2, w=0.5 * dense.array("w")), dense, inputs)
    assert np.array_equal(outcome.graph.array("w"), (0.5 * dense.array("w")).astype(np.float32))
    wanted, found = output(dense, inputs, "a"), output(outcome.graph, inputs, "a")
    assert np.allclose(found.mean(0), wanted.mean(0), atol=0.2)
    assert not np.allclose(found.std(0), wanted.std(0), rtol=0.2)


BARE = """net (float[N,4] x) => (float[N,4] y) <float[4,4] w> {
    [one] a = MatMul(x, w) b = Tanh(a) [two] y = MatMul(b, w)
}"""
ONE = """net (float[N,4] x) => (float[N,3] y) <float[4,4] w, float[4,3] v> {
    [one] a = MatMul(x, w) [two] y = MatMul(a, v)
}"""
RENAMED = ONE.replace("a =", "other =").replace("(a,", "(other,")

LEFT_ALONE = {
    "the dense model": (ONE, ONE, 1.0, {"one": "what it puts out is what the dense model has already"}),
    "shared weights without a bias": (BARE, BARE, 0.5, {
        "one": "it has no bias, and its weights are shared with two",
        "two": "it has no bias, and its weights are shared with one",
    }),
    "another name": (RENAMED, ONE, 1.0, {"one": "the dense model has no value of the name it writes"}),
    "nothing like the dense output": (ONE, ONE, -1.0, {
        "one": "neither a scale nor a shift brings it nearer to the dense model on held-out samples",
    }),
    "no layer": (
        "net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", "net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
        1.0, {"": "there is no layer with constant weights"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, dense, factor, expected = LEFT_ALONE[case]
    small = build(text)
    if factor != 1.0:
        small = changed(small, w=factor * small.array("w"))
    outcome = repair(small, build(dense), samples(x=np.random.default_rng(0).standard_normal((64, 4))))
    found = reasons(outcome)
    assert {name: found[name] for name in expected} == expected
    if case != "nothing like the dense output":
        assert not outcome.changed


def test_too_few_samples_and_numbers_that_overflow_are_errors() -> None:
    dense = build(ONE)
    with pytest.raises(DataError, match="8"):
        repair(dense, dense, samples(x=np.ones((5, 4))))
    huge = changed(dense, w=1e30 * dense.array("w"))
    with pytest.raises(PassError, match="'one' puts out on the samples is not finite"):
        repair(dense, huge, samples(x=1e30 * np.ones((16, 4))))
