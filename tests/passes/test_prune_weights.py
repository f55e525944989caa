from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import DataError, SpecError
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Cache, Outcome, PassContext, run_pass
from surgery_ir.passes.prune.weights import PruneWeights
from tests.harness import RUNTIME, run
from tests.passes.helpers import CountingRuntime, apply, build, context, correlated, reasons, samples, zeros

LAYERS = {
    "Conv": (
        """net (float[N,8,6,6] x) => (float[N,12,4,4] y) <float[12,8,3,3] w> { [layer] y = Conv(x, w) }""",
        (8, 6, 6),
    ),
    "grouped Conv": (
        """net (float[N,16,6,6] x) => (float[N,8,4,4] y) <float[8,8,3,3] w> {
            [layer] y = Conv<group = 2>(x, w)
        }""",
        (16, 6, 6),
    ),
    "depthwise Conv": (
        """net (float[N,8,6,6] x) => (float[N,8,3,3] y) <float[8,1,3,3] w, float[8] c> {
            [layer] y = Conv<group = 8, pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, c)
        }""",
        (8, 6, 6),
    ),
    "Gemm": (
        """net (float[N,24] x) => (float[N,12] y) <float[12,24] w, float[12] c> {
            [layer] y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c)
        }""",
        (24,),
    ),
    "MatMul": (
        "net (float[N,5,24] x) => (float[N,5,12] y) <float[24,12] w> { [layer] y = MatMul(x, w) }",
        (5, 24),
    ),
    "MatMul with a bias": (
        """net (float[N,5,24] x) => (float[N,5,12] y) <float[24,12] w, float[12] c> {
            [layer] h = MatMul(x, w)
            y = Add(c, h)
        }""",
        (5, 24),
    ),
    "MatMul from the left": (
        "net (float[N,24,5] x) => (float[N,12,5] y) <float[12,24] w> { [layer] y = MatMul(w, x) }",
        (24, 5),
    ),
}

CRITERIA = ("magnitude", "wanda", "obs")

CHAIN = """net (float[N,8] x) => (float[N,3] y) <float[8,16] w1, float[16,16] w2, float[16,8] w3, float[8,3] w4> {
    [one] a = MatMul(x, w1)
    ra = Relu(a)
    [two] b = MatMul(ra, w2)
    rb = Relu(b)
    [three] c = MatMul(rb, w3)
    rc = Relu(c)
    [four] y = MatMul(rc, w4)
}"""


def chain(**weights: NDArray[np.float64]) -> tuple[Graph, Samples]:
    """Four layers, of which the two in the middle are neither first nor last."""
    return build(CHAIN, **weights), samples(x=correlated(200, 8))


def prune(graph: Graph, inputs: Samples | None, **options: object) -> Outcome:
    return apply(PruneWeights(**options), graph, inputs)  # type: ignore[arg-type]


def outputs_first(case: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of a case as outputs × inputs, then kernel positions."""
    return np.swapaxes(weights, 0, 1) if case in ("MatMul", "MatMul with a bias") else weights


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("ratio", [0.25, 0.9])
def test_number_of_zeros_is_exact(case: str, criterion: str, ratio: float) -> None:
    text, shape = LAYERS[case]
    graph = build(text)
    outcome = prune(graph, samples(x=correlated(150, *shape)), criterion=criterion, ratio=ratio, ends=True)
    size = graph.array("w").size
    assert zeros(outcome.graph, "w") == int(ratio * size + 0.5)
    found = connections(outcome.edits)
    assert (found.pruned, found.created) == (int(ratio * size + 0.5), 0)
    assert not outcome.refusals


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("case", [case for case in LAYERS if case != "depthwise Conv"])
def test_two_of_four_run_along_the_input_channels(case: str, criterion: str) -> None:
    text, shape = LAYERS[case]
    outcome = prune(
        build(text), samples(x=correlated(150, *shape)), criterion=criterion, pattern="2:4", ends=True
    )  # fmt: skip
    weights = outputs_first(case, outcome.graph.array("w"))
    groups = weights.reshape(len(weights), -1, 4, *weights.shape[2:])  # the same position of four channels
    assert np.all(np.count_nonzero(groups, axis=2) == 2)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("case", [case for case in LAYERS if case != "depthwise Conv"])
def test_blocks_run_along_the_outputs(case: str, criterion: str) -> None:
    text, shape = LAYERS[case]
    outcome = prune(
        build(text), samples(x=correlated(150, *shape)), criterion=criterion, pattern="4x1", ratio=0.5, ends=True
    )
    weights = outputs_first(case, outcome.graph.array("w"))
    blocks = np.count_nonzero(weights.reshape(-1, 4, *weights.shape[1:]), axis=1)
    assert set(np.unique(blocks)) == {0, 4}
    assert np.count_nonzero(blocks) == blocks.size // 2


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("case", [case for case in LAYERS if case != "depthwise Conv"])
def test_quads_run_along_the_input_channels(case: str, criterion: str) -> None:
    """Of a Conv, four channels at one position of its kernel, as int8 kernels multiply them in one step."""
    text, shape = LAYERS[case]
    outcome = prune(
        build(text), samples(x=correlated(150, *shape)), criterion=criterion, pattern="1x4", ratio=0.5, ends=True
    )
    weights = outputs_first(case, outcome.graph.array("w"))
    quads = np.count_nonzero(weights.reshape(len(weights), -1, 4, *weights.shape[2:]), axis=2)
    assert set(np.unique(quads)) == {0, 4}
    assert np.count_nonzero(quads) == quads.size // 2


def test_magnitude_keeps_the_largest_weights_as_they_are() -> None:
    graph, _ = chain()
    before, after = graph.array("w2"), prune(graph, None, criterion="magnitude", ratio=0.7).graph.array("w2")
    kept = after != 0
    assert np.abs(before[kept]).min() > np.abs(before[~kept]).max()
    assert np.array_equal(after[kept], before[kept])


def test_wanda_keeps_the_weights_of_strong_inputs() -> None:
    text = "net (float[N,4] x) => (float[N,4] y) <float[4,4] w> { [layer] y = MatMul(x, w) }"
    strength = np.array([1.0, 10.0, 1.0, 10.0])
    inputs = samples(x=np.random.default_rng(0).standard_normal((100, 4)) * strength)
    graph = build(text, w=np.random.default_rng(1).uniform(0.5, 2.0, (4, 4)))
    weights = prune(graph, inputs, criterion="wanda", ratio=0.5, ends=True).graph.array("w")
    assert np.all(weights[[1, 3]] != 0)
    assert np.all(weights[[0, 2]] == 0)


def activations(case: str, count: int, seed: int) -> NDArray[np.float64]:
    """Inputs of a case whose features are correlated and differ in strength."""
    shape = LAYERS[case][1]
    axis = {"MatMul": 1, "MatMul with a bias": 1}.get(case, 0)
    features = shape[axis]
    rest = [size for index, size in enumerate(shape) if index != axis]
    strength = np.random.default_rng(9).permutation(np.geomspace(0.2, 5.0, features))
    found = correlated(count, features, *rest, seed=seed) * strength.reshape(-1, *[1] * len(rest))
    return np.moveaxis(found, 1, 1 + axis)


@pytest.mark.parametrize("case", LAYERS)
def test_better_criteria_leave_a_smaller_error(case: str) -> None:
    graph = build(LAYERS[case][0])
    held_out = activations(case, 300, seed=2).astype(np.float32)
    wanted = run(graph, {"x": held_out})["y"]

    def error(**options: object) -> float:
        outcome = prune(graph, samples(x=activations(case, 600, seed=0)), ratio=0.6, ends=True, **options)
        return float(((run(outcome.graph, {"x": held_out})["y"] - wanted) ** 2).mean())

    magnitude, wanda, obs = (error(criterion=criterion) for criterion in CRITERIA)
    assert wanda < 0.6 * magnitude
    assert obs < 0.7 * wanda
    assert obs < 0.7 * error(criterion="obs", compensate=False)


def test_compensation_keeps_the_mean() -> None:
    text = """net (float[N,8] x) => (float[N,4] y) <float[8,4] "fc.weight"> { [layer] y = Gemm(x, "fc.weight") }"""
    graph = build(text)
    inputs = samples(x=correlated(400, 8) + 5.0)
    outcome = prune(graph, inputs, ratio=0.5, ends=True)
    assert "fc.bias" in outcome.graph.initializers
    before, after = (run(item, dict(inputs.feeds))["y"] for item in (graph, outcome.graph))
    assert np.allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-4)


def test_without_compensation_what_stays_is_as_it_was() -> None:
    graph, inputs = chain()
    after = prune(graph, inputs, criterion="obs", compensate=False).graph.array("w2")
    assert np.array_equal(after[after != 0], graph.array("w2")[after != 0])


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_global_allocation_is_exact_over_all_layers(criterion: str, pattern: str) -> None:
    graph, inputs = chain(w3=np.random.default_rng(3).standard_normal((16, 8)) * 2)
    outcome = prune(graph, inputs, criterion=criterion, pattern=pattern, allocation="global", ratio=0.7)
    unit = 1 if pattern == "unstructured" else 4
    assert zeros(outcome.graph, "w2") + zeros(outcome.graph, "w3") == unit * int(0.7 * 384 / unit + 0.5)
    assert abs(zeros(outcome.graph, "w2") / 256 - zeros(outcome.graph, "w3") / 128) > 0.05


def test_global_allocation_spares_named_layers_and_cuts_nothing_off() -> None:
    graph, _ = chain(w3=np.random.default_rng(3).standard_normal((16, 8)) * 1e-3)
    outcome = prune(graph, None, criterion="magnitude", allocation="global", ratio=0.6, ends=True, ratios={"one": 0.25})
    assert zeros(outcome.graph, "w1") == 32
    assert zeros(outcome.graph, "w3") == 127
    rest = sum(zeros(outcome.graph, name) for name in ("w2", "w3", "w4"))
    assert rest == int(0.6 * (256 + 128 + 24) + 0.5)


def test_ratios_name_layers_over_everything_else() -> None:
    graph, inputs = chain()
    outcome = prune(graph, inputs, criterion="wanda", ratio=0.5, ratios={"two": 0.25, "four": 0.75})
    assert [zeros(outcome.graph, name) for name in ("w1", "w2", "w3", "w4")] == [0, 64, 64, 18]
    assert reasons(outcome).keys() == {"one"}


def test_groups_of_a_layer_compete() -> None:
    text, shape = LAYERS["depthwise Conv"]
    weights = np.random.default_rng(0).uniform(0.5, 1.0, (8, 1, 3, 3))
    weights[:4] *= 0.1
    graph = build(text, w=weights)
    inputs = samples(x=np.random.default_rng(1).standard_normal((200, *shape)))
    for criterion in CRITERIA:
        outcome = prune(graph, inputs, criterion=criterion, ratio=0.5, ends=True)
        assert np.all(outcome.graph.array("w")[:4] == 0), criterion


def test_masks_of_growing_ratios_are_nested() -> None:
    graph, inputs = chain()
    for criterion in CRITERIA:
        kept = [
            prune(graph, inputs, criterion=criterion, ratio=ratio).graph.array("w2") != 0 for ratio in (0.3, 0.6, 0.9)
        ]
        assert np.all(kept[1] <= kept[0]), criterion
        assert np.all(kept[2] <= kept[1]), criterion


def test_another_ratio_reads_no_activations_again() -> None:
    graph, inputs = chain()
    runtime = CountingRuntime()
    ctx = context(graph, inputs, runtime=runtime)
    first = run_pass(PruneWeights(ratio=0.5, compensate=False), graph, ctx)
    runs = runtime.runs
    assert runs > 0
    second = run_pass(PruneWeights(ratio=0.8, compensate=False), graph, ctx)
    assert runtime.runs == runs
    assert zeros(second.graph, "w2") > zeros(first.graph, "w2")
    run_pass(PruneWeights(ratio=0.8, compensate=False, pattern="4x1"), graph, ctx)
    assert runtime.runs > runs, "another pattern has another elimination order"


def test_order_is_not_taken_from_another_graph_or_other_samples() -> None:
    graph, inputs = chain()
    other, _ = chain(w2=graph.array("w2")[::-1].copy())
    shuffled = samples(x=correlated(200, 8)[:, ::-1])
    cache = Cache()

    def mask(model: Graph, data: Samples) -> NDArray[np.bool_]:
        ctx = PassContext(model, RUNTIME, data, cache=cache)
        kept: NDArray[np.bool_] = run_pass(PruneWeights(compensate=False), model, ctx).graph.array("w2") != 0
        return kept

    first = mask(graph, inputs)
    assert not np.array_equal(first, mask(other, inputs))
    assert not np.array_equal(first, mask(graph, shuffled))
    assert np.array_equal(first, mask(graph, inputs))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_same_seed_gives_the_same_weights(criterion: str) -> None:
    text, shape = LAYERS["Conv"]
    graph, inputs = build(text), samples(x=correlated(100, *shape))
    one, other = (prune(graph, inputs, criterion=criterion, ends=True).graph.fingerprint() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("dtype", ["float16", "double", "bfloat16"])
def test_element_types(dtype: str) -> None:
    text = f"net ({dtype}[N,8] x) => ({dtype}[N,8] y) <{dtype}[8,8] w> {{ [layer] y = MatMul(x, w) }}"
    graph = build(text)
    numpy_type = graph.array("w").dtype
    for criterion in CRITERIA if dtype != "bfloat16" else CRITERIA[:1]:
        inputs = Samples({"x": correlated(60, 8).astype(numpy_type)}) if criterion != "magnitude" else None
        weights = prune(graph, inputs, criterion=criterion, ends=True).graph.array("w")
        assert weights.dtype == numpy_type
        assert np.count_nonzero(weights) == 32


def test_shared_weights_are_pruned_once_by_magnitude() -> None:
    text = """net (float[N,8] x) => (float[N,8] y) <float[8,8] w1, float[8,8] w, float[8,8] w4> {
        [one] a = MatMul(x, w1)
        [two] b = MatMul(a, w)
        [three] c = MatMul(b, w)
        [four] y = MatMul(c, w4)
    }"""
    outcome = prune(build(text), None, criterion="magnitude", ratio=0.25)
    assert zeros(outcome.graph, "w") == 16
    assert connections(outcome.edits).pruned == 16
    assert reasons(outcome)["three"] == "its weights are those of two, which are pruned"


def test_zeros_are_kept_and_count() -> None:
    weights = np.random.default_rng(0).standard_normal((16, 16))
    gone = [0, 1, 2, 5, 9, 10]  # three of the first four inputs
    weights[gone] = 0
    graph, inputs = chain(w2=weights)
    for criterion in CRITERIA:
        outcome = prune(graph, inputs, criterion=criterion, ratio=0.75)
        assert zeros(outcome.graph, "w2") == 192, criterion
        assert np.all(outcome.graph.array("w2")[gone] == 0), criterion
        assert connections(outcome.edits).created == 0
    patterned = prune(graph, inputs, criterion="obs", pattern="2:4")
    assert connections(patterned.edits).created == 0, "a pattern that would allow more revives nothing"
    assert np.all(patterned.graph.array("w2")[gone] == 0)


def test_dead_and_duplicate_inputs_give_no_nan() -> None:
    inputs = correlated(100, 8)
    inputs[:, 2] = 0
    inputs[:, 5] = inputs[:, 4]
    graph, _ = chain()
    for criterion in ("wanda", "obs"):
        outcome = prune(graph, samples(x=inputs), criterion=criterion, ratio=0.5, ends=True)
        assert zeros(outcome.graph, "w1") == 64
        assert all(np.isfinite(outcome.graph.array(f"w{index}")).all() for index in range(1, 5))


NETWORK = "net (float[N,8] x) => (float[N,8] y)"

LEFT_ALONE: Mapping[str, tuple[str, dict[str, object], dict[str, str]]] = {
    "no layers": (
        f"{NETWORK} {{ [relu] y = Relu(x) }}",
        {},
        {"": "no layer with constant weights"},
    ),
    "first and last": (
        f"{NETWORK} <float[8,8] w1, float[8,8] w2> {{ [one] h = MatMul(x, w1) [two] y = MatMul(h, w2) }}",
        {},
        {"one": "first and last layers are left dense", "two": "first and last layers are left dense"},
    ),
    "shared with a first layer": (
        f"""{NETWORK} <float[8,8] w, float[8,8] w2> {{
            [a] h = MatMul(x, w)
            [b] i = MatMul(h, w)
            [c] y = MatMul(i, w2)
        }}""",
        {"criterion": "magnitude"},
        {"a": "first and last", "b": "first and last", "c": "first and last"},
    ),
    "shared weights": (
        f"{NETWORK} <float[8,8] w> {{ [a] h = MatMul(x, w) [b] y = MatMul(h, w) }}",
        {"ends": True},
        {"a": "shared with b; criterion=magnitude prunes them", "b": "shared with a; criterion=magnitude prunes them"},
    ),
    "too few channels for the pattern": (
        "net (float[N,3,5,5] x) => (float[N,4,3,3] y) <float[4,3,3,3] w> { [layer] y = Conv(x, w) }",
        {"ends": True, "pattern": "2:4"},
        {"layer": "its 3 input channels are no multiple of 4"},
    ),
    "depthwise": (
        "net (float[N,4,5,5] x) => (float[N,4,3,3] y) <float[4,1,3,3] w> { [layer] y = Conv<group = 4>(x, w) }",
        {"ends": True, "pattern": "4x1"},
        {"layer": "1 outputs and 1 input channels do not divide into 4x1"},
    ),
    "channels that make no quads": (
        "net (float[N,6,5,5] x) => (float[N,4,3,3] y) <float[4,6,3,3] w> { [layer] y = Conv(x, w) }",
        {"ends": True, "pattern": "1x4"},
        {"layer": "4 outputs and 6 input channels do not divide into 1x4"},
    ),
    "as sparse as asked for": (
        f"{NETWORK} <float[8,8] w> {{ [layer] y = MatMul(x, w) }}",
        {"ends": True, "ratio": 0.0},
        {"layer": "it has as many zeros already as are asked for"},
    ),
    "a ratio that selects nothing": (
        "net (float[N,1] x) => (float[N,2] y) <float[1,2] w> { [layer] y = MatMul(x, w) }",
        {"ends": True, "ratio": 0.2, "allocation": "global", "criterion": "magnitude"},
        {"layer": "it has as many zeros already as are asked for"},
    ),
    "quantised": (
        f"""{NETWORK} <int8[8,8] q, float s = {{0.1}}, int8 z = {{0}}> {{
            w = DequantizeLinear(q, s, z)
            [layer] y = MatMul(x, w)
        }}""",
        {},
        {"layer": "quantised"},
    ),
    "integers": (
        "net (int32[N,8] x) => (int32[N,8] y) <int32[8,8] w> { [layer] y = MatMul(x, w) }",
        {},
        {"layer": "its weights are INT32, not floating point"},
    ),
    "LSTM": (
        """net (float[5,N,3] x) => (float[5,1,N,4] y) <float[1,16,3] w, float[1,16,4] r> {
            [rnn] y = LSTM<hidden_size = 4>(x, w, r)
        }""",
        {},
        {"rnn": "operator LSTM has no rule"},
    ),
    "inside branches": (
        """net (float[N,8] x, bool flag) => (float[N,8] y) <float[8,8] w> {
            [branch] y = If(flag) <
                then_branch = yes () => (float[N,8] a) { a = MatMul(x, w) },
                else_branch = no () => (float[N,8] b) { b = Neg(x) }
            >
        }""",
        {},
        {"branch": "its subgraph holds 1 operators with weights"},
    ),
    "another domain": (
        """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
        net (float[N,8] x) => (float[N,8] y) <float[8,8] w> { [layer] y = com.microsoft.FusedMatMul(x, w) }""",
        {},
        {"layer": "operator com.microsoft.FusedMatMul has no rule"},
    ),
    "unknown layers": (
        f"{NETWORK} <float[8,8] w> {{ [layer] y = MatMul(x, w) }}",
        {"ratios": {"layer": 0.5, "lawyer": 0.5}},
        {"lawyer": "ratios names layers that the model does not have"},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, options, expected = LEFT_ALONE[case]
    graph = build(text)
    outcome = prune(graph, samples(x=correlated(30, 8)), **options)
    assert outcome.graph is graph
    found = reasons(outcome)
    assert found.keys() == expected.keys()
    for node, reason in expected.items():
        assert reason in found[node]


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_criteria_that_need_data_say_so(criterion: str) -> None:
    graph, _ = chain()
    outcome = prune(graph, None, criterion=criterion)
    assert reasons(outcome)[""] == (
        f"criterion {criterion} needs sample inputs: pass --data, or use criterion=magnitude"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "2:4", "allocation": "global"}, "pattern 2:4 fixes the ratio of every layer"),
        ({"pattern": "2:4", "ratios": {"one": 0.5}}, "pattern 2:4 fixes the ratio of every layer"),
        ({"pattern": "4:2"}, "option 'pattern': the pattern 4:2 needs 1 <= N <= M"),
        ({"pattern": "half"}, "option 'pattern': 'half': a pattern is"),
        ({"ratio": 1.0}, "option 'ratio': 1 is out of range (0 to 0.99)"),
        ({"ratios": {"one": -0.5}}, "option 'ratios': -0.5 is out of range"),
        ({"criterion": "random"}, "option 'criterion': 'random' is not valid"),
    ],
)
def test_contradictory_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        PruneWeights(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"prune-weights: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_activations_that_are_no_numbers(criterion: str) -> None:
    text = f"{NETWORK} <float[8,8] w> {{ h = Log(x) [layer] y = MatMul(h, w) }}"
    with pytest.raises(DataError, match=r"'layer'.*NaN or infinity") as caught:
        prune(build(text), samples(x=np.zeros((10, 8))), criterion=criterion, ends=True)
    assert "\n" not in str(caught.value)
