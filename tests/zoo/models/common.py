"""What the PyTorch models of the zoo share: layers, random statistics, inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Recipe", "Residual", "SqueezeExcite", "conv_bn", "image", "padding_mask", "randomize", "tokens"]


@dataclass(frozen=True)
class Recipe:
    """How to make one model and in which ways to export it.

    Parameters
    ----------
    build
        Makes the model.
    inputs
        Examples by name, a batch of 2 along the first axis of each.
    limits
        Integer inputs by name, and the number that their values stay below.
    exporters
        Keys of ``tests.zoo.models.torch_export.EXPORTERS``. The first leaves the graph its plain name, the others add
        a suffix.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    limits: Mapping[str, int]
    exporters: tuple[str, ...] = ("dynamo",)


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution of the same padding, BatchNorm, activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act is not None else []))


class Residual(nn.Module):
    """Add what a module computes to its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class SqueezeExcite(nn.Module):
    """Scale the channels by a gate that sees their means (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


def randomize(model: nn.Module) -> nn.Module:
    """Give every parameter and every BatchNorm statistic a value that training could have left there.

    Weights keep the size of activations (He et al., 2015); nothing is exactly 0 or 1, so that folding a normalisation,
    dropping a bias or a scale shows.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1 and "bias" not in name:
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(0, _deviation(module, parameter))
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def _deviation(module: nn.Module, parameter: Tensor) -> float:
    if parameter.ndim == 1:
        return 0.1
    if isinstance(module, nn.Embedding):
        return 1.0
    if isinstance(module, nn.ConvTranspose2d):
        return (2 / parameter.shape[0]) ** 0.5
    if isinstance(module, nn.Linear | nn.RNNBase):
        return parameter.shape[1] ** -0.5
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return (2 / parameter[0].numel()) ** 0.5
    return parameter.shape[0] ** -0.5 if parameter.ndim == 2 else 0.5


def image(channels: int = 3, size: int = 32) -> dict[str, Tensor]:
    """Two square images."""
    return {"image": torch.randn(2, channels, size, size)}


def tokens(limit: int, length: int = 12) -> dict[str, Tensor]:
    """Two sequences of numbers below ``limit``."""
    return {"input_ids": torch.randint(0, limit, (2, length))}


def padding_mask(length: int = 12) -> dict[str, Tensor]:
    """Two masks: 1 where there is a token, 0 behind the end."""
    return {"attention_mask": (torch.arange(length) < torch.tensor([[length], [length - 4]])).long()}
