"""The model in JAX, for comparison and for writing back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.jax.inputs import Inputs
from surgery_ir.frontends.jax.model import Functional

__all__ = ["LiveJax", "one_line"]

Arrays = Mapping[str, NDArray[Any]]


def one_line(error: BaseException) -> str:
    """Say in one line what JAX says in many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' if lines else ''}{' '.join(lines[:1])}"


@dataclass(eq=False)
class LiveJax:
    """A module or function of JAX; it is compiled once for each size of batch.

    Parameters
    ----------
    model
        What it computes.
    inputs
        How it is called.
    where
        The model, for messages.
    """

    model: Functional
    inputs: Inputs
    where: str
    framework: str = "JAX"
    _compiled: Any = field(default=None, init=False)

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch.

        Raises
        ------
        ModelError
            The model fails.
        """
        import jax

        if self._compiled is None:
            # Each size of batch runs once or twice: code that is quick to make beats code that is quick to run.
            self._compiled = jax.jit(self._call, compiler_options={"xla_backend_optimization_level": 0})
        arrays = [feeds[name] for name in self.inputs.arrays]
        try:
            found = self._compiled(tuple(self.model.read().values()), arrays)
        except Exception as error:  # a stranger's code may raise anything
            shapes = ", ".join(f"{name} {list(feeds[name].shape)}" for name in self.inputs.arrays)
            raise ModelError(f"{self.where}: it does not take {shapes}: {one_line(error)}") from error
        return tuple(np.asarray(value) for value in jax.tree_util.tree_leaves(found))

    def _call(self, parameters: Any, arrays: Any) -> Any:
        given, named = self.inputs.arguments(arrays)
        return self.model.apply(parameters, *given, **named)

    def inner(self, feeds: Arrays) -> Mapping[str, tuple[str, NDArray[Any]]]:
        """Nothing: a trace does not say which layer a value comes from."""
        return {}

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Parameters and statistics by name."""
        return {name: np.asarray(value) for name, value in self.model.read().items()}

    def assign(self, values: Arrays) -> None:
        """Give parameters new values: variables of a module in place, a new tree to a :class:`JaxModel`.

        Raises
        ------
        ModelError
            There is no such parameter, or it has another shape.
        """
        import jax

        known = self.model.read()
        for name, value in values.items():
            if name not in known:
                raise ModelError(f"{self.where}: it has no parameter {name!r}")
            if known[name].shape != value.shape:
                raise ModelError(
                    f"{self.where}: {name!r} has shape {list(known[name].shape)}, the new values {list(value.shape)}"
                )
        self.model.write({name: jax.numpy.asarray(value, known[name].dtype) for name, value in values.items()})
