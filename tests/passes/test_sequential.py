"""The walk over layer equations: how one is gathered, solved, judged and written, taps included."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.rows import Part
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.taps import Tap, find_taps
from surgery_ir.errors import DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.sequential import PARTS, Equation, Fit, Sequential, rounding
from tests.harness import RUNTIME
from tests.passes.helpers import build
from tests.passes.wiring import context, inputs, networks, prune

EXACT = Fit(ridge=0.0, relu=0)


def walk(small: Graph, dense: Graph, fit: Fit = EXACT, count: int = 64, **options: object) -> Sequential:
    ctx = context(dense, count=count)
    return Sequential(Editor(small, "test"), ctx, fit, "testing", **options)  # type: ignore[arg-type]


def taps_of(graph: Graph, radius: int = 4) -> dict[str, tuple[Tap, ...]]:
    layers = find_layers(graph)
    names = [name for layer in layers for name in (layer.input, layer.output)]
    shapes = observe_shapes(graph, RUNTIME, dict(inputs(graph, 2).feeds), names)
    return dict(find_taps(graph, layers, shapes, radius).by_layer)


def named(found: Sequential, name: str) -> Equation:
    """Go on to the equation of a layer."""
    return next(equation for equation in found if equation.layer.name == name)


def by_hand(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (outputs, columns) and, behind them, the intercept."""
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    return np.asarray(solution.T, np.float64)


def rows_of(equation: Equation, part: Part = "fit") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    batches = list(equation.rows.batches(part))
    x, y = (np.concatenate(items, axis=1)[0] for items in ([b.x for b in batches], [b.target for b in batches]))
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


@pytest.mark.parametrize("part", ["fit", "check", "all"])
def test_a_solution_is_that_of_least_squares_on_its_part(part: Part) -> None:
    dense, small = networks("chain", 0.3)
    equation = named(walk(small, dense, count=160), "one")
    equation.gather()
    full = np.ones_like(equation.before.weights, dtype=bool)
    found = equation.solve(part, equation.before.weights, full)
    wanted = by_hand(*rows_of(equation, part))
    np.testing.assert_allclose(found.weights[0], wanted[:, :-1], atol=1e-4)
    np.testing.assert_allclose(found.biases[0], wanted[:, -1], atol=1e-4)


def test_moments_of_all_rows_replace_those_of_the_parts() -> None:
    dense, small = networks("chain")
    equation = named(walk(small, dense), "one")
    equation.gather()
    assert [equation.moments(part)[0].n for part in PARTS] == [56, 8]
    assert equation.moments("all")[0].n == 64
    assert equation.moments("all") is equation.moments("all")
    assert equation.moments("all")[0].n == 64
    assert equation.moments("fit")[0].n == 56, "accumulated anew"


def test_zeros_of_a_mask_are_none_of_the_solution() -> None:
    dense, small = networks("chain")
    equation = named(walk(small, dense), "one")
    mask = np.random.default_rng(0).random(equation.before.weights.shape) < 0.4
    assert np.array_equal(equation.solve("fit", equation.before.weights, mask).weights != 0, mask)


def test_a_solution_in_a_basis_is_the_best_of_its_span() -> None:
    """With more directions than columns it is that of least squares itself; with few, none in their span is better."""
    dense, small = networks("chain", 0.3)
    equation = named(walk(small, dense), "one")
    prior = np.zeros((1, 16, 12))
    rng = np.random.default_rng(1)
    turned = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    free = equation.solve("fit", prior, np.ones((1, 16, 12), bool))
    same = equation.solve("fit", prior, np.ones((1, 16, 12), bool), basis=turned)
    np.testing.assert_allclose(same.weights, free.weights, atol=1e-6)
    np.testing.assert_allclose(same.biases, free.biases, atol=1e-6)
    basis = turned[:5]
    found = equation.solve("fit", np.zeros((1, 16, 5)), np.ones((1, 16, 5), bool), basis=basis)
    assert found.weights.shape == (1, 16, 12)
    np.testing.assert_allclose(found.weights[0] @ basis.T @ basis, found.weights[0], atol=1e-9)
    x, y = rows_of(equation)
    np.testing.assert_allclose(found.weights[0] @ basis.T, by_hand(x @ basis.T, y)[:, :-1], atol=1e-4)


def test_a_mask_in_a_basis_is_one_of_its_weights() -> None:
    dense, small = networks("chain", 0.3)
    equation = named(walk(small, dense), "one")
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 5)))[0].T
    mask = np.random.default_rng(2).random((1, 16, 5)) < 0.5
    found = equation.solve("fit", np.zeros((1, 16, 5)), mask, basis=basis)
    np.testing.assert_allclose((found.weights[0] @ basis.T)[~mask[0]], 0, atol=1e-9)


def test_the_error_is_relative_on_held_out_rows() -> None:
    dense, small = networks("chain")
    equation = named(walk(small, dense), "one")
    assert equation.target.rectified
    assert not equation.rectified, "no rounds that free what a Relu cuts off"
    x = inputs(dense, 64).feeds["x"][7::8].astype(np.float64)
    wanted = x @ dense.array("w1") + dense.array("c1")
    found = x @ small.array("w1") + small.array("c1")
    assert equation.error(equation.before) == pytest.approx(
        np.square(found - wanted).sum() / np.square(wanted).sum(), rel=1e-5
    )
    behind = named(walk(small, dense, Fit(0.0, 1)), "one")
    found, wanted = np.maximum(found, 0), np.maximum(wanted, 0)
    assert behind.rectified
    assert behind.error(behind.before) == pytest.approx(
        np.square(found - wanted).sum() / np.square(wanted).sum(), rel=1e-5
    )


def test_taps_are_solved_together_with_their_layer_and_written() -> None:
    """What is written is what was solved: the new value is the solution on its columns, and later layers read it."""
    dense, small = networks("residual")
    taps = taps_of(small)
    found = walk(small, dense, taps=taps, trial=inputs(dense, 16, seed=3))
    for equation in found:
        if equation.layer.name != "four":
            continue
        chosen = taps["four"][:2]
        wide = found.equation(equation.target, chosen)
        assert wide.rows.columns == equation.rows.columns + sum(tap.layer.inputs for tap in chosen)
        assert not wide.before.weights[:, :, equation.rows.columns :].any()
        np.testing.assert_array_equal(wide.before.weights[:, :, : equation.rows.columns], equation.before.weights)
        mask = np.random.default_rng(0).random(wide.before.weights.shape) < 0.5
        solution = wide.solve("all", np.zeros(mask.shape), mask)
        expected = np.concatenate([solution(batch) for batch in wide.rows.batches("all")], axis=1)
        found.write(wide, solution, chosen)
        break
    created = {edit.where: edit.created for edit in found.editor.edits if edit.created}
    own = equation.rows.columns
    came = solution.weights != 0
    came[:, :, :own] &= equation.before.weights == 0
    assert sum(created.values()) == np.count_nonzero(came)
    assert np.count_nonzero(came[:, :, own:]) > 50
    written = walk(found.editor.graph, dense)
    again = written.equation(next(item for item in written.targets if item.layer.name == "four"))
    assert [part.name for part in again.target.parts][1:], "the taps belong to the layer from now on"
    seen = np.concatenate([again.before(batch) for batch in again.rows.batches("all")], axis=1)
    np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_taps_without_a_connection_are_not_written() -> None:
    dense, small = networks("chain")
    taps = taps_of(small)
    found = walk(small, dense, taps=taps)
    equation = named(found, "four")
    wide = found.equation(equation.target, taps["four"])
    names = {node.name for node in small.model.graph}
    found.write(wide, wide.before, taps["four"])
    assert {node.name for node in found.editor.graph.model.graph} == names


def test_every_layer_has_its_turn_and_values_go() -> None:
    dense, small = networks("residual")
    taps = taps_of(small)
    told: list[tuple[int, int]] = []
    found = walk(small, dense, taps=taps)
    object.__setattr__(found.ctx, "progress", lambda what, done, total: told.append((done, total)))
    visited = [equation.layer.name for equation in found]
    assert visited == [target.layer.name for target in found.targets]
    assert set(visited) == {"one", "two", "three", "four", "short", "five"}
    assert told == [(index, 6) for index in range(7)]
    gone = {found.small: "xbdgi", found.dense: "acfij"}
    for item, names in gone.items():
        for name in names:
            with pytest.raises(KeyError):
                next(item.values(name))


def test_layers_that_cannot_be_solved_are_refused_and_the_others_visited() -> None:
    dense = build("""net (float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8,8] v> {
        [a] h = MatMul(x, w)
        [b] i = MatMul(h, w)
        [c] y = MatMul(i, v)
    }""")
    found = walk(prune(dense).graph, dense)
    assert [equation.layer.name for equation in found] == ["c"]
    assert {item.nodes: item.reason for item in found.refusals} == {
        ("a",): "its weights are shared with b",
        ("b",): "its weights are shared with a",
    }


def test_a_graph_without_layers_is_refused_as_a_whole() -> None:
    dense = build("net (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")
    found = walk(dense.clone(), dense)
    assert not found.targets
    assert [(item.reason, item.nodes) for item in found.refusals] == [("there is no layer with constant weights", ())]


def test_too_few_samples_are_an_error_ahead_of_any_change() -> None:
    dense, small = networks("chain")
    with pytest.raises(DataError, match="test needs at least 8 samples, there are 7"):
        walk(small, dense, count=7)


def test_what_a_runtime_rounds_is_no_error() -> None:
    assert rounding(np.dtype(np.float64)) == rounding(np.dtype(np.float32)) == 1e-10
    assert rounding(np.dtype(np.float16)) == pytest.approx((4 * 2**-10) ** 2)
