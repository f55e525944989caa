"""From a ``.tflite`` file to a graph whose initializers are the file's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from surgery_ir.errors import ModelError
from surgery_ir.frontends.parameters import Binding, bind
from surgery_ir.frontends.tensorflow.tflite_file import TfliteModel
from surgery_ir.graph.model import Graph

__all__ = ["OPSET", "convert"]

OPSET = 18

BATCH = "batch"

SINGLE = {
    "TFL_ADD": "Add",
    "TFL_BATCH_MATMUL": "MatMul",
    "TFL_CONCATENATION": "Concat",
    "TFL_GELU": "Mul",
    "TFL_HARD_SWISH": "HardSwish",
    "TFL_LOGISTIC": "Sigmoid",
    "TFL_MEAN": "ReduceMean",
    "TFL_MUL": "Mul",
    "TFL_RESHAPE": "Reshape",
    "TFL_SOFTMAX": "Softmax",
    "TFL_SUB": "Sub",
    "TFL_TANH": "Tanh",
    "TFL_TRANSPOSE": "Transpose",
}
"""Operators whose result keeps its name. Of others the converter makes several, and the first gets the name."""

Arrays = Mapping[str, NDArray[Any]]


def convert(model: TfliteModel, source: str) -> tuple[Graph, tuple[Binding, ...], tuple[str, ...]]:
    """Lower a file; its weights are inputs of the graph meanwhile, so that nothing can be folded into them.

    Parameters
    ----------
    model
        The file.
    source
        Its path, for messages.

    Returns
    -------
    The graph, which initializers hold which tensors, and the names of the tensors that are values of the graph.

    Raises
    ------
    ModelError
        tf2onnx cannot convert an operator.
    """
    try:
        draft, weights, kinds_of = _to_onnx(model)
        proto, layers = draft.make_model("tflite"), _same_values(draft, model, kinds_of)
        _check_operators(proto, source)
        _fill(proto, {name: model.constants[name] for name in weights})
        _open_batch(proto, model)
        graph = Graph.from_proto(proto, source)
        return graph, bind(graph, weights), layers
    except ModelError:
        raise
    except Exception as error:  # tf2onnx raises anything, and makes anything of a damaged file
        text = " ".join(str(error).split())
        raise ModelError(f"{source}: tf2onnx cannot convert it: {text or type(error).__name__}") from error


def _to_onnx(model: TfliteModel) -> tuple[Any, list[str], dict[str, str]]:
    """Convert to a ``tf2onnx.graph.Graph`` with the weights as inputs.

    Their names come second; third the operators without activation by the tensor that they give.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tflite_utils, tfonnx
    from tf2onnx.graph import Graph as Draft

    names = {model.tensors[index].name: name for name, index in (*model.inputs.items(), *model.outputs.items())}
    kinds = dict(enumerate(model.operators))
    weights: list[str] = []
    kinds_of: dict[str, str] = {}
    drafts = []
    for part in tflite_utils.get_model_subgraphs(model.parsed):
        is_main = part._tab.Pos == model.main._tab.Pos
        prefix = "" if is_main else f"{part.Name().decode()}_"
        nodes, _, _, shapes, dtypes, inputs, outputs, name = tflite_utils.parse_tflite_graph(
            part, kinds, model.parsed, prefix
        )
        if is_main:
            weights = _weights(nodes, model)
            kinds_of = {name: node.op_type for node in nodes if not _is_fused(node) for name in node.output}
            nodes = _opened(nodes, dtypes, set(weights))
        draft = Draft(
            nodes,
            shapes,
            dtypes,
            input_names=[*inputs, *weights] if is_main else inputs,
            output_names=outputs,
            is_subgraph=not is_main,
            graph_name=name,
        )
        draft.set_config(None, OPSET, None)
        drafts.append(draft)
    tfonnx.clear_functions()
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        done = tfonnx.process_graphs(
            drafts[-1],
            drafts[:-1],
            {"TFL_GELU": (_gelu, [])},
            [],
            [],
            continue_on_error=False,
            custom_rewriter=None,
            initialized_tables=None,
            tensors_to_rename=names,
            is_tflite=True,
        )
        return optimizer.optimize_graph(done, catch_errors=False), weights, kinds_of


def _weights(nodes: list[onnx.NodeProto], model: TfliteModel) -> list[str]:
    """Constants that are no sizes, positions or single numbers."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    found = []
    for node in nodes:
        if node.op_type == "Const":
            tensor, array = tensors[node.name], model.constants.get(node.name)
            if array is not None and array.ndim and (array.dtype.kind == "f" or tensor.is_quantized):
                found.append(node.name)
    return found


def _opened(nodes: list[onnx.NodeProto], dtypes: dict[str, int], weights: set[str]) -> list[onnx.NodeProto]:
    """Turn weights into inputs; those of float16 into float32, without the operators that say so."""
    half = {name for name in weights if dtypes[name] == TensorProto.FLOAT16}
    dtypes.update(dict.fromkeys(half, TensorProto.FLOAT))
    changed = []
    for node in nodes:
        if node.op_type == "Const" and node.name in weights:
            node = helper.make_node("Placeholder", [], [node.name], name=node.name)
        elif node.op_type == "TFL_DEQUANTIZE" and node.input[0] in half:
            node = helper.make_node("Identity", list(node.input), list(node.output), name=node.name)
        changed.append(node)
    return changed


def _gelu(graph: Any, node: Any, name: str, args: Any) -> None:
    """Write ``x·Φ(x)``, by erf or approximately by tanh; tf2onnx has no handler for it."""
    from tf2onnx import utils

    kind, shape, x = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0]), node.input[0]
    is_approximate = bool(node.get_attr_value("approximate", 0))
    outputs = list(node.output)

    def constant(value: float) -> str:
        array = np.array(value, utils.map_onnx_to_numpy_type(kind))
        return str(graph.make_const(utils.make_name(name), array).output[0])

    def made(operator: str, *read: str) -> str:
        return str(graph.make_node(operator, list(read), dtypes=[kind], shapes=[shape]).output[0])

    graph.remove_node(name)
    half = made("Mul", x, constant(0.5))
    if is_approximate:
        cubed = made("Mul", made("Mul", made("Mul", x, x), x), constant(0.044715))
        inside = made("Tanh", made("Mul", made("Add", x, cubed), constant(float(np.sqrt(2 / np.pi)))))
    else:
        inside = made("Erf", made("Mul", x, constant(float(np.sqrt(0.5)))))
    total = made("Add", inside, constant(1.0))
    graph.make_node("Mul", [half, total], name=name, outputs=outputs, dtypes=[kind], shapes=[shape])


def _check_operators(proto: onnx.ModelProto, source: str) -> None:
    """Refuse a model in which operators of TensorFlow Lite are left.

    Raises
    ------
    ModelError
        One is.
    """
    for node in proto.graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            kind = node.op_type.removeprefix("TFL_")
            raise ModelError(f"{source}: {node.output[0]!r} is the operator {kind}, which tf2onnx cannot convert")


def _is_fused(node: onnx.NodeProto) -> bool:
    """Whether an operator ends with an activation, which becomes an operator of its own."""
    return any(item.name == "fused_activation_function" and item.s != b"NONE" for item in node.attribute)


def _same_values(draft: Any, model: TfliteModel, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Give the names of float tensors that are values of the graph, with their axes in the same order."""
    made = {name: node.type for node in draft.get_nodes() for name in node.output}
    return tuple(
        tensor.name
        for tensor in model.tensors
        if tensor.name in made
        and made[tensor.name] == SINGLE.get(kinds.get(tensor.name, ""))
        and tensor.dtype.kind == "f"
        and (draft.get_shape(tensor.name) or [])[1:] == [*tensor.shape[1:]]
    )


def _fill(proto: onnx.ModelProto, values: Arrays) -> None:
    """Make initializers of the inputs that are weights."""
    inputs = [value for value in proto.graph.input if value.name not in values]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())


def _open_batch(proto: onnx.ModelProto, model: TfliteModel) -> None:
    """Name the open axes; where the file fixes a batch of one, open it.

    What the converter derived from the one is taken back: declared shapes, and the sizes that Reshape is given. The
    comparison with the interpreter tells whether that was all.
    """
    was_fixed = False
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = model.tensors[model.inputs[value.name]].shape
        was_fixed |= shape[:1] == (1,)
        for axis, size in enumerate(shape):
            if axis == 0 and size in (-1, 1):
                dims[axis].dim_param = BATCH
            elif size < 0:
                dims[axis].ClearField("dim_param")
                dims[axis].ClearField("dim_value")
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value <= 0 or (axis == 0 and was_fixed):
                dim.ClearField("dim_value")
                dim.ClearField("dim_param")
    if was_fixed:
        _open_reshapes(proto)


def _open_reshapes(proto: onnx.ModelProto) -> None:
    """Let each Reshape that is told a first size of one find it out: as the rest, or as it is in what is reshaped."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        sizes = held.get(node.input[1]) if node.op_type == "Reshape" else None
        if sizes is None or not sizes.size or sizes[0] != 1:
            continue
        opened = sizes.copy()
        opened[0] = 0 if -1 in sizes else -1
        name = f"{node.output[0]}/sizes"
        proto.graph.initializer.append(numpy_helper.from_array(opened, name))
        node.input[1] = name
