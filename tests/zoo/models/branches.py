"""Networks that branch and join: VGG as their root, Inception, U-Net, a YOLO-like detector, ESPCN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, conv_bn, image

__all__ = ["RECIPES"]


def vgg() -> nn.Module:
    """Convolutions with biases, and linear layers that see every pixel (Simonyan and Zisserman, 2015)."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 48), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, 10))


class InceptionBlock(nn.Module):
    """1×1, 3×3, a 5×5 as two 3×3, factorised 1×7 and 7×1, and a pooled branch (Szegedy et al., 2015, 2016)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, width, 1)
        self.conv3 = nn.Sequential(conv_bn(inputs, width // 2, 1), conv_bn(width // 2, width, 3))
        self.conv5 = nn.Sequential(
            conv_bn(inputs, width // 2, 1), conv_bn(width // 2, width // 2, 3), conv_bn(width // 2, width, 3)
        )
        self.conv7 = nn.Sequential(
            nn.Conv2d(inputs, width // 2, (1, 7), padding=(0, 3)),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, (7, 1), padding=(3, 0)),
            nn.ReLU(),
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, width // 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.conv1(x), self.conv3(x), self.conv5(x), self.conv7(x), self.pooled(x)]
        return torch.cat(branches, 1)


class Reduction(nn.Module):
    """Halve the image: strided convolution and maximum, side by side (Szegedy et al., 2016)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = conv_bn(inputs, width, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), functional.max_pool2d(x, 3, 2, 1)], 1)


def inception() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2),
        InceptionBlock(16, 8),
        Reduction(36, 16),
        InceptionBlock(52, 12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(54, 10),
    )


class UNet(nn.Module):
    """Down, up again, and a skip by concatenation at each size (Ronneberger et al., 2015)."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self.double(3, 12), self.double(12, 24), self.double(24, 48)
        self.up2, self.up1 = self.up(48, 24, transposed), self.up(24, 12, transposed)
        self.join2, self.join1 = self.double(48, 24), self.double(24, 12)
        self.head = nn.Conv2d(12, 4, 1)

    @staticmethod
    def double(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(conv_bn(inputs, outputs), conv_bn(outputs, outputs))

    @staticmethod
    def up(inputs: int, outputs: int, transposed: bool) -> nn.Module:
        if transposed:
            return nn.ConvTranspose2d(inputs, outputs, 2, 2)
        resized = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        return nn.Sequential(resized, nn.Conv2d(inputs, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.bottom(functional.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], 1))
        x = self.join1(torch.cat([first, self.up1(x)], 1))
        return self.head(x)


class Split2(nn.Module):
    """Split the channels, send one half through bottlenecks, concatenate every step: YOLOv8's C2f."""

    def __init__(self, inputs: int, outputs: int, steps: int, skip: bool) -> None:
        super().__init__()
        self.half, self.skip = outputs // 2, skip
        self.enter = conv_bn(inputs, outputs, 1, act=nn.SiLU)
        self.leave = conv_bn((2 + steps) * self.half, outputs, 1, act=nn.SiLU)
        self.steps = nn.ModuleList(
            nn.Sequential(conv_bn(self.half, self.half, act=nn.SiLU), conv_bn(self.half, self.half, act=nn.SiLU))
            for _ in range(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split((self.half, self.half), 1))
        for step in self.steps:
            y = step(parts[-1])
            parts.append(parts[-1] + y if self.skip else y)
        return self.leave(torch.cat(parts, 1))


class PyramidPooling(nn.Module):
    """One maximum after the other, all of them concatenated: YOLOv5's SPPF."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = conv_bn(width, width // 2, 1, act=nn.SiLU)
        self.leave = conv_bn(2 * width, width, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """Backbone, top-down neck, and a head on two scales as in YOLOv8 (Jocher et al., 2023).

    The box sides are expectations over ``BINS`` distances (Li et al., 2020), a convolution with constant weights.
    """

    CLASSES, BINS, SIZE = 3, 8, 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12, 3, 2, act=nn.SiLU)
        self.low = nn.Sequential(conv_bn(12, 16, 3, 2, act=nn.SiLU), Split2(16, 16, 1, True))
        self.high = nn.Sequential(conv_bn(16, 32, 3, 2, act=nn.SiLU), Split2(32, 32, 1, True), PyramidPooling(32))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = Split2(48, 16, 1, False)
        widths = (16, 32)
        self.boxes = nn.ModuleList(self.branch(width, 4 * self.BINS) for width in widths)
        self.classes = nn.ModuleList(self.branch(width, self.CLASSES) for width in widths)
        self.register_buffer("distances", torch.arange(self.BINS, dtype=torch.float32).view(1, self.BINS, 1, 1))
        centres, strides = [], []
        for stride in (4, 8):
            axis = torch.arange(self.SIZE // stride) + 0.5
            rows, columns = torch.meshgrid(axis, axis, indexing="ij")
            centres.append(torch.stack([columns, rows]).flatten(1))
            strides.append(torch.full((1, centres[-1].shape[1]), float(stride)))
        self.register_buffer("centres", torch.cat(centres, 1))
        self.register_buffer("strides", torch.cat(strides, 1))

    @staticmethod
    def branch(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(conv_bn(inputs, 16, act=nn.SiLU), nn.Conv2d(16, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(self.stem(x))
        high = self.high(low)
        scales = (self.merge(torch.cat([low, self.up(high)], 1)), high)
        outputs = [
            torch.cat([box(scale), kind(scale)], 1)
            for box, kind, scale in zip(self.boxes, self.classes, scales, strict=True)
        ]
        joined = torch.cat([y.view(y.shape[0], 4 * self.BINS + self.CLASSES, -1) for y in outputs], 2)
        box, kind = joined.split((4 * self.BINS, self.CLASSES), 1)
        box = box.view(box.shape[0], 4, self.BINS, -1).transpose(1, 2).softmax(1)
        left_top, right_bottom = functional.conv2d(box, self.distances).squeeze(1).chunk(2, 1)
        first, last = self.centres - left_top, self.centres + right_bottom
        return torch.cat([(first + last) / 2 * self.strides, (last - first) * self.strides, kind.sigmoid()], 1)


class Espcn(nn.Module):
    """Upscaling by sub-pixel convolution (Shi et al., 2016), with PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(1, 24, 5, padding=2), nn.PReLU(24)
        self.conv2, self.act2 = nn.Conv2d(24, 16, 3, padding=1, padding_mode="reflect"), nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.head(torch.tanh(self.shuffle(self.conv3(x))))


RECIPES = {
    "vgg": Recipe(vgg, image(), {}),
    "inception": Recipe(inception, image(), {}),
    "unet": Recipe(lambda: UNet(transposed=True), image(), {}),
    "unet_resize": Recipe(lambda: UNet(transposed=False), image(), {}, ("dynamo", "legacy")),
    "yolo": Recipe(Detector, image(), {}, ("dynamo", "legacy")),
    "espcn": Recipe(Espcn, image(1, 16), {}),
}
