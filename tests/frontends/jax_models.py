"""Small models in Flax, as their papers have them; tests lower them."""

# mypy: disable-error-code="misc, untyped-decorator"
# What Flax gives has no types.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from numpy.typing import NDArray

__all__ = ["RECIPES", "JaxRecipe", "LinenCNN", "filled"]

VOCABULARY = 64


@dataclass(frozen=True)
class JaxRecipe:
    """How to make one model, the sizes of a batch of its inputs, and the numbers that integer inputs stay below."""

    build: Callable[[nnx.Rngs], nnx.Module]
    shapes: Mapping[str, tuple[int, ...]]
    limits: Mapping[str, int] = field(default_factory=dict)

    def make(self) -> nnx.Module:
        """Build the model with values that training could have left there."""
        return filled(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))

    def example(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return {
            name: rng.integers(0, self.limits[name], shape, np.int32)
            if name in self.limits
            else rng.normal(0, 1, shape).astype(np.float32)
            for name, shape in self.shapes.items()
        }


def filled(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """Give a module that has shapes only values that training could have left there; no initializer is compiled."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> Any:
        kind = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value").rsplit(".", 1)[-1]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        elif kind in ("bias", "mean", "count"):
            values = rng.normal(0, 0.1, leaf.shape)
        else:
            values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return jnp.asarray(values.astype(leaf.dtype))

    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


class ConvBN(nnx.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, rngs: nnx.Rngs
    ) -> None:
        self.conv = nnx.Conv(
            inputs, outputs, (kernel, kernel), stride, use_bias=False, feature_group_count=groups, rngs=rngs
        )
        self.bn = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class CNN(nnx.Module):
    """Convolutions with BatchNorm, pooled, and a classifier."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(16 * 4 * 4, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.bn1(self.conv1(image))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.fc(x.reshape(x.shape[0], -1))


class Residual(nnx.Module):
    """Two 3×3 convolutions around a skip (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.first = ConvBN(inputs, outputs, 3, stride, rngs=rngs)
        self.second = ConvBN(outputs, outputs, rngs=rngs)
        self.skip = ConvBN(inputs, outputs, 1, stride, rngs=rngs) if stride > 1 or inputs != outputs else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.skip is None else self.skip(x)))


class ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = ConvBN(3, 16, rngs=rngs)
        widths = ((16, 16, 1), (16, 32, 2), (32, 32, 1))
        self.blocks = nnx.List([Residual(*sizes, rngs=rngs) for sizes in widths])
        self.fc = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


class InvertedResidual(nnx.Module):
    """Expand, filter depthwise, gate, project linearly (Howard et al., 2019)."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        inner = 4 * inputs
        self.expand = ConvBN(inputs, inner, 1, rngs=rngs)
        self.depthwise = ConvBN(inner, inner, 3, stride, groups=inner, rngs=rngs)
        self.squeeze = nnx.Conv(inner, inner // 4, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(inner // 4, inner, (1, 1), rngs=rngs)
        self.project = ConvBN(inner, outputs, 1, rngs=rngs)
        self.skips = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.hard_swish(self.depthwise(nnx.hard_swish(self.expand(x))))
        gate = self.excite(nnx.relu(self.squeeze(y.mean((1, 2), keepdims=True))))
        y = self.project(y * nnx.hard_sigmoid(gate))
        return x + y if self.skips else y


class MobileNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = ConvBN(3, 8, 3, 2, rngs=rngs)
        widths = ((8, 8, 1), (8, 12, 2), (12, 12, 1))
        self.blocks = nnx.Sequential(*(InvertedResidual(*sizes, rngs=rngs) for sizes in widths))
        self.fc = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = self.blocks(nnx.hard_swish(self.stem(image)))
        return nnx.softmax(self.fc(x.mean((1, 2))))


class Encoder(nnx.Module):
    """Self-attention and a perceptron around skips, normalised before (ViT) or after (BERT)."""

    def __init__(self, width: int, heads: int, before: bool, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 3 * width, rngs=rngs)
        self.down = nnx.Linear(3 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.before = before

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        if self.before:
            x = x + self.dropout(self.attention(self.norm1(x), mask=mask))
            return x + self.dropout(self.down(nnx.gelu(self.up(self.norm2(x)))))
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(x + self.dropout(self.down(nnx.gelu(self.up(x), approximate=False))))


class ViT(nnx.Module):
    """Patches, a class token and encoder blocks (Dosovitskiy et al., 2021)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        width = 32
        self.patches = nnx.Conv(3, width, (4, 4), 4, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 17, width)))
        self.blocks = nnx.List([Encoder(width, 4, True, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = self.patches(image)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nnx.Module):
    """Token and position embeddings, encoder blocks that see a mask, a label for each token (Devlin et al., 2019)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        width = 32
        self.tokens = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Embed(40, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.blocks = nnx.List([Encoder(width, 4, False, rngs) for _ in range(2)])
        self.head = nnx.Linear(width, 9, rngs=rngs)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        x = self.norm(self.tokens(input_ids) + self.positions(jnp.arange(input_ids.shape[1])))
        mask = attention_mask[:, None, None, :] > 0
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class Tagger(nnx.Module):
    """An embedding, an LSTM, a label for each token."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(VOCABULARY, 16, rngs=rngs)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(16, 24, rngs=rngs))
        self.head = nnx.Linear(24, 9, rngs=rngs)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        return self.head(self.lstm(self.embedding(input_ids)))


class UNet(nnx.Module):
    """Down, up, and skips that are concatenated (Ronneberger et al., 2015)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.down1 = ConvBN(1, 8, rngs=rngs)
        self.down2 = ConvBN(8, 16, rngs=rngs)
        self.middle = ConvBN(16, 32, rngs=rngs)
        self.up2 = nnx.ConvTranspose(32, 16, (2, 2), (2, 2), rngs=rngs)
        self.merge2 = ConvBN(32, 16, rngs=rngs)
        self.up1 = nnx.ConvTranspose(16, 8, (2, 2), (2, 2), rngs=rngs)
        self.merge1 = ConvBN(16, 8, rngs=rngs)
        self.head = nnx.Conv(8, 2, (1, 1), rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        first = nnx.relu(self.down1(image))
        second = nnx.relu(self.down2(nnx.max_pool(first, (2, 2), (2, 2))))
        x = nnx.relu(self.middle(nnx.max_pool(second, (2, 2), (2, 2))))
        x = nnx.relu(self.merge2(jnp.concatenate([self.up2(x), second], -1)))
        x = nnx.relu(self.merge1(jnp.concatenate([self.up1(x), first], -1)))
        return self.head(x)


class LinenCNN(linen.Module):
    """A small network in the style of Linen; ``apply`` takes its variables."""

    @linen.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = linen.Conv(8, (3, 3), use_bias=False)(image)
        x = linen.relu(linen.BatchNorm(use_running_average=True)(x))
        x = linen.avg_pool(x, (2, 2), (2, 2))
        return linen.Dense(10)(x.reshape(x.shape[0], -1))


IMAGE = {"image": (2, 16, 16, 3)}
TOKENS = {"input_ids": (2, 7)}

RECIPES = {
    "cnn": JaxRecipe(CNN, IMAGE),
    "resnet": JaxRecipe(ResNet, IMAGE),
    "mobilenet": JaxRecipe(MobileNet, IMAGE),
    "vit": JaxRecipe(ViT, IMAGE),
    "bert": JaxRecipe(Bert, {**TOKENS, "attention_mask": (2, 7)}, {"input_ids": VOCABULARY, "attention_mask": 2}),
    "lstm": JaxRecipe(Tagger, TOKENS, {"input_ids": VOCABULARY}),
    "unet": JaxRecipe(UNet, {"image": (2, 16, 16, 1)}),
}
