"""SavedModels become graphs, whoever wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.tensorflow.keras import KerasModel
from surgery_ir.frontends.tensorflow.saved_model import SavedModel
from tests.harness import RUNTIME

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("keras")
models = pytest.importorskip("tests.frontends.keras_models")

REQUEST = Request(RUNTIME)


class Module(tf.Module):  # type: ignore[name-defined]
    """Two layers, a normalization and a loop, written with TensorFlow alone."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.kernel = tf.Variable(rng.standard_normal((3, 3, 2, 5)).astype(np.float32), name="kernel")
        self.scale = tf.Variable(rng.uniform(0.5, 1.5, 5).astype(np.float32), name="scale")
        self.shift = tf.Variable(rng.standard_normal(5).astype(np.float32), name="shift")
        self.mean = tf.Variable(rng.standard_normal(5).astype(np.float32), name="mean")
        self.variance = tf.Variable(rng.uniform(0.5, 1.5, 5).astype(np.float32), name="variance")
        self.weights = tf.Variable(rng.standard_normal((5, 4)).astype(np.float32), name="weights")

    def convolve(self, image: Any) -> Any:
        x = tf.nn.conv2d(image, self.kernel, 1, "SAME")
        x, *_ = tf.compat.v1.nn.fused_batch_norm(
            x, self.scale, self.shift, self.mean, self.variance, epsilon=0.01, is_training=False
        )
        return {"scores": tf.reduce_mean(tf.nn.relu(x), (1, 2)) @ self.weights, "image": x}

    def project(self, rows: Any) -> Any:
        return {"rows": rows @ self.weights}

    def touch(self, rows: Any) -> Any:
        tf.io.write_file("/nowhere/at/all", "x")
        return {"out": rows @ self.weights}

    def call_python(self, rows: Any) -> Any:
        return {"out": tf.ensure_shape(tf.numpy_function(np.abs, [rows], tf.float32), (None, 5))}


IMAGE = tf.TensorSpec((None, 6, 6, 2), tf.float32, "image")
ROWS = tf.TensorSpec((None, 5), tf.float32, "rows")


def save(folder: Path, **signatures: str) -> Path:
    module = Module()
    specs = {"convolve": IMAGE}
    made = {
        name: tf.function(getattr(module, method), autograph=False).get_concrete_function(specs.get(method, ROWS))
        for name, method in signatures.items()
    }
    tf.saved_model.save(module, str(folder / "saved"), signatures=made or None)
    return folder / "saved"


def operators(found: Lowered) -> Counter[str]:
    return Counter(node.op_type for node in found.graph.model.graph)


def test_a_module(tmp_path: Path) -> None:
    found = SavedModel().load(save(tmp_path, serving_default="convolve"), REQUEST)
    assert found.difference is not None
    assert found.difference < 1e-5
    assert [value.name for value in found.graph.inputs] == ["image"]
    assert [value.name for value in found.graph.outputs] == ["image_output", "scores"]
    assert found.live is not None
    parameters = found.live.parameters()
    assert parameters.keys() == {"kernel", "scale", "shift", "mean", "variance", "weights"}
    assert {path for binding in found.bindings for path in binding.parameters} == parameters.keys()
    assert operators(found)["BatchNormalization"] == 1
    for binding in found.bindings:
        np.testing.assert_array_equal(binding.forward(parameters), found.graph.array(binding.initializer))


def test_new_values_are_written_into_the_loaded_model(tmp_path: Path) -> None:
    live = SavedModel().load(save(tmp_path, serving_default="project"), REQUEST).live
    assert live is not None
    rows = np.ones((2, 5), np.float32)
    before = live.run({"rows": rows})[0]
    live.assign({"weights": live.parameters()["weights"] * 2})
    np.testing.assert_allclose(live.run({"rows": rows})[0], before * 2, rtol=1e-6)
    assert live.framework == "TensorFlow"
    assert live.inner({"rows": rows}) == {}


@pytest.mark.parametrize("name", ["normalizations", "keras_lstm_tagger", "many"])
def test_what_keras_exports_is_what_the_model_is(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = models.build(name)
    direct = KerasModel().load(model, REQUEST)
    model.export(tmp_path / "saved", verbose=False)
    capfd.readouterr()
    found = SavedModel().load(tmp_path / "saved", REQUEST)
    assert capfd.readouterr() == ("", "")
    assert operators(found) == operators(direct)
    assert {binding.initializer: binding.parameters for binding in found.bindings} == {
        binding.initializer: binding.parameters for binding in direct.bindings
    }
    names = [value.name or "" for value in direct.graph.inputs]
    assert [value.name for value in found.graph.inputs] == names
    feeds = {name: direct.feeds[name] for name in names}
    pairs = zip(
        RUNTIME.load(found.graph).run(feeds).values(), RUNTIME.load(direct.graph).run(feeds).values(), strict=True
    )
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_only_signature_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert operators(SavedModel().load(save(tmp_path, other="project"), REQUEST))["MatMul"] == 1


def without_variables(folder: Path) -> Path:
    (folder / "variables" / "variables.index").unlink()
    return folder


def with_garbage(folder: Path) -> Path:
    (folder / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff" * 9)
    return folder


def with_a_strange_operator(folder: Path) -> Path:
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"\x12\x06MatMul", b"\x12\x06MatMux"))
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "signatures": (
        lambda folder: save(folder, one="convolve", two="project"),
        "none .* 'serving_default'; it has one, two",
    ),
    "no signature": (save, "it has no signature"),
    "writes files": (lambda folder: save(folder, serving_default="touch"), "the operator WriteFile, .*--trust"),
    "python": (lambda folder: save(folder, serving_default="call_python"), "the operator .*PyFunc"),
    "variables": (
        lambda folder: without_variables(save(folder, serving_default="project")),
        "TensorFlow cannot load it",
    ),
    "garbage": (lambda folder: with_garbage(save(folder, serving_default="project")), "truncated or corrupt"),
    "custom": (
        lambda folder: with_a_strange_operator(save(folder, serving_default="project")),
        "the operator MatMux, which TensorFlow does not have",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        SavedModel().load(path, REQUEST)
    assert "\n" not in str(caught.value)


def test_what_is_accepted(tmp_path: Path) -> None:
    assert not SavedModel().accepts(tmp_path)
    assert not SavedModel().accepts(tmp_path / "net.onnx")
    assert not SavedModel().accepts(np.zeros(2))
    assert SavedModel().accepts(str(save(tmp_path, serving_default="project")))
