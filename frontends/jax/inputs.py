"""Example inputs: their names, and which of their axes stay open."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.jax.model import Functional

__all__ = ["BATCH", "Inputs", "Sizes", "example", "sizes"]

BATCH = "batch"
LENGTH = "length"

NARROW = {np.dtype(wide): np.dtype(narrow) for wide, narrow in (("f8", "f4"), ("i8", "i4"), ("u8", "u4"))}
"""JAX computes in 32 bits by default, and so does what is lowered."""

Sizes = Mapping[str, tuple[int | str, ...]]
"""Sizes of the axes of each input, a name for one that is open."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch.

    Parameters
    ----------
    arrays
        By the names of the inputs, in order.
    by_name
        Whether the model is called with them as named arguments.
    """

    arrays: Mapping[str, NDArray[Any]]
    by_name: bool

    def arguments(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments of the model's call, from values in the order of the inputs."""
        if self.by_name:
            return (), dict(zip(self.arrays, arrays, strict=True))
        return tuple(arrays), {}


def example(given: Any, model: Functional, where: str) -> Inputs:
    """Read the example inputs of a request.

    Raises
    ------
    ModelError
        There are none, or the model has no inputs of these names.
    """
    if given is None:
        raise ModelError(f"{where}: a model of JAX is lowered with example inputs; give one batch as example_inputs")
    parameters = _parameters(model)
    if isinstance(given, Mapping):
        arrays = {str(name): _array(value, str(name), where) for name, value in given.items()}
        if all(name in parameters for name in arrays):
            return Inputs(arrays, by_name=True)
        if _takes_any(model):
            return Inputs(arrays, by_name=False)
        wrong = ", ".join(repr(name) for name in arrays if name not in parameters)
        raise ModelError(f"{where}: it takes {', '.join(parameters) or 'no inputs'}; the example inputs have {wrong}")
    values = given if isinstance(given, tuple | list) else (given,)
    if not values:
        raise ModelError(f"{where}: the example inputs are empty")
    known = [name for name, kind in parameters.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    names = [*known, *(f"input_{index}" for index in range(len(known), len(values)))]
    arrays = {name: _array(value, name, where) for name, value in zip(names, values, strict=False)}
    return Inputs(arrays, by_name=False)


def _signature(model: Functional) -> list[inspect.Parameter]:
    """Parameters of the model's call; none where it does not tell."""
    try:
        return list(inspect.signature(model.signature).parameters.values())[model.skipped :]
    except (TypeError, ValueError):  # of a function in C, for example
        return []


def _parameters(model: Functional) -> dict[str, Any]:
    """Kind by name of the inputs that have names."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter.kind for parameter in _signature(model) if parameter.kind in kinds}


def _takes_any(model: Functional) -> bool:
    """Whether it takes any number of inputs, whose names it does not tell."""
    found = _signature(model)
    return not found or any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in found)


def _array(value: Any, name: str, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise ModelError(f"{where}: the example input {name!r} is no array: {error}") from error
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ModelError(f"{where}: the example input {name!r} is no array of numbers ({type(value).__name__})")
    return array.astype(NARROW.get(array.dtype, array.dtype))


def sizes(inputs: Inputs, dynamic_shapes: Any, where: str) -> list[Sizes]:
    """Sizes to lower with, the wanted first.

    The first axis counts samples and is open. Where the request does not tell, so are the lengths of sequences: the
    second axis of whole numbers (tokens) and of what has three axes, but for models that take one length only.

    Raises
    ------
    ModelError
        ``dynamic_shapes`` does not fit the inputs.
    """
    fixed = {name: (BATCH, *array.shape[1:]) if array.ndim else () for name, array in inputs.arrays.items()}
    if dynamic_shapes is not None:
        return [_named(fixed, dynamic_shapes, where)]
    lengths: dict[int, str] = {}
    opened = {
        name: _opened(sizes, array, lengths)
        for (name, sizes), array in zip(fixed.items(), inputs.arrays.values(), strict=True)
    }
    return [opened, fixed] if lengths else [fixed]


def _opened(sizes: tuple[int | str, ...], array: NDArray[Any], lengths: dict[int, str]) -> tuple[int | str, ...]:
    is_sequence = array.ndim == 3 or (array.ndim == 2 and (array.dtype.kind != "f" or array.shape[1] in lengths))
    if not is_sequence or array.shape[1] < 2:
        return sizes
    number = len(lengths) + 1
    symbol = lengths.setdefault(array.shape[1], LENGTH if number == 1 else f"{LENGTH}_{number}")
    return (sizes[0], symbol, *sizes[2:])


def _named(fixed: Sizes, dynamic_shapes: Any, where: str) -> Sizes:
    """Open the axes that ``dynamic_shapes`` names: for each input a mapping from axes to names."""
    given = dynamic_shapes if isinstance(dynamic_shapes, Mapping) else dict(zip(fixed, dynamic_shapes, strict=False))
    found = {name: list(sizes) for name, sizes in fixed.items()}
    for name, axes in given.items():
        pairs = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
        for axis, symbol in pairs:
            if name not in found or not 0 <= axis < len(found[name]):
                raise ModelError(f"{where}: dynamic_shapes names axis {axis} of {name!r}, which there is not")
            if isinstance(symbol, str):
                found[name][axis] = symbol
    return {name: tuple(sizes) for name, sizes in found.items()}
