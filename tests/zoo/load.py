"""Graphs of the zoo with random weights, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery_ir.graph.model import Graph
from tests.zoo.placeholders import LIMIT, fill

__all__ = ["FOLDER", "LENGTH", "NAMES", "feeds", "golden", "load"]

FOLDER = Path(__file__).resolve().parent / "graphs"

NAMES: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.onnx")))
"""Every graph; what follows a double underscore is how it was exported, see ``models.torch_export.EXPORTERS``."""

LENGTH = 9
"""Size given to open axes other than the first: tokens in a sequence."""


def golden(name: str) -> onnx.ModelProto:
    """Read the exported structure called ``name``; its weights are placeholders."""
    return onnx.load(FOLDER / f"{name}.onnx")


def load(name: str, seed: int = 0) -> Graph:
    """Give the graph called ``name`` with weights that depend on ``seed`` alone."""
    model = golden(name)
    fill(model, seed)
    for value in model.graph.input:
        del value.metadata_props[:]
    return Graph.from_proto(model, name)


def feeds(name: str, batch: int = 1, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Make ``batch`` inputs for the graph called ``name``.

    Floats are normal around a random level for each sample and position along the second axis, so that samples differ
    after pooling, and token ids lie within the vocabulary. An ``attention_mask`` is 1 up to a random
    length of at least 1.
    """
    rng = np.random.default_rng([seed, batch])
    result: dict[str, NDArray[Any]] = {}
    for value in golden(name).graph.input:
        tensor = value.type.tensor_type
        sizes = [axis.dim_value or LENGTH for axis in tensor.shape.dim]
        shape = [batch, *sizes[1:]]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        limits = [int(entry.value) for entry in value.metadata_props if entry.key == LIMIT]
        if value.name == "attention_mask":
            lengths = rng.integers(1, shape[1], (batch, 1), endpoint=True)
            result[value.name] = (np.arange(shape[1]) < lengths).astype(dtype)
        elif limits:
            result[value.name] = rng.integers(0, limits[0], shape).astype(dtype)
        else:
            level = rng.standard_normal([*shape[:2], *[1] * len(shape[2:])])
            result[value.name] = (level + rng.standard_normal(shape)).astype(dtype)
    return result
