"""Transformers that read text: a BERT encoder, a GPT-style and a LLaMA-like decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.models.common import Recipe, padding_mask, tokens

__all__ = ["RECIPES"]

VOCABULARY = 96
LONGEST = 32


class BertLayer(nn.Module):
    """Separate queries, keys and values; normalisation after each skip (Devlin et al., 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.output, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.dense = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / (q.shape[-1] ** 0.5)
        context = torch.matmul(torch.softmax(scores + mask, -1), v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.shape[:-2], x.shape[-1])
        x = self.norm1(self.output(context) + x)
        return self.norm2(self.dense(functional.gelu(self.intermediate(x))) + x)


class Bert(nn.Module):
    def __init__(self, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(LONGEST, width)
        self.types, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(width, heads) for _ in range(depth))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.norm(self.words(input_ids) + self.types(token_type_ids) + self.positions(positions))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        return x, self.classifier(torch.tanh(self.pooler(x[:, 0])))


class Conv1D(nn.Module):
    """A linear layer whose weights are stored as (inputs, outputs), as GPT-2's are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.weight.shape[1])


class GptBlock(nn.Module):
    """Fused queries, keys and values, a causal mask, GELU by tanh (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(width), Conv1D(width, 3 * width), Conv1D(width, width)
        self.ln_2, self.c_fc, self.c_out = nn.LayerNorm(width), Conv1D(width, 4 * width), Conv1D(4 * width, width)
        self.register_buffer("causal", torch.tril(torch.ones(LONGEST, LONGEST, dtype=torch.bool))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, 2)
        q, k, v = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        scores = torch.matmul(q, k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        scores = torch.where(self.causal[:, :, :length, :length], scores, torch.finfo(scores.dtype).min)
        y = torch.matmul(scores.softmax(-1), v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.c_proj(y)
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """The output layer is the embedding transposed."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, width), nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(*(GptBlock(width, heads) for _ in range(depth)))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.lm_head(self.ln_f(self.blocks(self.wte(input_ids) + self.wpe(positions))))


class RmsNorm(nn.Module):
    """Divide by the root mean square (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, native: bool) -> None:
        super().__init__()
        self.weight, self.native = nn.Parameter(torch.ones(width)), native

    def forward(self, x: Tensor) -> Tensor:
        if self.native:
            return functional.rms_norm(x, self.weight.shape, self.weight, 1e-6)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021), halves as in LLaMA's port."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class LlamaLayer(nn.Module):
    """Grouped-query attention (Ainslie et al., 2023) and SwiGLU (Shazeer, 2020), without biases."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int, native: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.native = heads, groups, width // heads, native
        self.norm1, self.norm2 = RmsNorm(width, native), RmsNorm(width, native)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, groups * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.size).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """Give every query head of a group the same keys and values."""
        batch, groups, length, size = x.shape
        times = self.heads // groups
        return x[:, :, None].expand(batch, groups, times, length, size).reshape(batch, self.heads, length, size)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rotate(self.split(self.q_proj(x)), cos, sin), rotate(self.split(self.k_proj(x)), cos, sin)
        v = self.split(self.v_proj(x))
        if self.native:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        k, v, length = self.repeat(k), self.repeat(v), x.shape[1]
        scores = q @ k.transpose(-2, -1) / self.size**0.5
        masked = torch.full((length, length), torch.finfo(x.dtype).min, device=x.device).triu(1)
        return (scores + masked).softmax(-1) @ v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.attend(self.norm1(x), cos, sin).transpose(1, 2)
        x = x + self.o_proj(y.reshape(*x.shape))
        y = self.norm2(x)
        return x + self.down_proj(functional.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    """A decoder as LLaMA's (Touvron et al., 2023)."""

    def __init__(self, native: bool, width: int = 48, heads: int = 6, groups: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, groups, 128, native) for _ in range(depth))
        self.norm, self.lm_head = RmsNorm(width, native), nn.Linear(width, VOCABULARY, bias=False)
        size = width // heads
        self.register_buffer("inverse_frequency", 10000.0 ** -(torch.arange(0, size, 2) / size))

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device, dtype=torch.float32)
        angles = positions[:, None] * self.inverse_frequency[None]
        angles = torch.cat([angles, angles], -1)
        x, cos, sin = self.embed(input_ids), angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


class EncoderDecoder(nn.Module):
    """PyTorch's own layers, with attention from target to source (Vaswani et al., 2017)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, width), nn.Embedding(VOCABULARY, width)
        self.encoder = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(width, heads, 2 * width, batch_first=True, norm_first=True)
        self.fc = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        length = target_ids.shape[1]
        causal = torch.full((length, length), -torch.inf).triu(1)
        return self.fc(self.decoder(self.target(target_ids), self.encoder(self.source(input_ids)), causal))


WORDS = {"input_ids": VOCABULARY}
BERT_INPUTS = {**tokens(VOCABULARY), **padding_mask(), "token_type_ids": tokens(2)["input_ids"]}
BERT_LIMITS = {**WORDS, "attention_mask": 2, "token_type_ids": 2}

RECIPES = {
    "bert": Recipe(Bert, BERT_INPUTS, BERT_LIMITS, ("dynamo", "legacy", "fused_bert")),
    "gpt": Recipe(Gpt, tokens(VOCABULARY), WORDS, ("dynamo", "legacy", "unfolded", "fused_gpt2")),
    "encoder_decoder": Recipe(
        EncoderDecoder,
        {**tokens(VOCABULARY), "target_ids": tokens(VOCABULARY)["input_ids"]},
        {**WORDS, "target_ids": VOCABULARY},
    ),
    "llama": Recipe(lambda: Llama(native=False), tokens(VOCABULARY), WORDS),
    "llama_sdpa": Recipe(lambda: Llama(native=True), tokens(VOCABULARY), WORDS, ("dynamo", "opset23")),
}
