"""A lowered model that computes something else than its framework is found out, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import TOLERANCE, compare, settle
from surgery_ir.frontends.parameters import bind
from tests.harness import RUNTIME
from tests.live import Framework, framework, lower

TEXT = """g (float[n,4] x) => (float[n,2] y) <float[3,4] w, float[3,2] v>
    { t = Transpose <perm=[1,0]> (w) h = MatMul(x, t) r = Abs(h) y = MatMul(r, v) }"""
SEQUENCE = """g (float[n,t,4] x) => (float[n,t,2] y) <float[4,2] w> { y = MatMul(x, w) }"""
FIXED = """g (float[2,4] x) => (float[2,2] y) <float[4,2] w> { y = MatMul(x, w) }"""
TWO = (
    "g (float[n,4] x) => (float[n,4] y, int64[n] z) <float[4] w> { y = Mul(x, w) z = ArgMax <axis=1, keepdims=0> (y) }"
)

BATCH = {"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}


def test_equal() -> None:
    lowered = lower(framework(TEXT), BATCH)
    assert lowered.difference is not None
    assert lowered.difference <= 1e-6
    assert lowered.live is not None
    assert lowered.live.framework == "Testflow"
    assert [binding.initializer for binding in lowered.bindings] == ["v", "w"]
    np.testing.assert_array_equal(lowered.feeds["x"], BATCH["x"])


Fault = Callable[[Framework], None]


def scaled(name: str, factor: float) -> Fault:
    def plant(model: Framework) -> None:
        model.weights[name] = model.weights[name] * np.float32(factor)

    return plant


def swapped(model: Framework) -> None:
    model.weights["w"] = model.weights["w"][[1, 0, 2]]


def nan(model: Framework) -> None:
    model.weights["v"] = np.full_like(model.weights["v"], np.nan)


FAULTS: dict[str, tuple[Fault, str]] = {
    "a little": (scaled("v", 1 + 3 * TOLERANCE), "'y' of shape .* by 0.0003 of its scale .*; no layer inside differs"),
    "the first layer": (swapped, "the first layer that differs is 'layer h'"),
    "behind the first layer": (scaled("v", 2), "no layer inside differs"),
    "no number": (nan, "differs from shape"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_planted_faults(case: str) -> None:
    plant, reason = FAULTS[case]
    model = framework(TEXT, "h", "r")
    graph = model.graph()
    bindings = bind(graph, model.parameters())
    plant(model)
    with pytest.raises(ModelError, match=reason):
        settle(graph, bindings, model, BATCH, RUNTIME)


def test_a_difference_within_the_tolerance_is_told() -> None:
    model = framework(TEXT)
    graph = model.graph()
    scaled("v", 1 + TOLERANCE / 2)(model)
    assert compare(graph, model, BATCH, RUNTIME) == pytest.approx(TOLERANCE / 2, rel=0.01)


class Baked(Framework):
    """Takes a batch of 2, or sequences of 3, for granted."""

    def run(self, feeds: Any) -> tuple[NDArray[Any], ...]:
        found = super().run(feeds)
        return tuple(value if value.shape[:2] in ((2, 3), (2, 2)) else value + 1 for value in found)


@pytest.mark.parametrize(
    ("text", "batch"), [(TEXT, BATCH), (SEQUENCE, {"x": np.ones((2, 3, 4), np.float32)})], ids=["batch", "sequence"]
)
def test_another_size_is_tried(text: str, batch: dict[str, Any]) -> None:
    honest = framework(text)
    with pytest.raises(ModelError, match=r"for x \[3, "):
        compare(honest.graph(), Baked(honest.program, honest.weights), batch, RUNTIME)


def test_a_batch_of_one_size() -> None:
    with pytest.raises(ModelError, match="the first axis of 'x' is fixed at 2"):
        lower(framework(FIXED), BATCH)


def test_whole_numbers_must_be_equal() -> None:
    model = framework(TWO, w=np.ones(4, np.float32))
    graph = model.graph()
    assert compare(graph, model, BATCH, RUNTIME) == 0
    model.weights["w"] = -model.weights["w"]
    with pytest.raises(ModelError, match="output 'y'"):
        compare(graph, model, BATCH, RUNTIME)


def test_number_of_outputs() -> None:
    model, other = framework(TWO), framework("g (float[n,4] x) => (float[n,4] y) <float[4] w> { y = Mul(x, w) }")
    with pytest.raises(ModelError, match="Testflow gives 1 outputs, the lowered model 2"):
        compare(model.graph(), other, BATCH, RUNTIME)


def test_names_of_the_example() -> None:
    with pytest.raises(ModelError, match="it takes x, the example has image"):
        lower(framework(TEXT), {"image": BATCH["x"]})


def test_a_runtime_is_needed() -> None:
    model = framework(TEXT)
    with pytest.raises(ModelError, match="a runtime is needed"):
        settle(model.graph(), (), model, BATCH, None)


class Silent(Framework):
    """Gives the right shape for a batch of 2, and takes any."""

    def run(self, feeds: Any) -> tuple[NDArray[Any], ...]:
        return (feeds["x"][:2].reshape(1, 2, 4),)


def test_what_the_runtime_refuses() -> None:
    text = "g (float[n,4] x) => (float[m,2,4] y) { s = Constant <value = int64[3] {-1, 2, 4}> () y = Reshape(x, s) }"
    model = framework(text)
    silent = Silent(model.program, model.weights)
    with pytest.raises(ModelError, match=r"the lowered model does not take x \[3, 4\]"):
        compare(model.graph(), silent, BATCH, RUNTIME)


def test_lowered_is_replaced_not_changed() -> None:
    lowered = lower(framework(TEXT), BATCH)
    assert replace(lowered, live=None).bindings == lowered.bindings
