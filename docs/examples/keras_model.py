"""A Keras model, exported and pruned in one go; the weights that are left then go back into the model."""

from __future__ import annotations

import keras
import numpy as np
import onnxruntime

import surgery_ir

keras.utils.set_random_seed(0)
image = keras.Input((16, 16, 3), name="image")
hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="inner")(hidden)
hidden = keras.layers.GlobalAveragePooling2D(name="pool")(hidden)
model = keras.Model(image, keras.layers.Dense(10, name="head")(hidden))
images = np.random.default_rng(0).normal(size=(128, 16, 16, 3)).astype(np.float32)

# instead of model.export("small.onnx", format="onnx")
result = surgery_ir.export(
    model,
    None,  # a Keras model knows its inputs
    "small.onnx",
    passes="canonicalize,prune-weights{ratio=0.75},repair",
    data={"image": images},
)
before, after = result.report.baseline.nonzeros, result.report.compressed.nonzeros
print(f"{after:,} of {before:,} weights are left, {result.lowered.difference:.1g} from Keras when it was lowered")

changed = result.write_back(model)
outputs = model.predict(images, verbose=0)
(expected,) = onnxruntime.InferenceSession("small.onnx").run(None, {"image": images})
print(f"{len(changed)} variables written back; the model is within {np.abs(outputs - expected).max():.1g} of the file")
