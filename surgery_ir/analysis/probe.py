"""Probes: the smallest graphs in which a layer does what it does in a network, at any width.

A Conv alone between an input and an output is no fair sample of a Conv in a network. ONNX Runtime keeps activations
in blocks of channels (NCHWc) from one Conv to the next; alone, the Conv pays for bringing its input into that form and
its output out of it, and it writes an output that nothing reads out of the cache. So a Conv is probed between two
neighbours: a 1×1 Conv from one channel, which costs little and leaves its output in whatever form the runtime likes at
that width, and a MaxPool that keeps one pixel, which reads next to nothing and leaves nothing to bring back. The same
graph without the layer, the *carrier*, is measured too and taken off. It is as wide as whole blocks of 16, so that
where the layer's width does not fit the blocks, the layer that reads it pays for the conversion. It costs a conversion
per reader where a network makes do with one, so widths that do not fit look somewhat worse than they are.

Three probes were tried on a small ResNet (widths 16 to 112, batch 64, one thread, ONNX Runtime 1.31 on AVX-512), the
sum over its layers against the time of the whole. Layers alone: 27 % too slow, and the share that conversions have
grows as layers narrow, so that a network measured 4.2 times as quick as the dense one was predicted to be 3.1 times as
quick. Layers between neighbours: 3 to 10 % too quick, and no speed-up, from 1.2 to 4.2 times, off by more than 7 %.
Chains of the same layer, three less one, gave the same times to 4 %, but only layers that keep their width can be
chained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from surgery_ir.analysis.layers import Geometry, Layer
from surgery_ir.analysis.shapes import Shape
from surgery_ir.graph.model import Graph

__all__ = ["Kind", "Probe", "kind_of"]

FEED, RESULT = "x", "y"
OPSET, IR_VERSION = 17, 8
CARRIER = "Carrier"

ALIGNED = 16
"""Channels of a carrier are a multiple of this, whatever those of the layer are."""


@dataclass(frozen=True, slots=True)
class Kind:
    """All that the time of a layer depends on but its widths.

    Parameters
    ----------
    op_type
        ``Conv``, ``Gemm`` or ``MatMul``.
    rows
        Batch of a Conv; rows of the product of a Gemm or MatMul; matrices that a weight on the left is applied to.
    size
        Spatial size of a Conv's input; columns of the product where the weight is on the left; else empty.
    geometry
        How a Conv slides; ``None`` otherwise.
    groups
        Groups of a Conv that stay as they are: widths are channels *per group*, as those of
        :class:`~surgery_ir.analysis.layers.Layer`.
    group_shape
        Input and output channels of a group where groups come and go as a whole, as in a depthwise Conv: (1, 1).
        Then there is one width, the number of groups. ``None`` otherwise.
    transposed, left
        How the weights are held, see :class:`~surgery_ir.analysis.layers.Layer`.
    fed
        Whether the layer reads an input of the network, which is in no blocks, and not what another layer wrote.
    dtype
        Type of weights and activations.
    """

    op_type: str
    rows: int
    size: tuple[int, ...] = ()
    geometry: Geometry | None = None
    groups: int = 1
    group_shape: tuple[int, int] | None = None
    transposed: bool = False
    left: bool = False
    fed: bool = False
    dtype: ir.DataType = ir.DataType.FLOAT

    def channels(self, inputs: int, outputs: int) -> tuple[int, int, int]:
        """Groups, and input and output channels of each, at the given widths."""
        if self.group_shape is not None:
            return inputs, *self.group_shape
        return self.groups, inputs, outputs


def kind_of(
    layer: Layer,
    shapes: Mapping[str, Shape],
    *,
    whole_groups: bool = False,
    fed: bool = False,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> Kind | None:
    """Tell what kind of layer ``layer`` is.

    Parameters
    ----------
    layer
        The layer; its present widths play no part, unless groups are cut whole.
    shapes
        Shapes of values for the batch to be timed, see :func:`~surgery_ir.analysis.shapes.infer_shapes`.
    whole_groups
        Cut whole groups of a Conv, not channels inside each. A depthwise Conv is always cut that way.
    fed
        Whether the layer reads an input of the network.
    dtype
        Type of its weights.

    Returns
    -------
    Kind or None
        ``None`` where the shape of its input is not known.
    """
    known = shapes.get(layer.input)
    sizes = tuple(size for size in known or () if size is not None)
    if known is None or len(sizes) != len(known):
        return None
    if layer.geometry is None:
        inner = 2 if layer.left else 1
        return Kind(
            layer.op_type, math.prod(sizes[:-inner]), sizes[-1:] if layer.left else (),
            transposed=layer.transposed, left=layer.left, fed=fed, dtype=dtype,
        )  # fmt: skip
    by_group = layer.groups > 1 and (whole_groups or layer.channels == 1)
    return Kind(
        layer.op_type, sizes[0], sizes[2:], layer.geometry, 1 if by_group else layer.groups,
        (layer.channels, layer.outputs) if by_group else None, fed=fed, dtype=dtype,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Probe:
    """A graph to time: a layer of some kind at some widths between its neighbours, or the neighbours alone."""

    kind: Kind
    inputs: int
    outputs: int

    def carrier(self) -> Probe:
        """Give the probe without its layer; the difference of the two times is the layer's."""
        kind = self.kind
        if kind.op_type != "Conv" or kind.fed:
            return Probe(Kind(CARRIER, 1, dtype=kind.dtype), 1, 1)
        groups, inputs, _ = kind.channels(self.inputs, self.outputs)
        return Probe(Kind(CARRIER, kind.rows, kind.size, dtype=kind.dtype), -(-groups * inputs // ALIGNED) * ALIGNED, 1)

    @property
    def weights(self) -> int:
        """Number of weights, bias aside."""
        groups, inputs, outputs = self.kind.channels(self.inputs, self.outputs)
        return groups * inputs * outputs * (math.prod(self.kind.geometry.kernel) if self.kind.geometry else 1)

    def build(self, seed: int = 0) -> tuple[Graph, dict[str, NDArray[np.floating]]]:
        """Build the graph, and one batch to feed it; weights and samples are normal noise."""
        kind = self.kind
        network = _Network(kind.dtype, np.random.default_rng(seed))
        if kind.op_type == CARRIER and not kind.size:  # what a call costs that computes nothing
            shape: tuple[int, ...] = (1, 1)
            network.add("Relu", FEED)
        elif kind.op_type == CARRIER:
            shape = (kind.rows, 1, *kind.size)
            network.carry(self.inputs, len(kind.size))
            network.drop(kind.size)
        elif kind.op_type == "Conv":
            groups, inputs, outputs = kind.channels(self.inputs, self.outputs)
            shape = (kind.rows, groups * inputs if kind.fed else 1, *kind.size)
            if not kind.fed:
                network.carry(groups * inputs, len(kind.size))
            assert kind.geometry is not None
            network.convolve(groups, inputs, outputs, kind.geometry)
            network.add("Relu")
            network.drop(kind.size)
        else:
            shape = (kind.rows, self.inputs, *kind.size) if kind.left else (kind.rows, self.inputs)
            network.multiply(kind, self.inputs, self.outputs)
        return network.close(shape)


class _Network:
    """A chain of operators under construction."""

    def __init__(self, dtype: ir.DataType, rng: np.random.Generator) -> None:
        self.dtype = dtype
        self.rng = rng
        self.value = FEED
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op_type: str, *operands: str, **attributes: Any) -> None:
        """Append an operator that reads the last value, or ``operands``."""
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(operands or (self.value,)), [output], output, **attributes))
        self.value = output

    def weight(self, *shape: int, fan_in: int) -> str:
        name = f"weight_{len(self.initializers)}"
        array = self.noise(shape) / np.sqrt(fan_in)
        self.initializers.append(numpy_helper.from_array(array.astype(self.dtype.numpy()), name))
        return name

    def noise(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def carry(self, channels: int, rank: int) -> None:
        """Widen one channel to ``channels``."""
        self.convolve(1, 1, channels, Geometry((1,) * rank, (1,) * rank, (1,) * rank, (0,) * (2 * rank)))

    def convolve(self, groups: int, inputs: int, outputs: int, geometry: Geometry) -> None:
        weight = self.weight(groups * outputs, inputs, *geometry.kernel, fan_in=inputs * math.prod(geometry.kernel))
        bias = self.weight(groups * outputs, fan_in=1)
        pads = {"pads": geometry.pads} if geometry.auto_pad == "NOTSET" else {"auto_pad": geometry.auto_pad}
        self.add(
            "Conv", self.value, weight, bias, group=groups, kernel_shape=geometry.kernel, strides=geometry.strides,
            dilations=geometry.dilations, **pads,
        )  # fmt: skip

    def drop(self, size: tuple[int, ...]) -> None:
        """Keep the first pixel of each channel."""
        self.add("MaxPool", kernel_shape=(1,) * len(size), strides=size)

    def multiply(self, kind: Kind, inputs: int, outputs: int) -> None:
        weight = self.weight(*((inputs, outputs) if kind.transposed else (outputs, inputs)), fan_in=inputs)
        if kind.op_type == "Gemm":
            bias = self.weight(outputs, fan_in=1)
            self.add("Gemm", self.value, weight, bias, transB=int(not kind.transposed))
        else:
            self.add("MatMul", *((weight, self.value) if kind.left else (self.value, weight)))

    def close(self, shape: tuple[int, ...]) -> tuple[Graph, dict[str, NDArray[np.floating]]]:
        """Give the graph, the last value its output, and a feed of ``shape``."""
        self.nodes[-1].output[0] = RESULT
        graph = helper.make_graph(
            self.nodes, "probe", [helper.make_tensor_value_info(FEED, self.dtype.value, shape)],
            [helper.make_tensor_value_info(RESULT, self.dtype.value, None)], self.initializers,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return Graph.from_proto(model, "<probe>"), {FEED: self.noise(shape).astype(self.dtype.numpy())}
