"""Every graph of the zoo is sound and computes something, and is still what the exporters write."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from surgery_ir.graph.verify import verify
from tests.harness import RUNTIME
from tests.zoo.load import FOLDER, NAMES, feeds, golden, load
from tests.zoo.placeholders import FEW, LARGEST

BIGGEST = 1 << 20
"""Bytes of all files together."""

LARGE_OUTPUT = 200
"""No activation should be on its way to overflow: outputs stay below."""


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_of_the_zoo_is_sound_and_its_output_depends_on_the_sample(name: str) -> None:
    graph = load(name)
    verify(graph)
    session = RUNTIME.load(graph, threads=1)
    for batch in (1, 3):
        outputs = session.run(feeds(name, batch))
        assert list(outputs) == [value.name for value in graph.outputs]
        for values in outputs.values():
            assert len(values) == batch
            assert np.isfinite(values).all()
            assert np.abs(values).max() < LARGE_OUTPUT
            assert values.std() > 0.01
            if batch > 1:
                assert values.std(0).mean() > 0.005 * values.std(), "all samples give the same"


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = load("resnet__raw"), load("resnet__raw"), load("resnet__raw", seed=1)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    name = "stem.1.running_var"
    assert first.array("stages.0.conv1.0.weight").std() == pytest.approx((2 / 144) ** 0.5, rel=0.1)
    assert (first.array(name) > 0).all()


def test_inputs_keep_to_what_the_models_take() -> None:
    given = feeds("bert", 8)
    assert {name: values.shape for name, values in given.items()} == dict.fromkeys(given, (8, 9))
    assert given["input_ids"].max() < 96 < 8 * given["input_ids"].max()
    mask = given["attention_mask"]
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask) <= 0).all()
    assert not mask.all()
    assert np.array_equal(feeds("bert", 8)["input_ids"], given["input_ids"])
    assert not np.array_equal(feeds("bert", 8, seed=1)["input_ids"], given["input_ids"])


def test_the_files_are_small_and_tell_nothing_of_the_machine_that_made_them() -> None:
    files = sorted(FOLDER.iterdir())
    assert [path.name for path in files] == [f"{name}.onnx" for name in NAMES]
    assert sum(path.stat().st_size for path in files) < BIGGEST
    for path in files:
        found = re.search(rb"site-packages|\.py\b|/(home|root|tmp|usr)/", path.read_bytes())
        assert not found, f"{path.name}: {found}"


@pytest.mark.parametrize("name", NAMES)
def test_only_what_belongs_to_the_architecture_is_stored(name: str) -> None:
    for tensor in golden(name).graph.initializer:
        values = None if tensor.metadata_props else numpy_helper.to_array(tensor)
        assert values is None or values.dtype.kind != "f" or values.size <= LARGEST or np.unique(values).size <= FEW


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exporters_still_write_the_same_structure(name: str) -> None:
    if name.startswith("keras"):
        pytest.importorskip("tf2onnx", exc_type=ImportError)
        from tests.zoo.models.keras_export import export
    else:
        torch = pytest.importorskip("torch")
        maker = golden("resnet").producer_version
        if torch.__version__.partition("+")[0] != maker.partition("+")[0]:
            pytest.skip(f"the zoo was exported by PyTorch {maker}, and this is {torch.__version__}")
        from tests.zoo.models.torch_export import export
    exported, _ = export(name)
    for found, wanted in zip(_structure(exported), _structure(golden(name)), strict=True):
        assert found == wanted


def _structure(model: onnx.ModelProto) -> tuple[Any, ...]:
    """Operators, types and shapes of weights, inputs and outputs; tf2onnx writes its operators in any order."""
    operators = Counter((node.domain, node.op_type, len(node.input), len(node.output)) for node in model.graph.node)
    weights = Counter(
        (helper.tensor_dtype_to_string(tensor.data_type), tuple(tensor.dims)) for tensor in model.graph.initializer
    )
    interface = [
        (value.type.tensor_type.elem_type, *(axis.dim_value for axis in value.type.tensor_type.shape.dim))
        for value in (*model.graph.input, *model.graph.output)
    ]
    return operators, weights, interface
