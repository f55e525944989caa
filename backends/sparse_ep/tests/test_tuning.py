"""What is measured at load, what is remembered of it, and that it decides which layers are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cases import TOLERANCE
from tests.sessions import claimed, difference, session


def convolution(shape: list[int | str], kernel: int) -> onnx.ModelProto:
    """A 1-D convolution of 16 to 16 channels, nine tenths zeros."""
    weights = np.random.default_rng(0).standard_normal((16, 16, kernel), dtype=np.float32)
    weights[np.abs(weights) < 1.645] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2, kernel // 2])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "convolution", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def measured(folder: Path) -> list[list[str]]:
    """Lines of the cache: key, seconds dense, sparse, converting."""
    (file,) = folder.iterdir()
    return [line.split("\t") for line in file.read_text().splitlines()]


def test_a_layer_is_measured_once_and_remembered(tmp_path: Path) -> None:
    model = convolution([1, 16, 300], 3)
    session(model, {"cache": str(tmp_path)})
    ((key, *seconds),) = measured(tmp_path)
    assert "f32x1x16x300|out 16" in key
    assert all(float(value) > 0 for value in seconds)
    session(model, {"cache": str(tmp_path)})
    assert measured(tmp_path) == [[key, *seconds]]
    session(convolution([2, 16, 300], 3), {"cache": str(tmp_path)})
    assert len(measured(tmp_path)) == 2


@pytest.mark.parametrize(
    ("dense", "sparse", "converting", "taken"),
    [
        pytest.param(1.0, 0.1, 0.1, 1, id="faster"),
        pytest.param(1.0, 2.0, 0.1, 0, id="slower"),
        pytest.param(1.0, 0.99, 0.0, 0, id="hardly faster"),
        pytest.param(1.0, 0.5, 0.6, 0, id="faster, but not with its conversions"),
    ],
)
def test_what_is_remembered_decides(tmp_path: Path, dense: float, sparse: float, converting: float, taken: int) -> None:
    model = convolution([1, 16, 300], 3)
    first, second = tmp_path / "first", tmp_path / "second"
    session(model, {"cache": str(first)})
    ((key, *_),) = measured(first)
    second.mkdir()
    (file,) = first.iterdir()
    (second / file.name).write_text(f"not a line\n{key}\t{dense}\t{sparse}\t{converting}\n")
    assert claimed(session(model, {"cache": str(second)})) == taken


@pytest.mark.parametrize("shape", [["n", 16, "length"], [1, 16, "length"], ["n", 16, 512]])
def test_sizes_that_are_not_known_are_large_enough_for_the_kernel(tmp_path: Path, shape: list[int | str]) -> None:
    model = convolution(shape, 160)
    ours, theirs = session(model, {"cache": str(tmp_path)}), session(model)
    x = np.random.default_rng(1).standard_normal((1, 16, 512), dtype=np.float32)
    assert not difference(ours.run(None, {"x": x}), theirs.run(None, {"x": x}), TOLERANCE)
    assert len(measured(tmp_path)) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    session(convolution([1, 16, 300], 3), {"cache": str(blocked / "folder")})
    assert blocked.read_text() == ""
