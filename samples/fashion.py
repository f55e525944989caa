"""What the scripts of both sample models share: Fashion-MNIST, the training loop and the accuracy.

Needs ``torch`` and the Debian package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

IDX = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes (LeCun's MNIST format)."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(tuple(shape))


def read_split(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 1, 28, 28] and labels [N] of ``train`` (60,000) or ``t10k`` (10,000)."""
    images = read_idx(IDX / f"{split}-images-idx3-ubyte.gz")[:, None].copy()
    return images, read_idx(IDX / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, peak: float, images: Tensor, labels: Tensor, epochs: int, *,
    batch: int = 128, shift: int = 2, smoothing: float = 0.0,
) -> None:  # fmt: skip
    """Train with one cycle of the learning rate up to ``peak``, random shifts by ``shift`` pixels and mirror images."""
    steps = math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, epochs * steps, pct_start=0.2)
    padded = functional.pad(images, (shift, shift, shift, shift))
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(images)).split(batch):
            dy, dx = torch.randint(0, 2 * shift + 1, (2,)).tolist()
            x = padded[index, :, dy : dy + 28, dx : dx + 28]
            x = torch.where(torch.rand(len(index), 1, 1, 1) < 0.5, x.flip(3), x)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[index], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: mean loss {total / steps:.4f}", flush=True)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        batches = zip(images.split(500), labels.split(500), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(images)
