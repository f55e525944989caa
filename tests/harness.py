"""Helpers for tests: graphs written as text, and checks that two graphs compute the same or look the same.

``tests/test_harness.py`` plants faults and shows which check catches them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.model import Graph

__all__ = [
    "RUNTIME",
    "assert_equivalent",
    "assert_same_structure",
    "graph",
    "proto",
    "random_feeds",
    "run",
    "small_graph",
]

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'

RUNTIME: Runtime = OnnxRuntimeBackend(optimize=False)
"""Runs every operator as it is written."""

BATCHES = (1, 3)
"""Sizes given to an open first axis."""

OPEN_AXIS = 5
"""Size given to every other open axis."""


def proto(
    text: str, given: Mapping[str, NDArray[Any]] = MappingProxyType({}), *, seed: int = 0, **weights: NDArray[Any]
) -> onnx.ModelProto:
    """Parse ONNX text; a header is put ahead where it has none.

    Values that are declared among the initializers without values, as ``w`` in ``<float[4,3] w>``, and that no
    operator writes become initializers: what ``given`` or ``weights`` holds under their name, else random values that
    depend on ``seed``, name, type and shape alone, so that two graphs of equally named weights hold the same.
    """
    weights = {**given, **weights}
    model = parser.parse_model(text if text.lstrip().startswith("<") else HEAD + text)
    declared = list(model.graph.value_info)
    written = {name for node in model.graph.node for name in node.output}
    del model.graph.value_info[:]
    unused = set(weights)
    for info in declared:
        if info.name in written:
            model.graph.value_info.append(info)
            continue
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        values = weights[info.name] if info.name in weights else _weights(info.name, shape, dtype, seed)
        assert values.shape == tuple(shape), f"{info.name}: {values.shape} given, {shape} declared"
        unused.discard(info.name)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), info.name))
    assert not unused, f"no initializers are declared for {sorted(unused)}"
    return model


def graph(
    text: str, given: Mapping[str, NDArray[Any]] = MappingProxyType({}), *, seed: int = 0, **weights: NDArray[Any]
) -> Graph:
    """Build a graph from ONNX text, see :func:`proto`."""
    return Graph.from_proto(proto(text, given, seed=seed, **weights))


def small_graph(case: str) -> Graph:
    """Build a graph from ``inputs | initializers | nodes``; its output is ``y``, of any shape."""
    inputs, weights, nodes = case.split(" | ")
    head = '<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>'
    return graph(f"{head} g ({inputs}) => (float[] y) <{weights}> {{ {nodes} }}")


def _weights(name: str, shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> NDArray[Any]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if dtype.kind in "iub":
        return rng.integers(0, 2 if dtype.kind == "b" else 8, shape)
    fan_in = int(np.prod(shape[1:])) or 1
    values: NDArray[Any] = rng.standard_normal(shape) / np.sqrt(fan_in)
    return values


def random_feeds(specs: Mapping[str, InputSpec], batch: int, seed: int) -> dict[str, NDArray[Any]]:
    """Make inputs: floats standard normal, integers 0, 1 or 2, open axes of size ``batch`` (first) or 5."""
    rng = np.random.default_rng([seed, batch])
    feeds = {}
    for name, spec in specs.items():
        assert spec.dtype is not None, f"input {name!r} declares no type"
        assert spec.shape is not None, f"input {name!r} declares no shape"
        open_sizes = (batch if axis == 0 else OPEN_AXIS for axis in range(len(spec.shape)))
        shape = [size if isinstance(size, int) else free for size, free in zip(spec.shape, open_sizes, strict=True)]
        if spec.dtype.kind in "iub":
            feeds[name] = rng.integers(0, 2 if spec.dtype.kind == "b" else 3, shape).astype(spec.dtype)
        else:
            feeds[name] = rng.standard_normal(shape).astype(spec.dtype)
    return feeds


def run(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run ``graph`` once, nothing fused or folded."""
    return RUNTIME.load(graph, threads=1).run(feeds)


def assert_equivalent(actual: Graph, expected: Graph, *, tolerance: float = 1e-5, seed: int = 0) -> None:
    """Check that two graphs have the same interface and compute the same on random inputs.

    Parameters
    ----------
    actual, expected
        The graphs.
    tolerance
        Largest difference of two floats, relative to the largest magnitude in the expected output. 0 asks for equal
        bits. Whatever is not a float must be equal.
    seed
        Seed of the inputs.
    """
    specs = input_specs(expected)
    assert input_specs(actual) == specs, f"inputs are {input_specs(actual)}, not {specs}"
    names = [value.name for value in expected.outputs]
    assert [value.name for value in actual.outputs] == names, f"outputs are {actual.outputs}, not {names}"
    is_open = any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs.values())
    sessions = RUNTIME.load(actual, threads=1), RUNTIME.load(expected, threads=1)
    for batch in BATCHES if is_open else BATCHES[:1]:
        feeds = random_feeds(specs, batch, seed)
        found, wanted = (session.run(feeds) for session in sessions)
        assert wanted, "the graph gives no output that can be compared"
        for name, reference in wanted.items():
            _assert_close(found[name], reference, tolerance, f"output {name!r}, batch of {batch}")


def _assert_close(found: NDArray[Any], wanted: NDArray[Any], tolerance: float, where: str) -> None:
    assert found.dtype == wanted.dtype, f"{where}: {found.dtype}, not {wanted.dtype}"
    assert found.shape == wanted.shape, f"{where}: shape {found.shape}, not {wanted.shape}"
    assert wanted.size, f"{where}: is empty, so nothing is compared"
    if wanted.dtype.kind != "f":
        assert np.array_equal(found, wanted), f"{where}: differs in {np.count_nonzero(found != wanted)} places"
        return
    assert np.isfinite(wanted).all(), f"{where}: the expected values are not finite, so nothing is compared"
    scale = float(np.abs(wanted).max())
    assert scale > 0, f"{where}: the expected values are all 0, so nothing is compared"
    error = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    worst = np.unravel_index(int(np.nanargmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    assert error[worst] <= tolerance * scale, (
        f"{where}: {found[worst]} instead of {wanted[worst]} at {[int(axis) for axis in worst]} (scale {scale:g})"
    )


def assert_same_structure(actual: Graph, text: str) -> None:
    """Check interface, initializers, operators and edges of a graph against ONNX text, see :func:`proto`.

    Operators are known by the values they write, so the text needs no node names; their order does not matter. What
    is expected, edges included, is made of the text alone. Weights and inferred shapes are not looked at.
    """
    model = proto(text)
    wanted = model.graph
    found = actual.to_proto().graph
    for kind in ("input", "output"):
        seen, expected = (_interface(getattr(item, kind)) for item in (found, wanted))
        assert seen == expected, f"{kind}s are {seen}, not {expected}"
    constants, expected_constants = _constants(found), _constants(wanted)
    assert constants == expected_constants, f"initializers are {constants}, not {expected_constants}"
    _assert_same_items("operators", _operators(found), _operators(wanted))
    _assert_same_items("edges", _edges_of_view(actual), _edges_of_text(wanted))


def _assert_same_items(what: str, found: Counter[Any], wanted: Counter[Any]) -> None:
    missing, extra = wanted - found, found - wanted
    assert not missing, f"{what} missing: {list(missing)}; not expected: {list(extra)}"
    assert not extra, f"{what} not expected: {list(extra)}"


def _interface(values: Sequence[onnx.ValueInfoProto]) -> list[tuple[Any, ...]]:
    result = []
    for value in values:
        tensor = value.type.tensor_type
        result.append((value.name, tensor.elem_type, *(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)))
    return result


def _constants(found: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    dense = {tensor.name: (tensor.data_type, *tensor.dims) for tensor in found.initializer}
    return dense | {item.values.name: (item.values.data_type, *item.dims) for item in found.sparse_initializer}


def _operators(found: onnx.GraphProto) -> Counter[Any]:
    return Counter(
        (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            tuple(sorted(map(_attribute, node.attribute))),
        )
        for node in found.node
    )


def _attribute(attribute: onnx.AttributeProto) -> tuple[str, str]:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        value = sorted(map(repr, _operators(value))), sorted(_constants(value)), _interface(value.output)
    elif isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value).tolist()
    return attribute.name, repr(value)


def _edges_of_view(actual: Graph) -> Counter[Any]:
    view = actual.view()
    return Counter(
        (view.operator(producer).outputs, tensor.source, view.operator(consumer).outputs, tensor.target, tensor.name)
        for producer, consumer, tensor in view.tensors()
    )


def _edges_of_text(wanted: onnx.GraphProto) -> Counter[Any]:
    writer = {name: (tuple(node.output), index) for node in wanted.node for index, name in enumerate(node.output)}
    edges: Counter[Any] = Counter()
    for node in wanted.node:
        uses = list(enumerate(node.input))
        uses += [(-1, name) for name in _captures(node)]
        edges.update((*writer[name], tuple(node.output), target, name) for target, name in uses if name in writer)
    return edges


def _captures(node: onnx.NodeProto) -> dict[str, None]:
    """Names that the subgraphs of ``node`` read and do not define, in order."""
    names: dict[str, None] = {}
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in (*body.input, *body.initializer)}
            own.update(name for inner in body.node for name in inner.output)
            read = [name for inner in body.node for name in (*inner.input, *_captures(inner))]
            read += [value.name for value in body.output]
            names.update((name, None) for name in read if name and name not in own)
    return names
