"""From a function of TensorFlow to a GraphDef without variables and without weights.

TensorFlow freezes variables to constants. Here they become inputs of the graph instead, so that a converter can fold
nothing into them, and no weight is ever copied into a protobuf (which ends at 2 GB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frozen", "freeze"]

COMPILED = "_XlaMustCompile"

LOOPS = frozenset(("While", "StatelessWhile"))

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Frozen:
    """A GraphDef in which each variable is an input or a constant.

    Parameters
    ----------
    graph_def
        TensorFlow's ``GraphDef``.
    inputs, outputs
        Names of the tensors, as ``x:0``.
    parameters
        Name of the variable by the name of the node that stands for it.
    looped
        Nodes of the variables that loops read; these are constants (zeros so far), the others are inputs.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, str]
    looped: list[str] = field(default_factory=list)

    def set_constants(self, values: Arrays) -> None:
        """Give the constants of ``values``, by node, what they hold."""
        import tensorflow as tf

        for node in self.graph_def.node:
            if node.name in values:
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[node.name]))


def freeze(function: Any, variables: Mapping[str, Any]) -> Frozen:
    """Take the variables out of a function.

    Parameters
    ----------
    function
        A ``ConcreteFunction``. Functions that it calls are inlined, loops stay.
    variables
        ``tf.Variable`` by the name under which it is to be known; others that the function reads become constants.
    """
    # tf2onnx itself relies on these two, and its version is pinned
    from tensorflow.python.framework import convert_to_constants as freezing

    names = {id(variable.handle): name for name, variable in variables.items()}

    class WithoutWeights(freezing._FunctionConverterDataInEager):  # type: ignore[misc]
        """Reads no variable that is known: its shape and type are all that is wanted."""

        def _eval(self, tensor: Any) -> Any:
            if id(getattr(tensor, "handle", None)) in names:
                return np.zeros(tensor.shape, tensor.dtype.as_numpy_dtype)
            return tensor.numpy()

    data = WithoutWeights(func=function, lower_control_flow=False, aggressive_inlining=True)
    graph_def, _ = freezing._replace_variables_by_constants(data)
    _let_inline(graph_def)
    captures = list(zip(function.captured_inputs, function.graph.internal_captures, strict=True))
    parameters = {placeholder.op.name: names[id(handle)] for handle, placeholder in captures if id(handle) in names}
    captured = {placeholder.name for _, placeholder in captures}
    frozen = Frozen(
        graph_def,
        [tensor.name for tensor in function.inputs if tensor.name not in captured],
        [tensor.name for tensor in function.outputs],
        {node.name: parameters[node.name] for node in graph_def.node if node.name in parameters},
    )
    frozen.looped = _looped(graph_def, frozen.parameters)
    _open(frozen)
    return frozen


def _let_inline(graph_def: Any) -> None:
    """Let functions that want to be compiled be inlined like others; Keras' grouped convolutions are such.

    Calls of functions with variables count as stateful; there are no variables any more.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    for nodes in (graph_def.node, *(function.node_def for function in functions.values())):
        for node in nodes:
            if node.attr.pop(COMPILED, None) is not None and node.op == "StatefulPartitionedCall":
                node.op = "PartitionedCall"
                functions[node.attr["f"].func.name].attr.pop("_noinline", None)


def _looped(graph_def: Any, parameters: Mapping[str, str]) -> list[str]:
    """Parameters that a loop reads, as they are or behind operators that read parameters and constants alone."""
    nodes = {node.name: node for node in graph_def.node}
    known: dict[str, frozenset[str] | None] = {
        name: frozenset((name,) if name in parameters else ()) for name, node in nodes.items() if node.op == "Const"
    }
    looped: set[str] = set()
    for node in graph_def.node:
        if node.op in LOOPS:
            for read in node.input:
                looped |= _sources(_node_of(read), nodes, known) or frozenset()
    return [name for name in parameters if name in looped]


def _sources(name: str, nodes: Mapping[str, Any], known: dict[str, frozenset[str] | None]) -> frozenset[str] | None:
    """Parameters that ``name`` follows from; ``None`` where it depends on an input. ``known`` holds what was found."""
    waiting = [name]
    while waiting:
        if waiting[-1] in known:
            waiting.pop()
            continue
        node = nodes[waiting[-1]]
        read = [_node_of(item) for item in node.input if not item.startswith("^")]
        missing = [item for item in read if item not in known]
        if missing:
            waiting.extend(missing)
            continue
        found = [known[item] for item in read]
        settled = [item for item in found if item is not None]
        known[waiting.pop()] = frozenset().union(*settled) if found and len(settled) == len(found) else None
    return known[name]


def _node_of(read: str) -> str:
    return read.removeprefix("^").split(":")[0]


def _open(frozen: Frozen) -> None:
    """Turn the constants that stand for parameters into inputs, but for those that loops read."""
    for node in frozen.graph_def.node:
        if node.name in frozen.parameters and node.name not in frozen.looped:
            tensor = node.attr["value"].tensor
            kind, shape = tensor.dtype, type(tensor.tensor_shape)()
            shape.CopyFrom(tensor.tensor_shape)
            node.op = "Placeholder"
            node.attr.clear()
            node.attr["dtype"].type = kind
            node.attr["shape"].shape.CopyFrom(shape)
