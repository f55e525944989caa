"""Recurrent and one-dimensional networks: an LSTM tagger, a GRU classifier, a temporal convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, tokens

__all__ = ["RECIPES"]

VOCABULARY = 64


class Tagger(nn.Module):
    """Embedding, two bidirectional LSTM layers (Hochreiter and Schmidhuber, 1997), a label for each token."""

    def __init__(self, width: int = 24, hidden: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, 9)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embedding(input_ids))[0])


class GruClassifier(nn.Module):
    """Features projected, two GRU layers (Cho et al., 2014), the last state classified."""

    def __init__(self, features: int = 12, width: int = 24, hidden: int = 32) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)
        self.gru = nn.GRU(width, hidden, num_layers=2, batch_first=True)
        self.fc = nn.Linear(hidden, 5)

    def forward(self, frames: Tensor) -> Tensor:
        _, state = self.gru(functional.relu(self.project(frames)))
        return self.fc(state[-1])


class TemporalBlock(nn.Module):
    """Dilated causal convolutions around a skip (Bai et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.padding = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, outputs, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, dilation=dilation)
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv1(functional.pad(x, (self.padding, 0))))
        y = functional.relu(self.conv2(functional.pad(y, (self.padding, 0))))
        return functional.relu(y + self.skip(x))


class TemporalNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(8, 16, 1), TemporalBlock(16, 24, 2))
        self.fc = nn.Linear(24, 6)

    def forward(self, frames: Tensor) -> Tensor:
        return self.fc(self.blocks(frames.transpose(1, 2)).transpose(1, 2))


RECIPES = {
    "lstm_tagger": Recipe(Tagger, tokens(VOCABULARY), {"input_ids": VOCABULARY}, ("dynamo", "legacy")),
    "gru": Recipe(GruClassifier, {"frames": torch.randn(2, 10, 12)}, {}, ("dynamo", "legacy")),
    "tcn": Recipe(TemporalNet, {"frames": torch.randn(2, 20, 8)}, {}),
}
