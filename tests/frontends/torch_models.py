"""Small PyTorch modules, each with one trait that the zoo's models lack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

__all__ = [
    "Attention",
    "Branching",
    "Counting",
    "FixedLength",
    "Mapping",
    "Nested",
    "Noisy",
    "Raising",
    "Reshaping",
    "Rows",
    "Tied",
    "Unsupported",
    "normed",
    "transposed",
]


def normed() -> nn.Module:
    """A convolution whose weight is computed from two parameters (Salimans and Kingma, 2016)."""
    return nn.Sequential(weight_norm(nn.Conv1d(3, 8, 3)), nn.ReLU(), weight_norm(nn.Conv1d(8, 2, 1)))


def transposed() -> nn.Module:
    """Grouped convolutions down and up, one of them without a bias, BatchNorm in between."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2, 2, groups=4),
    )


class Reshaping(nn.Module):
    """All steps of all sequences as one batch of rows behind the recurrent layer, and back."""

    def __init__(self, kind: type[nn.Module], bidirectional: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.recurrent = kind(6, 5, bidirectional=bidirectional, batch_first=batch_first)
        self.fc = nn.Linear(10 if bidirectional else 5, 3)

    def forward(self, frames: Tensor) -> Tensor:
        y = self.recurrent(frames)[0]
        first, second, width = y.shape
        return self.fc(y.reshape(first * second, width)).view(first, second, 3)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.relu(self.first(x)))


class Attention(nn.Module):
    """PyTorch's own attention over tokens, with a mask of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]


class FixedLength(nn.Module):
    """A table of positions that fits one length only."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(9, 4), nn.Parameter(torch.randn(1, 5, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) + self.positions


class Mapping(nn.Module):
    """Gives a mapping in which there is nothing under one name, one input as it came, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: float = 1.0, *, mask: Tensor | None = None) -> dict[str, Tensor | None]:
        y = self.fc(x) * scale
        y = y if mask is None else y * mask
        return {"twice": y, "nothing": None, "again": y, "input": x, "weight": self.fc.weight}


class Nested(nn.Module):
    """Takes and gives trees of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, tree: dict[str, Any], *more: Tensor) -> tuple[Tensor, list[Tensor]]:
        first, rest = tree["first"], tree["rest"]
        return self.fc(first) + rest[0] + sum(more), [2 * x for x in rest]


class Branching(nn.Module):
    """Takes one way or another, as the values say."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


class Counting(nn.Module):
    """Cuts at a place that the values tell."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.max().item())
        return x[:, :count]


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Rows(nn.Module):
    """Takes batches of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4) * 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the first line\nand the second")
