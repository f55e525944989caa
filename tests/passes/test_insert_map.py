"""Maps of low rank written into graphs give what numpy says, and every connection is in the log."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.runs import observe_shapes
from surgery_ir.analysis.taps import Tap, find_taps
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.emission import emit, insert_map
from tests.harness import RUNTIME, random_feeds, run
from tests.passes.helpers import build
from tests.passes.wiring import nonzeros

WRITTEN = {
    "MatMul": """net (float[N,T,5] x) => (float[N,T,9] y) <float[5,6] v, float[6,9] w, float[9] k> {
        [one] a = MatMul(x, v)
        [two] m = MatMul(a, w)
        y = Add(m, k)
    }""",
    "Gemm": """net (float[N,5] x) => (float[N,9] y) <float[5,6] v, float[9,6] w> {
        [one] a = MatMul(x, v)
        [two] y = Gemm<transB = 1, alpha = 0.5>(a, w)
    }""",
    "1-D": """net (float[N,5,7] x) => (float[N,9,3] y) <float[6,5,3] v, float[9,6,1] w> {
        [one] a = Conv<pads = [1, 1]>(x, v)
        [two] y = Conv<strides = [3], pads = [1, 1]>(a, w)
    }""",
    "2-D": """net (float[N,5,8,6] x) => (float[N,9,2,3] y) <float[6,5,3,3] v, float[9,6,3,3] w, float[9] k> {
        [one] a = Conv<pads = [1, 1, 1, 1]>(x, v)
        [two] y = Conv<pads = [1, 1, 1, 1], strides = [4, 2]>(a, w, k)
    }""",
    "double": """net (double[N,5] x) => (double[N,9] y) <double[5,6] v, double[6,9] w> {
        [one] a = MatMul(x, v)
        [two] y = MatMul(a, w)
    }""",
    "opset 7": """<ir_version: 4, opset_import: ["" : 7]>
    net (float[N,5,8,6] x) => (float[N,9,4,3] y) <float[6,5,1,1] v, float[9,6,1,1] w> {
        [one] a = Conv(x, v)
        [two] y = Conv<strides = [2, 2]>(a, w)
    }""",
}  # fmt: skip


def tap_of_last(graph: Graph) -> Tap:
    layers = find_layers(graph)
    names = [name for layer in layers for name in (layer.input, layer.output)]
    shapes = observe_shapes(graph, RUNTIME, random_feeds(input_specs(graph), 2, 0), names)
    (tap,) = find_taps(graph, layers, shapes, 4).by_layer[list(layers)[-1].name]
    return tap


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("case", WRITTEN)
def test_a_map_of_low_rank_adds_what_numpy_says(case: str, rank: int) -> None:
    graph, rng = build(WRITTEN[case]), np.random.default_rng(0)
    tap, layer = tap_of_last(graph), list(find_layers(graph))[-1]
    down, up = rng.standard_normal((rank, 5)), rng.standard_normal((9, rank))
    down[0, 2] = up[4, 0] = 0
    editor = Editor(graph.clone(), "test")
    narrow = insert_map(editor, layer, tap, down)
    assert connections(editor.edits).created == 5 * rank - 1
    assert emit(editor, layer, narrow, up) is not None
    verify(editor.graph)
    assert connections(editor.edits).created == (5 + 9) * rank - 2 == nonzeros(editor.graph) - nonzeros(graph)
    assert connections(editor.edits).pruned == 0
    feeds = random_feeds(input_specs(graph), 3, 1)
    before, after = (run(item, feeds)["y"].astype(np.float64) for item in (graph, editor.graph))
    donor = feeds["x"].astype(np.float64)
    if tap.layer.geometry is None:
        added = donor @ (up @ down).T
    else:
        strided = donor[(slice(None), slice(None), *(slice(None, None, step) for step in tap.layer.geometry.strides))]
        added = np.einsum("oc,nc...->no...", up @ down, strided)
    np.testing.assert_allclose(after, before + added, rtol=0, atol=1e-5 * np.abs(before + added).max())
    values = run(with_outputs(editor.graph, [narrow.donor]), feeds)[narrow.donor]
    assert values.shape[1 if tap.layer.geometry is not None else -1] == rank
