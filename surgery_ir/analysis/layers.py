"""Linear layers: operators with constant weights, seen as matrices of outputs × inputs.

Repair, pruning and reconnection all work on this one form. A Conv's columns run over kernel positions with the
input channel fastest, so that N:M patterns are runs of consecutive columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.graph.collector import collector_paused
from surgery_ir.graph.editor import WEIGHT_INPUTS
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, bodies

__all__ = ["Geometry", "Layer", "Layers", "Skipped", "find_ends", "find_layers"]

WEIGHTED_OPERATORS = frozenset(WEIGHT_INPUTS) - {"Conv", "Gemm", "MatMul"}
FLOATING = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
QUANTISED = "its weights are quantised"
UNFOLDED = "its weights are computed from constants: run canonicalize first"


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a Conv slides: one entry per spatial axis; ``pads`` holds all begins, then all ends.

    ``auto_pad`` is ``NOTSET``, ``SAME_UPPER``, ``SAME_LOWER`` or ``VALID``.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator that computes W x + b with a constant W.

    Parameters
    ----------
    name
        Name of the node.
    op_type
        ``Conv``, ``Gemm`` or ``MatMul``.
    weight
        Initializer that holds W in the operator's own layout.
    bias
        Initializer that holds b, or ``None``.
    input, output
        Values read and written; ``output`` includes the bias, even where a separate Add brings it.
    groups, outputs, inputs
        Groups of a Conv, and rows and columns of W *per group*.
    geometry
        How a Conv slides; ``None`` otherwise.
    transposed
        Whether the operator holds W as inputs × outputs.
    left
        Whether a MatMul has its weight on the left, so that inputs run along the last axis but one.
    scale
        ``alpha`` of a Gemm: W is ``scale`` times what is stored.
    bias_scale
        ``beta`` of a Gemm: b is ``bias_scale`` times what is stored.
    sharers
        Other nodes that read the same weights.
    """

    name: str
    op_type: str
    weight: str
    bias: str | None
    input: str
    output: str
    groups: int
    outputs: int
    inputs: int
    geometry: Geometry | None = None
    transposed: bool = False
    left: bool = False
    scale: float = 1.0
    bias_scale: float = 1.0
    sharers: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.groups * self.outputs * self.inputs

    @property
    def channels(self) -> int:
        """Input channels per group: columns divided by kernel positions."""
        return self.inputs // int(np.prod(self.geometry.kernel)) if self.geometry else self.inputs

    @property
    def channel_axis(self) -> int:
        """Axis of the output that runs over W's rows."""
        if self.geometry is not None:
            return 1
        return -2 if self.left else -1

    @property
    def takes_bias(self) -> bool:
        """Whether the operator has, or can be given, a bias."""
        return self.bias is not None or self.op_type in ("Conv", "Gemm")

    def matrix(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring stored weights into the form (groups, outputs, inputs)."""
        if self.op_type == "Conv":
            flat = array.reshape(self.groups, self.outputs, self.channels, -1)
            return flat.transpose(0, 1, 3, 2).reshape(self.groups, self.outputs, self.inputs)
        matrix = array.T if self.transposed else array
        scaled: NDArray[Any] = matrix * self.scale if self.scale != 1.0 else matrix
        return scaled.reshape(1, *scaled.shape)

    def array(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Bring a (groups, outputs, inputs) matrix back into the operator's layout; inverse of :meth:`matrix`."""
        if self.geometry is not None:
            kernel = self.geometry.kernel
            flat = matrix.reshape(self.groups, self.outputs, -1, self.channels).transpose(0, 1, 3, 2)
            return flat.reshape(self.groups * self.outputs, self.channels, *kernel)
        stored: NDArray[Any] = matrix[0] / self.scale if self.scale != 1.0 else matrix[0]
        return stored.T if self.transposed else stored


@dataclass(frozen=True, slots=True)
class Skipped:
    """An operator that holds weights but is not a layer we can solve, and why."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Layers:
    """The layers of a graph in topological order, and the operators that hold weights but are none.

    ``first`` are the layers that no other layer feeds, ``last`` those that feed no other.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    first: frozenset[str]
    last: frozenset[str]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@collector_paused()
def find_layers(graph: Graph) -> Layers:
    """Find every operator of the main graph that is a linear layer, and say why others with weights are not."""
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    unfolded = _unfolded(graph)
    for node in graph.model.graph:
        found = _read(graph, node, unfolded)
        if isinstance(found, Layer):
            layers.append(found)
        elif found is not None:
            skipped.append(Skipped(node.name or "", node.op_type, found))
    first, last = find_ends(graph, frozenset(layer.name for layer in layers))
    return Layers(tuple(layers), tuple(skipped), first, last)


def _read(graph: Graph, node: ir.Node, unfolded: Mapping[ir.Value, str]) -> Layer | str | None:
    """Read ``node`` as a layer; a text says why it is none, ``None`` that it holds no weights."""
    if node.domain not in STANDARD:
        weighted = any(graph.is_constant(value) and _is_matrix(value) for value in node.inputs)
        return f"operator {node.domain}.{node.op_type} has no rule" if weighted else None
    if node.op_type in WEIGHTED_OPERATORS:
        return f"operator {node.op_type} has no rule"
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        inside = _weighted_operators_inside(node)
        return f"its subgraph holds {inside} operators with weights; subgraphs are left alone" if inside else None
    constant = [graph.is_constant(value) for value in node.inputs]
    weight_index = 1 if len(constant) > 1 and constant[1] else 0
    if not any(constant[:2]):
        reasons = [unfolded[operand] for operand in node.inputs[:2] if operand is not None and operand in unfolded]
        if node.op_type == "Conv":
            reasons.append("its weights are computed by other operators")
        return reasons[0] if reasons else None
    value = node.inputs[weight_index]
    assert value is not None and value.const_value is not None
    if value.const_value.dtype not in FLOATING:
        return f"its weights are {value.const_value.dtype.name}, not floating point"
    if all(constant[:2]):
        return "both operands are constant: run canonicalize first"
    reason = _foreign_use(value, node.op_type, weight_index)
    if reason is not None:
        return reason
    if node.op_type == "Conv":
        return _read_conv(graph, node, value) if weight_index == 1 else "its weights are computed by other operators"
    if node.op_type == "Gemm":
        return _read_gemm(graph, node, value, weight_index)
    return _read_matmul(graph, node, value, weight_index)


def _is_matrix(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) >= 2


def _unfolded(graph: Graph) -> dict[ir.Value, str]:
    """Values that operators compute from constants alone, and what that means for a layer that reads one."""
    found: dict[ir.Value, str] = {}
    for node in graph.model.graph:
        read = [value for value in node.inputs if value is not None]
        if not read or not all(value in found or graph.is_constant(value) for value in read):
            continue
        quantised = node.op_type == "DequantizeLinear" or QUANTISED in map(found.get, read)
        found.update((value, QUANTISED if quantised else UNFOLDED) for value in node.outputs)
    return found


def _weighted_operators_inside(node: ir.Node) -> int:
    return sum(
        item.op_type in WEIGHT_INPUTS for body in bodies(node) for item in ir.traversal.RecursiveGraphIterator(body)
    )


def _foreign_use(value: ir.Value, op_type: str, index: int) -> str | None:
    """Why the weights cannot be changed on behalf of one layer: something else reads them in another role."""
    if value.is_graph_output():
        return "its weights are an output of the graph"
    for use in value.uses():
        if use.node.op_type != op_type or use.idx != index:
            return f"its weights are also read by {use.node.op_type} {use.node.name!r}"
    return None


def _sharers(value: ir.Value, node: ir.Node) -> tuple[str, ...]:
    return tuple(use.node.name or "" for use in value.uses() if use.node is not node)


def _names(*values: ir.Value | None) -> tuple[str, ...]:
    return tuple((value.name or "") if value is not None else "" for value in values)


def _constant_bias(graph: Graph, value: ir.Value | None, outputs: int) -> str | None:
    """Name of ``value`` if it is a constant with one entry per output that nothing else reads."""
    if value is None or not graph.is_constant(value) or value.const_value is None:
        return None
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    shape = tuple(value.const_value.shape)
    vector = bool(shape) and shape[-1] == outputs and all(size == 1 for size in shape[:-1])
    return value.name if vector else None


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(int(size) for size in value.const_value.shape.numpy())


def _read_conv(graph: Graph, node: ir.Node, weight: ir.Value) -> Layer | str:
    shape = _shape(weight)
    rank = len(shape) - 2
    if rank < 1:
        return f"its weights have shape {list(shape)}, a Conv needs a spatial axis"
    groups = _int(node, "group", 1)
    auto_pad = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    geometry = Geometry(
        kernel=shape[2:],
        strides=_ints(node, "strides", (1,) * rank),
        dilations=_ints(node, "dilations", (1,) * rank),
        pads=_ints(node, "pads", (0,) * (2 * rank)),
        auto_pad=auto_pad,
    )
    extra = node.inputs[2] if len(node.inputs) > 2 else None
    bias = _constant_bias(graph, extra, shape[0])
    if extra is not None and bias is None:
        return "its bias is not a constant of its own"
    source, target = _names(node.inputs[0], node.outputs[0])
    return Layer(
        name=node.name or "", op_type="Conv", weight=weight.name or "", bias=bias,
        input=source, output=target, groups=groups, outputs=shape[0] // groups, inputs=int(np.prod(shape[1:])),
        geometry=geometry, sharers=_sharers(weight, node),
    )  # fmt: skip


def _read_gemm(graph: Graph, node: ir.Node, weight: ir.Value, index: int) -> Layer | str:
    if index == 0 or _int(node, "transA", 0):
        return "a Gemm with its weights on the left or a transposed input has no rule"
    alpha, beta = _float(node, "alpha", 1.0), _float(node, "beta", 1.0)
    if alpha == 0:
        return "its alpha is 0: its weights have no effect"
    stored = _shape(weight)
    transposed = not _int(node, "transB", 0)
    inputs, outputs = stored if transposed else stored[::-1]
    extra = node.inputs[2] if len(node.inputs) > 2 else None
    bias = _constant_bias(graph, extra, outputs)
    if extra is not None and (bias is None or beta == 0):
        return "its third input is not a bias of its own" if beta else "its beta is 0: its bias has no effect"
    source, target = _names(node.inputs[0], node.outputs[0])
    return Layer(
        name=node.name or "", op_type="Gemm", weight=weight.name or "", bias=bias, input=source, output=target,
        groups=1, outputs=outputs, inputs=inputs, transposed=transposed, sharers=_sharers(weight, node),
        scale=alpha, bias_scale=beta if bias is not None else 1.0,
    )  # fmt: skip


def _read_matmul(graph: Graph, node: ir.Node, weight: ir.Value, index: int) -> Layer | str:
    stored = _shape(weight)
    if len(stored) != 2:
        return f"its weights have {len(stored)} axes; only matrices have a rule"
    left = index == 0
    outputs, inputs = stored if left else stored[::-1]
    source, target = _names(node.inputs[1 - index], node.outputs[0])
    bias = None
    following = None if left else _following_bias(graph, node, outputs)
    if following is not None:
        bias, target = following
    return Layer(
        name=node.name or "", op_type="MatMul", weight=weight.name or "", bias=bias, input=source, output=target,
        groups=1, outputs=outputs, inputs=inputs, transposed=not left, left=left, sharers=_sharers(weight, node),
    )  # fmt: skip


def _following_bias(graph: Graph, node: ir.Node, outputs: int) -> tuple[str, str] | None:
    """Find the Add that brings the bias of a MatMul: its constant and its output."""
    product = node.outputs[0]
    uses = list(product.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or product.is_graph_output():
        return None
    add = uses[0].node
    source = node.inputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else 1
    bias = _constant_bias(graph, add.inputs[1 - uses[0].idx], outputs)
    if bias is None or graph.array(bias).ndim > rank:  # it would add axes to the output
        return None
    return bias, add.outputs[0].name or ""


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def find_ends(graph: Graph, names: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Find which of the operators ``names`` none of them feeds, and which feed none: one sweep each way."""
    operators = list(graph.view().operators())
    fed: set[str] = set()
    first = set()
    for operator in operators:
        below = any(value in fed for value in (*operator.inputs, *operator.captures))
        if operator.name in names and not below:
            first.add(operator.name)
        if below or operator.name in names:
            fed.update(value for value in operator.outputs if value)
    feeding: set[str] = set()
    last = set()
    for operator in reversed(operators):
        above = any(value in feeding for value in operator.outputs)
        if operator.name in names and not above:
            last.add(operator.name)
        if above or operator.name in names:
            feeding.update(value for value in (*operator.inputs, *operator.captures) if value)
    return frozenset(first), frozenset(last)
