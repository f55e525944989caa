"""What jax2onnx gets wrong while it traces a model is put right around the model's call.

jax2onnx replaces functions of ``jax.numpy`` and ``flax`` by ones that leave a single operator in the trace. Some of
them take fewer spellings of their arguments than the function they stand for, or no open sizes. Inside the model's
call they are wrapped, so that every spelling reaches them, or the function itself is put back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["Originals", "originals", "pruned"]

NO_OPEN_SIZES = frozenset(("arange",))
"""Functions whose replacements lose the sizes that are open."""

Originals = Mapping[tuple[Any, str], Any]
"""Functions by the module or class that holds them, and their name in it."""


def originals() -> Originals:
    """Take note of the functions that a converter may replace, before it does."""
    import jax
    from flax import linen, nnx

    modules: tuple[ModuleType, ...] = (jax.numpy, jax.nn, jax.lax, nnx, linen)
    found = {(module, name): value for module in modules for name, value in vars(module).items() if callable(value)}
    layers = {value for value in found.values() if inspect.isclass(value) and "__call__" in vars(value)}
    return found | {(layer, "__call__"): vars(layer)["__call__"] for layer in layers}


@contextmanager
def mended(before: Originals, plain: bool) -> Iterator[None]:
    """Wrap the replacements while a model is called.

    Parameters
    ----------
    before
        What they stand for.
    plain
        Put the functions back instead, so that the trace holds primitives of JAX only.
    """
    replaced = {place: vars(place[0])[place[1]] for place, original in before.items() if _now(place) is not original}
    for (holder, name), replacement in replaced.items():
        original = before[holder, name]
        is_wrong = plain or name in NO_OPEN_SIZES
        setattr(holder, name, original if is_wrong else _any_spelling(original, replacement))
    try:
        yield
    finally:
        for (holder, name), replacement in replaced.items():
            setattr(holder, name, replacement)


def _now(place: tuple[Any, str]) -> Any:
    return vars(place[0]).get(place[1])


def _any_spelling(original: Any, replacement: Any) -> Any:
    """Let ``replacement`` take its arguments by position or by name, as ``original`` does."""
    if inspect.isclass(original):
        return replacement

    def call(*given: Any, **named: Any) -> Any:
        theirs, ours = _signature(original), _signature(replacement)  # looked up late: few of hundreds are called
        if theirs is None or ours is None or _takes(ours, *given, **named):
            return replacement(*given, **named)
        spelt = theirs.bind(*given, **named).arguments
        return replacement(**spelt) if _takes(ours, **spelt) else original(*given, **named)

    return call


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # a function in C
        return None


def _takes(signature: inspect.Signature, *given: Any, **named: Any) -> bool:
    try:
        signature.bind(*given, **named)
    except TypeError:
        return False
    return True


def pruned(function: Callable[..., Any], before: Originals, plain: bool) -> Callable[..., Any]:
    """Give a function for a converter to trace: what ``function`` computes, without what nobody reads.

    A recurrent layer draws random numbers for a state that begins with zeros; converters fail on them.

    Parameters
    ----------
    function
        Any pure function; its outputs are flattened.
    before
        See :func:`originals`.
    plain
        See :func:`mended`.
    """
    import jax
    from jax.interpreters import partial_eval

    def traced(*arrays: Any) -> Sequence[Any]:
        with mended(before, plain):
            closed = jax.make_jaxpr(function)(*arrays)
        jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        kept = [array for array, is_used in zip(arrays, used, strict=True) if is_used]
        return list(jax.core.eval_jaxpr(jaxpr, closed.consts, *kept))

    return traced
