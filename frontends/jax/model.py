"""A model in JAX is a function of parameters and inputs, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from surgery_ir.errors import ModelError

__all__ = ["Functional", "JaxModel", "functional", "owner_of"]


@dataclass(eq=False)
class JaxModel:
    """A function with its parameters, for everything that is no ``flax.nnx.Module``.

    Parameters
    ----------
    function
        ``function(parameters, *inputs)``, pure: ``module.apply`` of Flax Linen, ``transformed.apply`` of Haiku with
        its random numbers bound, or one's own. It must compute inference.
    parameters
        Any tree of arrays: dictionaries, lists, tuples, dataclasses that JAX knows. Their names are the path in the
        tree, joined by ``/``: ``params/Dense_0/kernel``.

    Notes
    -----
    Arrays of JAX cannot change. Writing back gives this object a new tree in :attr:`parameters`, in which the leaves
    that did not change are the same; take it from there.
    """

    function: Callable[..., Any]
    parameters: Any

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Compute the outputs."""
        return self.function(self.parameters, *inputs, **named)


@dataclass(frozen=True, eq=False)
class Functional:
    """What lowering needs of a model.

    Parameters
    ----------
    read
        Gives the present parameters by name.
    write
        Puts parameters by name into the model.
    apply
        ``apply(arrays, *inputs, **named)``: computes the outputs of inference from parameters in the order of their
        names. It can be traced.
    signature
        A function with the signature of the model's call, without parameters and ``self``.
    skipped
        How many arguments of ``signature`` are no inputs.
    """

    names: tuple[str, ...]
    read: Callable[[], dict[str, Any]]
    write: Callable[[dict[str, Any]], None]
    apply: Callable[..., Any]
    signature: Callable[..., Any]
    skipped: int = field(default=1)


def functional(source: Any, where: str) -> Functional:
    """Take a model apart.

    Parameters
    ----------
    source
        A :class:`JaxModel` or a module of ``flax.nnx``. Of a module, a copy in evaluation mode is computed.
    where
        The model, for messages.

    Raises
    ------
    ModelError
        It has no parameters, or cannot be called.
    """
    found = _function(source, where) if isinstance(source, JaxModel) else _module(source, where)
    if not found.names:
        raise ModelError(f"{where}: it has no parameters")
    if len(set(found.names)) != len(found.names):
        raise ModelError(f"{where}: two of its parameters have the same name; use keys without '/'")
    return found


def _function(model: JaxModel, where: str) -> Functional:
    import jax

    if not callable(model.function):
        raise ModelError(f"{where}: JaxModel takes a function and its parameters, not {type(model.function).__name__}")
    paths, tree = jax.tree_util.tree_flatten_with_path(model.parameters)
    held = [_is_array(leaf) for _, leaf in paths]
    names = tuple(_joined(path, "/") or "parameters" for (path, _), is_held in zip(paths, held, strict=True) if is_held)

    def read() -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves(model.parameters)
        return dict(zip(names, _chosen(leaves, held), strict=True))

    def joined(arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        leaves = jax.tree_util.tree_leaves(model.parameters)
        return tree.unflatten(next(rest) if own else leaf for leaf, own in zip(leaves, held, strict=True))

    def write(values: dict[str, Any]) -> None:
        model.parameters = joined(list({**read(), **values}.values()))

    def apply(arrays: Sequence[Any], *inputs: Any, **named: Any) -> Any:
        return model.function(joined(arrays), *inputs, **named)

    owner = owner_of(model.function)
    if owner is not None and callable(owner):  # a module of Linen, whose call tells more than its apply
        return Functional(names, read, write, apply, type(owner).__call__)
    return Functional(names, read, write, apply, model.function)


def _module(module: Any, where: str) -> Functional:
    import jax
    from flax import nnx

    if not callable(module):
        raise ModelError(f"{where}: the module has no __call__; give JaxModel(function, parameters) instead")
    copy = nnx.clone(module)
    copy.eval()
    graph, state, random = nnx.split(copy, nnx.Not(nnx.RngState), ...)
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    names = tuple(_joined(path, ".").removesuffix(".value") for path, _ in paths)

    def read() -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves(nnx.state(module, nnx.Not(nnx.RngState)))
        return dict(zip(names, leaves, strict=True))

    def write(values: dict[str, Any]) -> None:
        nnx.update(module, tree.unflatten({**read(), **values}.values()))

    def apply(arrays: Sequence[Any], *inputs: Any, **named: Any) -> Any:
        return nnx.merge(graph, tree.unflatten(arrays), random, copy=True)(*inputs, **named)

    return Functional(names, read, write, apply, type(module).__call__)


def owner_of(function: Any) -> Any:
    """Give the object whose method ``function`` is, arguments bound or not; ``None`` where it is no method."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None)


def _chosen(leaves: Sequence[Any], held: Sequence[bool]) -> list[Any]:
    return [leaf for leaf, is_held in zip(leaves, held, strict=True) if is_held]


def _is_array(leaf: Any) -> bool:
    """Whether a leaf holds numbers; keys of random numbers and Python's own numbers are no parameters."""
    import jax

    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    return not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _joined(path: Any, separator: str) -> str:
    import jax

    return str(jax.tree_util.keystr(path, simple=True, separator=separator))
