"""The provider as a guest of ONNX Runtime: registration, options, placement, threads, lifetimes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime_ep_sparse
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.sessions import Array

NAME = "SparseExecutionProvider"
Configure = Callable[[onnxruntime.SessionOptions, dict[str, str]], list[str] | None]


def devices() -> list[onnxruntime.OrtEpDevice]:
    """The devices of the provider."""
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]


def by_devices(settings: onnxruntime.SessionOptions, options: dict[str, str]) -> None:
    """Ask for the provider with its devices."""
    settings.add_provider_for_devices(devices(), options)


def by_name(settings: onnxruntime.SessionOptions, options: dict[str, str]) -> list[str]:
    """Ask for the provider by its name."""
    if onnxruntime.__version__.startswith("1.24."):
        pytest.skip("this version of ONNX Runtime takes plug-ins by their devices only")
    for key, value in options.items():
        settings.add_session_config_entry(f"ep.{NAME.lower()}.{key}", value)
    return [NAME, "CPUExecutionProvider"]


def start(
    model: onnx.ModelProto | Path,
    options: dict[str, str] | None,
    threads: int = 1,
    configure: Configure = by_devices,
) -> onnxruntime.InferenceSession:
    """A session of the model; without options, one of the CPU provider alone."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = None if options is None else configure(settings, {"tuning": "off", **options})
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, settings, providers=providers, enable_fallback=False)


def taken(session: onnxruntime.InferenceSession) -> list[str]:
    """Types of the operators that the provider runs."""
    parts = session.get_provider_graph_assignment_info()
    return sorted(node.op_type for part in parts if part.ep_name == NAME for node in part.get_nodes())


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: list[str],
    weights: dict[str, Array],
) -> onnx.ModelProto:
    """A model over floats."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pruned(*shape: int) -> Array:
    """Weights of which about nine in ten are zero."""
    random = np.random.default_rng(sum(shape))
    return np.where(random.random(shape) < 0.9, 0, random.standard_normal(shape)).astype(np.float32)


def values(*shape: int) -> Array:
    """Something to feed."""
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def products(between: list[onnx.NodeProto] | None = None, outputs: list[str] | None = None) -> onnx.ModelProto:
    """Two products with an activation: y = relu(x a) b, and what is given beside them."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
        *(between or []),
    ]
    weights = {"a": pruned(32, 64), "b": pruned(64, 48)}
    return model(nodes, {"x": ["batch", "tokens", 32]}, outputs or ["y"], weights)


def same(session: onnxruntime.InferenceSession, proto: onnx.ModelProto | Path, feed: dict[str, Array]) -> None:
    """Compare the session with the CPU provider alone."""
    for ours, theirs in zip(session.run(None, feed), start(proto, None).run(None, feed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_package_says_where_the_library_is() -> None:
    path = onnxruntime_ep_sparse.get_library_path()
    assert os.path.isabs(path)
    assert os.path.isfile(path)
    assert onnxruntime_ep_sparse.get_ep_name() == NAME
    assert onnxruntime_ep_sparse.get_ep_names() == [NAME]


def test_registration_happens_once() -> None:
    for _ in range(2):
        onnxruntime_ep_sparse.register()
    assert len(devices()) == 1


def test_the_device_is_the_processor() -> None:
    (device,) = devices()
    assert device.device.type == onnxruntime.OrtHardwareDeviceType.CPU
    assert device.ep_vendor == "surgery-ir"
    assert device.ep_metadata["version"] == onnxruntime_ep_sparse.__version__


@pytest.mark.parametrize("version", ["1.23.2", "1.32.0", "2.0.1"])
def test_register_names_the_versions_it_works_with(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(RuntimeError) as error:
        onnxruntime_ep_sparse.register()
    assert str(error.value).endswith(f"works with ONNX Runtime 1.24 to 1.31, this is {version}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["1.23.2", "1.32.0", "2.25.0", "1.3", "1.", "", "nonsense"])
def test_the_library_refuses_other_versions_in_one_line(version: str) -> None:
    messages: list[str] = []

    def create_status(_code: int, message: bytes) -> int:
        messages.append(message.decode())
        return 1234

    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(create_status)
    # A table of one function, which is all that a library that refuses may ask for.
    table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p))
    asked: list[int] = []

    def get_table(wanted: int) -> int | None:
        asked.append(wanted)
        return ctypes.addressof(table) if wanted == 1 else None

    text = ctypes.create_string_buffer(version.encode())

    def get_version() -> int:
        return ctypes.addressof(text)

    calls = (
        ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(get_table),
        ctypes.CFUNCTYPE(ctypes.c_void_p)(get_version),
    )
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(call, ctypes.c_void_p) for call in calls))
    factories = (ctypes.c_void_p * 4)()
    count = ctypes.c_size_t(99)
    create_factories = ctypes.CDLL(onnxruntime_ep_sparse.get_library_path()).CreateEpFactories
    create_factories.restype = ctypes.c_void_p
    status = create_factories(b"name", base, None, factories, ctypes.c_size_t(4), ctypes.byref(count))
    assert status == 1234
    assert count.value == 0
    assert factories[0] is None
    assert messages == [f"{NAME}: ONNX Runtime 1.24 to 1.31 is needed, this is {version}"]
    assert asked == [1]


@pytest.mark.parametrize("configure", [by_devices, by_name])
def test_layers_are_placed_and_right(configure: Configure) -> None:
    proto = products()
    session = start(proto, {}, configure=configure)
    assert taken(session) == ["MatMul", "MatMul", "Relu"]
    assert NAME in session.get_providers()
    same(session, proto, {"x": values(2, 5, 32)})


@pytest.mark.parametrize("configure", [by_devices, by_name])
def test_the_threshold_is_obeyed(configure: Configure) -> None:
    proto = products()
    assert taken(start(proto, {"threshold": "0.85"}, configure=configure)) == ["MatMul", "MatMul", "Relu"]
    assert taken(start(proto, {"threshold": "0.95"}, configure=configure)) == []


@pytest.mark.parametrize(
    "options",
    [{}, {"threads": "1"}, {"threads": "3"}, {"threads": "0"}, {"jit": "off"}, {"jit": "on"}, {"isa": "generic"}],
)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_options_do_not_change_results(options: dict[str, str], threads: int) -> None:
    proto = products()
    session = start(proto, options, threads)
    assert taken(session) == ["MatMul", "MatMul", "Relu"]
    for _ in range(5):
        same(session, proto, {"x": values(3, 40, 32)})


@pytest.mark.parametrize("configure", [by_devices, by_name])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("threads", "two", "option threads takes a number from 0 (all of the session's) to 1024, not 'two'"),
        ("threads", "-1", "option threads takes a number from 0 (all of the session's) to 1024, not '-1'"),
        ("threads", "2x", "option threads takes a number from 0 (all of the session's) to 1024, not '2x'"),
        ("threads", "1025", "option threads takes a number from 0 (all of the session's) to 1024, not '1025'"),
        (
            "threads",
            "99999999999",
            "option threads takes a number from 0 (all of the session's) to 1024, not '99999999999'",
        ),
        ("threshold", "1.01", "option threshold takes a share of zeros from 0 to 1, not '1.01'"),
        ("threshold", "-0.1", "option threshold takes a share of zeros from 0 to 1, not '-0.1'"),
        ("threshold", ".", "option threshold takes a share of zeros from 0 to 1, not '.'"),
        ("threshold", "0.5.5", "option threshold takes a share of zeros from 0 to 1, not '0.5.5'"),
        ("threshold", "nan", "option threshold takes a share of zeros from 0 to 1, not 'nan'"),
        ("tuning", "maybe", "option tuning takes on or off, not 'maybe'"),
        ("jit", "1", "option jit takes on or off, not '1'"),
        ("isa", "sse2", "option isa takes generic, avx2 or avx512, not 'sse2'"),
        ("treshold", "0.5", "no option treshold: there are threads, threshold, tuning, jit, cache and isa"),
    ],
)
def test_bad_options_are_one_clear_line(configure: Configure, option: str, value: str, message: str) -> None:
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as error:
        start(products(), {option: value}, configure=configure)
    lines = str(error.value).splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(f"{NAME}: {message}")


def test_shapes_may_change_from_run_to_run() -> None:
    proto = products()
    session = start(proto, {})
    for batch, tokens in [(1, 1), (2, 16), (1, 17), (5, 3), (1, 1), (2, 16), (64, 1)]:
        same(session, proto, {"x": values(batch, tokens, 32)})


def test_nothing_in_gives_nothing_out() -> None:
    (found,) = start(products(), {}).run(None, {"x": values(0, 4, 32)})
    assert found.shape == (0, 4, 48)


def test_a_value_used_inside_and_outside() -> None:
    # h and r leave the region as well: one for another operator, one as an output of the model.
    proto = products([helper.make_node("Sin", ["h"], ["z"])], ["y", "z", "r"])
    session = start(proto, {})
    assert taken(session).count("MatMul") == 2
    same(session, proto, {"x": values(2, 7, 32)})


def unary_branches() -> list[onnx.GraphProto]:
    """Two branches of an If that capture h."""
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    return [helper.make_graph([helper.make_node(kind, ["h"], ["out"])], kind, [], result) for kind in ("Neg", "Exp")]


def choose(branches: list[onnx.GraphProto]) -> onnx.NodeProto:
    """The If that makes z of one of them."""
    return helper.make_node("If", ["positive"], ["z"], then_branch=branches[0], else_branch=branches[1])


def sign_of_x() -> list[onnx.NodeProto]:
    """What makes `positive` of x."""
    return [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
    ]


def test_a_value_captured_by_a_subgraph() -> None:
    proto = products(
        [
            *sign_of_x(),
            choose(unary_branches()),
        ],
        ["y", "z"],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    session = start(proto, {})
    assert taken(session).count("MatMul") == 2
    for sign in (1, -1):
        same(session, proto, {"x": sign * np.abs(values(1, 3, 32))})


def test_a_way_around_a_region_through_a_subgraph() -> None:
    # z depends on h by way of what the branches capture, so that the sum cannot be fused with the product before it.
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        choose(unary_branches()),
        helper.make_node("Add", ["h", "z"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, 3, 32]}, ["y"], {"a": pruned(32, 64), "b": pruned(64, 48)})
    proto.graph.input.append(helper.make_tensor_value_info("positive", TensorProto.BOOL, []))
    session = start(proto, {})
    assert taken(session).count("MatMul") == 2
    for positive in (True, False):
        same(session, proto, {"x": values(1, 3, 32), "positive": np.array(positive)})


def test_layers_inside_a_subgraph() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["r", weights], ["m"]), helper.make_node("Relu", ["m"], ["out"])],
            weights,
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(pruned(64, 24), "c")] if weights == "c" else [],
        )
        for weights in ("b", "c")
    ]
    proto = products(
        [
            *sign_of_x(),
            choose(branches),
        ],
        ["y", "z"],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    session = start(proto, {})
    for sign in (1, -1):
        same(session, proto, {"x": sign * np.abs(values(1, 3, 32))})


def test_weights_in_an_external_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(products(), str(path), save_as_external_data=True, location="weights", size_threshold=0)
    assert path.stat().st_size < 1000
    session = start(path, {})
    assert taken(session) == ["MatMul", "MatMul", "Relu"]
    (tmp_path / "weights").unlink()
    reference = start(products(), None).run(None, {"x": values(2, 5, 32)})[0]
    np.testing.assert_allclose(session.run(None, {"x": values(2, 5, 32)})[0], reference, rtol=1e-5, atol=1e-5)


def test_weights_that_the_caller_may_replace_are_left_alone() -> None:
    proto = products()
    proto.graph.input.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [32, 64]))
    session = start(proto, {})
    assert taken(session).count("MatMul") == 1
    same(session, proto, {"x": values(2, 5, 32)})
    same(session, proto, {"x": values(2, 5, 32), "a": values(32, 64)})


def test_a_constant_for_an_input() -> None:
    # Nothing but the weights may be dropped: the product's other factor is a constant too.
    proto = model(
        [helper.make_node("MatMul", ["k", "a"], ["h"]), helper.make_node("Add", ["h", "x"], ["y"])],
        {"x": ["tokens", 64]},
        ["y"],
        {"k": values(1, 32), "a": pruned(32, 64)},
    )
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_provider_for_devices(devices(), {"tuning": "off"})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, enable_fallback=False)
    same(session, proto, {"x": values(5, 64)})


def test_runs_of_one_session_at_once() -> None:
    proto = products()
    session = start(proto, {}, threads=2)
    reference = start(proto, None)
    feeds = [{"x": values(batch, tokens, 32)} for batch, tokens in [(1, 1), (2, 33), (7, 16), (3, 5)]]
    expected = [reference.run(None, feed)[0] for feed in feeds]
    wrong: list[int] = []

    def work(first: int) -> None:
        for step in range(60):
            number = (first + step) % len(feeds)
            if not np.allclose(session.run(None, feeds[number])[0], expected[number], rtol=1e-5, atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sessions_at_once() -> None:
    wrong: list[str] = []

    def work() -> None:
        proto = products()
        for _ in range(5):
            try:
                same(start(proto, {}, threads=2), proto, {"x": values(2, 9, 32)})
            except (AssertionError, RuntimeError) as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(sessions: int) -> int:
    """Bytes that this process grows by while so many sessions come and go."""
    onnxruntime_ep_sparse.register()
    # The weights alone are 200 KB here, so that one that is kept shows.
    weights = {"a": pruned(128, 384), "b": pruned(384, 16)}
    proto = products()
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128
    feed = {"x": values(2, 9, 128)}

    def cycle(count: int) -> int:
        for _ in range(count):
            start(proto, {"threshold": "0.5"}, threads=2).run(None, feed)
        gc.collect()
        return resident()

    before = cycle(30)
    return cycle(sessions) - before


@pytest.mark.parametrize("sessions", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_sessions_leave_nothing_behind(sessions: int) -> None:
    # In a process of its own: what thousands of tests have left in pieces is no measure.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        assert process.submit(growth, sessions).result() < 4 << 20
