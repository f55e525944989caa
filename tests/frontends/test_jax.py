"""Models of JAX and Flax are lowered with every parameter under its own name, and take new values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.errors import ModelError, SurgeryError
from surgery_ir.frontends.agreement import compare
from surgery_ir.frontends.base import Frontend, Lowered, Request
from surgery_ir.frontends.jax import JaxFunction, JaxModel
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, run

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("jax2onnx")

import jax.numpy as jnp  # noqa: E402

from tests.frontends import jax_models  # noqa: E402

SLOW = frozenset(("resnet", "mobilenet", "vit", "unet"))

NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in (*jax_models.RECIPES, "linen")]

Arrays = dict[str, NDArray[Any]]


@dataclass
class Case:
    source: Any
    example: Any
    lowered: Lowered


def linen() -> JaxModel:
    module = jax_models.LinenCNN()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), shapes)
    return JaxModel(module.apply, variables)


@cache
def case(name: str) -> Case:
    if name == "linen":
        source, example = linen(), jax_models.RECIPES["cnn"].example()
    else:
        source, example = jax_models.RECIPES[name].make(), jax_models.RECIPES[name].example()
    return Case(source, example, JaxFunction().load(source, Request(RUNTIME, example)))


def parameters(lowered: Lowered) -> Arrays:
    assert lowered.live is not None
    return dict(lowered.live.parameters())


def test_it_is_a_frontend() -> None:
    frontend = JaxFunction()
    assert isinstance(frontend, Frontend)
    assert frontend.accepts(JaxModel(lambda parameters, x: x, {}))
    assert frontend.accepts(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    assert not frontend.accepts("model.onnx")
    assert not frontend.accepts(np.zeros(1))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_lowered_agrees(name: str) -> None:
    lowered = case(name).lowered
    assert lowered.difference is not None
    assert 0 < lowered.difference < 1e-5
    assert lowered.restated == ()
    for spec in input_specs(lowered.graph).values():
        assert spec.shape is not None
        assert not isinstance(spec.shape[0], int)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_bound_both_ways(name: str) -> None:
    lowered = case(name).lowered
    values = parameters(lowered)
    assert {source for binding in lowered.bindings for source in binding.parameters} == values.keys()
    for binding in lowered.bindings:
        held = lowered.graph.array(binding.initializer)
        assert binding.initializer == binding.parameters[0]
        np.testing.assert_array_equal(binding.forward(values), held)
        for source, value in binding.backward(held, values).items():
            np.testing.assert_array_equal(value, values[source])


@pytest.mark.parametrize("name", NAMES)
def test_new_values_go_back_into_the_model(name: str) -> None:
    lowered = case(name).lowered
    live = JaxFunction().live(case(name).source, lowered)
    before = dict(live.parameters())
    graph = lowered.graph.clone()
    changed: Arrays = {}
    for binding in lowered.bindings:
        value = graph.array(binding.initializer)
        if value.ndim > 1:
            half = np.where(np.arange(value.size).reshape(value.shape) % 2, value, 0)
            graph.initializers[binding.initializer].const_value = _tensor(half, binding.initializer)
            changed |= binding.backward(half, {**before, **changed})
    live.assign(changed)
    try:
        assert compare(graph, live, lowered.feeds, RUNTIME) < 1e-4
        with pytest.raises(ModelError, match="computes something else"):
            compare(lowered.graph, live, lowered.feeds, RUNTIME)
    finally:
        live.assign(before)
    assert compare(lowered.graph, live, lowered.feeds, RUNTIME) < 1e-4


def _tensor(array: NDArray[Any], name: str) -> Any:
    import onnx_ir

    return onnx_ir.tensor(array, name=name)


NAMED = {
    "cnn": ("conv1.kernel", "Transpose(conv1.kernel)"),
    "lstm": ("lstm.cell.dense_i.kernel", "lstm.cell.dense_i.kernel"),
    "bert": ("blocks.1.norm2.scale", "blocks.1.norm2.scale"),
    "linen": ("params/Dense_0/kernel", "params/Dense_0/kernel"),
    "unet": ("up1.kernel", "Transpose∘Slice(up1.kernel)"),
}


@pytest.mark.parametrize("name", [item for item in NAMES if item.values[0] in NAMED])
def test_names_are_the_frameworks(name: str) -> None:
    initializer, how = NAMED[name]
    found = {binding.initializer: str(binding) for binding in case(name).lowered.bindings}
    assert found[initializer] == how


OPERATORS = {
    "cnn": {"BatchNormalization": 1, "Conv": 2, "MaxPool": 1, "AveragePool": 1},
    "lstm": {"Loop": 1},
    "bert": {"LayerNormalization": 5, "Softmax": 2},
    "mobilenet": {"BatchNormalization": 10, "Conv": 16},
    "resnet": {"BatchNormalization": 8, "Conv": 8},
    "vit": {"LayerNormalization": 5, "Gelu": 2},
}


@pytest.mark.parametrize("name", [item for item in NAMES if item.values[0] in OPERATORS])
def test_layers_become_single_operators(name: str) -> None:
    kinds = [node.op_type for node in case(name).lowered.graph.model.graph]
    assert {kind: kinds.count(kind) for kind in OPERATORS[name]} == OPERATORS[name]


@pytest.mark.parametrize("name", ["bert", "lstm"])
@pytest.mark.parametrize(("batch", "length"), [(1, 3), (4, 11)])
def test_lengths_are_open(name: str, batch: int, length: int) -> None:
    lowered = case(name).lowered
    recipe = jax_models.RECIPES[name]
    feeds = replace(recipe, shapes=dict.fromkeys(recipe.shapes, (batch, length))).example(1)
    assert lowered.live is not None
    expected = lowered.live.run(feeds)[0]
    assert expected.shape == (batch, length, 9)
    np.testing.assert_allclose(run(lowered.graph, feeds)["output"], expected, atol=1e-5)


def test_the_module_is_left_as_it_was() -> None:
    module = case("cnn").source
    assert not module.bn1.use_running_average
    np.testing.assert_array_equal(module.conv1.kernel[...], parameters(case("cnn").lowered)["conv1.kernel"])


W = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
X = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
TREE = {"dense": {"w": W, "b": np.ones(5, np.float32)}, "out": [W.T.copy()], "scale": 0.5}


def mlp(p: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ p["dense"]["w"] + p["dense"]["b"])
    return {"hidden": hidden, "logits": hidden @ p["out"][0] * p["scale"]}


def test_a_function_and_its_parameters() -> None:
    lowered = JaxFunction().load(JaxModel(mlp, TREE), Request(RUNTIME, X))
    assert list(lowered.feeds) == ["x"]
    assert [value.name for value in lowered.graph.outputs] == ["hidden", "logits"]
    assert parameters(lowered).keys() == {"dense/w", "dense/b", "out/0"}


def test_assigning_gives_a_function_a_new_tree() -> None:
    model = JaxModel(mlp, TREE)
    live = JaxFunction().load(model, Request(RUNTIME, X)).live
    assert live is not None
    live.assign({"out/0": 2 * W.T})
    np.testing.assert_array_equal(model.parameters["out"][0], 2 * W.T)
    assert model.parameters["dense"]["w"] is W
    assert model.parameters["scale"] == 0.5
    np.testing.assert_array_equal(TREE["out"][0], W.T)  # type: ignore[index]
    np.testing.assert_allclose(live.run({"x": X})[1], mlp(TREE, X)["logits"] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "text"),
    [({"nothing": W}, "it has no parameter 'nothing'"), ({"out/0": W}, r"'out/0' has shape \[5, 4\], .*\[4, 5\]")],
)
def test_what_cannot_be_assigned(values: Arrays, text: str) -> None:
    live = JaxFunction().live(JaxModel(mlp, TREE), case_of_mlp())
    with pytest.raises(ModelError, match=text):
        live.assign(values)


@cache
def case_of_mlp() -> Lowered:
    return JaxFunction().load(JaxModel(mlp, TREE), Request(RUNTIME, X))


def test_another_model_is_no_copy() -> None:
    with pytest.raises(ModelError, match="it has no parameter 'dense/b'"):
        JaxFunction().live(JaxModel(mlp, {"w": W}), case_of_mlp())


def times(p: Any, x: Any, /, *, y: Any, scale: float = 2.0) -> Any:
    return (x @ p["w"] + y) * scale


def pair(p: Any, *arrays: Any) -> Any:
    return arrays[0] @ p["w"], arrays[1] + 1


def first(p: Any, x: Any, y: Any) -> Any:
    return x @ p["w"] + y


INPUTS: dict[str, tuple[Callable[..., Any], Any, list[str], list[str]]] = {
    "positions": (first, (X, X[:, :1]), ["x", "y"], ["output"]),
    "names": (first, {"y": X[:, :1], "x": X}, ["y", "x"], ["output"]),
    "any number": (pair, (X, X), ["input_0", "input_1"], ["output_0", "output_1"]),
    "any number, named": (pair, {"left": X, "right": X}, ["left", "right"], ["output_0", "output_1"]),
    "wide numbers": (first, (X.astype(np.float64), np.ones((3, 1), np.int64)), ["x", "y"], ["output"]),
    "of JAX": (first, (jnp.asarray(X), jnp.asarray(X[:, :1])), ["x", "y"], ["output"]),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_and_outputs_have_names(kind: str) -> None:
    function, example, inputs, outputs = INPUTS[kind]
    lowered = JaxFunction().load(JaxModel(function, {"w": W}), Request(RUNTIME, example))
    assert list(input_specs(lowered.graph)) == inputs
    assert [value.name for value in lowered.graph.outputs] == outputs
    assert all(array.dtype.itemsize == 4 for array in lowered.feeds.values())


def shifted(p: Any, x: Any) -> Any:
    return x + p["positions"]


def summed(p: Any, x: Any) -> Any:
    return (x @ p["w"]).mean(1)


def pooled(p: Any, image: Any) -> Any:
    return nnx.max_pool(image * p["scale"], (2, 2), (2, 2)).mean((1, 2))


IMAGE = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)

SIZES: dict[str, tuple[Callable[..., Any], Any, Any, Any, list[str | int | None]]] = {
    "a length": (summed, {"w": W}, SEQUENCE, None, ["batch", "length", 4]),
    "one length only": (shifted, {"positions": SEQUENCE[0]}, SEQUENCE, None, ["batch", 6, 4]),
    "as asked": (summed, {"w": W}, SEQUENCE, {"x": {0: "n", 1: "t"}}, ["n", "t", 4]),
    "not asked": (summed, {"w": W}, SEQUENCE, {"x": {}}, ["batch", 6, 4]),
    "images": (pooled, {"scale": IMAGE[0, 0, 0]}, IMAGE, {"image": {1: "h", 2: "w"}}, ["batch", "h", "w", 3]),
}


@pytest.mark.parametrize("kind", SIZES)
def test_open_axes(kind: str) -> None:
    function, tree, example, wanted, sizes = SIZES[kind]
    lowered = JaxFunction().load(JaxModel(function, tree), Request(RUNTIME, example, wanted))
    (value,) = lowered.graph.model.graph.inputs
    assert value.shape is not None
    assert [size if isinstance(size, int) else size.value for size in value.shape] == sizes


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "a choice that is made by sizes": lambda p, x: jnp.var(x @ p["w"], axis=1),
    "a choice of the other": lambda p, x: jnp.where(jnp.float32(x.shape[1]) > 9, jnp.nan, x @ p["w"]),
    "a replacement that takes no open sizes": lambda p, x: jnp.power(jnp.abs(x @ p["w"]), 1.5),
    "an argument by position": lambda p, x: jax.nn.gelu(x @ p["w"], True),
    "a loop": lambda p, x: jax.lax.fori_loop(0, 3, lambda _, value: jnp.tanh(value @ p["w"] @ p["w"].T), x),
    "a branch": lambda p, x: jax.lax.cond(
        x.sum() > 0, lambda value: value @ p["w"], lambda value: -(value @ p["w"]), x
    ),
    "a compiled function": lambda p, x: jax.jit(lambda value: value @ p["w"])(x),
    "an output that is an input": lambda p, x: (x @ p["w"], x),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_of_jax(kind: str) -> None:
    lowered = JaxFunction().load(JaxModel(FUNCTIONS[kind], {"w": W}), Request(RUNTIME, X))
    assert lowered.difference is not None
    assert lowered.difference < 1e-5


def deciding(p: Any, x: Any) -> Any:
    return x @ p["w"] if (x @ p["w"]).sum() > 0 else x


def slicing(p: Any, x: Any) -> Any:
    return x[: int((x @ p["w"]).sum())]


def unsupported(p: Any, x: Any) -> Any:
    hidden = x @ p["w"]
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(hidden.shape, hidden.dtype), hidden)


def one_batch(p: Any, x: Any) -> Any:
    return (x @ p["w"]) + jnp.arange(3.0)[:, None]


def failing(p: Any, x: Any) -> Any:
    raise KeyError("first\nsecond")


BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "no example": (mlp, TREE, None, "^mlp: .*give one batch as example_inputs"),
    "empty": (mlp, TREE, (), "the example inputs are empty"),
    "a text": (mlp, TREE, "x", "'x' is no array of numbers"),
    "ragged": (mlp, TREE, ([[1], [1, 2]],), "'x' is no array"),
    "a wrong name": (mlp, TREE, {"z": X}, "it takes x; the example inputs have 'z'"),
    "a wrong shape": (mlp, TREE, X[:, :3], r"does not take the example inputs x \[3, 3\].*test_jax.py, line \d+"),
    "too many": (mlp, TREE, (X, X), "does not take the example inputs .* positional arguments"),
    "no parameters": (mlp, {}, X, "it has no parameters"),
    "no function": (3, TREE, X, "JaxModel takes a function and its parameters, not int"),
    "an if": (deciding, {"w": W}, X, r"Python code decides .*jax.lax.cond \(.*test_jax.py, line \d+\)"),
    "an int": (slicing, {"w": W}, X, r"Python code decides .*test_jax.py, line \d+"),
    "an operator": (unsupported, {"w": W}, X, "jax2onnx cannot lower the operator 'pure_callback'"),
    "one batch": (one_batch, {"w": W}, X, r"it cannot be lowered for inputs of x \[batch, 4\]"),
    "its own error": (failing, {"w": W}, X, r"KeyError: 'first\\nsecond'"),
    "equal names": (first, {"w": {"a": W}, "w/a": W}, (X, X[:, :1]), "two of its parameters have the same name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_lowered_is_one_line(kind: str) -> None:
    function, tree, example, text = BAD[kind]
    with pytest.raises(ModelError, match=text) as caught:
        JaxFunction().load(JaxModel(function, tree), Request(RUNTIME, example))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("axes", [{"x": {2: "t"}}, {"y": {0: "n"}}])
def test_axes_that_there_are_not(axes: Any) -> None:
    with pytest.raises(ModelError, match="dynamic_shapes names axis"):
        JaxFunction().load(JaxModel(mlp, TREE), Request(RUNTIME, X, axes))


def test_a_module_that_cannot_be_called() -> None:
    with pytest.raises(ModelError, match="Dict: the module has no __call__"):
        JaxFunction().load(nnx.Dict(w=nnx.Param(jnp.ones(3))), Request(RUNTIME, X))


def test_a_runtime_is_needed() -> None:
    with pytest.raises(ModelError, match="a runtime is needed"):
        JaxFunction().load(JaxModel(mlp, TREE), Request(None, X))


FAULTS: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "a scaled kernel": ("fc.kernel", lambda value: value * 1.01),
    "a turned kernel": ("conv1.kernel", lambda value: value[:, :, ::-1]),
    "a lost statistic": ("bn1.mean", np.zeros_like),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str) -> None:
    name, change = FAULTS[fault]
    lowered = case("cnn").lowered
    graph: Graph = lowered.graph.clone()
    graph.initializers[name].const_value = _tensor(np.ascontiguousarray(change(graph.array(name))), name)
    assert lowered.live is not None
    with pytest.raises(SurgeryError, match="computes something else than JAX"):
        compare(graph, lowered.live, lowered.feeds, RUNTIME)
