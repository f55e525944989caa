"""Initializers are bound to the parameters that they are made of, and values go both ways."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.parameters import Binding, bind
from surgery_ir.graph.model import Graph
from tests.harness import assert_equivalent, graph, proto

# program -> initializers afterwards, by how they follow from parameters; the operators that are left
BOUND = {
    "as it is": (
        "g (float[n,4] x) => (float[n,3] y) <float[4,3] w> { y = MatMul(x, w) }",
        {"w": "w"},
        ["MatMul"],
    ),
    "transposed": (
        "g (float[n,4] x) => (float[n,3] y) <float[3,4] w> { t = Transpose <perm=[1,0]> (w) y = MatMul(x, t) }",
        {"w": "Transpose(w)"},
        ["MatMul"],
    ),
    "read as it is, too": (
        """g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
        { t = Transpose <perm=[1,0]> (w) h = MatMul(x, t) y = MatMul(h, w) }""",
        {"w": "w", "w.1": "Transpose(w)"},
        ["MatMul", "MatMul"],
    ),
    "gates in another order": (
        """g (float[n,4] x) => (float[n,6] y) <float[6,4] w>
        { a, b, c = Split <axis=0, num_outputs=3> (w) s = Concat <axis=0> (b, c, a) t = Transpose <perm=[1,0]> (s)
          y = MatMul(x, t) }""",
        {"w": "Transpose∘Concat∘Split(w)"},
        ["MatMul"],
    ),
    "two in one, and a constant": (
        """g (float[n,4] x) => (float[n,7] y) <float[3] a, float[2] b>
        { z = Constant <value = float[2] {0.0, 0.0}> () s = Concat <axis=0> (a, b, z)
          e = Constant <value = float[4,7] {1,2,3,4,5,6,7,1,2,3,4,5,6,7,1,2,3,4,5,6,7,1,2,3,4,5,6,7}> ()
          h = MatMul(x, e) y = Add(h, s) }""",
        {"a": "Concat(a, b)"},
        ["Add", "MatMul"],
    ),
    "one cut apart": (
        """g (float[n,4] x) => (float[n,2] y) <float[6,2] w>
        { l = Constant <value = int64[2] {4, 2}> () a, b = Split <axis=0> (w, l) h = MatMul(x, a) y = MatMul(h, b) }""",
        {"w": "Split(w)", "w.1": "Split(w)"},
        ["MatMul", "MatMul"],
    ),
    "one on the way to the other": (
        """g (float[n,4] x) => (float[n,6] y) <float[3,4] w, float[3,2] v>
        { t = Transpose <perm=[1,0]> (w) z = Constant <value = int64[2] {2, 6}> () u = Reshape(t, z)
          h = MatMul(x, t) f = MatMul(h, v) y = MatMul(f, u) }""",
        {"v": "v", "w": "Transpose(w)", "w.1": "Reshape∘Transpose(w)"},
        ["MatMul", "MatMul", "MatMul"],
    ),
    "by places that are computed": (
        """g (float[n,4] x) => (float[n,3] y) <float[4,3] w, int64[4] i, int64[1] o>
        { k = Sub(i, o) m = Gather <axis=0> (w, k) y = MatMul(x, m) }""",
        {"w": "Gather∘Sub(w)"},
        ["MatMul"],
    ),
    "read by nobody in the end": (
        """g (float[n,4] x) => (float[n,3] y) <float[4,3] w, float[3,4] v>
        { t = Transpose <perm=[1,0]> (v) h = MatMul(x, t) y = MatMul(x, w) }""",
        {"w": "w"},
        ["MatMul"],
    ),
    "computed": (
        "g (float[n,4] x) => (float[n,3] y) <float[4,3] w, float[3] s> { p = Mul(w, s) y = MatMul(x, p) }",
        {"w": "Mul(w, s)"},
        ["MatMul"],
    ),
    "its shape alone": (
        """g (float[n,4] x) => (float[n,3] y, int64[2] z) <float[4,3] w> { z = Shape(w) y = MatMul(x, w) }""",
        {"w": "w"},
        ["MatMul", "Shape"],
    ),
    "too big to be stored": (
        """g (float[n,4] x) => (float[512,4] y) <float[1,4] w>
        { l = Constant <value = int64[2] {512, 4}> () e = Expand(w, l) r = ReduceSum <keepdims=0> (x)
          y = Add(e, r) }""",
        {"w": "w"},
        ["Add", "Expand", "ReduceSum"],
    ),
}


PLACES: dict[str, dict[str, np.ndarray]] = {case: {} for case in BOUND}
PLACES["by places that are computed"] = {"i": np.array([4, 3, 2, 1]), "o": np.array([1])}


def parameters(model: Graph) -> dict[str, np.ndarray]:
    return {name: model.array(name).copy() for name in ("w", "a", "b", "s", "v") if name in model.initializers}


@pytest.mark.parametrize("case", BOUND)
def test_bind(case: str) -> None:
    text, wanted, operators = BOUND[case]
    model, original = graph(text, PLACES[case]), graph(text, PLACES[case])
    before = parameters(model)
    bindings = bind(model, before)
    assert {binding.initializer: str(binding) for binding in bindings} == wanted
    assert sorted(node.op_type for node in model.model.graph) == operators
    assert_equivalent(model, original, tolerance=1e-6)  # a weight that is constant is multiplied in another order
    for binding in bindings:
        value = model.array(binding.initializer)
        np.testing.assert_array_equal(binding.forward(before), value)
        nothing = {name: np.zeros_like(value) for name, value in before.items()}
        assert not binding.forward(nothing)[value != 0].any()  # it is made of parameters, of nothing that was kept


@pytest.mark.parametrize("case", [case for case in BOUND if case != "computed"])
def test_values_go_back(case: str) -> None:
    model = graph(BOUND[case][0], PLACES[case])
    before = parameters(model)
    bindings = bind(model, before)
    rng = np.random.default_rng(1)
    wanted = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in before.items()}
    found = dict(before)
    for binding in bindings:
        found |= binding.backward(binding.forward(wanted), found)
    for name in {name for binding in bindings for name in binding.parameters}:
        np.testing.assert_array_equal(found[name], wanted[name])


def refused(case: str) -> tuple[Binding, np.ndarray, dict[str, np.ndarray]]:
    model = graph(BOUND[case][0])
    before = parameters(model)
    binding = bind(model, before)[0]
    return binding, binding.forward(before).copy(), before


def test_a_computation_is_not_undone() -> None:
    binding, value, before = refused("computed")
    assert binding.computes == ("Mul",)
    with pytest.raises(ModelError, match="'w' is computed from w, s by Mul, which cannot be undone"):
        binding.backward(value, before)


def test_a_constant_of_the_converter_stays() -> None:
    binding, value, before = refused("two in one, and a constant")
    value[-1] = 1.0
    with pytest.raises(ModelError, match="'a' changed where it holds a constant"):
        binding.backward(value, before)


def test_two_values_for_one_number() -> None:
    text = """g (float[n,4] x) => (float[n,2] y) <float[4,1] w>
        { s = Concat <axis=1> (w, w) y = MatMul(x, s) }"""
    model = graph(text)
    before = parameters(model)
    (binding,) = bind(model, before)
    value = binding.forward(before).copy()
    value[0, 1] += 1
    with pytest.raises(ModelError, match="two values for one number of w"):
        binding.backward(value, before)


def test_parts_of_one_parameter_are_written_one_after_the_other() -> None:
    model = graph(BOUND["one cut apart"][0])
    before = parameters(model)
    first, second = bind(model, before)
    values = first.backward(np.zeros((4, 2), np.float32), before)
    values = second.backward(np.ones((2, 2), np.float32), values)
    np.testing.assert_array_equal(values["w"], np.repeat([[0.0], [1.0]], [4, 2], axis=0).repeat(2, axis=1))


def test_names_that_are_not_there_are_passed_over() -> None:
    model = Graph.from_proto(proto(BOUND["transposed"][0]))
    assert [binding.initializer for binding in bind(model, ["w", "running_mean"])] == ["w"]
