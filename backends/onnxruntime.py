"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.backends.base import Capabilities
from surgery_ir.errors import BackendError
from surgery_ir.graph import external, sparse
from surgery_ir.graph.model import Graph

__all__ = ["CPU", "OnnxRuntimeBackend", "OnnxRuntimeSession", "session_options"]

CPU = "CPUExecutionProvider"

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    TypeError,
)
"""ONNX Runtime's own exceptions share no base; its Python layer adds three of the language's."""

SHARED_THRESHOLD = 1024
"""Weights of at least this many bytes are handed over as arrays; smaller ones travel in the protobuf."""

SILENT = 4

NATIVE = frozenset("?bBhHiIlLqQefdOUS")
"""Type characters of the arrays that ONNX Runtime exchanges with numpy."""

FOREIGN = re.compile(r"bfloat16|float8|float4|int4|int2")
"""Types of ONNX Runtime that it does not turn into arrays."""

NOISE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\[(?:ONNXRuntimeError\] : \d+ : \w+ :|ShapeInferenceError\]|TypeInferenceError\]) ", ""),
        (r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: ", r"\1 '\2': "),
        # /path/file.cc:12 type Class::function(type, type<type()>) const condition was false. What happened.
        (r"\S*/\S+\.(?:cc|h):\d+ .*?\((?:[^()]|\([^()]*\))*\)(?: const)? (?:.*? was false\. )?", ""),
        # file.cc:12 Function What happened
        (r"\b\w+\.(?:cc|h):\d+ \w+ ", ""),
    )
)


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider.

    Parameters
    ----------
    optimize
        Let the runtime fuse and fold. Without it every operator runs as it is written, so that the values of two
        graphs can be compared bit for bit.
    """

    optimize: bool = True
    name: str = field(default="onnxruntime", init=False)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(version=str(ort.__version__))

    def load(self, graph: Graph, *, threads: int = 0) -> OnnxRuntimeSession:
        options = session_options(threads)
        if not self.optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeSession(graph, options)


def session_options(threads: int) -> ort.SessionOptions:
    """Make the options that every session has, whatever its provider; ``threads`` = 0 leaves the number to it."""
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Idle workers of one session would otherwise go on spinning on the cores that another session is timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxRuntimeSession:
    """A graph loaded in ONNX Runtime.

    Outputs that are sequences or maps come as lists, those of types that numpy lacks (bfloat16, float8) not at all.

    Parameters
    ----------
    graph
        Graph to load. Its weights are shared, not copied, whatever their size, and no file is written.
    options
        ONNX Runtime's options.
    providers
        ONNX Runtime's execution providers; the first that can runs an operator.

    Raises
    ------
    BackendError
        ONNX Runtime refuses the graph, or an input or every output is of a type that numpy lacks.
    """

    def __init__(self, graph: Graph, options: ort.SessionOptions, providers: Sequence[str] = (CPU,)) -> None:
        self.source = graph.source
        self.inputs: Mapping[str, InputSpec] = input_specs(graph)
        for name, spec in self.inputs.items():
            if spec.dtype is not None and spec.dtype.char not in NATIVE:
                raise BackendError(f"{self.source}: ONNX Runtime cannot be fed input {name!r} of type {spec.dtype}")
        try:
            payload, self._weights = _split(graph)
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
            # Where a provider fails, ONNX Runtime would otherwise print that and go on without it.
            self._session = ort.InferenceSession(payload, options, providers=list(providers), enable_fallback=0)
        except ORT_ERRORS as error:
            raise BackendError(f"{self.source}: ONNX Runtime refuses the model: {_one_line(error)}") from error
        self.output_names = tuple(
            output.name for output in self._session.get_outputs() if not FOREIGN.search(output.type)
        )
        if not self.output_names:
            raise BackendError(f"{self.source}: ONNX Runtime gives no output of the model as an array")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch.

        Raises
        ------
        BackendError
            The feeds do not fit the inputs, or an operator fails on them.
        """
        try:
            values = self._session.run(list(self.output_names), dict(feeds))
        except ORT_ERRORS as error:
            raise BackendError(f"{self.source}: ONNX Runtime failed: {_one_line(error)}") from error
        return dict(zip(self.output_names, values, strict=True))


def _split(graph: Graph) -> tuple[bytes, dict[str, ort.OrtValue]]:
    """Serialise ``graph`` without its big weights, and give those beside it.

    They are declared as external data that nobody ever reads: ONNX Runtime takes the arrays instead. So there is
    no copy, no limit of 2 GB and no temporary file, and weights that are mapped from a file stay mapped.
    """
    model = graph.model.clone()
    external.inline(model)
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < SHARED_THRESHOLD or not _shareable(tensor.dtype):
            continue
        if not value.uses() and not value.is_graph_output():
            continue  # the runtime drops it before it looks for its values, and would miss it
        sparse.mark_sparse(value, False)
        array = np.ascontiguousarray(tensor.numpy())
        weights[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, tensor.dtype.value)
        value.const_value = ir.ExternalTensor(
            "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    return Graph(model, graph.source).to_proto(inlined=False).SerializeToString(), weights


def _shareable(dtype: ir.DataType) -> bool:
    return dtype != ir.DataType.STRING and dtype.bitwidth >= 8


def _one_line(error: Exception) -> str:
    """Strip error codes, and the places in ONNX Runtime's sources, from a message."""
    text = " ".join(str(error).split())
    for pattern, replacement in NOISE:
        text = pattern.sub(replacement, text)
    return text or type(error).__name__
