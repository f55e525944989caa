"""Networks for small devices: MobileNetV2 and V3, EfficientNet, ShuffleNet V1 and V2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, Residual, SqueezeExcite, conv_bn, image

__all__ = ["RECIPES"]

LINEAR = None


def inverted_residual(
    inputs: int,
    outputs: int,
    stride: int,
    ratio: int,
    act: type[nn.Module],
    squeeze: nn.Module | None = None,
    kernel: int = 3,
) -> nn.Module:
    """Expand by 1×1, filter depthwise, gate, project linearly (Sandler et al., 2018)."""
    inner = inputs * ratio
    layers: list[nn.Module] = [conv_bn(inputs, inner, 1, act=act)] if ratio != 1 else []
    layers += [conv_bn(inner, inner, kernel, stride, groups=inner, act=act)]
    layers += [squeeze] if squeeze is not None else []
    layers += [conv_bn(inner, outputs, 1, act=LINEAR)]
    block = nn.Sequential(*layers)
    return Residual(block) if stride == 1 and inputs == outputs else block


def head(inputs: int, features: int, act: type[nn.Module]) -> list[nn.Module]:
    """1×1 convolution, global average, linear classifier."""
    return [conv_bn(inputs, features, 1, act=act), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 10)]


def mobilenet_v2() -> nn.Module:
    """ReLU6 and linear bottlenecks (Sandler et al., 2018)."""
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.ReLU6),
        inverted_residual(16, 8, 1, 1, nn.ReLU6),
        inverted_residual(8, 12, 2, 4, nn.ReLU6),
        inverted_residual(12, 12, 1, 4, nn.ReLU6),
        inverted_residual(12, 16, 2, 4, nn.ReLU6),
        inverted_residual(16, 16, 1, 4, nn.ReLU6),
        *head(16, 64, nn.ReLU6),
    )


def mobilenet_v3() -> nn.Module:
    """HardSwish, and gates by HardSigmoid (Howard et al., 2019)."""

    def gate(channels: int) -> nn.Module:
        return SqueezeExcite(channels, 8, nn.ReLU, nn.Hardsigmoid)

    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.Hardswish),
        inverted_residual(16, 16, 2, 1, nn.ReLU, gate(16)),
        inverted_residual(16, 24, 2, 3, nn.ReLU),
        inverted_residual(24, 24, 1, 3, nn.ReLU),
        inverted_residual(24, 32, 1, 4, nn.Hardswish, gate(96), 5),
        inverted_residual(32, 32, 1, 3, nn.Hardswish, gate(96), 5),
        conv_bn(32, 64, 1, act=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 48),
        nn.Hardswish(),
        nn.Linear(48, 10),
    )


def efficientnet() -> nn.Module:
    """SiLU, and gates by Sigmoid (Tan and Le, 2019)."""

    def gate(channels: int, squeezed: int) -> nn.Module:
        return SqueezeExcite(channels, squeezed, nn.SiLU, nn.Sigmoid)

    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.SiLU),
        inverted_residual(16, 12, 1, 1, nn.SiLU, gate(16, 4)),
        inverted_residual(12, 16, 2, 4, nn.SiLU, gate(48, 4)),
        inverted_residual(16, 16, 1, 4, nn.SiLU, gate(64, 4)),
        inverted_residual(16, 24, 2, 4, nn.SiLU, gate(64, 4), 5),
        inverted_residual(24, 24, 1, 4, nn.SiLU, gate(96, 6), 5),
        *head(24, 64, nn.SiLU),
    )


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of each group over all groups (Zhang et al., 2018)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


class ShuffleV1Unit(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; at stride 2 the skip is pooled and concatenated."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        branch = outputs - inputs if stride == 2 else outputs
        inner = branch // 2
        self.reduce = conv_bn(inputs, inner, 1, groups=groups)
        self.depthwise = conv_bn(inner, inner, 3, stride, groups=inner, act=LINEAR)
        self.expand = conv_bn(inner, branch, 1, groups=groups, act=LINEAR)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(shuffle(self.reduce(x), self.groups)))
        if self.stride == 2:
            return functional.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), y], 1))
        return functional.relu(x + y)


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 24, 3, 2),
        ShuffleV1Unit(24, 48, 2, 3),
        ShuffleV1Unit(48, 48, 1, 3),
        ShuffleV1Unit(48, 96, 2, 3),
        ShuffleV1Unit(96, 96, 1, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


class ShuffleV2Unit(nn.Module):
    """Half of the channels pass, the other half is convolved, both are shuffled (Ma et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        branch_inputs = inputs if stride == 2 else half
        self.branch1 = nn.Sequential(conv_bn(inputs, inputs, 3, 2, groups=inputs, act=LINEAR), conv_bn(inputs, half, 1))
        self.branch2 = nn.Sequential(
            conv_bn(branch_inputs, half, 1),
            conv_bn(half, half, 3, stride, groups=half, act=LINEAR),
            conv_bn(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return shuffle(torch.cat([self.branch1(x), self.branch2(x)], 1), 2)
        passed, convolved = x.chunk(2, dim=1)
        return shuffle(torch.cat([passed, self.branch2(convolved)], 1), 2)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2),
        ShuffleV2Unit(16, 32, 2),
        ShuffleV2Unit(32, 32, 1),
        ShuffleV2Unit(32, 32, 1),
        ShuffleV2Unit(32, 64, 2),
        ShuffleV2Unit(64, 64, 1),
        *head(64, 96, nn.ReLU),
    )


RECIPES = {
    "mobilenet_v2": Recipe(mobilenet_v2, image(), {}, ("dynamo", "unfolded", "legacy")),
    "mobilenet_v3": Recipe(mobilenet_v3, image(), {}),
    "efficientnet": Recipe(efficientnet, image(), {}),
    "shufflenet_v1": Recipe(shufflenet_v1, image(), {}, ("dynamo", "legacy")),
    "shufflenet_v2": Recipe(shufflenet_v2, image(), {}, ("dynamo", "legacy")),
}
