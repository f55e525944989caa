"""A model of Hugging Face, through PyTorch: half of the hidden neurons and of the heads are cut away."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification

import surgery_ir

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
)
model = BertForSequenceClassification(config).eval()
tokens = torch.randint(0, 100, (128, 12))
masks = torch.ones_like(tokens)

result = surgery_ir.export(
    model,
    {"input_ids": tokens[:2], "attention_mask": masks[:2]},
    "small.onnx",
    passes="canonicalize,prune-channels{ratio=0.5}",
    data={"input_ids": tokens.numpy(), "attention_mask": masks.numpy()},
)
before, after = result.report.baseline.params, result.report.compressed.params
print(f"{after:,} of {before:,} parameters are left, {result.lowered.difference:.1g} from PyTorch when it was lowered")
