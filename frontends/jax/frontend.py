"""Lowers models of JAX through jax2onnx."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError, SurgeryError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import LiveModel, Lowered, Request
from surgery_ir.frontends.extras import need
from surgery_ir.frontends.jax.convert import convert
from surgery_ir.frontends.jax.inputs import Inputs, Sizes, example, sizes
from surgery_ir.frontends.jax.live import LiveJax, one_line
from surgery_ir.frontends.jax.model import Functional, JaxModel, functional, owner_of
from surgery_ir.frontends.jax.trace import Originals, originals

__all__ = ["JaxFunction"]

EXTRA = "jax"

MISSING = re.compile(r"No plugins? registered for primitive '([^']+)'")
CONTROL = frozenset(
    (
        "ConcretizationTypeError",
        "NonConcreteBooleanIndexError",
        "TracerArrayConversionError",
        "TracerBoolConversionError",
        "TracerIntegerConversionError",
    )
)
"""Errors of JAX where Python code looks at a number that is not known yet."""


class JaxFunction:
    """Lowers modules of ``flax.nnx``, and functions with their parameters (:class:`JaxModel`)."""

    reads = "flax.nnx.Module, JaxModel(function, parameters)"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is one of the two."""
        nnx = sys.modules.get("flax.nnx")
        return isinstance(source, JaxModel) or (nnx is not None and isinstance(source, nnx.Module))

    def load(self, source: object, request: Request) -> Lowered:
        """Lower ``source`` with the example inputs of the request.

        The first axis of every input stays open, and the lengths of sequences where the model takes several; see
        :func:`~surgery_ir.frontends.jax.inputs.sizes`. The request's ``dynamic_shapes`` names open axes otherwise:
        ``{"image": {0: "batch", 1: "height"}}``.

        Raises
        ------
        ModelError
            There are no example inputs or the model does not take them, its Python code decides by the numbers that
            it computes, jax2onnx cannot lower an operator, or what it made computes something else.
        """
        where = _where(source)
        for module in ("jax", "flax.nnx", "jax2onnx"):
            need(module, EXTRA, "a model of JAX")
        with _quiet():
            model = functional(source, where)
            inputs = example(request.example_inputs, model, where)
            live = LiveJax(model, inputs, where)
            before = originals()
            return _first_sound(model, inputs, sizes(inputs, request.dynamic_shapes, where), before, live, request)

    def live(self, source: object, lowered: Lowered) -> LiveModel:
        """Give ``source``, which is like the model that ``lowered`` was made of, to run and to write to.

        Raises
        ------
        ModelError
            It has other parameters.
        """
        where = _where(source)
        model = functional(source, where)
        wanted = {name for binding in lowered.bindings for name in binding.parameters}
        missing = sorted(wanted - set(model.names))
        if missing:
            raise ModelError(f"{where}: it has no parameter {missing[0]!r}, so it is not the model that was lowered")
        return LiveJax(model, example(dict(lowered.feeds), model, where), where)


def _first_sound(
    model: Functional, inputs: Inputs, wanted: list[Sizes], before: Originals, live: LiveJax, request: Request
) -> Lowered:
    """Lower with the operators of jax2onnx for whole layers, then with those for primitives, then with fixed lengths.

    Raises
    ------
    SurgeryError
        None gives a graph that computes the same; it says what was wrong with the first.
    """
    first: SurgeryError | None = None
    for some in wanted:
        for plain in (False, True):
            try:
                graph, bindings = _converted(model, inputs, some, before, plain, live.where)
                return settle(graph, bindings, live, inputs.arrays, request.runtime)
            except _TheModelsOwn:
                raise
            except SurgeryError as error:
                first = first or error
    assert first is not None
    raise first


class _TheModelsOwn(ModelError):
    """The model fails by itself, however it is lowered."""


def _converted(
    model: Functional, inputs: Inputs, some: Sizes, before: Originals, plain: bool, where: str
) -> tuple[Any, Any]:
    try:
        return convert(model, inputs, some, before, plain, where)
    except Exception as error:  # the model's code and jax2onnx may raise anything
        _try_alone(model, inputs, where)
        missing = MISSING.search(str(error))
        if missing:
            text = f"jax2onnx cannot lower the operator {missing[1]!r}; write it with other functions of jax.numpy"
        else:
            text = f"it cannot be lowered for inputs of {_sizes(some)}: {one_line(error)}"
        raise ModelError(f"{where}: {text}") from error


def _try_alone(model: Functional, inputs: Inputs, where: str) -> None:
    """Trace the model without a converter, to see whose fault it is.

    Raises
    ------
    ModelError
        The model's.
    """
    import jax

    def call(parameters: Any, arrays: Any) -> Any:
        given, named = inputs.arguments(arrays)
        return model.apply(parameters, *given, **named)

    try:
        jax.eval_shape(call, tuple(model.read().values()), list(inputs.arrays.values()))
    except Exception as error:  # a stranger's code may raise anything
        if type(error).__name__ in CONTROL:
            text = "Python code decides by a number that the model computes; use jax.numpy.where or jax.lax.cond"
            raise _TheModelsOwn(f"{where}: {text}{_place(error)}: {one_line(error)}") from error
        shapes = _sizes({name: array.shape for name, array in inputs.arrays.items()})
        raise _TheModelsOwn(
            f"{where}: it does not take the example inputs {shapes}{_place(error)}: {one_line(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """File and line of the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    return "site-packages" in parts or Path(filename).parent == Path(__file__).parent or filename.startswith("<")


def _sizes(some: Any) -> str:
    return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in some.items())


def _where(source: Any) -> str:
    """What to call the model in messages."""
    if not isinstance(source, JaxModel):
        return type(source).__qualname__
    owner = owner_of(source.function)
    named = source.function if owner is None else type(owner)
    return str(getattr(named, "__qualname__", type(named).__qualname__))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what converters say."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
