"""Models of TensorFlow that were lowered: they compute, and take new values for their variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import ModelError

__all__ = ["Function", "Traced", "name_variables"]

Arrays = Mapping[str, NDArray[Any]]
Layers = Mapping[str, tuple[str, NDArray[Any]]]


@dataclass(frozen=True)
class Traced:
    """A function of TensorFlow, and what its user calls what goes in and comes out.

    Parameters
    ----------
    function
        A ``ConcreteFunction``; its inputs and outputs are those of the model, one after the other.
    inputs, outputs
        Names in the same order.
    call
        Runs the function on tensors in the order of the inputs.
    """

    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    call: Callable[[list[Any]], Any]

    @property
    def names(self) -> dict[str, str]:
        """Names by tensor of the function."""
        tensors = [tensor.name for tensor in (*self.function.inputs[: len(self.inputs)], *self.function.outputs)]
        return dict(zip(tensors, (*self.inputs, *self.outputs), strict=True))

    def __call__(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch."""
        import tensorflow as tf

        specs = self.function.inputs[: len(self.inputs)]
        given = [tf.convert_to_tensor(feeds[name], spec.dtype) for name, spec in zip(self.inputs, specs, strict=True)]
        return tuple(tensor.numpy() for tensor in tf.nest.flatten(self.call(given)))


@dataclass(frozen=True)
class Function:
    """A model that was traced; see :class:`~surgery_ir.frontends.base.LiveModel`.

    Parameters
    ----------
    source
        The model, for messages.
    framework
        ``Keras`` or ``TensorFlow``.
    traced
        What it computes, with the variables as they are.
    variables
        By the names that its user knows them by.
    layers
        Computes what :meth:`inner` gives.
    """

    source: str
    framework: str
    traced: Traced
    variables: Mapping[str, Any]
    layers: Callable[[Arrays], Layers] = field(default=lambda feeds: {})

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch; outputs in the order of the graph's."""
        return self.traced(feeds)

    def inner(self, feeds: Arrays) -> Layers:
        """Name and output of each layer, by the value of the graph that holds the same."""
        return self.layers(feeds)

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Values of the variables, copied."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def assign(self, values: Arrays) -> None:
        """Give variables new values, in place: all, or none where one does not fit.

        Raises
        ------
        ModelError
            There is no such variable, or it has another shape.
        """
        for name, value in values.items():
            if name not in self.variables:
                raise ModelError(f"{self.source}: there is no variable called {name!r} in the {self.framework} model")
            shape = tuple(self.variables[name].shape)
            if shape != value.shape:
                raise ModelError(f"{self.source}: {name!r} is of shape {list(shape)}, not {list(value.shape)}")
        for name, value in values.items():
            variable = self.variables[name]
            variable.assign(np.asarray(value, variable.dtype.as_numpy_dtype))


def name_variables(named: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Give variables by name, each once; ``name.1`` … where another one has the name."""
    variables: dict[str, Any] = {}
    known: set[int] = set()
    for stem, variable in named:
        if id(variable.handle) in known:
            continue
        known.add(id(variable.handle))
        name, number = stem, 1
        while name in variables:
            name, number = f"{stem}.{number}", number + 1
        variables[name] = variable
    return variables
