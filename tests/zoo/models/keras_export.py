"""Keras models of the zoo become ONNX as Keras exports them: through TensorFlow and tf2onnx."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx

from tests.zoo.models.keras_models import RECIPES

__all__ = ["export", "names"]


def names() -> list[str]:
    """Give the name of every model."""
    return list(RECIPES)


def export(name: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Export the model called ``name``; the second result is the limits of its integer inputs."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = RECIPES[name].build()
    randomize(model)
    model(np.zeros([size or 2 for size in model.input_shape], model.inputs[0].dtype))  # or Keras refuses to export it
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras asks NumPy for names of old
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return proto, dict(RECIPES[name].limits)


def randomize(model: keras.Model) -> None:
    """Give every weight and BatchNorm statistic a value that training could have left there."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        kind = weight.path.rsplit("/", 1)[-1]
        if kind in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif kind in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif len(weight.shape) == 4:
            inputs = weight.shape[:2] if "depthwise" in weight.path else weight.shape[:3]
            weight.assign(rng.normal(0, np.prod(inputs) ** -0.5, weight.shape))
        elif kind == "embeddings":
            weight.assign(rng.normal(0, 1, weight.shape))
