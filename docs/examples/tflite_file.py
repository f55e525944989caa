"""A model of TensorFlow Lite: half of the multiply-accumulates are cut away, whole channels at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

import surgery_ir

tf.keras.utils.set_random_seed(0)
image = tf.keras.Input((16, 16, 3), name="image")
hidden = tf.keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
hidden = tf.keras.layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
hidden = tf.keras.layers.GlobalAveragePooling2D()(hidden)
model = tf.keras.Model(image, tf.keras.layers.Dense(10)(hidden))
model.export("saved_model", verbose=False)
Path("model.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model("saved_model").convert())

images = np.random.default_rng(0).normal(size=(128, 16, 16, 3)).astype(np.float32)
result = surgery_ir.export(
    "model.tflite", None, "small.onnx", passes="canonicalize,prune-channels{ratio=0.5}", data={"image": images}
)
before, after = result.report.baseline.macs, result.report.compressed.macs
print(
    f"{after:,} of {before:,} MACs are left, {result.lowered.difference:.1g} from TensorFlow Lite when it was lowered"
)
