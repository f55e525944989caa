"""Shape and Size: what is computed from a size is what it was before the cut; sizes of what is cut are written."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import graph

THROUGH = ["8 a.1 -> b.0"]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        # y.view(x.shape) and its relatives
        ("n = Shape(h) t = Reshape(h, n)", "", 13),
        ("n = Shape(h) r = Relu(h) t = Reshape(r, n)", "", 21),
        ("n = Shape<start = -1>(h) c = Concat<axis = 0>(l, n) t = Reshape(h, c)", "int64[2] l = {-1, 3}", 15),
        ("n = Shape<start = 1, end = 3>(h) c = Concat<axis = 0>(l, n) t = Reshape(h, c)", "int64[1] l = {-1}", 15),
        # element by element, as the torch exporter traces it
        (
            "n = Shape(h) i = Gather(n, zero) j = Gather(n, two) k = Unsqueeze(i, at) l = Unsqueeze(j, at) "
            "c = Concat<axis = 0>(k, m, l) t = Reshape(h, c)",
            "int64 zero = {0}, int64 two = {2}, int64[1] at = {0}, int64[1] m = {-1}",
            13,
        ),
        # sliced, as the Keras converter writes it
        (
            "n = Shape(h) i = Cast<to = 6>(n) j = Slice(i, two, three) k = Cast<to = 7>(j) "
            "c = Concat<axis = 0>(m, l, k) t = Reshape(h, c)",
            "int64[1] two = {2}, int64[1] three = {3}, int64[1] m = {-1}, int64[1] l = {3}",
            13,
        ),
        # the number of columns as a number: x / sqrt(d), and a shift by it
        ("n = Shape(h) i = Gather(n, k) c = Cast<to = 1>(i) d = Sqrt(c) t = Div(h, d)", "int64 k = {2}", 13),
        ("n = Shape(h) i = Gather(n, k) c = Cast<to = 1>(i) d = Sqrt(c) t = Div(h, d)", "int64 k = {-1}", 13),
        ("n = Shape(h) c = Cast<to = 1>(n) d = ReduceSum(c) t = Div(h, d)", "", 13),
        # all sizes, most of which nobody needs
        ("n = Shape(h) i = Gather(n, k) c = Cast<to = 1>(i) t = Div(h, c)", "int64 k = {1}", 13),
        # a size that is read twice: once by what follows the cut, and once as a number
        ("n = Shape(h) r = Reshape(h, n) i = Gather(n, k) c = Cast<to = 1>(i) t = Div(r, c)", "int64 k = {2}", 13),
        # the size of the units, where no unit lies
        (
            "n = Shape(h) i = Gather(n, k) c = Concat<axis = 0>(one, i) z = ConstantOfShape<value = float[1] {2.0}>(c) "
            "s = Mul(z, u) m = ReduceSum(s) t = Add(h, m)",
            "int64[1] k = {2}, int64[1] one = {1}, float[8] u",
            13,
        ),
        (
            "n = Shape(h) i = Gather(n, k) r = Range(z, i, o) c = Cast<to = 1>(r) s = ReduceSum(c) t = Mul(h, s)",
            "int64 k = {2}, int64 z = {0}, int64 o = {1}",
            13,
        ),
        # units in heads: the width is divided
        (
            "n = Shape(h) d = Gather(n, k) s = Div(d, two) c = Concat<axis = 0>(l, s) p = Reshape(h, c) "
            "r = Relu(p) t = Reshape(r, n)",
            "int64[1] k = {2}, int64[1] two = {2}, int64[3] l = {-1, 3, 2}",
            13,
        ),
    ],
)
def test_reading_a_size_binds_nothing(nodes: str, weights: str, opset: int) -> None:
    for seed in range(2):
        coupling = assert_cut_is_exact(between_matmuls(nodes, weights, opset, middle="3,"), seed=seed)
        written = [text.split(" ", 1)[1] for text in described(coupling)]
        assert written == ["a.1 -> b.0"]


def test_a_size_that_another_value_takes_stays() -> None:
    """Eight columns of a constant, by the number of units, which is less after the cut."""
    nodes = (
        "n = Shape(h) i = Gather(n, k) c = Concat<axis = 0>(i, m) u = Reshape(w, c) v = ReduceSum(u, z) t = Add(h, v)"
    )
    weights = "int64[1] k = {2}, int64[1] m = {-1}, int64[2] z = {0, 1}, float[4,4] w"
    assert described(assert_cut_is_exact(between_matmuls(nodes, weights, middle="3,"))) == THROUGH


def test_the_shape_of_what_is_cut_is_held_for_a_constant() -> None:
    """Twenty-four numbers are laid out like the units, of which fewer are left."""
    body = "h = MatMul(x, a) n = Shape(h) r = Reshape(w, n) s = ReduceSum(r) t = Add(h, s) y = MatMul(t, b)"
    weights = "float[5,8] a, float[8,2] b, float[24] w"
    case = graph(f"g (float[1,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    assert described(assert_cut_is_exact(case)) == THROUGH


def test_layers_that_share_a_size_are_cut_apart() -> None:
    """The second layer takes the shape of the first, and keeps another number of units."""
    body = (
        "h = MatMul(x, a) k = MatMul(x, c) n = Shape(h) r = Reshape(k, n) p = MatMul(h, b) q = MatMul(r, d) "
        "y = Add(p, q)"
    )
    weights = "float[5,8] a, float[5,8] c, float[8,2] b, float[8,2] d"
    case = graph(f"g (float[N,3,5] x) => (float[] y) <{weights}> {{ {body} }}")
    first, second = (group.name for group in groups(case).groups)
    for counts in ((2, 5), (3, 3)):
        removed = {name: np.arange(count) for name, count in zip((first, second), counts, strict=True)}
        assert described(assert_cut_is_exact(case, removed=removed)) == ["8 a.1 -> b.0", "8 c.1 -> d.0"]


def test_sizes_of_samples_stay_open() -> None:
    """Batch and heads in one axis: three samples have three times as many rows."""
    nodes = (
        "n = Shape(x) i = Gather(n, zero) k = Mul(i, two) p = Reshape(h, split) q = Transpose<perm = [0, 2, 1, 3]>(p) "
        "c = Concat<axis = 0>(k, three, four) r = Reshape(q, c) s = Softmax(r) "
        "d = Concat<axis = 0>(i, two, three, four) u = Reshape(s, d) v = Transpose<perm = [0, 2, 1, 3]>(u) "
        "t = Reshape(v, merge)"
    )
    weights = (
        "int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4}, "
        "int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}"
    )
    coupling = assert_cut_is_exact(between_matmuls(nodes, weights, middle="3,"))
    assert described(coupling) == ["2 a.1 -> b.0"]


def test_no_operator_is_added_where_all_sizes_follow() -> None:
    case = between_convs("n = Shape(h) r = Reshape(h, l) s = Relu(r) t = Reshape(s, n)", "int64[3] l = {0, 0, -1}")
    coupling = groups(case)
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, choose(coupling, 0.5, 0))
    assert len(list(editor.graph.model.graph)) == len(list(case.model.graph))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("n = Size(h) c = Cast<to = 1>(n) t = Div(h, c)", "computes with its size"),
        (
            "n = Shape(h) k = Relu(x) t = If(f) <"
            "then_branch = g1 () => (float[] u) { c = Cast<to = 1>(n) u = Mul(h, c) }, "
            "else_branch = g2 () => (float[] v) { v = Identity(h) }>",
            "hands its size on as an output or into a subgraph",
        ),
    ],
)
def test_what_is_left_alone(nodes: str, reason: str) -> None:
    case = between_matmuls(nodes, "bool f = {1}", middle="3,")
    assert reason_against(case).endswith(reason)


def test_a_size_that_is_an_output_of_the_model_stays() -> None:
    body = "h = MatMul(x, a) n = Shape(h) y = MatMul(h, b)"
    case = graph(f"g (float[N,5] x) => (float[] y, int64[2] n) <float[5,8] a, float[8,2] b> {{ {body} }}")
    assert reason_against(case).endswith("hands its size on as an output or into a subgraph")
