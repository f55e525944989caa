"""A SavedModel of TensorFlow: half of the multiply-accumulates are cut away, whole neurons at a time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import surgery_ir


class Perceptron(tf.Module):
    """Two dense layers, without Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = tf.Variable(tf.random.normal((20, 64), seed=1), name="enter")
        self.leave = tf.Variable(tf.random.normal((64, 5), seed=2), name="leave")

    @tf.function(input_signature=[tf.TensorSpec((None, 20), tf.float32, name="features")])
    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """Compute the scores of a batch."""
        return tf.nn.relu(features @ self.enter) @ self.leave


tf.saved_model.save(Perceptron(), "saved_model")
features = np.random.default_rng(0).normal(size=(128, 20)).astype(np.float32)
result = surgery_ir.export(
    "saved_model", None, "small.onnx", passes="canonicalize,prune-channels{ratio=0.5}", data={"features": features}
)
before, after = result.report.baseline.macs, result.report.compressed.macs
print(f"{after:,} of {before:,} MACs are left, {result.lowered.difference:.1g} from TensorFlow when it was lowered")
