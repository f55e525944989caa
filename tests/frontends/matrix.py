"""Models that every framework is tried with, in each framework that can express them.

No framework is imported before a model of it is made. The sizes are those of tests: seconds to lower, thousands of
weights, values that training could have left there.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "MISSING", "MODELS", "NEEDED", "Cell", "hushed"]

SAMPLES = 64
EXAMPLE = 2
LENGTH = 8
"""Tokens in a sequence, and steps of a recurrent layer that is unrolled."""

MODELS = ("resnet", "mobilenet", "vit", "lstm", "bert", "unet")

NEEDED = {
    "PyTorch": ("torch", "onnxscript"),
    "Hugging Face": ("torch", "onnxscript", "transformers"),
    "Keras": ("tensorflow", "keras", "tf2onnx"),
    "SavedModel": ("tensorflow", "keras", "tf2onnx"),
    "TFLite": ("tensorflow", "keras", "tf2onnx"),
    "JAX": ("jax", "flax.nnx", "jax2onnx"),
}
"""Modules that the models of a framework take."""

Arrays = dict[str, NDArray[Any]]
Sizes = Mapping[str, tuple[tuple[int, ...], Any]]


@dataclass(frozen=True)
class Cell:
    """One model in one framework.

    Parameters
    ----------
    make
        Makes what :func:`surgery_ir.apply` takes; a file or a folder is written into the folder given. Each call makes
        another instance with the same weights.
    sizes
        Makes shape and element type of a batch of each input; integers stay below :attr:`limits`.
    limits
        Numbers that integer inputs stay below.
    """

    make: Callable[[Path], Any]
    sizes: Callable[[], Sizes]
    limits: Mapping[str, int]

    def data(self, seed: int = 0) -> Arrays:
        """Draw :data:`SAMPLES` samples: normal numbers, uniform tokens, masks that end somewhere."""
        rng = np.random.default_rng(seed)
        return {name: self._draw(rng, name, *size) for name, size in self.sizes().items()}

    def _draw(self, rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        shape = (SAMPLES, *shape[1:])
        if name == "attention_mask":
            return (np.arange(shape[1]) < rng.integers(shape[1] // 2, shape[1] + 1, (SAMPLES, 1))).astype(dtype)
        if name in self.limits:
            return rng.integers(0, self.limits[name], shape).astype(dtype)
        return rng.normal(size=shape).astype(dtype)

    def example(self) -> Arrays:
        """One batch: the first samples of :meth:`data`."""
        return {name: value[:EXAMPLE] for name, value in self.data().items()}


@contextmanager
def hushed() -> Iterator[None]:
    """Keep back what the frameworks' own converters say."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _torch_recipe(name: str) -> Any:
    from tests.zoo.models.torch_export import RECIPES

    return RECIPES[name]


def _torch(name: str) -> Cell:
    def make(_: Path) -> Any:
        import torch

        from tests.zoo.models.common import randomize

        recipe = _torch_recipe(name)  # ahead of the seed: the zoo draws its inputs when it is imported
        torch.manual_seed(0)
        return randomize(recipe.build())

    def sizes() -> Sizes:
        """Sizes by the names that ``forward`` has for its inputs; the zoo gives graphs names of its own."""
        recipe = _torch_recipe(name)
        names = inspect.signature(recipe.build().forward).parameters
        return {
            key: (tuple(value.shape), value.numpy().dtype)
            for key, value in zip(names, recipe.inputs.values(), strict=True)
        }

    return Cell(make, sizes, {"input_ids": 64, "token_type_ids": 2})


PIXELS = {"pixel_values": ((2, 3, 32, 32), np.float32)}
WORDS = {"input_ids": ((2, LENGTH), np.int64), "attention_mask": ((2, LENGTH), np.int64)}

HUGGING_FACE: dict[str, tuple[str, str, Sizes, dict[str, Any]]] = {
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        PIXELS,
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic"},
    ),
    "mobilenet": (
        "MobileNetV2Config",
        "MobileNetV2ForImageClassification",
        PIXELS,
        {"depth_multiplier": 0.25, "image_size": 32, "finegrained_output": False},
    ),
    "vit": (
        "ViTConfig",
        "ViTForImageClassification",
        PIXELS,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        | {"image_size": 32, "patch_size": 8},
    ),
    "bert": (
        "BertConfig",
        "BertForSequenceClassification",
        WORDS,
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"intermediate_size": 64, "max_position_embeddings": 32},
    ),
}
"""Configuration, class, inputs and sizes; the weights are random."""


def _hugging_face(name: str) -> Cell:
    config, kind, sizes, options = HUGGING_FACE[name]

    def make(_: Path) -> Any:
        import torch
        import transformers

        from tests.zoo.models.common import randomize

        torch.manual_seed(0)
        return randomize(getattr(transformers, kind)(getattr(transformers, config)(**options, num_labels=5)))

    return Cell(make, lambda: sizes, {"input_ids": 64})


KERAS = {
    "resnet": "keras_resnet",
    "mobilenet": "keras_mobilenet",
    "vit": "keras_vit",
    "lstm": "keras_lstm_tagger",
    "bert": "bert",
    "unet": "unet",
}


def _keras_model(name: str) -> Any:
    """Build a model whose layers may be numbered on, as those of a second model are."""
    import keras

    from tests.frontends.keras_models import BUILDERS
    from tests.zoo.models.keras_export import randomize

    keras.utils.set_random_seed(0)
    model = BUILDERS[KERAS[name]]()
    randomize(model)
    return model


def _unrolled() -> Any:
    """Build the tagger for sequences of one length, without loops."""
    import keras
    from keras import layers

    from tests.zoo.models.keras_export import randomize

    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int32", name="input_ids")
    x = layers.Embedding(16, 24)(ids)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True, unroll=True))(x)
    x = layers.LSTM(24, return_sequences=True, unroll=True)(x)
    model = keras.Model(ids, layers.Dense(9)(x))
    randomize(model)
    return model


def _saved(model: Any, folder: Path) -> Path:
    target = folder / "saved_model"
    with hushed():
        model.export(target, format="tf_saved_model", verbose=False)
    return target


def _tflite(model: Any, folder: Path) -> Path:
    import tensorflow as tf

    target = folder / "model.tflite"
    with hushed():
        target.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return target


def _keras(name: str, store: Callable[[Any, Path], Any], build: Callable[[], Any] | None = None) -> Cell:
    build = build or partial(_keras_model, name)

    def sizes() -> Sizes:
        model = build()
        shapes = {tensor.name: tensor.shape for tensor in model.inputs}
        kinds = {tensor.name: np.dtype(tensor.dtype) for tensor in model.inputs}
        return {key: (tuple(size or LENGTH for size in shape), kinds[key]) for key, shape in shapes.items()}

    return Cell(lambda folder: store(build(), folder), sizes, {"input_ids": 16})


def _jax(name: str) -> Cell:
    def recipe() -> Any:
        from tests.frontends.jax_models import RECIPES

        return RECIPES[name]

    def sizes() -> Sizes:
        found = recipe()
        return {key: (shape, np.int32 if key in found.limits else np.float32) for key, shape in found.shapes.items()}

    return Cell(lambda _: recipe().make(), sizes, {"input_ids": 64})


TORCH = dict(zip(MODELS, ("resnet", "mobilenet_v3", "vit", "lstm_tagger", "bert", "unet"), strict=True))

CELLS: dict[tuple[str, str], Cell] = {
    **{("PyTorch", name): _torch(TORCH[name]) for name in MODELS},
    **{("Hugging Face", name): _hugging_face(name) for name in HUGGING_FACE},
    **{("Keras", name): _keras(name, lambda model, _: model) for name in MODELS},
    **{("SavedModel", name): _keras(name, _saved) for name in MODELS},
    **{("TFLite", name): _keras(name, _tflite, _unrolled if name == "lstm" else None) for name in MODELS},
    **{("JAX", name): _jax(name) for name in MODELS},
}
"""What there is, by framework and model."""

MISSING: dict[tuple[str, str], str] = {
    ("Hugging Face", "lstm"): "Transformers has no recurrent network of this kind",
    ("Hugging Face", "unet"): "Transformers has no U-Net; Diffusers has, whose modules are PyTorch's",
}
"""What there is not, and why."""
