"""What a Keras model takes and gives, and the function of TensorFlow that it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Request
from surgery_ir.frontends.tensorflow.live import Traced

__all__ = ["Signature", "one_line", "signature_of", "trace"]


@dataclass(frozen=True)
class Signature:
    """Inputs of a model.

    Parameters
    ----------
    specs
        ``tf.TensorSpec`` by name, one after the other; the first axis is open.
    pack
        Arranges as many tensors as the model's call takes them: positional and named arguments.
    declared
        What a functional or sequential model declares as its inputs, arranged.
    """

    specs: Mapping[str, Any]
    pack: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    declared: Any = None


def signature_of(model: Any, request: Request, source: str) -> Signature:
    """Find out what a model takes: what it declares, or was built on, or else what the example inputs are.

    Raises
    ------
    ModelError
        It was not built and there is no example.
    """
    import keras

    if not model.built and request.example_inputs is None:
        raise ModelError(f"{source}: the model was not built; call it once, or give example inputs")
    if getattr(model, "inputs", None):
        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        specs = {}
        for tensor in model.inputs:
            specs[tensor._keras_history.operation.name] = _spec(tensor.shape, tensor.dtype)
        return Signature(specs, lambda given: ((keras.tree.pack_sequence_as(structure, list(given)),), {}), structure)
    if request.example_inputs is not None:
        return _by_example(model, request.example_inputs)
    return _as_built(model, source)


def _spec(shape: Any, dtype: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec([None, *shape[1:]] if len(shape) else [], dtype)


def _by_example(model: Any, example: Any) -> Signature:
    """Inputs like the example; a mapping goes in as named arguments where ``call`` has these names."""
    taken = list(inspect.signature(model.call).parameters)
    if isinstance(example, Mapping):
        arrays = {name: np.asarray(value) for name, value in example.items()}
        named = all(name in taken for name in arrays)
    else:
        items = example if isinstance(example, tuple | list) else (example,)
        arrays = {name: np.asarray(value) for name, value in zip(taken, items, strict=False)}
        named = True
    specs = {name: _spec(value.shape, value.dtype) for name, value in arrays.items()}

    def pack(given: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = dict(zip(specs, given, strict=True))
        return ((), arguments) if named else ((arguments,), {})

    return Signature(specs, pack)


def _as_built(model: Any, source: str) -> Signature:
    """Inputs of the shapes that a subclass was built on."""
    config = model.get_build_config() or {}
    first = next(iter(inspect.signature(model.call).parameters), "input")
    shapes = config.get("shapes_dict") or {f"{first}_shape": config.get("input_shape")}
    specs = {}
    for name, shape in shapes.items():
        if not isinstance(shape, tuple | list) or not all(size is None or isinstance(size, int) for size in shape):
            raise ModelError(f"{source}: what the model takes is not known; give example inputs")
        specs[name.removesuffix("_shape")] = _spec(shape, model.input_dtype)
    return Signature(specs, lambda given: ((), dict(zip(specs, given, strict=True))))


def trace(model: Any, signature: Signature, source: str) -> Traced:
    """Trace the model as it infers.

    Raises
    ------
    ModelError
        Its code does not run on tensors of unknown values.
    """
    import keras
    import tensorflow as tf

    names: list[str] = []

    def infer(*tensors: Any) -> tuple[Any, ...]:
        positional, named = signature.pack(tensors)
        found = model(*positional, training=False, **named)
        names[:] = _output_names(model, found)
        return tuple(tensor for tensor in keras.tree.flatten(found) if tensor is not None)

    specs = [tf.TensorSpec(spec.shape, spec.dtype, f"input_{i}") for i, spec in enumerate(signature.specs.values())]
    try:
        function = tf.function(infer, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # the model's own code
        raise ModelError(f"{source}: the model cannot be traced: {one_line(error)}") from error
    return Traced(function, tuple(signature.specs), _free(names, signature.specs), lambda given: function(*given))


def _output_names(model: Any, found: Any) -> list[str]:
    """Names of the outputs: keys of a dictionary, or layers of a functional model, or numbers."""
    import keras

    leaves = [tensor for tensor in keras.tree.flatten(found) if tensor is not None]
    if isinstance(found, Mapping):
        order = {id(value): str(key) for key, value in found.items()}
        if all(id(leaf) in order for leaf in leaves):
            return [order[id(leaf)] for leaf in leaves]
    known = getattr(model, "output_names", None) or ()
    if len(known) == len(leaves):
        return list(known)
    return ["output"] if len(leaves) == 1 else [f"output_{number}" for number in range(len(leaves))]


def _free(names: Sequence[str], taken: Mapping[str, Any]) -> tuple[str, ...]:
    """Make names unique, and other than those of the inputs."""
    free: list[str] = []
    for stem in names:
        name, number = stem, 1
        while name in taken or name in free:
            name, number = f"{stem}_{number}", number + 1
        free.append(name)
    return tuple(free)


def one_line(error: BaseException) -> str:
    """Say what an exception says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
