"""Columns of a layer's regression that belong to units."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.coupling.readers import layers_by_weight, unit_readers
from surgery_ir.analysis.layers import find_layers
from tests.coupling import groups
from tests.harness import graph

CASES = {
    "Conv": (
        "net (float[N,2,6,6] x) => (float[N,3,4,4] y) <float[4,2,1,1] w, float[3,4,3,3] v>"
        " { [one] h = Conv(x, w) [two] y = Conv(h, v) }",
        [("two", [[unit + 4 * place for place in range(9)] for unit in range(4)])],
    ),
    "Gemm, twice": (
        "net (float[N,2] x) => (float[N,3] y, float[N,3] z) <float[2,4] w, float[4,3] v, float[3,4] u>"
        " { [one] h = Gemm(x, w) [two] y = Gemm(h, v) [three] z = Gemm<transB=1>(h, u) }",
        [("two", [[0], [1], [2], [3]]), ("three", [[0], [1], [2], [3]])],
    ),
    "MatMul from the left": (
        "net (float[N,2,5] x) => (float[N,3,5] y) <float[4,2] w, float[3,4] v>"
        " { [one] h = MatMul(w, x) [two] y = MatMul(v, h) }",
        [("two", [[0], [1], [2], [3]])],
    ),
    "pixels of a channel": (
        "net (float[N,2,2,2] x) => (float[N,3] y) <float[4,2,1,1] w, float[16,3] v>"
        " { [one] h = Conv(x, w) f = Flatten(h) [two] y = Gemm(f, v) }",
        [("two", [[4 * unit + pixel for pixel in range(4)] for unit in range(4)])],
    ),
    "positions within groups": (
        "net (float[N,2,6,6] x) => (float[N,6,6,6] y) <float[8,2,1,1] w, float[6,4,1,1] v>"
        " { [one] h = Conv(x, w) [two] y = Conv<group=2>(h, v) }",
        [("two", [[0], [1], [2], [3]])],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_columns(case: str) -> None:
    text, expected = CASES[case]
    found = graph(text)
    (group,) = [item for item in groups(found).groups if item.name == "one"]
    readers = unit_readers(group, layers_by_weight(find_layers(found).layers))
    assert [(item.layer.name, item.columns.tolist()) for item in readers] == expected


@pytest.mark.parametrize("case", CASES)
def test_columns_are_those_that_a_mask_takes_away(case: str) -> None:
    """Without its columns a layer gives what it gives when the unit is zero."""
    found = graph(CASES[case][0])
    (group,) = [item for item in groups(found).groups if item.name == "one"]
    for reader in unit_readers(group, layers_by_weight(find_layers(found).layers)):
        layer = reader.layer
        stored = found.array(layer.weight)
        matrix = layer.matrix(stored).copy()
        matrix[..., reader.columns[1]] = 0
        (span,) = [item for item in group.read if item.axis.value == layer.weight]
        expected = np.moveaxis(stored.copy(), span.axis.axis, 0)
        expected[span.indices[1]] = 0
        np.testing.assert_array_equal(layer.array(matrix), np.moveaxis(expected, 0, span.axis.axis))
