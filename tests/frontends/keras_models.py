"""Small Keras models, each for something that lowering could get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from tests.zoo.models.keras_export import randomize
from tests.zoo.models.keras_models import RECIPES as ZOO

__all__ = ["BUILDERS", "Growing", "Halving", "Named", "Scale", "Svd", "build", "fresh_feeds"]


@keras.saving.register_keras_serializable("surgery_ir_tests")
class Scale(layers.Layer):
    """Multiply each channel, as ConvNeXt does."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="scale")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.scale


class Named(keras.Model):
    """A subclass that takes two arguments and gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left = layers.Dense(4)
        self.right = [layers.Dense(4), layers.Dense(4, activation="tanh")]

    def call(self, x: keras.KerasTensor, y: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        return {"sum": self.left(x) + self.right[0](y), "again": self.right[1](x)}


class Halving(keras.Model):
    """A subclass of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        return self.dense(rows) / 2


class Svd(layers.Layer):
    """What ONNX has nothing for."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.linalg.svd(x, compute_uv=False)


class Growing(layers.Layer):
    """Python decides by values."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x if keras.ops.sum(x) > 0 else -x


def gelu() -> keras.Model:
    x = keras.Input((6,), name="x")
    return keras.Model(x, layers.Dense(3)(layers.Dense(8, activation="gelu")(x)))


def gru() -> keras.Model:
    x = keras.Input((None, 5), name="x")
    y = layers.GRU(6, return_sequences=True)(x)
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True))(y)
    return keras.Model(x, layers.Dense(3)(layers.GRU(5)(y)))


def gru_before_reset() -> keras.Model:
    x = keras.Input((None, 5), name="x")
    return keras.Model(x, layers.GRU(6, return_sequences=True, reset_after=False)(x))


def lstm_last() -> keras.Model:
    x = keras.Input((None, 5), name="x")
    y = layers.Bidirectional(layers.LSTM(6, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(x, layers.LSTM(4, use_bias=False)(y))


def lstm_masked() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(8, 5, mask_zero=True)(ids)
    return keras.Model(ids, layers.Dense(3)(layers.LSTM(6)(x)))


def simple_rnn() -> keras.Model:
    x = keras.Input((None, 5), name="x")
    return keras.Model(x, layers.Dense(2)(layers.SimpleRNN(6)(x)))


def unet() -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    top = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(top))
    low = layers.Conv2D(10, 3, padding="same", activation="relu")(layers.AveragePooling2D(2)(x))
    up = layers.UpSampling2D(interpolation="bilinear")(low)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.Concatenate()([up, x]))
    x = layers.Conv2DTranspose(6, 2, 2, activation="relu")(x)
    x = layers.Concatenate()([x, top])
    return keras.Model(image, layers.Conv2D(2, 1)(x))


def bert() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    x = layers.LayerNormalization()(layers.Embedding(16, 12)(ids))
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(3, 4)(x, x)]))
        y = layers.Dense(12)(layers.Dense(24, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(ids, layers.Dense(5)(x))


def convolutions() -> keras.Model:
    image = keras.Input((9, 9, 4), name="image")
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(image)
    x = layers.SeparableConv2D(8, 3, padding="same")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=4, activation="relu")(x)
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2)(x)
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))


def normalizations() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(scale=False)(layers.Conv2D(6, 3)(image))
    x = layers.BatchNormalization(center=False)(layers.Conv2D(6, 3)(x))
    x = layers.BatchNormalization(scale=False, center=False)(layers.ReLU()(x))
    x = layers.BatchNormalization(axis=3, epsilon=0.3)(x)  # as keras.applications writes it
    x = layers.Reshape((16, 6))(x)
    x = layers.BatchNormalization()(layers.Conv1D(5, 3)(x))
    x = layers.BatchNormalization()(layers.Dense(7)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(2)(x))


def odd_axis() -> keras.Model:
    image = keras.Input((5, 6, 3), name="image")
    return keras.Model(image, layers.Flatten()(layers.BatchNormalization(axis=1)(layers.Conv2D(4, 1)(image))))


def volume() -> keras.Model:
    x = keras.Input((6, 6, 6, 2), name="x")
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv3D(4, 3, use_bias=False)(x)))
    return keras.Model(x, layers.GlobalAveragePooling3D()(y))


def convnext() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 2, 2)(image)
    y = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
    y = Scale()(layers.Conv2D(6, 1)(layers.Conv2D(12, 1, activation="gelu")(y)))
    x = layers.Add()([x, y])
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def many() -> keras.Model:
    """Two inputs, two outputs by name, a layer that is called twice, a frozen one."""
    image, ids = keras.Input((4, 4, 2), name="image"), keras.Input((3,), dtype="int32", name="ids")
    shared = layers.Dense(5, name="shared")
    frozen = layers.Dense(5, trainable=False, name="frozen")
    x = frozen(layers.Flatten()(image))
    y = layers.Flatten()(layers.Embedding(6, 4)(ids))
    return keras.Model({"image": image, "ids": ids}, {"one": shared(x), "other": shared(layers.Dense(5)(y))})


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((7,)), layers.Dense(6, activation="relu"), layers.Dense(2)], name="stack")


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    **{name: recipe.build for name, recipe in ZOO.items()},
    "gelu": gelu,
    "gru": gru,
    "gru_before_reset": gru_before_reset,
    "lstm_last": lstm_last,
    "lstm_masked": lstm_masked,
    "simple_rnn": simple_rnn,
    "unet": unet,
    "bert": bert,
    "convolutions": convolutions,
    "normalizations": normalizations,
    "odd_axis": odd_axis,
    "volume": volume,
    "convnext": convnext,
    "many": many,
    "sequential": sequential,
}


def build(name: str) -> keras.Model:
    """Make the model called ``name`` with names that start from 0, and weights that training could have left there."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    randomize(model)
    return model


def fresh_feeds(known: Mapping[str, NDArray[np.generic]], batch: int, length: int) -> dict[str, NDArray[np.generic]]:
    """Other inputs of the same kind; sequences of ``length``."""
    rng = np.random.default_rng(batch)
    feeds = {}
    for name, array in known.items():
        shape = (batch, *array.shape[1:])
        if len(shape) in (2, 3) and name in ("ids", "input_ids", "x") and array.shape[1] == 8:
            shape = (batch, length, *shape[2:])
        if array.dtype.kind == "i":
            feeds[name] = rng.integers(0, 6, shape).astype(array.dtype)
        else:
            feeds[name] = rng.standard_normal(shape).astype(array.dtype)
    return feeds
