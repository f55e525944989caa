"""A Flax module (JAX): three quarters of its weights are pruned."""

from __future__ import annotations

import numpy as np
from flax import nnx
from jax import Array

import surgery_ir


class Classifier(nnx.Module):
    """A convolution and two dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(16, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, image: Array) -> Array:
        """Compute the scores of a batch."""
        pooled = nnx.relu(self.stem(image)).mean((1, 2))
        return self.head(nnx.relu(self.hidden(pooled)))


images = np.random.default_rng(0).normal(size=(128, 16, 16, 3)).astype(np.float32)
result = surgery_ir.export(
    Classifier(nnx.Rngs(0)),
    {"image": images[:2]},
    "small.onnx",
    passes="canonicalize,prune-weights{ratio=0.75 ends=true},repair",
    data={"image": images},
)
before, after = result.report.baseline.nonzeros, result.report.compressed.nonzeros
print(f"{after:,} of {before:,} weights are left, {result.lowered.difference:.1g} from JAX when it was lowered")
