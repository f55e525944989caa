"""Convolutional networks with skips: ResNet, ResNeXt, a GroupNorm ResNet, DenseNet, ConvNeXt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, conv_bn, image

__all__ = ["RECIPES"]


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 around a skip; the 3×3 may have groups (He et al., 2016; Xie et al., 2017)."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, inner, 1)
        self.conv2 = conv_bn(inner, inner, 3, stride, groups)
        self.conv3 = conv_bn(inner, outputs, 1, act=None)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv3(self.conv2(self.conv1(x))) + self.downsample(x))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a skip (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2 = conv_bn(outputs, outputs, 3, act=None)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class Classifier(nn.Module):
    """Stem, blocks, global average, linear classifier."""

    def __init__(self, width: int, stages: list[nn.Module], features: int) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.pool(self.stem(x)))
        return self.fc(torch.flatten(self.average(x), 1))


def resnet() -> nn.Module:
    blocks: list[nn.Module] = [BasicBlock(16, 16, 1), BasicBlock(16, 16, 1)]
    blocks += [BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 64, 2), BasicBlock(64, 64, 1)]
    return Classifier(16, blocks, 64)


def resnet_bottleneck() -> nn.Module:
    blocks: list[nn.Module] = [Bottleneck(16, 8, 32, 1, 1), Bottleneck(32, 8, 32, 1, 1)]
    blocks += [Bottleneck(32, 16, 64, 2, 1), Bottleneck(64, 16, 64, 1, 1)]
    return Classifier(16, blocks, 64)


def resnext() -> nn.Module:
    blocks: list[nn.Module] = [Bottleneck(16, 32, 32, 1, 4), Bottleneck(32, 32, 32, 1, 4)]
    blocks += [Bottleneck(32, 64, 64, 2, 8), Bottleneck(64, 64, 64, 1, 8)]
    return Classifier(16, blocks, 64)


class PreActivation(nn.Module):
    """GroupNorm and ReLU before each convolution (He et al., 2016b; Wu and He, 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return self.skip(x) + self.conv2(functional.relu(self.norm2(y)))


class GroupNormResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.Sequential(PreActivation(16, 16, 1), PreActivation(16, 32, 2), PreActivation(32, 32, 1))
        self.norm = nn.GroupNorm(4, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.blocks(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1×1, BatchNorm, ReLU, 3×3 over everything computed so far (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(functional.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(functional.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + growth * index, growth) for index in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Two dense blocks around a transition (Huang et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.block1 = DenseBlock(16, 8, 3)
        self.transition = nn.Sequential(
            nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 24, 1, bias=False), nn.AvgPool2d(2)
        )
        self.block2 = DenseBlock(24, 8, 3)
        self.norm = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        x = functional.adaptive_avg_pool2d(functional.relu(self.norm(x)), 1)
        return self.fc(torch.flatten(x, 1))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7, LayerNorm over channels, two linear layers, layer scale, skip (Liu et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (batch, channels, height, width), written out as ConvNeXt's authors did."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4),
        ChannelNorm(16),
        ConvNeXtBlock(16),
        ConvNeXtBlock(16),
        ChannelNorm(16),
        nn.Conv2d(16, 32, 2, 2),
        ConvNeXtBlock(32),
        ConvNeXtBlock(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.LayerNorm(32, eps=1e-6),
        nn.Linear(32, 10),
    )


RECIPES = {
    "resnet": Recipe(resnet, image(), {}, ("dynamo", "unfolded", "raw", "legacy")),
    "resnet_bottleneck": Recipe(resnet_bottleneck, image(), {}, ("dynamo", "fused")),
    "resnext": Recipe(resnext, image(), {}),
    "resnet_groupnorm": Recipe(GroupNormResNet, image(), {}, ("dynamo", "legacy", "opset23")),
    "densenet": Recipe(DenseNet, image(), {}),
    "convnext": Recipe(convnext, image(), {}),
}
