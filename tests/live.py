"""A framework of the tests' own: parameters by name, and a program of ONNX operators that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import Lowered
from surgery_ir.frontends.parameters import bind
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, proto

__all__ = ["Framework", "framework", "lower"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Framework:
    """A model of the framework. ``layers`` are the names of values of the program that it tells of."""

    program: onnx.ModelProto
    weights: dict[str, NDArray[Any]]
    layers: tuple[str, ...] = ()
    framework: str = "Testflow"
    assigned: list[str] = field(default_factory=list)

    def graph(self) -> Graph:
        """Give the program with the weights of now as initializers."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.program)
        del copy.graph.initializer[:]
        given = {tensor.name: tensor for tensor in self.program.graph.initializer}
        for name in given.keys() | self.weights.keys():
            tensor = given.get(name)
            if name in self.weights:
                tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(self.weights[name]), name)
            assert tensor is not None
            copy.graph.initializer.append(tensor)
        return Graph.from_proto(copy, "<model>")

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        return tuple(RUNTIME.load(self.graph()).run(feeds).values())

    def inner(self, feeds: Arrays) -> Mapping[str, tuple[str, NDArray[Any]]]:
        if not self.layers:
            return {}
        found = RUNTIME.load(with_outputs(self.graph(), self.layers)).run(feeds)
        return {name: (f"layer {name}", found[name]) for name in self.layers}

    def parameters(self) -> Arrays:
        return dict(self.weights)

    def assign(self, values: Arrays) -> None:
        for name, value in values.items():
            if name not in self.weights or self.weights[name].shape != value.shape:
                raise ModelError(f"there is no parameter {name!r} of shape {list(value.shape)}")
        for name, value in values.items():
            self.weights[name] = value.astype(self.weights[name].dtype)
            self.assigned.append(name)


def framework(text: str, *layers: str, seed: int = 0, **weights: NDArray[Any]) -> Framework:
    """Make a model from a program as text; floats among its initializers are parameters, drawn unless given."""
    program = proto(text, weights, seed=seed)
    parameters = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in program.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    return Framework(program, parameters, layers)


def lower(model: Framework, feeds: Arrays) -> Lowered:
    """Lower a model as a frontend does."""
    graph = model.graph()
    return settle(graph, bind(graph, model.parameters()), model, feeds, RUNTIME)
