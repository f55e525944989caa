"""``.tflite`` files are lowered with every tensor under its own name; damaged ones are refused in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.errors import ModelError, SurgeryError
from surgery_ir.frontends.agreement import compare
from surgery_ir.frontends.base import Frontend, Lowered, Request
from surgery_ir.frontends.tensorflow.tflite import TfliteFile
from surgery_ir.graph.extract import with_outputs
from tests.harness import RUNTIME, run

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

from keras import layers  # noqa: E402

from tests.zoo.models.keras_models import RECIPES as ZOO  # noqa: E402


def cnn(batch: int | None = None) -> Any:
    image = keras.Input((12, 12, 3), batch_size=batch, name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn1")(x))
    x = layers.DepthwiseConv2D(3, 2, padding="same", activation="relu6", name="dw")(x)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    return keras.Model(image, layers.Dense(20, name="fc")(x))


def dense() -> Any:
    x = keras.Input((12,), name="x")
    return keras.Model(x, layers.Dense(4, activation="softmax")(layers.Dense(32, activation="gelu")(x)))


def lstm(batch: int | None = None, unroll: bool = True) -> Any:
    x = keras.Input((6, 5), batch_size=batch, name="x")
    return keras.Model(x, layers.Dense(4)(layers.LSTM(8, unroll=unroll)(x)))


def small() -> Any:
    x = keras.Input((12,), name="x")
    return keras.Model(x, layers.Dense(4, name="fc")(layers.Dense(8, activation="relu")(x)))


def ending_in(function: Callable[[Any], Any]) -> Any:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Lambda(function, output_shape=(4,))(layers.Dense(4)(x)))


def bucketize(value: Any) -> Any:
    return tf.cast(tf.raw_ops.Bucketize(input=value, boundaries=[0.0, 1.0]), tf.float32)


def halves(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def bytes_of_weights(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def integers(converter: Any) -> None:
    rng = np.random.default_rng(0)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([rng.normal(size=(1, 12)).astype("f")] for _ in range(4))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def custom(converter: Any) -> None:
    converter.allow_custom_ops = True


def plain(converter: Any) -> None:
    pass


FILES: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "cnn": (cnn, plain),
    "cnn, float16": (cnn, halves),
    "cnn, bytes": (cnn, bytes_of_weights),
    "cnn, one sample": (lambda: cnn(1), plain),
    "dense": (dense, plain),
    "lstm": (lstm, plain),
    "lstm, one sample": (lambda: lstm(1, unroll=False), plain),
    "small, integers": (small, integers),
    "bucketize": (lambda: ending_in(bucketize), plain),
    "custom": (lambda: ending_in(tf.math.bessel_i0e), custom),
    "mobilenet": (lambda: ZOO["keras_mobilenet"].build(), plain),
    "resnet": (lambda: ZOO["keras_resnet"].build(), plain),
    "vit": (lambda: ZOO["keras_vit"].build(), plain),
}

SLOW = ("mobilenet", "resnet", "vit")

GOOD = [
    *("cnn", "cnn, float16", "small, integers", "cnn, one sample", "dense", "lstm"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]


@cache
def content(name: str) -> bytes:
    build, configure = FILES[name]
    keras.backend.clear_session()  # or names depend on what was built before
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(rng.normal(0, 0.2, weight.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            configure(converter)
            return bytes(converter.convert())
        finally:
            logging.disable(logging.NOTSET)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        (tmp_path / "model.tflite").write_bytes(content(name))
        return tmp_path / "model.tflite"

    return write


@cache
def lowered_in(folder: Path, name: str) -> Lowered:
    path = folder / f"{name}.tflite"
    path.write_bytes(content(name))
    return TfliteFile().load(path, Request(RUNTIME))


@pytest.fixture
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lowered]:
    return lambda name: lowered_in(tmp_path_factory.getbasetemp(), name)


Load = Callable[[str], Lowered]


def parameters(lowered: Lowered) -> dict[str, NDArray[Any]]:
    assert lowered.live is not None
    return dict(lowered.live.parameters())


def test_it_is_a_frontend() -> None:
    frontend = TfliteFile()
    assert isinstance(frontend, Frontend)
    assert frontend.accepts("model.tflite")
    assert frontend.accepts(Path("model.TFLITE"))
    assert not frontend.accepts("model.onnx")
    assert not frontend.accepts(3)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_lowered_agrees(name: str, load: Load) -> None:
    lowered = load(name)
    assert lowered.difference is not None
    assert lowered.difference < 1e-5
    for spec in input_specs(lowered.graph).values():
        assert spec.shape is not None
        assert not isinstance(spec.shape[0], int)


@pytest.mark.parametrize("name", GOOD)
def test_every_tensor_of_weights_is_bound(name: str, load: Load) -> None:
    lowered = load(name)
    values = parameters(lowered)
    weights = {name for name, value in values.items() if value.dtype.kind == "f" and value.ndim}
    bound = {source for binding in lowered.bindings for source in binding.parameters}
    assert weights <= bound
    for binding in lowered.bindings:
        held = lowered.graph.array(binding.initializer)
        np.testing.assert_array_equal(binding.forward(values), held)
        for source, value in binding.backward(held, values).items():
            np.testing.assert_array_equal(value, values[source])


@pytest.mark.parametrize(
    ("name", "tensor", "operators"),
    [
        ("cnn", "conv1_1/convolution", "Transpose"),
        ("cnn", "dw_1/depthwise", "Transpose∘Reshape"),
        ("cnn", "fc_1/BiasAdd", ""),
        ("cnn, float16", "fc_1/MatMul", "Transpose"),
        ("small, integers", "fc_1/MatMul", ""),
    ],
)
def test_names_are_the_files(name: str, tensor: str, operators: str, load: Load) -> None:
    (binding,) = [item for item in load(name).bindings if item.initializer.endswith(f"/{tensor}")]
    assert binding.parameters == (binding.initializer,)
    assert str(binding) == (f"{operators}({binding.initializer})" if operators else binding.initializer)


def test_inputs_and_outputs_have_the_signatures_names(load: Load) -> None:
    lowered = load("cnn")
    assert list(lowered.feeds) == ["image"]
    assert [value.name for value in lowered.graph.outputs] == ["output_0"]


def test_integers_stay_integers(load: Load) -> None:
    graph = load("small, integers").graph
    kinds = {graph.array(binding.initializer).dtype for binding in load("small, integers").bindings}
    assert kinds == {np.dtype(np.int8), np.dtype(np.int32)}


def test_halves_become_floats(load: Load) -> None:
    lowered = load("cnn, float16")
    kinds = {lowered.graph.array(binding.initializer).dtype for binding in lowered.bindings}
    assert kinds == {np.dtype(np.float32)}
    for value in parameters(lowered).values():
        if value.dtype.kind == "f":
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("cnn", ["RESHAPE"]),
        ("dense", ["GELU"]),
        ("lstm", ["TANH", "MUL"]),
        ("cnn, one sample", []),
        pytest.param("mobilenet", ["HARD_SWISH", "MEAN", "MUL"], marks=pytest.mark.slow),
        pytest.param("vit", ["GELU", "SOFTMAX"], marks=pytest.mark.slow),
    ],
)
def test_the_interpreter_tells_inner_values(name: str, kinds: list[str], load: Load) -> None:
    lowered = load(name)
    assert lowered.live is not None
    inner = lowered.live.inner(lowered.feeds)
    found = run(with_outputs(lowered.graph, list(inner)), lowered.feeds) if inner else {}
    for value, (_, expected) in inner.items():
        np.testing.assert_allclose(found[value], expected, atol=1e-5)
    told = {layer.split()[0] for layer, _ in inner.values()}
    assert told >= set(kinds)
    assert bool(told) == bool(kinds)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ["cnn", "cnn, one sample", "lstm"])
def test_the_batch_is_open(name: str, batch: int, load: Load) -> None:
    lowered = load(name)
    rng = np.random.default_rng(batch)
    feeds = {key: rng.normal(size=(batch, *array.shape[1:])).astype("f") for key, array in lowered.feeds.items()}
    assert lowered.live is not None
    (expected,) = lowered.live.run(feeds)
    assert len(expected) == batch
    (found,) = run(lowered.graph, feeds).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_takes_no_new_values(load: Load) -> None:
    live = load("cnn").live
    assert live is not None
    with pytest.raises(ModelError, match=r"a \.tflite file takes no new values; save the result as ONNX"):
        live.assign({})


def test_the_file_can_be_opened_again(file: Callable[[str], Path], load: Load) -> None:
    lowered = load("dense")
    live = TfliteFile().live(file("dense"), lowered)
    assert compare(lowered.graph, live, lowered.feeds, RUNTIME) < 1e-5
    assert live.inner(lowered.feeds).keys() == lowered.live.inner(lowered.feeds).keys()  # type: ignore[union-attr]


def test_example_inputs_are_used(file: Callable[[str], Path]) -> None:
    example = np.random.default_rng(3).normal(size=(3, 12, 12, 3))
    lowered = TfliteFile().load(str(file("cnn")), Request(RUNTIME, {"image": example}))
    np.testing.assert_array_equal(lowered.feeds["image"], example.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cnn, bytes", "it is quantized and rounds otherwise than ONNX; give the float model"),
        ("lstm, one sample", "the file fixes a batch of one; convert it again with an open batch"),
        ("custom", "'output_0' is the operator BesselI0e, which tf2onnx cannot convert"),
        ("bucketize", "is the operator BUCKETIZE, which tf2onnx cannot convert"),
    ],
)
def test_what_cannot_be_lowered_is_one_line(name: str, text: str, file: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        TfliteFile().load(file(name), Request(RUNTIME))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ({"x": np.zeros((2, 12, 12, 3), "f")}, "it takes image"),
        (np.zeros((2, 12, 12, 4), "f"), "'image' is of shape"),
    ],
)
def test_wrong_examples(example: Any, text: str, file: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=text):
        TfliteFile().load(file("cnn"), Request(RUNTIME, example))


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0x80
    return bytes(changed)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "this is no TensorFlow Lite model"),
    "a text": (lambda data: b"TFLite is not this", "this is no TensorFlow Lite model"),
    "the head alone": (lambda data: data[:8], "the file is damaged"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "the file is damaged|refuses the file"),
    "cut at the end": (lambda data: data[:-64], "the file is damaged|refuses the file"),
    "a wild root": (lambda data: b"\xff\xff\xff\x7f" + data[4:], "the file is damaged"),
    "zeros": (lambda data: data[:8] + bytes(len(data) - 8), "the file is damaged|refuses the file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    damage, text = DAMAGED[kind]
    path = tmp_path / "model.tflite"
    path.write_bytes(damage(content("dense")))
    with pytest.raises(ModelError, match=text) as caught:
        TfliteFile().load(path, Request(RUNTIME))
    assert "\n" not in str(caught.value)


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        TfliteFile().load(tmp_path / "model.tflite", Request(RUNTIME))


def test_any_flipped_bit_is_an_error_or_a_model(tmp_path: Path) -> None:
    data = content("dense")
    path = tmp_path / "model.tflite"
    refused = 0
    for position in np.random.default_rng(0).integers(8, len(data), 24):
        path.write_bytes(flipped(data, int(position)))
        try:
            TfliteFile().load(path, Request(RUNTIME))
        except SurgeryError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 - which bits are refused is not known before
    assert refused


@pytest.mark.parametrize("change", [lambda value: value * 1.01, lambda value: value[::-1]])
def test_planted_faults_are_caught(change: Callable[[NDArray[Any]], NDArray[Any]], load: Load) -> None:
    lowered = load("dense")
    graph = lowered.graph.clone()
    (name,) = [name for name in graph.initializers if graph.array(name).shape == (12, 32)]
    graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(change(graph.array(name))), name=name)
    assert lowered.live is not None
    with pytest.raises(ModelError, match=r"computes something else than TensorFlow Lite.*first layer that differs"):
        compare(graph, lowered.live, lowered.feeds, RUNTIME)
