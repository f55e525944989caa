"""Keras models of the zoo: a ResNet, a MobileNet, a ViT and an LSTM tagger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
from keras import KerasTensor, layers, ops

__all__ = ["RECIPES", "KerasRecipe"]

VOCABULARY = 64


@dataclass(frozen=True)
class KerasRecipe:
    """How to make one model, and the numbers that its integer inputs stay below."""

    build: Callable[[], keras.Model]
    limits: Mapping[str, int] = field(default_factory=dict)


def conv_bn(x: KerasTensor, filters: int, kernel: int = 3, stride: int = 1, act: str | None = "relu") -> KerasTensor:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(act)(x) if act else x


def residual(x: KerasTensor, filters: int, stride: int) -> KerasTensor:
    """Two 3×3 convolutions around a skip (He et al., 2016)."""
    y = conv_bn(conv_bn(x, filters, 3, stride), filters, act=None)
    if stride != 1 or x.shape[-1] != filters:
        x = conv_bn(x, filters, 1, stride, act=None)
    return layers.ReLU()(layers.Add()([x, y]))


def resnet() -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same")(conv_bn(image, 16))
    for filters, stride in ((16, 1), (32, 2), (32, 1), (48, 2)):
        x = residual(x, filters, stride)
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def inverted_residual(x: KerasTensor, filters: int, stride: int, ratio: int, gated: bool) -> KerasTensor:
    """Expand, filter depthwise, gate, project linearly (Howard et al., 2019)."""
    inner = x.shape[-1] * ratio
    y = conv_bn(x, inner, 1, act="hard_swish")
    if stride == 2:
        y = layers.ZeroPadding2D(((0, 1), (0, 1)))(y)
    y = layers.DepthwiseConv2D(3, stride, padding="valid" if stride == 2 else "same", use_bias=False)(y)
    y = layers.Activation("hard_swish")(layers.BatchNormalization()(y))
    if gated:
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(inner // 4, 1, activation="relu")(gate)
        gate = layers.Conv2D(inner, 1, activation="hard_sigmoid")(gate)
        y = layers.Multiply()([y, gate])
    y = conv_bn(y, filters, 1, act=None)
    return layers.Add()([x, y]) if stride == 1 and x.shape[-1] == filters else y


def mobilenet() -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = conv_bn(image, 16, 3, 2, "hard_swish")
    for filters, stride, ratio, gated in ((12, 2, 2, False), (12, 1, 4, True), (16, 2, 4, False), (16, 1, 4, True)):
        x = inverted_residual(x, filters, stride, ratio, gated)
    x = layers.GlobalAveragePooling2D()(conv_bn(x, 48, 1, act="hard_swish"))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


class AddPositions(layers.Layer):
    """Add a learned vector to each position."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, x: KerasTensor) -> KerasTensor:
        return x + self.table


def vit() -> keras.Model:
    """Patches and encoder blocks with ``MultiHeadAttention``, averaged (Dosovitskiy et al., 2021)."""
    width, heads = 32, 4
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(width, 8, 8)(image)
    x = AddPositions()(layers.Reshape((16, width))(x))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(3 * width, activation=lambda z: ops.gelu(z, approximate=True))(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10)(x))


def lstm_tagger() -> keras.Model:
    """Embedding, a bidirectional LSTM, another LSTM, a label for each token."""
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    x = layers.Embedding(VOCABULARY, 24)(ids)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
    x = layers.LSTM(24, return_sequences=True)(x)
    return keras.Model(ids, layers.Dense(9)(x))


RECIPES = {
    "keras_resnet": KerasRecipe(resnet),
    "keras_mobilenet": KerasRecipe(mobilenet),
    "keras_vit": KerasRecipe(vit),
    "keras_lstm_tagger": KerasRecipe(lstm_tagger, {"input_ids": VOCABULARY}),
}
