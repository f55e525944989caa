"""A PyTorch module, exported and pruned in one go; the weights that are left then go back into the module."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import nn

import surgery_ir

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
).eval()  # fmt: skip
images = torch.randn(128, 3, 16, 16)

# instead of torch.onnx.export(model, (images[:2],), "small.onnx")
result = surgery_ir.export(
    model,
    (images[:2],),
    "small.onnx",
    passes="canonicalize,prune-weights{ratio=0.75},repair",
    data={"input": images.numpy()},  # by the names that forward gives its arguments
)
before, after = result.report.baseline.nonzeros, result.report.compressed.nonzeros
print(f"{after:,} of {before:,} weights are left, {result.lowered.difference:.1g} from PyTorch when it was lowered")

changed = result.write_back(model)
with torch.no_grad():
    outputs = model(images).numpy()
(expected,) = onnxruntime.InferenceSession("small.onnx").run(None, {"input": images.numpy()})
print(
    f"{len(changed)} parameters written back; the module is within {np.abs(outputs - expected).max():.1g} of the file"
)
