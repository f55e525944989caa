"""Random graphs of operators that work in any layout, with Transposes at random places between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from surgery_ir.graph.model import Graph

__all__ = ["random_graphs"]

Tensor = tuple[str, tuple[int, ...]]

UNARY = ("Relu", "Sigmoid", "Neg", "Tanh")
BINARY = ("Add", "Mul", "Sub", "Max")
REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax")


class Builder:
    """Adds operators to a graph that is drawn; the batch, which is open, is a size of its own."""

    BATCH = 10007

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.pool: list[Tensor] = []
        self.rng = np.random.default_rng(draw(st.integers(0, 10**6)))

    def pick(self, items: list[Tensor]) -> Tensor:
        """Draw one, later ones rather than earlier ones."""
        return items[-1 - self.draw(st.integers(0, min(3, len(items) - 1)))]

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"k{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, kind: str, inputs: list[str], *shapes: tuple[int, ...], **attributes: Any) -> list[Tensor]:
        names = [f"v{len(self.nodes)}_{index}" for index in range(len(shapes))]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        found = list(zip(names, shapes, strict=True))
        self.pool += found
        return found

    def axis(self, shape: tuple[int, ...]) -> int:
        return self.draw(st.integers(0, len(shape) - 1))

    def inner_axis(self, shape: tuple[int, ...]) -> int | None:
        """An axis that is not the batch."""
        axes = [axis for axis, size in enumerate(shape) if size != self.BATCH]
        return self.draw(st.sampled_from(axes)) if axes else None

    # --- operators

    def transpose(self, x: Tensor) -> None:
        order = self.draw(st.permutations(range(len(x[1]))))
        self.add("Transpose", [x[0]], tuple(x[1][axis] for axis in order), perm=order)

    def unary(self, x: Tensor) -> None:
        self.add(self.draw(st.sampled_from(UNARY)), [x[0]], x[1])

    def binary(self, x: Tensor) -> None:
        others = [
            item
            for item in self.pool
            if len(item[1]) == len(x[1]) and all(a == b or a == 1 for a, b in zip(item[1], x[1], strict=True))
        ]
        inputs = [x[0], self.pick(others)[0]]
        self.add(self.draw(st.sampled_from(BINARY)), inputs[:: self.draw(st.sampled_from([1, -1]))], x[1])

    def broadcast(self, x: Tensor) -> None:
        rank = self.draw(st.integers(0, len(x[1])))
        sizes = [1 if size == self.BATCH or self.draw(st.booleans()) else size for size in x[1][len(x[1]) - rank :]]
        inputs = [x[0], self.weights(*sizes)]
        self.add(self.draw(st.sampled_from(BINARY)), inputs[:: self.draw(st.sampled_from([1, -1]))], x[1])

    def reduce(self, x: Tensor) -> None:
        axis, keeps = self.inner_axis(x[1]), self.draw(st.booleans())
        if axis is not None:
            shape = (*x[1][:axis], *([1] if keeps else []), *x[1][axis + 1 :])
            kind = self.draw(st.sampled_from(REDUCE))
            self.add(
                kind, [x[0], self.integers(axis - self.draw(st.sampled_from([0, len(x[1])])))], shape, keepdims=keeps
            )

    def concat(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None:
            others = [x, *(item for item in self.pool if item[1] == x[1])]
            parts = [x[0], self.pick(others)[0]]
            self.add("Concat", parts, (*x[1][:axis], 2 * x[1][axis], *x[1][axis + 1 :]), axis=axis)

    def split(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None and x[1][axis] % 2 == 0:
            half = (*x[1][:axis], x[1][axis] // 2, *x[1][axis + 1 :])
            self.add("Split", [x[0]], half, half, axis=axis - len(x[1]), num_outputs=2)

    def softmax(self, x: Tensor) -> None:
        self.add("Softmax", [x[0]], x[1], axis=self.axis(x[1]))

    def pad(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None:
            pads = [0] * (2 * len(x[1]))
            pads[axis], pads[axis + len(x[1])] = 1, 2
            self.add("Pad", [x[0], self.integers(*pads)], (*x[1][:axis], x[1][axis] + 3, *x[1][axis + 1 :]))

    def slice(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None and x[1][axis] > 2:
            inputs = [x[0], self.integers(1), self.integers(x[1][axis] - 1), self.integers(axis)]
            self.add("Slice", inputs, (*x[1][:axis], x[1][axis] - 2, *x[1][axis + 1 :]))

    def unsqueeze(self, x: Tensor) -> None:
        if len(x[1]) < 5:
            axis = self.axis((*x[1], 1))
            self.add("Unsqueeze", [x[0], self.integers(axis)], (*x[1][:axis], 1, *x[1][axis:]))

    def squeeze(self, x: Tensor) -> None:
        ones = [axis for axis, size in enumerate(x[1]) if size == 1]
        if ones and len(x[1]) > 1:
            axis = self.draw(st.sampled_from(ones))
            self.add("Squeeze", [x[0], self.integers(axis)], (*x[1][:axis], *x[1][axis + 1 :]))

    def merge(self, x: Tensor) -> None:
        axis = self.axis(x[1])
        if axis + 1 < len(x[1]) and self.BATCH not in x[1][axis : axis + 2]:
            shape = (*x[1][:axis], x[1][axis] * x[1][axis + 1], *x[1][axis + 2 :])
            self.add("Reshape", [x[0], self._target(shape)], shape)

    def divide(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None and x[1][axis] % 3 == 0 and len(x[1]) < 5:
            shape = (*x[1][:axis], x[1][axis] // 3, 3, *x[1][axis + 1 :])
            self.add("Reshape", [x[0], self._target(shape)], shape)

    def _target(self, shape: tuple[int, ...]) -> str:
        return self.integers(*(-1 if size == self.BATCH else size for size in shape))

    def gather(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None:
            count = self.draw(st.sampled_from([0, 1, 4]))
            indices = self.constant(self.rng.integers(0, x[1][axis], (count,) if count else ()))
            self.add(
                "Gather", [x[0], indices], (*x[1][:axis], *([count] if count else []), *x[1][axis + 1 :]), axis=axis
            )

    def product(self, x: Tensor) -> None:
        if len(x[1]) >= 2 and x[1][-1] != self.BATCH:
            self.add("MatMul", [x[0], self.weights(x[1][-1], 5)], (*x[1][:-1], 5))

    def flatten(self, x: Tensor) -> None:
        if len(x[1]) >= 3 and x[1][0] == self.BATCH:
            features = int(np.prod(x[1][1:]))
            ((flat, _),) = self.add("Flatten", [x[0]], (self.BATCH, features))
            del self.pool[-1]
            self.add("Gemm", [flat, self.weights(7, features)], (self.BATCH, 7), transB=1)

    def convolve(self, x: Tensor) -> None:
        if len(x[1]) == 4 and x[1][0] == self.BATCH:
            self.add("Conv", [x[0], self.weights(3, x[1][1], 1, 1)], (x[1][0], 3, *x[1][2:]))

    def tile(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None and x[1][axis] < 8:
            repeats = [2 if place == axis else 1 for place in range(len(x[1]))]
            self.add("Tile", [x[0], self.integers(*repeats)], (*x[1][:axis], 2 * x[1][axis], *x[1][axis + 1 :]))

    def measure(self, x: Tensor) -> None:
        axis = self.inner_axis(x[1])
        if axis is not None:
            ((sizes, _),) = self.add("Shape", [x[0]], (len(x[1]),))
            ((size, _),) = self.add("Gather", [sizes, self.integers(axis)], (1,))
            ((number, _),) = self.add("Cast", [size], (1,), to=TensorProto.FLOAT)
            del self.pool[-3:]
            self.add("Div", [x[0], number], x[1])


STEPS: tuple[Callable[[Builder, Tensor], None], ...] = tuple(
    getattr(Builder, name)
    for name in (
        "transpose", "transpose", "transpose", "transpose", "transpose", "unary", "binary", "binary", "broadcast",
        "reduce", "concat", "split", "softmax", "pad", "slice", "unsqueeze", "squeeze", "merge", "divide", "gather",
        "product", "flatten", "convolve", "tile", "measure",
    )
)  # fmt: skip


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph with one input ``x`` of shape (N, …); its outputs are the tensors that nothing reads, and more."""
    builder = Builder(draw)
    shape = (builder.BATCH, *draw(st.permutations((3, 4, 6))))
    builder.pool.append(("x", shape))
    for _ in range(draw(st.integers(4, 24))):
        draw(st.sampled_from(STEPS))(builder, builder.pick(builder.pool))
    read = {name for node in builder.nodes for name in node.input}
    ends = [item for item in builder.pool[1:] if item[0] not in read or draw(st.integers(0, 9)) == 0]
    if not ends:
        builder.unary(builder.pool[0])
        ends = builder.pool[-1:]

    def info(name: str, sizes: tuple[int, ...]) -> ValueInfoProto:
        dims = ["N" if size == builder.BATCH else size for size in sizes]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    inner = helper.make_graph(
        builder.nodes, "random", [info("x", shape)], [info(*item) for item in ends], builder.initializers
    )
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Graph.from_proto(model)
