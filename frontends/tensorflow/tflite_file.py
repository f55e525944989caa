"""What is in a ``.tflite`` file: a flatbuffer, which is read without running it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import ModelError

__all__ = ["Tensor", "TfliteModel", "read"]

IDENTIFIER = b"TFL3"
"""What the fifth to eighth byte are."""

BROKEN = (
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
    struct.error,
)
"""What reading a damaged flatbuffer raises; offsets may point anywhere, and enumerations be of no kind."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the main graph.

    Parameters
    ----------
    name
        As the file has it.
    shape
        Sizes, -1 where open.
    dtype
        Of its numbers as they are stored.
    is_quantized
        Whether the numbers stand for others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_quantized: bool


@dataclass(frozen=True, eq=False)
class TfliteModel:
    """A file that was read.

    Parameters
    ----------
    content
        The bytes.
    parsed
        ``tf2onnx.tflite.Model.Model``.
    operators
        Names of the kinds of operators: ``CONV_2D``; of a custom one its own name.
    tensors
        Those of the main graph.
    inputs, outputs
        Positions among the tensors by name: the signature's where there is one, else the tensor's.
    constants
        Tensors that hold numbers, by name; those of float16 as float32, which they are computed in.
    """

    content: bytes
    parsed: Any
    operators: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    constants: Mapping[str, NDArray[Any]]

    @property
    def main(self) -> Any:
        """The main graph."""
        return self.parsed.Subgraphs(0)


def read(path: Path) -> TfliteModel:
    """Read a file.

    Raises
    ------
    ModelError
        It cannot be read, is no TensorFlow Lite file, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"{path}: this is no TensorFlow Lite model; one has TFL3 after its first four bytes")
    try:
        return _parsed(content, str(path))
    except BROKEN as error:
        raise ModelError(f"{path}: the file is damaged, or holds resources instead of tensors") from error


def _parsed(content: bytes, source: str) -> TfliteModel:
    from tf2onnx.tflite.Model import Model

    parsed = Model.GetRootAsModel(bytearray(content), 0)
    operators = tuple(_operator(parsed.OperatorCodes(index)) for index in range(parsed.OperatorCodesLength()))
    main = parsed.Subgraphs(0)
    tensors = tuple(_tensor(main.Tensors(index)) for index in range(main.TensorsLength()))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names) or not all(names):
        twice = next(name for name in names if not name or names.count(name) > 1)
        raise ModelError(f"{source}: its tensors cannot be told apart: more than one is called {twice!r}")
    given = {names[main.Inputs(index)]: main.Inputs(index) for index in range(main.InputsLength())}
    made = {names[main.Outputs(index)]: main.Outputs(index) for index in range(main.OutputsLength())}
    inputs, outputs = _signed(parsed)
    constants = _constants(parsed, tensors)
    return TfliteModel(content, parsed, operators, tensors, _named(given, inputs), _named(made, outputs), constants)


def _operator(code: Any) -> str:
    from tf2onnx.tflite_utils import lookup_enum

    kind = str(lookup_enum(code.DeprecatedBuiltinCode(), "BuiltinOperator"))
    if kind == "PLACEHOLDER_FOR_GREATER_OP_CODES":
        kind = str(lookup_enum(code.BuiltinCode(), "BuiltinOperator"))
    return str(code.CustomCode().decode()) if kind == "CUSTOM" else kind


def _tensor(tensor: Any) -> Tensor:
    import onnx
    from tf2onnx.tflite_utils import map_tflite_dtype_to_onnx

    shape = () if tensor.ShapeIsNone() else tensor.ShapeAsNumpy()
    if not tensor.ShapeSignatureIsNone() and tensor.ShapeSignatureLength() == len(shape):
        shape = tensor.ShapeSignatureAsNumpy()
    quantization = tensor.Quantization()
    is_quantized = quantization is not None and not quantization.ScaleIsNone()
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(map_tflite_dtype_to_onnx(tensor.Type())))
    return Tensor(tensor.Name().decode(), tuple(int(size) for size in shape), dtype, is_quantized)


def _constants(parsed: Any, tensors: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    found = {}
    for index, tensor in enumerate(tensors):
        number = parsed.Subgraphs(0).Tensors(index).Buffer()
        buffer = parsed.Buffers(number)
        if number == 0 or buffer.DataIsNone() or tensor.dtype.kind not in "biuf":
            continue
        array = np.frombuffer(buffer.DataAsNumpy().tobytes(), tensor.dtype).reshape(tensor.shape)
        found[tensor.name] = array.astype(np.float32) if tensor.dtype == np.float16 else array
    return found


def _signed(parsed: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Names by tensor that the signature of the main graph gives inputs and outputs."""
    inputs: dict[int, str] = {}
    outputs: dict[int, str] = {}
    for index in range(parsed.SignatureDefsLength()):
        signature = parsed.SignatureDefs(index)
        if signature.SubgraphIndex() == 0 and not inputs:
            maps = [signature.Inputs(entry) for entry in range(signature.InputsLength())]
            inputs = {entry.TensorIndex(): entry.Name().decode() for entry in maps}
            maps = [signature.Outputs(entry) for entry in range(signature.OutputsLength())]
            outputs = {entry.TensorIndex(): entry.Name().decode() for entry in maps}
    return inputs, outputs


def _named(tensors: Mapping[str, int], names: Mapping[int, str]) -> dict[str, int]:
    """Take the signature's names where it has one for each."""
    found = {names[index]: index for index in tensors.values() if index in names}
    return found if len(found) == len(tensors) else dict(tensors)
