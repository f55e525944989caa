"""New connections are tried on the dense model with one value replaced: the same as doing so by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import divergence as divergence_of
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.taps import Tap, find_taps
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.bias import set_layer_bias
from surgery_ir.passes.emission import emit
from surgery_ir.passes.reconnect.acceptance import Trial, judge_of, judging_samples
from surgery_ir.passes.reconnect.rewire import Rewire
from surgery_ir.passes.reconnect.visit import Visit
from surgery_ir.passes.sequential import Affine, Equation, Fit, Sequential
from tests.harness import RUNTIME, run
from tests.passes.helpers import build
from tests.passes.wiring import NETWORKS, context, inputs, networks, prune, reconnect


def patched(dense: Graph, name: str, values: NDArray[Any], feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Outputs of the dense model, one value being an input of its own."""
    proto = dense.to_proto()
    for node in proto.graph.node:
        node.output[:] = [f"{item}/dense" if item == name else item for item in node.output]
    given = onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
    if name not in {output.name for output in proto.graph.output}:
        proto.graph.input.append(given)
        return run(Graph.from_proto(proto), {**feeds, name: values})
    return {name: values}


def written(
    graph: Graph, equation: Equation, solution: Affine, taps: Sequence[Tap], feeds: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Write a solution into a copy of the graph and run that."""
    editor, parts = Editor(graph.clone(), "test"), equation.split(solution.weights)
    for part, weights in zip(equation.target.parts, parts, strict=False):
        editor.set_weights(part.weight, part.array(weights.reshape(part.groups, part.outputs, part.inputs)))
    if equation.layer.takes_bias:
        set_layer_bias(editor, equation.layer, solution.biases)
    for tap, weights in zip(taps, parts[len(equation.target.parts) :], strict=True):
        assert emit(editor, equation.layer, tap, weights.reshape(tap.layer.outputs, tap.layer.inputs)) is not None
    wanted: NDArray[Any] = run(with_outputs(editor.graph, [equation.target.wanted]), feeds)[equation.target.wanted]
    return wanted


def perturbed(equation: Equation, seed: int) -> Affine:
    """Some solution: it need not be a good one."""
    rng, before = np.random.default_rng(seed), equation.before
    weights = before.weights + 0.1 * rng.standard_normal(before.weights.shape)
    biases = before.biases + 0.3 * rng.standard_normal(before.biases.shape) * equation.layer.takes_bias
    return Affine(weights * (rng.random(weights.shape) < 0.7), biases)


def taps_of(graph: Graph) -> Mapping[str, Sequence[Tap]]:
    layers = find_layers(graph)
    names = [name for layer in layers for name in (layer.input, layer.output)]
    count = 4 if "4" in str(graph.inputs[0].shape) else 2
    shapes = observe_shapes(graph, RUNTIME, dict(inputs(graph, count).feeds), names)
    return find_taps(graph, layers, shapes, 4).by_layer


def assert_like_by_hand(small: Graph, dense: Graph, data: Samples, batches: Sequence[slice]) -> tuple[int, int]:
    """Try solutions of every layer with its taps, new and old; give how many taps there were."""
    taps, ctx = taps_of(small), replace(context(dense, count=16), selection=data)
    judge = judge_of(ctx, len(data))
    walk = Sequential(
        Editor(small.clone(), "test"), ctx, Fit(), "testing", residual=True, taps=taps, trial=judge.samples
    )
    trial = Trial(walk, judge)
    old = new = 0
    wanted = [run(dense, {"x": data.feeds["x"][batch]}) for batch in batches]
    reference = {name: np.concatenate([item[name] for item in wanted]) for name in wanted[0]}
    for seed, equation in enumerate(walk):
        chosen = tuple(taps.get(equation.layer.name, ()))[:2]
        wide = walk.equation(equation.target, chosen)
        for tried, extra in ((equation, ()), (wide, chosen)):
            solution = perturbed(tried, seed)
            assert trial.can_measure(tried)
            found = []
            for batch in batches:
                feeds = {"x": data.feeds["x"][batch]}
                values = written(walk.editor.graph, tried, solution, extra, feeds)
                found.append(patched(dense, tried.target.wanted, values, feeds))
            outputs = {name: np.concatenate([item[name] for item in found]) for name in found[0]}
            by_hand = divergence_of(outputs, reference)
            assert by_hand > 1e-4
            assert trial.divergence(tried, solution, extra) == pytest.approx(by_hand, rel=2e-3)
        old, new = old + len(equation.target.taps), new + len(chosen)
        walk.write(equation, perturbed(equation, seed))
    return old, new


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trial_is_what_writing_and_patching_gives(name: str) -> None:
    """Layers ahead change as the walk goes, and the trial walks along."""
    dense, small = networks(name, 0.5)
    data = inputs(dense, 12, seed=1)
    batches = [slice(start, start + 4) for start in (0, 4, 8)] if "four" in name else [slice(0, 12)]
    old, new = assert_like_by_hand(small, dense, data, batches)
    assert old == 0
    assert new > 0


@pytest.mark.parametrize("name", ["chain", "residual", "attention"])
def test_a_trial_of_layers_that_have_taps_already(name: str) -> None:
    dense, small = networks(name, 0.6)
    small = reconnect(Rewire(radius=2), small, dense).graph
    old, new = assert_like_by_hand(small, dense, inputs(dense, 12, seed=1), [slice(0, 12)])
    assert old > 0
    assert new > 0


def test_the_present_solution_of_a_dense_model_costs_nothing() -> None:
    dense = build(NETWORKS["residual"])
    ctx = context(dense, count=16)
    judge = judge_of(ctx, 32)
    walk = Sequential(Editor(dense.clone(), "test"), ctx, Fit(), "testing", trial=judge.samples)
    trial = Trial(walk, judge)
    for equation in walk:
        assert trial.divergence(equation, equation.before) < 1e-9


def test_a_value_that_was_cut_cannot_be_measured() -> None:
    dense = build(NETWORKS["chain"])
    ctx = context(dense, count=16)
    editor = Editor(prune(dense).graph, "test")
    walk = Sequential(editor, ctx, Fit(), "testing", trial=judging_samples(ctx))
    trial = Trial(walk, judge_of(ctx, 8))
    editor.graph.note_cut("c", 1, np.arange(8))
    able = {target.layer.name: trial.can_measure(walk.equation(target)) for target in walk.targets[:1]}
    assert able == {"one": True}
    second = walk.targets[1]
    assert second.wanted == "c"
    assert not trial.can_measure(walk.equation(second))


def test_selection_samples_judge_and_held_out_ones_stand_in_for_them() -> None:
    dense = build(NETWORKS["chain"])
    ctx = context(dense, count=40)
    assert judging_samples(ctx) is ctx.selection
    assert ctx.samples is not None
    held_out = judging_samples(replace(ctx, selection=None))
    np.testing.assert_array_equal(held_out.feeds["x"], ctx.samples.feeds["x"][7::8])


def test_a_judge_is_made_once() -> None:
    dense = build(NETWORKS["chain"])
    ctx = context(dense, count=40)
    assert judge_of(ctx, 16) is judge_of(ctx, 16)
    assert len(judge_of(ctx, 16).samples) == 16
    other = replace(ctx, selection=inputs(dense, 16, seed=9))
    assert judge_of(other, 16) is not judge_of(ctx, 16)
    assert judge_of(ctx, 8) is not judge_of(ctx, 16)


@pytest.mark.parametrize(
    ("before", "after", "accept", "kept"),
    [
        (1.0, 0.9, 0.0, True),
        (1.0, 0.9, 0.2, False),
        (1.0, 1.1, 0.0, False),
        (0.0, 0.0, 0.0, True),
        (0.0, 0.1, 0.0, False),
    ],
)
def test_what_raises_the_divergence_is_undone(before: float, after: float, accept: float, kept: bool) -> None:
    """Also where there was none."""
    plain, solution = object(), object()
    equation = Mock(layer=SimpleNamespace(name="layer"))
    trial = Mock(can_measure=lambda _: True, divergence=lambda _, tried, *taps: before if tried is plain else after)
    proposal = Mock(created=3, taps=(), solve=lambda part: solution, equation=Mock(error=lambda _: 0.5))
    visit = Visit(Mock(), equation, trial, accept)
    reason = visit._reason_against(cast(Any, plain), 1.0, proposal)
    (gain,) = visit.gains
    assert (reason is None, gain.kept, gain.measured) == (kept, kept, before - after)
