"""Keras 3: models in memory, and ``.keras`` files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import LiveModel, Lowered, Request
from surgery_ir.frontends.tensorflow.archive import read_archive
from surgery_ir.frontends.tensorflow.convert import convert
from surgery_ir.frontends.tensorflow.inputs import feeds_of
from surgery_ir.frontends.tensorflow.layers import layer_outputs
from surgery_ir.frontends.tensorflow.live import Function, name_variables
from surgery_ir.frontends.tensorflow.quiet import need_tensorflow, quiet
from surgery_ir.frontends.tensorflow.signature import Signature, signature_of, trace

__all__ = ["KerasFile", "KerasModel"]

WHAT = "a Keras model"
LEGACY = (".h5", ".hdf5")


class KerasModel:
    """Takes a ``keras.Model`` in memory: sequential, functional, or a subclass that was built."""

    reads = "keras.Model"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a model of Keras, which is imported already then."""
        kind = getattr(sys.modules.get("keras"), "Model", None)
        return kind is not None and isinstance(source, kind)

    def load(self, source: object, request: Request) -> Lowered:
        """Lower the model as it infers (``training=False``).

        Raises
        ------
        ModelError
            Keras computes with another backend than TensorFlow, the model was not built, an operator cannot be
            converted, or the graph does not compute what the model computes.
        """
        model: Any = source
        return lower(model, f"<keras {model.name}>", request)

    def live(self, source: object, lowered: Lowered) -> LiveModel:
        """Take another instance of the model that became ``lowered``; its variables are known by the same names.

        Raises
        ------
        ModelError
            Its inputs or variables are others.
        """
        model: Any = source
        where = f"<keras {model.name}>"
        need_tensorflow(WHAT, "keras", "tf2onnx")
        _check_backend(where)
        with quiet():
            signature = signature_of(model, Request(example_inputs=dict(lowered.feeds)), where)
            live = _live(model, signature, where)
        return _renamed(live, lowered, where)


class KerasFile:
    """Reads ``.keras`` files. No code that comes with one runs unless the request trusts it."""

    reads = ".keras files"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a path that ends in ``.keras``, or as files of Keras 2 do."""
        return isinstance(source, str | Path) and Path(source).suffix.lower() in (".keras", *LEGACY)

    def load(self, source: object, request: Request) -> Lowered:
        """Read the file and lower the model.

        Raises
        ------
        ModelError
            The file cannot be read or holds objects that are not Keras' own, or the model cannot be lowered.
        """
        assert isinstance(source, str | Path)
        path = Path(source)
        if path.suffix.lower() in LEGACY:
            raise ModelError(
                f"{path}: files of HDF5 are not read; save the model in Keras' own format: "
                f"keras.saving.load_model({path.name!r}).save({path.stem + '.keras'!r})"
            )
        need_tensorflow(f"{path}:", "keras", "tf2onnx")
        _check_backend(str(path))
        return lower(read_archive(path, request.trust), str(path), request)


def lower(model: Any, source: str, request: Request) -> Lowered:
    """Lower a model of Keras.

    Raises
    ------
    ModelError
        See :meth:`KerasModel.load`.
    """
    need_tensorflow(WHAT, "keras", "tf2onnx")
    _check_backend(source)
    with quiet():
        signature = signature_of(model, request, source)
        feeds = feeds_of(signature.specs, request.example_inputs, source)
        live = _live(model, signature, source)
        graph, bindings = convert(live.traced.function, live.variables, live.traced.names, source)
        live = replace(live, layers=lambda feeds: layer_outputs(model, signature, graph, feeds))
        return settle(graph, bindings, live, feeds, request.runtime)


def _check_backend(source: str) -> None:
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        raise ModelError(
            f"{source}: Keras computes with torch, whose export of LSTMs is wrong without a word; set "
            "KERAS_BACKEND=tensorflow"
        )
    if backend != "tensorflow":
        raise ModelError(f"{source}: Keras computes with {backend}; set KERAS_BACKEND=tensorflow")


def _live(model: Any, signature: Signature, source: str) -> Function:
    traced = trace(model, signature, source)
    named = [(variable.path, variable.value) for variable in model.variables]
    others = [(variable.name.removesuffix(":0"), variable) for variable in traced.function.graph.variables]
    return Function(source, "Keras", traced, name_variables(named + others))


def _renamed(live: Function, lowered: Lowered, source: str) -> Function:
    """Call inputs and variables of another instance as those of the lowered one are called; by order where they differ.

    Raises
    ------
    ModelError
        It takes another number of inputs, or its variables have other shapes.
    """
    assert lowered.live is not None
    inputs = tuple(value.name or "" for value in lowered.graph.inputs)
    if len(inputs) != len(live.traced.inputs):
        raise ModelError(f"{source}: it takes {', '.join(live.traced.inputs)}, not {', '.join(inputs)}")
    if set(inputs) != set(live.traced.inputs):
        live = replace(live, traced=replace(live.traced, inputs=inputs))
    known = {name: value.shape for name, value in lowered.live.parameters().items()}
    own = {name: tuple(variable.shape) for name, variable in live.variables.items()}
    if own == known:
        return live
    if list(own.values()) != list(known.values()):
        raise ModelError(
            f"{source}: its variables are not those of the model that was lowered; the first that differs is "
            f"{_first_difference(own, known)}"
        )
    return replace(live, variables=dict(zip(known, live.variables.values(), strict=True)))


def _first_difference(own: dict[str, tuple[int, ...]], known: dict[str, tuple[int, ...]]) -> str:
    for (name, shape), (_, wanted) in zip(own.items(), known.items(), strict=False):
        if shape != wanted:
            return f"{name!r} of {list(shape)}, not {list(wanted)}"
    return f"the number of them, {len(own)} instead of {len(known)}"
