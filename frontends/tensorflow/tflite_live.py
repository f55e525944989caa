"""TensorFlow Lite's interpreter runs the file, for comparison; a file takes no new values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.tensorflow.quiet import quiet
from surgery_ir.frontends.tensorflow.tflite_file import TfliteModel

__all__ = ["LiveTflite"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(eq=False)
class LiveTflite:
    """A ``.tflite`` file in the interpreter.

    Parameters
    ----------
    model
        The file.
    source
        Its path, for messages.
    layers
        Names of the tensors that are values of the graph.

    Raises
    ------
    ModelError
        The interpreter refuses the file: it is damaged, or has operators that it does not know.
    """

    model: TfliteModel
    source: str
    layers: tuple[str, ...] = ()
    framework: str = "TensorFlow Lite"
    _interpreter: Any = field(init=False)

    def __post_init__(self) -> None:
        import tensorflow as tf

        kinds = tf.lite.experimental.OpResolverType
        with quiet():
            try:
                self._interpreter = tf.lite.Interpreter(
                    model_content=self.model.content,
                    num_threads=1,
                    experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"{self.source}: TensorFlow Lite refuses the file: {_line(error)}") from error

    @property
    def takes_one(self) -> bool:
        """Whether the file fixes a batch of one sample."""
        shapes = [self.model.tensors[index].shape for index in self.model.inputs.values()]
        return any(shape[:1] == (1,) for shape in shapes)

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch; sample by sample where the file fixes a batch of one.

        Raises
        ------
        ModelError
            The interpreter cannot run it.
        """
        with quiet():
            if not self.takes_one:
                return self._invoke(feeds)
            count = len(next(iter(feeds.values())))
            found = [self._invoke({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
        return tuple(np.concatenate(parts) if parts[0].ndim else parts[0] for parts in zip(*found, strict=True))

    def _invoke(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        interpreter = self._interpreter
        try:
            for name, index in self.model.inputs.items():
                interpreter.resize_tensor_input(index, feeds[name].shape)
            interpreter.allocate_tensors()
            interpreter.reset_all_variables()
            for name, index in self.model.inputs.items():
                interpreter.set_tensor(index, feeds[name])
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise ModelError(f"{self.source}: TensorFlow Lite cannot run {sizes}: {_line(error)}") from error
        return tuple(np.array(interpreter.get_tensor(index)) for index in self.model.outputs.values())

    def inner(self, feeds: Arrays) -> Mapping[str, tuple[str, NDArray[Any]]]:
        """Tensors that are values of the graph, in the order of the operators; none where samples run alone."""
        if self.takes_one or not self.layers:
            return {}
        self.run(feeds)
        main, found = self.model.main, {}
        for position in range(main.OperatorsLength()):
            operator = main.Operators(position)
            kind = self.model.operators[operator.OpcodeIndex()]
            for output in range(operator.OutputsLength()):
                index = operator.Outputs(output)
                name = self.model.tensors[index].name
                if name in self.layers:
                    value = np.array(self._interpreter.get_tensor(index))
                    found[name] = (f"{kind} {name}", value)
        return found

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Constant tensors by name; float16 as float32."""
        return dict(self.model.constants)

    def assign(self, values: Arrays) -> None:
        """Refuse: a file is not written back.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError(f"{self.source}: a .tflite file takes no new values; save the result as ONNX")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
