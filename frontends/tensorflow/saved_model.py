"""TensorFlow's SavedModel: folders that ``tf.saved_model.save`` or Keras' ``model.export`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.tensorflow.convert import convert
from surgery_ir.frontends.tensorflow.inputs import feeds_of
from surgery_ir.frontends.tensorflow.live import Function, Traced, name_variables
from surgery_ir.frontends.tensorflow.quiet import need_tensorflow, quiet
from surgery_ir.frontends.tensorflow.signature import one_line

__all__ = ["SavedModel"]

MODEL = "saved_model.pb"
SERVING = "serving_default"

HARMFUL = frozenset(
    ("EagerPyFunc", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "PrintV2", "Print")
)
"""Operators that touch files or call Python; a program of TensorFlow may do both."""


class SavedModel:
    """Reads SavedModel folders: the signature ``serving_default``, or the only one."""

    reads = "SavedModel folders"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a folder that holds ``saved_model.pb``."""
        return isinstance(source, str | Path) and (Path(source) / MODEL).is_file()

    def load(self, source: object, request: Request) -> Lowered:
        """Read the folder and lower the signature.

        Raises
        ------
        ModelError
            The folder cannot be read, its signature is not clear, it has operators of others, or the graph does not
            compute what the signature computes.
        """
        assert isinstance(source, str | Path)
        where = str(source)
        need_tensorflow(f"{where}:", "tf2onnx")
        with quiet():
            loaded = _load(Path(source), request.trust)
            function = _signature(loaded, where)
            traced = _traced(function, loaded)
            variables = name_variables(
                [(variable.name.removesuffix(":0"), variable) for variable in function.graph.variables]
            )
            specs = dict(zip(traced.inputs, function.inputs, strict=False))
            feeds = feeds_of(specs, request.example_inputs, where)
            graph, bindings = convert(function, variables, traced.names, where)
            live = Function(where, "TensorFlow", traced, variables)
            return settle(graph, bindings, live, feeds, request.runtime)


def _load(folder: Path, trust: bool) -> Any:
    import tensorflow as tf

    if not trust:
        _check(folder)
    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:  # a corrupt folder breaks TensorFlow anywhere
        raise ModelError(f"{folder}: TensorFlow cannot load it: {one_line(error)}") from error


def _check(folder: Path) -> None:
    """Refuse operators that TensorFlow does not have, and those that reach out of the model."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Proto
    from tensorflow.python.framework import op_def_registry

    proto = Proto()
    try:
        proto.ParseFromString((folder / MODEL).read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelError(f"{folder / MODEL}: truncated or corrupt ({one_line(error)})") from error
    for graph in proto.meta_graphs:
        nodes = [*graph.graph_def.node]
        for function in graph.graph_def.library.function:
            nodes.extend(function.node_def)
        names = {function.signature.name for function in graph.graph_def.library.function}
        for node in nodes:
            if node.op in HARMFUL:
                raise ModelError(
                    f"{folder}: {node.name!r} is the operator {node.op}, which reaches out of the model; if you trust "
                    "where the folder comes from, let it run with --trust (trust=True)"
                )
            if node.op not in names and op_def_registry.get(node.op) is None:
                raise ModelError(
                    f"{folder}: {node.name!r} is the operator {node.op}, which TensorFlow does not have; models with "
                    "operators of others cannot be converted"
                )


def _signature(loaded: Any, source: str) -> Any:
    signatures = loaded.signatures
    if SERVING in signatures:
        return signatures[SERVING]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    if not signatures:
        raise ModelError(f"{source}: it has no signature; save it with signatures=...")
    raise ModelError(f"{source}: none of its signatures is called {SERVING!r}; it has {', '.join(sorted(signatures))}")


def _traced(function: Any, loaded: Any) -> Traced:
    """Names of inputs and outputs as the signature has them, in the order of the function's tensors."""
    count = len(function.inputs) - len(function.captured_inputs)
    inputs = tuple(str(tensor.name).split(":")[0] for tensor in function.inputs[:count])
    outputs = sorted(function.structured_outputs)  # the order in which TensorFlow counts them
    free = tuple(f"{name}_output" if name in inputs else name for name in outputs)

    def call(given: list[Any], _keep: Any = loaded) -> Any:  # tables of the loaded model vanish with it
        return function(**dict(zip(arguments, given, strict=True)))

    arguments = [_argument(function, name) for name in inputs]
    return Traced(function, inputs, free, call)


def _argument(function: Any, name: str) -> str:
    """Give the argument of the signature that becomes the input called ``name``, as TensorFlow spells names."""
    arguments = function.structured_input_signature[1]
    return name if name in arguments else next(key for key, spec in arguments.items() if spec.name == name)
