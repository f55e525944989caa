"""From a function of TensorFlow to a graph whose initializers are the function's variables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.parameters import Binding, bind
from surgery_ir.frontends.tensorflow import marks
from surgery_ir.frontends.tensorflow.channels import rewrite_scaled_channels
from surgery_ir.frontends.tensorflow.freeze import Frozen, freeze
from surgery_ir.frontends.tensorflow.normalization import rewrite_batch_normalization
from surgery_ir.frontends.tensorflow.sizes import fold_sizes
from surgery_ir.graph.model import Graph

__all__ = ["OPSET", "convert"]

OPSET = 18

BATCH = "batch"

REWRITERS = (rewrite_batch_normalization, rewrite_scaled_channels)

FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Arrays = Mapping[str, NDArray[Any]]


def convert(
    function: Any, variables: Mapping[str, Any], names: Mapping[str, str], source: str
) -> tuple[Graph, tuple[Binding, ...]]:
    """Lower a function.

    Parameters
    ----------
    function
        A ``ConcreteFunction``.
    variables
        ``tf.Variable`` by the name that its initializer is to bear.
    names
        What to call inputs and outputs, by tensor.
    source
        The model, for messages.

    Raises
    ------
    ModelError
        tf2onnx cannot convert an operator.
    """
    values = {name: variable.numpy() for name, variable in variables.items()}
    frozen = freeze(function, variables)
    marked = _mark(frozen, values)
    graph = Graph.from_proto(_to_onnx(frozen, names, source), source)
    bindings = _unmark(graph, marked, values) if marked else []
    if bindings is None:  # arithmetic went over the marks
        frozen.set_constants({node: values[frozen.parameters[node]] for node in frozen.looped})
        graph = Graph.from_proto(_to_onnx(frozen, names, source), source)
        bindings = []
    _name_axes(graph)
    given = [name for node, name in frozen.parameters.items() if node not in frozen.looped]
    _fill(graph, {name: values[name] for name in given})
    fold_sizes(graph, given)
    _unfuse(graph)
    bindings.extend(bind(graph, given))
    return graph, tuple(sorted(bindings, key=lambda binding: binding.initializer))


def _mark(frozen: Frozen, values: Arrays) -> dict[str, tuple[int, ...]]:
    """Give what loops read marks, or its values where it cannot be marked; shapes of the marked ones by name."""
    looped = {node: frozen.parameters[node] for node in frozen.looped}
    fit = {node: name for node, name in looped.items() if values[name].dtype == np.float32}
    shapes = {name: values[name].shape for name in fit.values()}
    if sum(values[name].size for name in shapes) > marks.ROOM:
        fit, shapes = {}, {}
    made = marks.marks(shapes)
    frozen.set_constants({node: made[name] if node in fit else values[name] for node, name in looped.items()})
    return shapes


def _to_onnx(frozen: Frozen, names: Mapping[str, str], source: str) -> onnx.ModelProto:
    """Convert, keeping nothing back that tf2onnx complains of.

    Raises
    ------
    ModelError
        An operator was not converted.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader
    from tf2onnx.tfonnx import process_tf_graph

    given = {f"{node}:0": name for node, name in frozen.parameters.items() if node not in frozen.looped}
    inputs = [*frozen.inputs, *given]
    with tf.Graph().as_default(), tf.device("/cpu:0"), _Complaints() as complaints:
        optimized = tf_loader.tf_optimize(inputs, frozen.outputs, frozen.graph_def)

        def process() -> Any:
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(optimized, name="")
                return process_tf_graph(
                    graph,
                    continue_on_error=True,
                    opset=OPSET,
                    input_names=list(inputs),
                    output_names=list(frozen.outputs),
                    tensors_to_rename={**given, **names},
                    custom_op_handlers={"Erfc": (_erfc, [])},
                    custom_rewriter=list(REWRITERS),
                )

        converted = process()
        if complaints.text:
            raise ModelError(f"{source}: {complaints.text}")
        try:
            better = optimizer.optimize_graph(converted, catch_errors=False)
        except FAILURES:  # tf2onnx can leave out the optimizer that fails, at the price of many copies of the graph
            better = optimizer.optimize_graph(process(), catch_errors=True)
        proto: onnx.ModelProto = better.make_model(source)
        return proto


class _Complaints(logging.Handler):
    """Hears of the first operator that tf2onnx leaves unconverted, which is no error to it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        self._logger = logging.getLogger("tf2onnx.tfonnx")

    def __enter__(self) -> _Complaints:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before

    def emit(self, record: logging.LogRecord) -> None:
        if self.text:
            return
        if record.msg.startswith("Tensorflow op ["):
            name, kind = record.args  # type: ignore[misc]
            self.text = f"{name!r} is the TensorFlow operator {kind}, which tf2onnx cannot convert"
        elif record.msg.startswith("Failed to convert node"):
            why = record.exc_info[1] if record.exc_info else ""
            self.text = f"tf2onnx fails to convert {record.args[0]!r}: {' '.join(str(why).split())}"  # type: ignore[index]
        elif record.msg.startswith("rewriter") and record.args[0] in REWRITERS:  # type: ignore[index, operator]
            self.text = f"the operators around parameters cannot be rewritten: {' '.join(str(record.args[1]).split())}"  # type: ignore[index]


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """Write ``erfc(x)`` as ``1 − erf(x)``; tf2onnx has no handler for it."""
    kind = graph.get_dtype(node.output[0])
    shape = graph.get_shape(node.output[0])
    from tf2onnx import utils

    one = graph.make_const(utils.make_name(name), np.array(1, utils.map_onnx_to_numpy_type(kind)))
    outputs = list(node.output)
    erf = graph.make_node("Erf", [node.input[0]], dtypes=[kind], shapes=[shape])
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, dtypes=[kind], shapes=[shape])


def _unmark(graph: Graph, shapes: Mapping[str, tuple[int, ...]], values: Arrays) -> list[Binding] | None:
    """Put the true values where marks are; ``None`` where an element of a parameter is nowhere to be found."""
    flat = np.concatenate([values[name].reshape(-1) for name in shapes])
    missing = np.ones(flat.size, np.bool_)
    found = []
    for inner in graph.model.graphs():
        for value in inner.initializers.values():
            array = np.asarray(value.const_value.numpy()) if value.const_value is not None else np.zeros(0)
            where = marks.locate(array, flat.size)
            if where is not None:
                missing[where[where >= 0]] = False
                found.append((inner, value, array, where))
    if missing.any():
        return None
    bindings = []
    for inner, value, array, where in found:
        held = where >= 0
        true = array.copy()
        true[held] = flat[where[held]]
        if inner is graph.model.graph:
            sources, steps = marks.recipe(value.name or "", array, where, shapes)
            value.name = _free(graph, sources[0])
            bindings.append(Binding(value.name, sources, steps))
        value.const_value = ir.tensor(true, name=value.name)
    return bindings


def _free(graph: Graph, name: str) -> str:
    """Give ``name``, or ``name.1`` … where another value has it."""
    inner = graph.model.graph
    taken = {value.name for node in inner for value in node.outputs} | {value.name for value in inner.inputs}
    stem, number = name, 1
    while name in taken or name in graph.initializers:
        name, number = f"{stem}.{number}", number + 1
    return name


def _fill(graph: Graph, values: Arrays) -> None:
    """Turn the inputs that stand for parameters into initializers."""
    inner = graph.model.graph
    for value in [value for value in inner.inputs if value.name in values]:
        inner.inputs.remove(value)
        array = values[value.name or ""]
        value.const_value = ir.tensor(array, name=value.name)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(value.const_value.dtype)
        inner.register_initializer(value)


def _unfuse(graph: Graph) -> None:
    """Write a Gemm that has no bias as MatMul: tf2onnx makes one of an einsum, whose layer keeps its bias elsewhere."""
    for node in list(graph.model.graph):
        attributes = {name: item.value for name, item in node.attributes.items()}
        plain = attributes.get("alpha", 1.0) == 1.0 and not attributes.get("transA")
        if node.op_type != "Gemm" or not plain or (len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        if attributes.get("transB"):  # of a parameter, which is where it is folded
            transpose = ir.node("Transpose", [node.inputs[1]], {"perm": [1, 0]}, name=f"{node.name}/weights")
            transpose.outputs[0].name = f"{node.name}/weights:0"
            graph.model.graph.insert_before(node, transpose)
            node.replace_input_with(1, transpose.outputs[0])
        node.op_type = "MatMul"
        node.attributes.clear()
        node.resize_inputs(2)


def _name_axes(graph: Graph) -> None:
    """Call the first axis of the inputs ``batch`` where it is open; tf2onnx numbers open axes (``unk__17``)."""
    for value in graph.model.graph.inputs:
        sizes = list(value.shape or ())
        if sizes and not isinstance(sizes[0], int):
            sizes[0] = ir.SymbolicDim(BATCH)
        rest = [size if isinstance(size, int) else ir.SymbolicDim(None) for size in sizes[1:]]
        value.shape = ir.Shape([*sizes[:1], *rest]) if value.shape is not None else None
    for value in graph.model.graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape(size if isinstance(size, int) else ir.SymbolicDim(None) for size in value.shape)
