"""Recipes that are read off marks give what the converter made of the marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.frontends.parameters import Binding
from surgery_ir.frontends.tensorflow import marks

SHAPES = {"kernel": (3, 8), "recurrent": (2, 8), "bias": (8,), "both": (2, 8)}
TOTAL = 24 + 16 + 8 + 16

Marked = Mapping[str, NDArray[np.float32]]

GATES = np.array([0, 1, 6, 7, 2, 3, 4, 5])
"""Input, output, forget and cell from input, forget, cell and output, of two units each."""


def mixed(given: Marked) -> NDArray[np.float32]:
    order = np.random.default_rng(0).permutation(24 + 8)
    row = np.concatenate([given["kernel"].reshape(-1), given["bias"], np.array([0, 1.5, -2, 0], np.float32)])
    return row[np.concatenate([order, [32, 33, 34, 35]])].reshape(4, 9).T.reshape(3, 3, 4)


ARRANGED: dict[str, tuple[Callable[[Marked], Any], tuple[str, ...], str]] = {
    "as it is": (lambda given: given["kernel"], ("kernel",), "kernel"),
    "gates": (lambda given: given["kernel"].T[GATES][None], ("kernel",), "Reshape∘Gather∘Transpose(kernel)"),
    "two directions": (
        lambda given: np.stack([given["recurrent"].T[GATES], given["both"].T[GATES]]),
        ("recurrent", "both"),
        "Concat∘Reshape∘Gather∘Transpose∘Reshape∘Gather∘Transpose(recurrent, both)",
    ),
    "bias and zeros": (
        lambda given: np.concatenate([given["bias"][GATES], np.zeros(8, np.float32)])[None],
        ("bias",),
        "Reshape∘Concat∘Gather(bias)",
    ),
    "rows of one parameter": (
        lambda given: given["both"][:, GATES].reshape(1, -1),
        ("both",),
        "Reshape∘Gather∘Reshape(both)",
    ),
    "rows, not columns": (
        lambda given: given["kernel"][None],
        ("kernel",),
        "Gather∘Reshape(kernel)",
    ),
    "any order": (mixed, ("kernel", "bias"), "Gather∘Concat∘Reshape∘Reshape(kernel, bias)"),
}


@pytest.mark.parametrize("case", ARRANGED)
def test_a_recipe_does_what_the_converter_did(case: str) -> None:
    arrange, parameters, text = ARRANGED[case]
    array = arrange(marks.marks(SHAPES)).astype(np.float32)
    where = marks.locate(array, TOTAL)
    assert where is not None
    sources, recipe = marks.recipe("weights", array, where, SHAPES)
    binding = Binding("weights", sources, recipe)
    assert (sources, str(binding)) == (parameters, text)
    rng = np.random.default_rng(1)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    expected = arrange(values).astype(np.float32)
    np.testing.assert_array_equal(binding.forward(values), expected)
    changed = binding.backward(expected, {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    assert {name: value.shape for name, value in changed.items()} == {name: SHAPES[name] for name in parameters}
    again = {**{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, **changed}
    np.testing.assert_array_equal(binding.forward(again), expected)


def test_marks_are_unlike_each_other_and_whatever_models_hold() -> None:
    flat = np.concatenate([value.reshape(-1) for value in marks.marks({"large": (1000, 1000), "small": (7,)}).values()])
    assert len(np.unique(flat)) == flat.size
    assert np.isfinite(flat).all()
    assert flat.min() > np.finfo(np.float32).tiny
    assert np.int32(marks.FIRST + marks.ROOM).view(np.float32) < 1e-12
    np.testing.assert_array_equal(marks.locate(flat, flat.size), np.arange(flat.size))


@pytest.mark.parametrize(
    "array",
    [np.array([0, 1, -1, 1e-3], np.float32), np.arange(4), np.zeros(0, np.float32), -marks.marks({"a": (4,)})["a"]],
)
def test_other_numbers_are_no_marks(array: NDArray[Any]) -> None:
    assert marks.locate(array, 4) is None


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: x * 1e20, lambda x: x * 2**30, np.negative])
def test_arithmetic_loses_marks(change: Callable[[NDArray[np.float32]], Any]) -> None:
    assert marks.locate(np.asarray(change(marks.marks({"a": (64,)})["a"]), np.float32), 64) is None
