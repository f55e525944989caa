"""What a model declares of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from surgery_ir.graph.model import Graph

__all__ = ["InputSpec", "input_specs", "show_shape"]


@dataclass(frozen=True)
class InputSpec:
    """Element type and shape that a model declares for one of its inputs.

    Parameters
    ----------
    dtype
        Element type; ``None`` where the model does not say, ``object`` for strings.
    shape
        One entry per axis: its size, its symbol, or ``None``; ``None`` as a whole where the rank is unknown.
    other
        What the input is instead of a tensor (a sequence, a map, an optional); empty for tensors.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None
    other: str = ""

    def __str__(self) -> str:
        if self.other:
            return self.other
        kind = "any type" if self.dtype is None else "string" if self.dtype == object else str(self.dtype)
        return kind if self.shape is None else f"{kind} {show_shape(self.shape)}"


def input_specs(graph: Graph) -> dict[str, InputSpec]:
    """Give type and shape of every input that a caller must feed."""
    specs = {}
    for value in graph.inputs:
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            specs[value.name or ""] = InputSpec(None, None, str(value.type))
            continue
        dtype = None
        if value.dtype is not None and value.dtype != ir.DataType.UNDEFINED:
            dtype = np.dtype(object) if value.dtype == ir.DataType.STRING else value.dtype.numpy()
        shape = None if value.shape is None else tuple(_axis(size) for size in value.shape)
        specs[value.name or ""] = InputSpec(dtype, shape)
    return specs


def _axis(size: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(size, int):
        return size if size > 0 else None
    return size.value


def show_shape(shape: Sequence[int | str | None]) -> str:
    """Write a shape as ``[batch, 3, ?, ?]``."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
