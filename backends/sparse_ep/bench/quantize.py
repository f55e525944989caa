"""Eight-bit models by ONNX Runtime's own static quantization; zeros stay zeros."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

CALIBRATION_SAMPLES = 2


class RandomData(CalibrationDataReader):  # type: ignore[misc]
    """A few random inputs of the model's own shape."""

    def __init__(self, model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(1)
        x = model.graph.input[0]
        shape = [dim.dim_value for dim in x.type.tensor_type.shape.dim]
        self.samples = [{x.name: rng.standard_normal(shape, dtype=np.float32)} for _ in range(CALIBRATION_SAMPLES)]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next sample, or None."""
        return self.samples.pop() if self.samples else None


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model between QuantizeLinear and DequantizeLinear: weights int8 for each output, activations uint8.

    Convolutional models are quantized throughout; of a transformer only the products with weights are, which is what
    ONNX Runtime runs fastest.
    """
    convolutional = any(node.op_type == "Conv" for node in model.graph.node)
    kinds = ["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"] if convolutional else ["MatMul"]
    options = {"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": True}
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            RandomData(model),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        return onnx.load(target)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model for another number of images or sequences."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    return model


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    # The quantizer recommends its preprocessing on the root logger; the models here need none.
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
