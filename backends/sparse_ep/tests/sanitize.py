"""Run a few models with a library built with sanitizers: `python tests/sanitize.py LIBRARY`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

NAME = "SparseExecutionProvider"


def pruned(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of which nine in ten are zero."""
    weights = random.standard_normal(shape).astype(np.float32)
    return np.where(random.random(shape) < 0.9, np.float32(0), weights)


def convolutions(random: np.random.Generator) -> onnx.ModelProto:
    """A residual block over images of any number and size."""
    weights = {
        "a": pruned(random, 32, 16, 3, 3),
        "b": pruned(random, 32, 32, 1, 1),
        "c": pruned(random, 32, 16, 1, 1),
        "bias": random.standard_normal(32).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a", "bias"], ["a1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a1"], ["a2"]),
        helper.make_node("Conv", ["a2", "b"], ["b1"]),
        helper.make_node("Conv", ["x", "c"], ["c1"], strides=[2, 2]),
        helper.make_node("Add", ["b1", "c1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    return model(nodes, ["n", 16, "h", "w"], weights)


def tokens(random: np.random.Generator) -> onnx.ModelProto:
    """Two products with weights over any number of tokens."""
    weights = {"a": pruned(random, 48, 96), "bias": np.ones(96, np.float32), "b": pruned(random, 96, 48)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["a1"]),
        helper.make_node("Add", ["a1", "bias"], ["a2"]),
        helper.make_node("Relu", ["a2"], ["a3"]),
        helper.make_node("MatMul", ["a3", "b"], ["y"]),
    ]
    return model(nodes, ["n", "length", 48], weights)


def model(nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(proto: onnx.ModelProto, threads: int, options: dict[str, str] | None) -> onnxruntime.InferenceSession:
    """A session of the model; without options, of ONNX Runtime alone."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if options is not None:
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]
        settings.add_provider_for_devices(devices, options)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(proto.SerializeToString(), settings)


def check(proto: onnx.ModelProto, inputs: list[np.ndarray], threads: int, options: dict[str, str]) -> None:
    """Run from three threads at once and compare with ONNX Runtime alone."""
    ours = session(proto, threads, options)
    if all(part.ep_name != NAME for part in ours.get_provider_graph_assignment_info()):
        raise SystemExit(f"the provider took nothing with {options}")
    reference = session(proto, 1, None)
    expected = [reference.run(None, {"x": x})[0] for x in inputs]
    wrong: list[str] = []

    def work() -> None:
        for x, wanted in zip(inputs, expected, strict=True):
            found = ours.run(None, {"x": x})[0]
            if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4, atol=1e-4):
                wrong.append(f"{x.shape} with {options}")

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if wrong:
        raise SystemExit(f"wrong outputs for {wrong}")


def main() -> None:
    """Run everything there is to run."""
    onnxruntime.register_execution_provider_library(NAME, str(Path(sys.argv[1]).resolve()))
    random = np.random.default_rng(0)
    images = [random.standard_normal(s).astype(np.float32) for s in [(1, 16, 9, 7), (17, 16, 8, 8), (2, 16, 1, 33)]]
    texts = [random.standard_normal(shape).astype(np.float32) for shape in [(1, 1, 48), (3, 37, 48)]]
    for proto, inputs in [(convolutions(random), images), (tokens(random), texts)]:
        for options in [{}, {"jit": "off"}, {"isa": "generic"}]:
            for threads in [1, 2]:
                check(proto, inputs, threads, {"threshold": "0", "tuning": "off", **options})


if __name__ == "__main__":
    main()
