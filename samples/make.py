"""Train and export the first sample model, and cut the data sets of both.

Needs ``torch``, ``onnx`` and the Debian package ``dataset-fashion-mnist``::

    python samples/make.py                 # about a quarter of an hour on two cores

Everything is seeded. The calibration images come from the training images and carry no labels; the
selection and report sets come from the test images, carry labels and share no image.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from fashion import accuracy, read_split, train
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
CALIBRATION, SELECTION, REPORT = 1024, 3000, 5000


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

    train_images, train_labels = read_split("train")
    test_images, test_labels = read_split("t10k")

    calibration = rng.permutation(len(train_images))[:CALIBRATION]
    test = rng.permutation(len(test_images))
    selection, report = test[:SELECTION], test[SELECTION : SELECTION + REPORT]
    np.savez_compressed(options.out / "calibration.npz", image=train_images[calibration])
    np.savez_compressed(options.out / "selection.npz", image=test_images[selection], label=test_labels[selection])
    np.savez_compressed(options.out / "report.npz", image=test_images[report], label=test_labels[report])

    model = ResNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    train(model, optimizer, 0.2, torch.from_numpy(train_images), torch.from_numpy(train_labels), options.epochs)
    reached = accuracy(model, torch.from_numpy(test_images), torch.from_numpy(test_labels))
    print(f"accuracy on the 10,000 test images: {reached:.4f}")
    export(model.to(memory_format=torch.contiguous_format), options.out / "fashion_resnet.onnx")  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
