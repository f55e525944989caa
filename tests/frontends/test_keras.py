"""Keras models become graphs that compute the same, and whose initializers are Keras' variables."""

from __future__ import annotations

import functools
import json
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.tensorflow import convert, marks, normalization
from surgery_ir.frontends.tensorflow.keras import KerasFile, KerasModel
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras = pytest.importorskip("keras")
models = pytest.importorskip("tests.frontends.keras_models")
layers = keras.layers

REQUEST = Request(RUNTIME)
TRANSPOSES = {
    "keras_resnet": 2,
    "keras_mobilenet": 2,
    "keras_vit": 14,
    "keras_lstm_tagger": 2,
    "gru": 5,
    "gru_before_reset": 2,
    "lstm_last": 1,
    "lstm_masked": 2,
    "simple_rnn": 1,
    "unet": 2,
    "bert": 12,
    "convolutions": 2,
    "normalizations": 4,
    "odd_axis": 2,
    "volume": 2,
    "convnext": 4,
}
"""Transposes left; ``model.export(format="onnx")`` leaves as many, and one more in ``convnext``."""

NORMALIZATIONS = {"keras_resnet": 11, "keras_mobilenet": 14, "normalizations": 6, "odd_axis": 1, "volume": 1}

RECURRENT = {"keras_lstm_tagger": {"LSTM": 2}, "lstm_last": {"LSTM": 2}}

SLOW = ("gru", "keras_mobilenet", "keras_vit")
ALL = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in models.BUILDERS]


@functools.cache
def model(name: str) -> Any:
    return models.build(name)


@functools.cache
def lowered(name: str) -> Lowered:
    return KerasModel().load(model(name), REQUEST)


def save(to_save: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras asks NumPy for what it has no more, and warns of lambdas
        to_save.save(path)


def operators(found: Lowered) -> Counter[str]:
    return Counter(node.op_type for node in found.graph.model.graph)


def used(name: str) -> set[str]:
    """Paths of the variables that inference reads: all but the states of random generators."""
    return {variable.path for variable in model(name).variables if "seed_generator" not in variable.path}


def assert_same(found: Lowered, feeds: dict[str, Any]) -> None:
    assert found.live is not None
    wanted = found.live.run(feeds)
    outputs = RUNTIME.load(found.graph).run(feeds)
    assert list(outputs) == [value.name for value in found.graph.outputs]
    for actual, expected in zip(outputs.values(), wanted, strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ALL)
def test_outputs_are_equal_for_any_batch_and_length(name: str) -> None:
    found = lowered(name)
    assert found.difference is not None
    assert found.difference < 1e-5
    for batch, length in ((1, 1), (5, 11)):
        assert_same(found, models.fresh_feeds(found.feeds, batch, length))


@pytest.mark.parametrize("name", ALL)
def test_every_variable_is_an_initializer_of_its_name(name: str) -> None:
    found = lowered(name)
    assert found.live is not None
    parameters = found.live.parameters()
    assert {path for binding in found.bindings for path in binding.parameters} == used(name)
    for binding in found.bindings:
        assert binding.initializer in binding.parameters, binding
        held = found.graph.array(binding.initializer)
        np.testing.assert_array_equal(binding.forward(parameters), held)
        back = binding.backward(held, parameters)
        assert back.keys() == set(binding.parameters)
        for path, value in back.items():
            np.testing.assert_array_equal(value, parameters[path])


@pytest.mark.parametrize("name", ALL)
def test_new_values_go_either_way(name: str) -> None:
    """New values of all variables are written into the model, and through the bindings into the graph."""
    found = lowered(name)
    assert found.live is not None
    before = found.live.parameters()
    rng = np.random.default_rng(7)
    after = {path: (value * rng.uniform(0.5, 1.5, value.shape)).astype(value.dtype) for path, value in before.items()}
    after = {path: value if path in used(name) else before[path] for path, value in after.items()}
    graph = found.graph.clone()
    editor = Editor(graph, "test")
    for binding in found.bindings:
        value = binding.forward(after)
        editor.set_weights(binding.initializer, value)
        for path, back in binding.backward(value, before).items():
            np.testing.assert_array_equal(back, after[path])
    try:
        found.live.assign(after)
        changed = Lowered(graph, live=found.live)
        assert_same(changed, dict(found.feeds))
        verify(graph)
    finally:
        found.live.assign(before)
    for path, value in found.live.parameters().items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("name", ALL)
def test_operators(name: str) -> None:
    found = operators(lowered(name))
    assert found["Transpose"] == TRANSPOSES.get(name, 0)
    assert found["BatchNormalization"] == NORMALIZATIONS.get(name, 0)
    for kind, count in RECURRENT.get(name, {}).items():
        assert found[kind] == count
        assert not found["Loop"]


NAMES = {
    "keras_resnet": (["image"], ["dense"]),
    "keras_lstm_tagger": (["input_ids"], ["dense"]),
    "many": (["ids", "image"], ["one", "other"]),
    "sequential": (["input_layer"], ["output"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_inputs_and_outputs(name: str) -> None:
    graph = lowered(name).graph
    found = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    assert found == NAMES[name]
    for value in graph.inputs:
        assert value.shape is not None
        assert str(value.shape[0]) == "batch"


def test_recurrent_weights_have_short_recipes() -> None:
    bindings = {binding.initializer: binding for binding in lowered("keras_lstm_tagger").bindings}
    kernel = bindings["lstm_1/lstm_cell/kernel"]
    assert str(kernel) == "Reshape∘Gather∘Transpose(lstm_1/lstm_cell/kernel)"
    assert kernel.recipe is not None
    assert sum(int(np.prod(tensor.dims)) for tensor in kernel.recipe.graph.initializer) < 4 * 24 + 8
    both = bindings["bidirectional/forward_lstm/lstm_cell/kernel"]
    assert both.parameters == tuple(f"bidirectional/{way}_lstm/lstm_cell/kernel" for way in ("forward", "backward"))


def test_epsilon_and_missing_gamma_and_beta() -> None:
    graph = lowered("normalizations").graph
    nodes = [node for node in graph.model.graph if node.op_type == "BatchNormalization"]
    found = {}
    for node in nodes:
        read = [value.name or "" for value in node.inputs[1:] if value is not None]
        own = [bool(name.startswith("batch_normalization")) for name in read]
        found[read[2].split("/")[0]] = own, round(node.attributes["epsilon"].as_float(), 4)
    assert found["batch_normalization"] == ([False, True, True, True], 0.001)
    assert found["batch_normalization_1"] == ([True, False, True, True], 0.001)
    assert found["batch_normalization_2"] == ([False, False, True, True], 0.001)
    assert found["batch_normalization_3"] == ([True, True, True, True], 0.3)


def test_layers_are_told_by_the_value_that_holds_the_same() -> None:
    found = lowered("keras_resnet")
    assert found.live is not None
    inner = found.live.inner(found.feeds)
    told = [layer for layer, _ in inner.values()]
    assert {"conv2d", "activation", "add_1", "re_lu_3"} <= set(told)
    assert len(told) == len(set(told)) >= 20
    assert lowered("sequential").live is not None
    assert [layer for layer, _ in lowered("sequential").live.inner(lowered("sequential").feeds).values()] == ["dense"]  # type: ignore[union-attr]


def test_another_instance_is_known_by_the_names_of_the_first() -> None:
    found = lowered("keras_lstm_tagger")
    other = models.BUILDERS["keras_lstm_tagger"]()
    assert {variable.path for variable in other.variables} != {
        item.path for item in model("keras_lstm_tagger").variables
    }
    live = KerasModel().live(other, found)
    assert found.live is not None
    assert live.parameters().keys() == found.live.parameters().keys()
    live.assign(found.live.parameters())
    for actual, expected in zip(live.run(found.feeds), found.live.run(found.feeds), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_inputs_of_another_instance_are_known_by_the_names_of_the_first() -> None:
    found = lowered("sequential")
    other = keras.Sequential([keras.Input((7,), name="rows"), layers.Dense(6), layers.Dense(2)])
    assert KerasModel().live(other, found).run(found.feeds)[0].shape == (2, 2)


def test_another_number_of_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match="it takes ids, image, not input_layer"):
        KerasModel().live(model("many"), lowered("sequential"))


def test_another_architecture_is_refused() -> None:
    other = keras.Sequential([keras.Input((7,)), layers.Dense(5, name="first"), layers.Dense(2)], name="other")
    with pytest.raises(
        ModelError, match=r"its variables are not those .* 'other/first/kernel' of \[7, 5\], not \[7, 6\]"
    ):
        KerasModel().live(other, lowered("sequential"))


ASSIGNED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"stack/dense/kernal": np.zeros((7, 6))}, "no variable called 'stack/dense/kernal'"),
    "shape": (
        {"stack/dense/bias": np.ones(6), "stack/dense/kernel": np.zeros((6, 7))},
        r"of shape \[7, 6\], not \[6, 7\]",
    ),
}


@pytest.mark.parametrize("case", ASSIGNED)
def test_values_that_do_not_fit_are_refused_and_nothing_is_written(case: str) -> None:
    live = lowered("sequential").live
    assert live is not None
    before = live.parameters()
    values, message = ASSIGNED[case]
    with pytest.raises(ModelError, match=message):
        live.assign(values)
    assert all(np.array_equal(value, before[path]) for path, value in live.parameters().items())


EXAMPLES: dict[str, Callable[[Any, Any], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list of tensors": lambda x, y: [keras.ops.convert_to_tensor(x), y],
    "mapping": lambda x, y: {"y": y, "x": x},
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_subclass_takes_what_its_example_is(kind: str) -> None:
    x, y = np.ones((3, 4), np.float32), np.full((3, 2), 2, np.float32)
    subclass = models.Named()
    subclass(x, y)
    found = KerasModel().load(subclass, Request(RUNTIME, EXAMPLES[kind](x, y)))
    assert {value.name for value in found.graph.inputs} == {"x", "y"}
    assert [value.name for value in found.graph.outputs] == ["again", "sum"]
    assert_same(found, {"x": x[:1], "y": y[:1]})


def test_a_subclass_that_was_called_tells_what_it_takes() -> None:
    subclass = models.Halving()
    subclass(np.ones((3, 4), np.float32))
    found = KerasModel().load(subclass, REQUEST)
    assert [value.name for value in (*found.graph.inputs, *found.graph.outputs)] == ["rows", "output"]


def of(layer: Any, shape: tuple[int | None, ...] = (4, 4)) -> Any:
    x = keras.Input(shape, name="x")
    return keras.Model(x, layer(x))


REFUSED: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "operator": (
        lambda: (of(models.Svd(name="odd")), None),
        r"'.*/odd.*' is the TensorFlow operator Svd, which tf2onnx",
    ),
    "not built": (lambda: (models.Halving(), None), "was not built; call it once"),
    "number of inputs": (
        lambda: (models.build("sequential"), (np.ones((2, 7)), np.ones(2))),
        "takes input_layer; the example",
    ),
    "name of input": (
        lambda: (models.build("sequential"), {"x": np.ones((2, 7))}),
        "takes input_layer; the example has x",
    ),
    "shape of input": (
        lambda: (models.build("sequential"), np.ones((2, 6))),
        r"is of shape \[None, 7\], the example of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_lowered_is_refused_in_one_line(case: str) -> None:
    make, message = REFUSED[case]
    refused, example = make()
    with pytest.raises(ModelError, match=message) as caught:
        KerasModel().load(refused, Request(RUNTIME, example))
    assert "\n" not in str(caught.value)


def test_python_that_decides_by_values_is_refused() -> None:
    x = np.ones((2, 3), np.float32)
    subclass = keras.Sequential([models.Growing()])
    with pytest.raises(ModelError, match="the model cannot be traced") as caught:
        KerasModel().load(subclass, Request(RUNTIME, x))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_are_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(ModelError, match=f"Keras computes with {backend}.*set KERAS_BACKEND=tensorflow"):
        KerasModel().load(model("sequential"), REQUEST)


def test_a_wrong_gate_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    locate = marks.locate

    def wrong(array: Any, total: int) -> Any:
        where = locate(array, total)
        return None if where is None else np.roll(where, 1, axis=1)

    monkeypatch.setattr(marks, "locate", wrong)
    with pytest.raises(ModelError, match="computes something else than Keras"):
        KerasModel().load(model("lstm_last"), REQUEST)


def test_a_wrong_epsilon_is_found_and_the_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = normalization._scale

    def wrong(graph: Any, name: str) -> Any:
        found = scale(graph, name)
        return found and (*found[:2], found[2] * 100)

    monkeypatch.setattr(normalization, "_scale", wrong)
    with pytest.raises(ModelError, match=r"computes something else than Keras.*the first layer that differs is 'activ"):
        KerasModel().load(model("keras_resnet"), REQUEST)


def test_marks_that_arithmetic_went_over_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "locate", lambda array, total: None)
    found = KerasModel().load(model("lstm_last"), REQUEST)
    assert operators(found)["LSTM"] == 2
    assert found.bindings == ()


def test_an_optimizer_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx import optimizer

    whole = optimizer.optimize_graph

    def fails(graph: Any, catch_errors: bool = True) -> Any:
        if not catch_errors:
            raise ValueError("as an optimizer does")
        return whole(graph, catch_errors)

    monkeypatch.setattr(optimizer, "optimize_graph", fails)
    assert operators(KerasModel().load(model("sequential"), REQUEST))["MatMul"] == 2


def test_a_rewriter_of_ours_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: Any, ops: Any) -> Any:
        raise KeyError("what")

    monkeypatch.setattr(convert, "REWRITERS", (fails,))
    with pytest.raises(ModelError, match="operators around parameters cannot be rewritten: 'what'"):
        KerasModel().load(model("sequential"), REQUEST)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    KerasModel().load(model("lstm_masked"), REQUEST)
    assert capfd.readouterr() == ("", "")


def test_a_file(tmp_path: Path) -> None:
    save(model("many"), tmp_path / "net.keras")
    found = KerasFile().load(str(tmp_path / "net.keras"), REQUEST)
    assert {value.name for value in found.graph.inputs} == {"ids", "image"}
    assert {path for binding in found.bindings for path in binding.parameters} == used("many")
    assert_same(found, models.fresh_feeds(found.feeds, 3, 8))


def test_an_object_that_the_program_registered_is_no_stranger(tmp_path: Path) -> None:
    save(of(models.Scale()), tmp_path / "net.keras")
    found = KerasFile().load(tmp_path / "net.keras", REQUEST)
    assert [binding.parameters for binding in found.bindings] == [("scale/scale",)]


STRANGER = """
import keras
open({marker!r}, "w").close()

class Doubling(keras.layers.Layer):
    def call(self, x):
        return x * 2
"""


def strangers_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Save a model with a class of a module that leaves a file when it is imported; give the model and that file."""
    marker = folder / "imported"
    (folder / "stranger.py").write_text(STRANGER.format(marker=str(marker)))
    monkeypatch.syspath_prepend(folder)
    import stranger  # type: ignore[import-not-found]

    save(of(stranger.Doubling(name="twice")), folder / "net.keras")
    del sys.modules["stranger"]
    marker.unlink()
    return folder / "net.keras", marker


def test_a_strangers_class_is_not_imported_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, marker = strangers_file(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"net.keras: 'twice' is Doubling of stranger, .*--trust") as caught:
        KerasFile().load(path, REQUEST)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    found = KerasFile().load(path, Request(RUNTIME, trust=True))
    assert marker.exists()
    assert operators(found)["Mul"] == 1


def test_a_lambda_does_not_run_without_trust(tmp_path: Path) -> None:
    save(of(layers.Lambda(lambda x: x + 1, output_shape=(4, 4), name="plus")), tmp_path / "net.keras")
    with pytest.raises(ModelError, match=r"'plus' is Lambda, .*--trust"):
        KerasFile().load(tmp_path / "net.keras", REQUEST)
    assert operators(KerasFile().load(tmp_path / "net.keras", Request(RUNTIME, trust=True)))["Add"] == 1


def planted(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the description of a harmless file."""
    save(of(layers.Dense(3, activation="relu", name="dense")), folder / "net.keras")
    with zipfile.ZipFile(folder / "net.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    change(config)
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(folder / "net.keras", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / "net.keras"


def dense(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["config"]["layers"][1]
    return found


def put(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: dense(config).update(entries)


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


PLANTED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "module": (put(module="os", class_name="system", registered_name="system"), "'dense' is system of os"),
    "function": (
        lambda config: dense(config)["config"].update(activation=function("os", "system")),
        "'dense' is system of os",
    ),
    "getter": (
        lambda config: dense(config)["config"].update(activation=function("keras.utils", "get_file")),
        "get_file of keras.utils",
    ),
    "another file": (put(module="keras.layers", class_name="TFSMLayer", registered_name=None), "TFSMLayer"),
    "pickle": (put(module="keras.layers", class_name="TorchModuleWrapper", registered_name=None), "TorchModuleWrapper"),
    "code": (
        lambda config: dense(config)["config"].update(
            activation={"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}}
        ),
        r"'dense' is Python code \(a lambda\)",
    ),
    "specification": (
        lambda config: dense(config)["config"].update(
            activation={"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}
        ),
        "__typespec__ of os",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_descriptions_that_want_code_to_run_are_refused_before_keras_sees_them(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = PLANTED[case]
    path = planted(tmp_path, change)
    monkeypatch.setattr(keras.saving, "load_model", lambda *args, **named: pytest.fail("Keras was asked"))
    with pytest.raises(ModelError, match=message) as caught:
        KerasFile().load(path, REQUEST)
    assert "\n" not in str(caught.value)


def test_what_a_compiled_model_trained_with_is_no_matter(tmp_path: Path) -> None:
    compiled = of(layers.Dense(3))

    def loss(truth: Any, found: Any) -> Any:
        return keras.ops.mean(truth - found)

    compiled.compile("adam", loss)
    save(compiled, tmp_path / "net.keras")
    assert KerasFile().load(tmp_path / "net.keras", REQUEST).difference is not None


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def garbled(path: Path, behind: bytes) -> None:
    data = bytearray(path.read_bytes())
    start = data.index(behind) + len(behind)
    data[start : start + 40] = bytes(40)
    path.write_bytes(bytes(data))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing")


def no_object(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[1, 2]")


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "no such file"),
    "no archive": (lambda path: path.write_bytes(b"HDF5"), "not a .keras file"),
    "truncated": (truncated, "not a .keras file"),
    "garbled description": (lambda path: garbled(path, b'"class_name"'), "truncated or corrupt"),
    "garbled weights": (lambda path: garbled(path, b"\x89HDF"), "Keras cannot load it"),
    "another archive": (empty_archive, r"there is no config.json"),
    "no model": (no_object, "describes no model"),
    "folder": (folder, "is not a file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    save(of(layers.Dense(3)), path)
    damage, message = DAMAGED[case]
    damage(path)
    with pytest.raises(ModelError, match=message) as caught:
        KerasFile().load(path, REQUEST)
    assert "\n" not in str(caught.value)


def test_files_of_hdf5_are_refused_with_the_way_out() -> None:
    assert KerasFile().accepts("old/net.h5")
    with pytest.raises(ModelError, match=r"load_model\('net.h5'\).save\('net.keras'\)"):
        KerasFile().load("old/net.h5", REQUEST)


def test_what_is_accepted() -> None:
    assert KerasModel().accepts(model("sequential"))
    assert not KerasModel().accepts("net.keras")
    assert not KerasFile().accepts(model("sequential"))
    assert not KerasFile().accepts("net.onnx")
