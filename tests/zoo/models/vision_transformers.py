"""Transformers that see images: ViT, Swin, MLP-Mixer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, image

__all__ = ["RECIPES"]


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """Queries, keys and values from one linear layer, cut apart by a reshape and an unbind, as in timm."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.scale, self.fused = heads, (width // heads) ** -0.5, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, fused)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, encoder blocks (Dosovitskiy et al., 2021)."""

    def __init__(self, fused: bool, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads, fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def windows(x: Tensor, size: int) -> Tensor:
    """Cut (batch, height, width, channels) into square windows: (batch · windows, size², channels)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each relative position (Liu et al., 2021)."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.relative_bias = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + size - 1
        self.register_buffer("relative_index", offset[0] * (2 * size - 1) + offset[1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = q @ k.transpose(-2, -1)
        bias = self.relative_bias[self.relative_index.view(-1)].view(length, length, -1).permute(2, 0, 1)
        scores = scores + bias.contiguous().unsqueeze(0)
        if mask is not None:
            scores = scores.view(-1, mask.shape[0], self.heads, length, length) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, length, length)
        x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, length, width)
        return self.proj(x)


class SwinBlock(nn.Module):
    """Attention in windows that every second block shifts by half their size (Liu et al., 2021)."""

    def __init__(self, width: int, heads: int, side: int, size: int, shift: int) -> None:
        super().__init__()
        self.side, self.size, self.shift = side, size, shift
        self.norm1, self.attention = nn.LayerNorm(width), WindowAttention(width, heads, size)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)
        self.register_buffer("mask", self.shift_mask() if shift else None)

    def shift_mask(self) -> Tensor:
        """Keep apart what the shift has brought into one window: −100 for pairs from different regions."""
        cuts = (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None))
        region = torch.zeros(1, self.side, self.side, 1)
        for row, rows in enumerate(cuts):
            for column, columns in enumerate(cuts):
                region[:, rows, columns] = 3 * row + column
        region = windows(region, self.size).squeeze(-1)
        return torch.where(region[:, None, :] == region[:, :, None], 0.0, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        side, size, shift = self.side, self.size, self.shift
        batch, length, width = x.shape
        y = self.norm1(x).view(batch, side, side, width)
        if shift:
            y = torch.roll(y, (-shift, -shift), (1, 2))
        y = self.attention(windows(y, size), self.mask)
        y = y.view(-1, side // size, side // size, size, size, width).permute(0, 1, 3, 2, 4, 5)
        y = y.contiguous().view(-1, side, side, width)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        x = x + y.view(batch, length, width)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Each 2×2 patches become one: concatenated, normalised, reduced to twice the width."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side, self.norm, self.reduction = (
            side,
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, 2 * width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        x = x.view(batch, self.side, self.side, width)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1).view(batch, -1, 4 * width)))


class Swin(nn.Module):
    def __init__(self, width: int = 24, side: int = 8, size: int = 4) -> None:
        super().__init__()
        self.patch, self.norm0 = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.stage1 = nn.Sequential(SwinBlock(width, 2, side, size, 0), SwinBlock(width, 2, side, size, size // 2))
        self.merge = PatchMerging(width, side)
        self.stage2 = SwinBlock(2 * width, 4, side // 2, size, 0)
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.patch(x).flatten(2).transpose(1, 2))
        x = self.stage2(self.merge(self.stage1(x)))
        return self.head(self.norm(x).mean(1))


class MixerBlock(nn.Module):
    """One network along the tokens, one along the channels (Tolstikhin et al., 2021)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.over_tokens = nn.LayerNorm(width), Mlp(tokens, 24)
        self.norm2, self.over_channels = nn.LayerNorm(width), Mlp(width, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.Sequential(MixerBlock(16, width), MixerBlock(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


RECIPES = {
    "vit": Recipe(lambda: VisionTransformer(fused=False), image(), {}, ("dynamo", "legacy", "fused")),
    "vit_sdpa": Recipe(lambda: VisionTransformer(fused=True), image(), {}, ("dynamo", "opset23")),
    "swin": Recipe(Swin, image(), {}, ("dynamo", "legacy")),
    "mixer": Recipe(Mixer, image(), {}),
}
