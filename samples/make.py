"""Train and export the sample model, and cut its data sets.

Needs ``torch``, ``onnx`` and the Debian package ``dataset-fashion-mnist``::

    python samples/make.py                 # about a quarter of an hour on two cores

Everything is seeded. The calibration images come from the training images and carry no labels; the
selection and report sets come from the test images, carry labels and share no image.
"""

from __future__ import annotations

import argparse
import gzip
import math
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
IDX = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION, SELECTION, REPORT = 1024, 3000, 5000


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes (LeCun's MNIST format)."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(tuple(shape))


class Block(nn.Module):
    """Two 3×3 convolutions around a skip (He et al., 2016); the skip is a 1×1 Conv where widths differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + cast(Tensor, self.skip(x)))


class ResNet(nn.Module):
    """A BatchNorm ResNet for 28×28 grey images given as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 32, 2), Block(32, 64, 2), Block(64, 64, 1), Block(64, 112, 2))
        self.head = nn.Linear(112, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem(image.float() / 255))
        return cast(Tensor, self.head(x.mean((2, 3))))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int = 128) -> None:
    """SGD with one cycle of the learning rate, random shifts and mirror images, on all training images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, epochs * steps, pct_start=0.2)
    padded = functional.pad(images, (2, 2, 2, 2))
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(images)).split(batch):
            dy, dx = torch.randint(0, 5, (2,)).tolist()
            x = padded[index, :, dy : dy + 28, dx : dx + 28]
            x = torch.where(torch.rand(len(index), 1, 1, 1) < 0.5, x.flip(3), x)
            loss = functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[index])
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


def export(model: nn.Module, path: Path) -> None:
    """Write ONNX with BatchNorm nodes kept, a free batch axis, and the initializer names of the state dict."""
    model.eval()
    torch.onnx.export(
        model, (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),), str(path), dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )  # fmt: skip
    proto = onnx.load(str(path))
    proto.doc_string = "BatchNorm ResNet for Fashion-MNIST, made by samples/make.py of surgery-ir. Apache-2.0."
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)

    train_images = read_idx(IDX / "train-images-idx3-ubyte.gz")[:, None]
    train_labels = read_idx(IDX / "train-labels-idx1-ubyte.gz").astype(np.int64)
    test_images = read_idx(IDX / "t10k-images-idx3-ubyte.gz")[:, None]
    test_labels = read_idx(IDX / "t10k-labels-idx1-ubyte.gz").astype(np.int64)

    calibration = rng.permutation(len(train_images))[:CALIBRATION]
    test = rng.permutation(len(test_images))
    selection, report = test[:SELECTION], test[SELECTION : SELECTION + REPORT]
    np.savez_compressed(options.out / "calibration.npz", image=train_images[calibration])
    np.savez_compressed(options.out / "selection.npz", image=test_images[selection], label=test_labels[selection])
    np.savez_compressed(options.out / "report.npz", image=test_images[report], label=test_labels[report])

    model = ResNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels), options.epochs)
    reached = accuracy(model, torch.from_numpy(test_images), torch.from_numpy(test_labels))
    print(f"accuracy on the 10,000 test images: {reached:.4f}")
    export(model.to(memory_format=torch.contiguous_format), options.out / "fashion_resnet.onnx")  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
