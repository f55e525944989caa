from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError, PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome
from surgery_ir.passes.prune.channels import PruneChannels
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.passes.repair.refit import Repair
from tests.harness import assert_equivalent, run
from tests.passes.helpers import apply, build, correlated, reasons, sample_shape, samples, zeros


def changed(graph: Graph, **weights: NDArray[np.float64]) -> Graph:
    """A copy with other weights: what a compression may have left."""
    editor = Editor(graph.clone(), "test")
    for name, array in weights.items():
        editor.set_weights(name, array)
    return editor.graph


def pruned(graph: Graph, ratio: float = 0.5, seed: int = 0, **ratios: float) -> Graph:
    """A copy with random weights of every matrix set to zero; ``ratios`` are those of single ones."""
    rng = np.random.default_rng(seed)
    arrays = {name: graph.array(name) for name in graph.initializers if graph.array(name).ndim > 1}
    kept = {name: rng.random(array.shape) > ratios.get(name, ratio) for name, array in arrays.items()}
    return changed(graph, **{name: array * kept[name] for name, array in arrays.items()})


def repair(small: Graph, dense: Graph, inputs: Samples, **options: object) -> Outcome:
    return apply(Repair(**options), small, inputs, reference=dense)  # type: ignore[arg-type]


def error(graph: Graph, dense: Graph, x: NDArray[np.float64], output: str = "y") -> float:
    """Relative squared error of one value on the samples ``x``."""
    feeds = {"x": x.astype(np.float32)}
    found, wanted = (run(with_outputs(item, [output]), feeds)[output].astype(np.float64) for item in (graph, dense))
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


LAYERS = {
    "Conv": ("net (float[N,4,6,6] x) => (float[N,5,4,4] y) <float[5,4,3,3] w, float[5] c> { y = Conv(x, w, c) }"),
    "Conv with strides and uneven padding": (
        """net (float[N,4,7,6] x) => (float[N,5,3,4] y) <float[5,4,3,2] w> {
            y = Conv<strides = [3, 2], pads = [0, 1, 2, 1]>(x, w)
        }"""
    ),
    "Conv with dilation": (
        """net (float[N,4,7,7] x) => (float[N,5,3,5] y) <float[5,4,3,2] w> { y = Conv<dilations = [2, 2]>(x, w) }"""
    ),
    "grouped Conv": (
        """net (float[N,6,5,5] x) => (float[N,4,3,3] y) <float[4,3,3,3] w> { y = Conv<group = 2>(x, w) }"""
    ),
    "depthwise Conv": (
        """net (float[N,4,6,6] x) => (float[N,8,6,6] y) <float[8,1,3,3] w, float[8] c> {
            y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w, c)
        }"""
    ),
    "Conv padded to the same size, more behind": (
        """net (float[N,3,7,8] x) => (float[N,4,4,4] y) <float[4,3,3,3] w> {
            y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)
        }"""
    ),
    "Conv padded to the same size, more ahead": (
        """net (float[N,3,7,8] x) => (float[N,4,4,4] y) <float[4,3,2,3] w> {
            y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)
        }"""
    ),
    "Conv over one axis": (
        "net (float[N,4,9] x) => (float[N,5,4] y) <float[5,4,3] w> { y = Conv<strides = [2]>(x, w) }"
    ),
    "Conv over three axes": (
        "net (float[N,3,3,4,5] x) => (float[N,4,2,3,4] y) <float[4,3,2,2,2] w> { y = Conv(x, w) }"
    ),
    "Gemm": ("net (float[N,12] x) => (float[N,5] y) <float[12,5] w, float[5] c> { y = Gemm(x, w, c) }"),
    "Gemm, transposed and scaled": (
        """net (float[N,12] x) => (float[N,5] y) <float[5,12] w, float[5] c> {
            y = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(x, w, c)
        }"""
    ),
    "MatMul": "net (float[N,6,12] x) => (float[N,6,5] y) <float[12,5] w> { y = MatMul(x, w) }",
    "MatMul with a bias": (
        """net (float[N,6,12] x) => (float[N,6,5] y) <float[12,5] w, float[5] c> { h = MatMul(x, w) y = Add(h, c) }"""
    ),
    "MatMul with a bias ahead": (
        """net (float[N,12] x) => (float[N,5] y) <float[12,5] w, float[1,5] c> { h = MatMul(x, w) y = Add(c, h) }"""
    ),
    "MatMul from the left": (
        "net (float[N,12,6] x) => (float[N,5,6] y) <float[5,12] w> { y = MatMul(w, x) }"
    ),
    "a batch of one": "net (float[1,12] x) => (float[1,5] y) <float[12,5] w> { y = MatMul(x, w) }",
    "double": "net (double[N,12] x) => (double[N,5] y) <double[12,5] w> { y = MatMul(x, w) }",
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_what_can_be_expressed_is_recovered(case: str) -> None:
    """Wrong weights at the right places: only the dense ones reach the dense outputs."""
    dense = build(LAYERS[case])
    rng = np.random.default_rng(1)
    spoilt = {name: dense.array(name) + rng.standard_normal(dense.array(name).shape) for name in dense.initializers}
    x = rng.standard_normal((160, *sample_shape(dense))) + 0.5
    inputs = Samples({"x": x.astype(dense.array("w").dtype)})
    outcome = repair(changed(dense, **spoilt), dense, inputs, ridge=0.0)
    assert not outcome.refusals
    assert np.allclose(outcome.graph.array("w"), dense.array("w"), atol=1e-4)
    assert_equivalent(with_outputs(outcome.graph, ["y"]), dense, tolerance=1e-3)


def test_a_duplicate_channel_takes_over() -> None:
    dense = build("net (float[N,6,5,5] x) => (float[N,4,3,3] y) <float[4,6,3,3] w> { y = Conv(x, w) }")
    x = np.random.default_rng(0).standard_normal((120, 6, 5, 5))
    x[:, 3] = 2.0 * x[:, 1]
    weights = dense.array("w").copy()
    weights[:, 3] = 0
    small = changed(dense, w=weights)
    outcome = repair(small, dense, samples(x=x), ridge=0.0)
    assert error(small, dense, x) > 0.05
    assert error(outcome.graph, dense, x) < 1e-8
    assert np.all(outcome.graph.array("w")[:, 3] == 0)


CHAIN = """net (float[N,16] x) => (float[N,6] y) <float[16,24] w1, float[24,12] w2, float[12,6] w3> {
    a = MatMul(x, w1)
    b = MatMul(a, w2)
    y = MatMul(b, w3)
}"""


def test_layers_fit_what_they_read_after_the_repair_of_those_above() -> None:
    """The normal equations hold for inputs from the repaired model and targets from the dense one."""
    dense = build(CHAIN)
    x = correlated(240, 16)
    result = repair(pruned(dense), dense, samples(x=x), ridge=0.0).graph
    feeds = {"x": x.astype(np.float32)}
    names = ["x", "a", "b", "y"]
    small, wanted = ({"x": feeds["x"]} | run(with_outputs(item, names[1:]), feeds) for item in (result, dense))
    for index, weight in enumerate(("w1", "w2", "w3")):
        inputs = small[names[index]].astype(np.float64)
        residual = inputs @ result.array(weight).astype(np.float64) - wanted[names[index + 1]]
        gradient = inputs.T @ residual
        scale = np.linalg.norm(inputs) * np.linalg.norm(residual)
        assert np.abs(residual).max() > 1e-3
        assert np.abs(gradient[result.array(weight) != 0]).max() < 1e-4 * scale


def test_zeros_stay_zero() -> None:
    dense = build(CHAIN)
    small = pruned(dense)
    outcome = repair(small, dense, samples(x=correlated(200, 16)))
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(outcome.graph.array(name) == 0, small.array(name) == 0)
        assert not np.array_equal(outcome.graph.array(name), small.array(name))
    assert connections(outcome.edits).created == connections(outcome.edits).pruned == 0


RESIDUAL = """net (float[N,12] x) => (float[N,12] y) <float[12,12] w1, float[12,48] w2, float[48,12] w3> {
    s = MatMul(x, w1)
    h = MatMul(s, w2)
    r = Relu(h)
    t = MatMul(r, w3)
    y = Add(s, t)
}"""


def test_layers_ahead_of_an_add_absorb_what_the_skip_has_lost() -> None:
    dense, x = build(RESIDUAL), correlated(400, 12)
    small = pruned(dense, ratio=0.4, w1=0.8)
    held_out = correlated(200, 12, seed=1)
    errors = {
        residual: error(repair(small, dense, samples(x=x), residual=residual).graph, dense, held_out)
        for residual in (True, False)
    }
    assert errors[True] < 0.5 * errors[False]
    assert errors[False] < 0.5 * error(small, dense, held_out)


def test_an_add_that_broadcasts_the_layer_is_no_residual() -> None:
    dense = build(
        """net (float[N,4,8] x) => (float[N,4,6] y)
        <float[8,6] w1, float[8,6] w2, int64[1] axes = {1}> {
            m = ReduceMean(x, axes)
            a = MatMul(m, w1)
            s = MatMul(x, w2)
            e = Exp(s)
            y = Add(a, e)
        }"""
    )
    x = correlated(200, 4, 8, seed=3)
    small = changed(dense, w1=dense.array("w1") * 2.0)
    outcome = repair(small, dense, samples(x=x), ridge=0.0)
    assert error(outcome.graph, dense, x) < 1e-8


def test_outputs_that_a_relu_cuts_off_are_free() -> None:
    dense = build(
        """net (float[N,16] x) => (float[N,24] y) <float[16,24] w, float[24] c> {
            h = Gemm(x, w, c)
            y = Relu(h)
        }""",
        c=np.zeros(24),
    )
    small = pruned(dense, ratio=0.85)
    x, held_out = (np.random.default_rng(seed).standard_normal((600, 16)) for seed in range(2))
    errors = {
        rounds: error(repair(small, dense, samples(x=x), relu=rounds).graph, dense, held_out) for rounds in (0, 1, 5)
    }
    assert errors[1] < 0.95 * errors[0]
    assert errors[5] < errors[1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            """net (float[N,4,5,5] x) => (float[N,5,3,3] y) <float[5,4,3,3] "c.weight"> { y = Conv(x, "c.weight") }""",
            "c.weight",
        ),
        ("""net (float[N,40] x) => (float[N,5] y) <float[40,5] "c.weight"> { y = Gemm(x, "c.weight") }""", "c.weight"),
        ("""net (float[N,40] x) => (float[N,5] y) <float[40,5] c> { y = Gemm<alpha = 2.0>(x, c) }""", "c"),
    ],
)
def test_layers_without_a_bias_are_given_one(text: str, name: str) -> None:
    dense = build(text)
    x = 3.0 + correlated(300, *sample_shape(dense))
    outcome = repair(pruned(dense), dense, samples(x=x))
    bias = outcome.graph.array("c.bias")
    assert bias.shape == (5,)
    assert np.abs(bias).min() > 0
    found, wanted = (run(item, {"x": x.astype(np.float32)})["y"] for item in (outcome.graph, dense))
    axes = tuple(axis for axis in range(found.ndim) if axis != 1)
    assert np.allclose(found.mean(axes), wanted.mean(axes), atol=1e-2 * np.abs(wanted).max())


def test_the_bias_behind_a_matmul_is_updated_and_none_is_made_up() -> None:
    dense = build(
        """net (float[N,16] x) => (float[N,8] y) <float[16,12] w1, float[12] c, float[12,8] w2> {
            h = MatMul(x, w1)
            a = Add(h, c)
            y = MatMul(a, w2)
        }"""
    )
    outcome = repair(pruned(dense), dense, samples(x=correlated(200, 16)))
    assert [node.op_type for node in outcome.graph.model.graph] == ["MatMul", "Add", "MatMul"]
    assert outcome.graph.initializers.keys() == dense.initializers.keys()
    assert not np.allclose(outcome.graph.array("c"), dense.array("c"), atol=1e-2)


def test_a_graph_whose_norms_are_not_folded() -> None:
    dense = build(
        """net (float[N,4,6,6] x) => (float[N,5,2,2] y)
        <float[6,4,3,3] w1, float[6] g, float[6] b, float[6] m, float[6] v, float[5,6,3,3] w2> {
            h = Conv(x, w1)
            n = BatchNormalization(h, g, b, m, v)
            r = Relu(n)
            y = Conv(r, w2)
        }"""
    )
    small, x = pruned(dense), correlated(200, 4, 6, 6)
    outcome = repair(small, dense, samples(x=x))
    assert not outcome.refusals
    assert [node.op_type for node in outcome.graph.model.graph] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    held_out = correlated(100, 4, 6, 6, seed=1)
    assert error(outcome.graph, dense, held_out) < 0.5 * error(small, dense, held_out)


NETWORK = """net ({0}[N,3,6,6] x) => ({0}[N,5] y)
<{0}[8,3,3,3] w1, {0}[8,8,3,3] w2, {0}[32,5] w3, {0}[5] c, int64[2] to = {{0, -1}}> {{
    [one] h = Conv<pads = [1, 1, 1, 1]>(x, w1)
    [two] i = Conv<strides = [2, 2]>(h, w2)
    f = Reshape(i, to)
    [three] y = Gemm(f, w3, c)
}}"""

MATRICES = """net ({0}[N,16] x) => ({0}[N,5] y) <{0}[16,32] w1, {0}[32,32] w2, {0}[32,5] w3> {{
    [one] h = MatMul(x, w1)
    r = Relu(h)
    [two] i = MatMul(r, w2)
    [three] y = MatMul(i, w3)
}}"""


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (NETWORK.format("float"), (3, 6, 6)),
        (NETWORK.format("float16"), (3, 6, 6)),
        (MATRICES.format("float"), (16,)),
        (MATRICES.format("double"), (16,)),
    ],
)
def test_a_dense_model_is_left_alone(text: str, shape: tuple[int, ...]) -> None:
    dense = build(text)
    x = np.random.default_rng(0).standard_normal((200, *shape)).astype(dense.array("w1").dtype)
    outcome = repair(dense, dense, Samples({"x": x}))
    assert not outcome.changed
    same = "what it puts out is what the dense model has already"
    assert reasons(outcome) == {"one": same, "two": same, "three": same}


def test_half_precision_is_repaired() -> None:
    dense = build("net (float16[N,16] x) => (float16[N,8] y) <float16[16,8] w, float16[8] c> { y = Gemm(x, w, c) }")
    small, x = pruned(dense), correlated(200, 16).astype(np.float16)
    outcome = repair(small, dense, Samples({"x": x}))
    assert outcome.graph.array("w").dtype == np.float16
    found, before, wanted = (run(item, {"x": x})["y"].astype(np.float64) for item in (outcome.graph, small, dense))
    assert ((found - wanted) ** 2).mean() < 0.2 * ((before - wanted) ** 2).mean()


UNRELATED = """net (float[N,32] x) => (float[N,4] y) <int8[32,32] q, float s = {0.1}, int8 z = {0}, float[32,4] w> {
    d = DequantizeLinear(q, s, z)
    [frozen] h = MatMul(x, d)
    n = Sin(h)
    [fitted] y = MatMul(n, w)
}"""


def test_a_solution_that_does_not_generalise_is_dropped() -> None:
    """Inputs that have nothing to do with the targets, and hardly more rows than inputs: what is fitted is noise."""
    rng = np.random.default_rng(0)
    dense, small = (build(UNRELATED, q=rng.integers(-50, 50, (32, 32))) for _ in range(2))
    small = changed(small, w=dense.array("w"))
    x = rng.standard_normal((37, 32))
    outcome = repair(small, dense, samples(x=x), ridge=0.0)
    assert not outcome.changed
    assert reasons(outcome).keys() == {"frozen", "fitted"}
    assert reasons(outcome)["fitted"].startswith("re-solving it does not lower its relative error on held-out samples")
    assert repair(small, dense, samples(x=x), ridge=10.0).changed, "a strong pull fits less noise"


LEFT_ALONE = {
    "no layers": ("net (float[N,8] x) => (float[N,8] y) { y = Relu(x) }", 40, {"": "no layer with constant weights"}),
    "shared weights": (
        """net (float[N,8] x) => (float[N,8] y) <float[8,8] w> { [a] h = MatMul(x, w) [b] y = MatMul(h, w) }""",
        40,
        {"a": "its weights are shared with b", "b": "its weights are shared with a"},
    ),
    "ConvTranspose": (
        "net (float[N,8,2] x) => (float[N,8,4] y) <float[8,8,3] w> { [up] y = ConvTranspose(x, w) }",
        40,
        {"up": "operator ConvTranspose has no rule"},
    ),
    "GRU": (
        """net (float[N,5,8] x) => (float[N,1,5,4] y) <float[1,12,8] w, float[1,12,4] r> {
            [rnn] y = GRU<hidden_size = 4>(x, w, r)
        }""",
        40,
        {"rnn": "operator GRU has no rule"},
    ),
}


def test_too_few_samples_to_hold_some_out() -> None:
    dense = build("net (float[N,8] x) => (float[N,8] y) <float[8,8] w> { [layer] y = MatMul(x, w) }")
    with pytest.raises(DataError, match="repair needs at least 8 samples, there are 7"):
        repair(pruned(dense), dense, samples(x=correlated(7, 8)))


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, count, expected = LEFT_ALONE[case]
    dense = build(text)
    outcome = repair(pruned(dense), dense, samples(x=correlated(count, *sample_shape(dense))))
    assert not outcome.changed
    found = reasons(outcome)
    assert found.keys() == expected.keys()
    for node, reason in expected.items():
        assert reason in found[node]


def test_data_are_needed() -> None:
    dense = build(CHAIN)
    assert "pass --data" in reasons(apply(Repair(), pruned(dense), None, reference=dense))[""]


def test_a_layer_that_the_dense_model_does_not_have() -> None:
    dense = build(CHAIN)
    small = pruned(build(CHAIN.replace("b = ", "[layer] q = ").replace("MatMul(b", "MatMul(q")))
    outcome = repair(small, dense, samples(x=correlated(200, 16)))
    assert reasons(outcome) == {"layer": "the dense model has no value of the name it writes"}
    assert outcome.changed


def test_the_same_seed_gives_the_same_weights() -> None:
    dense = build(LAYERS["Conv"])
    small, inputs = pruned(dense), samples(x=correlated(100, 4, 6, 6))
    one, other = (repair(small, dense, inputs, positions=4).graph.fingerprint() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("spoil", ["Log", "Reciprocal"])
def test_activations_that_are_no_numbers(spoil: str) -> None:
    dense = build(
        f"""net (float[N,8] x) => (float[N,4] y) <float[8,4] w> {{ h = {spoil}(x) [layer] y = MatMul(h, w) }}"""
    )
    with pytest.raises(PassError, match=r"repair: activations of 'layer'.*NaN or infinity") as caught:
        repair(pruned(dense), dense, samples(x=np.zeros((20, 8))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["dead inputs", "copies", "fewer rows than inputs", "all dead"])
def test_degenerate_inputs_give_finite_weights(kind: str, ridge: float) -> None:
    dense = build("net (float[N,16] x) => (float[N,6] y) <float[16,6] w, float[6] c> { y = Gemm(x, w, c) }")
    x = correlated(10 if kind == "fewer rows than inputs" else 200, 16)
    if kind == "copies":
        x[:, 8:] = x[:, :8]
    elif kind != "fewer rows than inputs":
        x[:, 8 if kind == "dead inputs" else 0 :] = 0
    small = pruned(dense)
    outcome = repair(small, dense, samples(x=x), ridge=ridge)
    weights = outcome.graph.array("w")
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() < 100
    assert zeros(outcome.graph, "w") == zeros(small, "w")
    if kind == "dead inputs":
        assert np.allclose(weights[8:], small.array("w")[8:], atol=1e-6), "dead inputs keep their weights"
    if kind != "fewer rows than inputs":
        assert error(outcome.graph, dense, x) <= error(small, dense, x)


def test_a_layer_that_lost_everything_keeps_its_mean() -> None:
    dense = build("net (float[N,8] x) => (float[N,4] y) <float[8,4] w, float[4] c> { y = Gemm(x, w, c) }")
    x = 2.0 + correlated(300, 8)
    outcome = repair(changed(dense, w=np.zeros((8, 4))), dense, samples(x=x))
    assert zeros(outcome.graph, "w") == 32
    wanted = run(dense, {"x": x.astype(np.float32)})["y"]
    assert np.allclose(outcome.graph.array("c"), wanted.mean(axis=0), rtol=1e-4)


def test_repair_wins_back_most_of_what_pruning_lost() -> None:
    dense = build(
        """net (float[N,3,8,8] x) => (float[N,6] y)
        <float[16,3,3,3] w1, float[16] c1, float[16,16,3,3] w2, float[16] c2, float[16,6] w3, int64[2] to = {0, -1}> {
            h1 = Conv<pads = [1, 1, 1, 1]>(x, w1, c1)
            r1 = Relu(h1)
            h2 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r1, w2, c2)
            r2 = Relu(h2)
            p = GlobalAveragePool(r2)
            f = Reshape(p, to)
            y = Gemm(f, w3)
        }"""
    )
    inputs, held_out = samples(x=correlated(200, 3, 8, 8)), correlated(100, 3, 8, 8, seed=1)
    small = apply(PruneWeights(criterion="magnitude", ratio=0.7, ends=True), dense, inputs).graph
    repaired = repair(small, dense, inputs).graph
    assert error(repaired, dense, held_out) < 0.1 * error(small, dense, held_out)


def test_a_sum_that_turns_out_to_broadcast_the_layer_leaves_it_alone() -> None:
    graph = build("""net (float[N,A,4] x, float[N,B,4] z) => (float[N,B,4] y) <float[4,4] w> {
        n = Neg(z)
        q = MatMul(x, w)
        y = Add(q, n)
    }""")
    pruned = graph.clone()
    Editor(pruned, "test").set_weights("w", np.tril(graph.array("w")))
    inputs = samples(x=correlated(32, 1, 4), z=correlated(32, 3, 4))
    outcome = apply(Repair(), pruned, inputs, reference=graph)
    assert not outcome.changed
    assert "has shape [32, 1, 4], but 'y' of the dense model has [32, 3, 4]" in reasons(outcome)["MatMul_1"]


def test_layers_that_were_cut_on_both_sides_are_solved_for_what_is_left_of_the_dense_output() -> None:
    text = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
    <float[12,3,3,3] w1, float[12] b1, float[16,12,3,3] w2, float[16] b2, float[5,16,1,1] w3, float[5] b3> {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        ra = Relu(a)
        b = Conv<pads=[1,1,1,1]>(ra, w2, b2)
        rb = Relu(b)
        y = Conv(rb, w3, b3)
    }"""
    dense = build(text)
    x = correlated(96, 3, 8, 8)
    inputs, fresh = samples(x=x), correlated(32, 3, 8, 8, seed=5)
    cut = apply(PruneChannels(ratio=0.25, multiple=1, compensate=False), dense, inputs).graph
    assert cut.array("w2").shape == (12, 9, 3, 3)
    outcome = repair(cut, dense, inputs)
    assert not reasons(outcome).keys() & {"Conv_2", "Conv_4"}
    assert error(outcome.graph, dense, fresh) < 0.7 * error(cut, dense, fresh)
