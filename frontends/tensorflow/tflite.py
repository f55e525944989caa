"""Reads ``.tflite`` files through tf2onnx."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import LiveModel, Lowered, Request
from surgery_ir.frontends.tensorflow.inputs import feeds_of
from surgery_ir.frontends.tensorflow.quiet import need_tensorflow, quiet
from surgery_ir.frontends.tensorflow.tflite_convert import convert
from surgery_ir.frontends.tensorflow.tflite_file import TfliteModel, read
from surgery_ir.frontends.tensorflow.tflite_live import LiveTflite

__all__ = ["TfliteFile"]

SUFFIX = ".tflite"


class TfliteFile:
    """Reads ``.tflite`` files. Their tensors are the parameters, under the names that they have there."""

    reads = ".tflite files"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a path that ends in ``.tflite``."""
        return isinstance(source, str | Path) and Path(source).suffix.lower() == SUFFIX

    def load(self, source: object, request: Request) -> Lowered:
        """Lower the file. Without example inputs in the request it is compared on random ones.

        Weights of float16 become float32, which they are computed in. A batch that the file fixes at one sample is
        opened, where that is all the file says about it.

        Raises
        ------
        ModelError
            It cannot be read, is damaged, has an operator that cannot be converted, or what it was converted to
            computes something else; models with integer arithmetic do, which rounds where TensorFlow Lite likes.
        """
        assert isinstance(source, str | Path)
        where = str(source)
        need_tensorflow(where, "tf2onnx")
        model = read(Path(source))
        live = LiveTflite(model, where)
        feeds = feeds_of(_specs(model), request.example_inputs, where)
        with quiet():
            graph, bindings, layers = convert(model, where)
            live.layers = layers
        try:
            return settle(graph, bindings, live, feeds, request.runtime)
        except ModelError as error:
            text = str(error).removeprefix(f"{where}: ")
            if any(tensor.is_quantized for tensor in model.tensors):
                raise ModelError(
                    f"{where}: it is quantized and rounds otherwise than ONNX; give the float model ({text})"
                ) from error
            if live.takes_one:
                raise ModelError(
                    f"{where}: the file fixes a batch of one; convert it again with an open batch ({text})"
                ) from error
            raise

    def live(self, source: object, lowered: Lowered) -> LiveModel:
        """Give the file in TensorFlow Lite's interpreter.

        Raises
        ------
        ModelError
            It cannot be read.
        """
        assert isinstance(source, str | Path)
        need_tensorflow(str(source), "tf2onnx")
        found = LiveTflite(read(Path(source)), str(source))
        if isinstance(lowered.live, LiveTflite):
            found = replace(found, layers=lowered.live.layers)
        return found


def _specs(model: TfliteModel) -> dict[str, object]:
    """Shape and type of each input; the batch is open."""
    import tensorflow as tf

    specs: dict[str, object] = {}
    for name, index in model.inputs.items():
        tensor = model.tensors[index]
        shape = [None if size < 0 or (axis == 0 and size == 1) else size for axis, size in enumerate(tensor.shape)]
        specs[name] = tf.TensorSpec(shape, tensor.dtype)
    return specs
