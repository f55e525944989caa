"""The whole path, framework by framework: lowered, equal, weights cut and put back, channels cut and proven.

One or two models of each framework run always, the others with the slow tests; see :mod:`tests.frontends.matrix`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import surgery_ir
from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import TOLERANCE
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.load import live_model, load_model
from surgery_ir.graph.model import Graph
from tests.frontends.matrix import CELLS, MISSING, MODELS, NEEDED, Cell
from tests.harness import RUNTIME

USUAL = {
    ("PyTorch", "mobilenet"),
    ("PyTorch", "lstm"),
    ("Hugging Face", "bert"),
    ("Keras", "mobilenet"),
    ("Keras", "lstm"),
    ("SavedModel", "unet"),
    ("TFLite", "unet"),
    ("JAX", "lstm"),
    ("JAX", "vit"),
}
"""What is not slow."""

IN_MEMORY = ("PyTorch", "Hugging Face", "Keras", "JAX")
CHANNELS_LAST = ("Keras", "JAX")

WEIGHTS = "canonicalize,prune-weights{ratio=0.5 ends=true},repair"
LAYOUT = "canonicalize,cancel-transposes,prune-weights{ratio=0.5 ends=true},repair"
CHANNELS = "canonicalize,prune-channels{ratio=0.3 multiple=1}"

MAGNITUDE = WEIGHTS.replace("{ratio", "{criterion=magnitude ratio")
"""For recurrent operators, and for weights that many operators share: other criteria need a layer equation."""

LOOP = {("JAX", "lstm"): "its subgraph holds 2 operators with weights"}
"""Where most weights are in the body of a loop, which is left alone, and what is said of it."""

LOOPED = {("JAX", "lstm"): "it has no group of units that this pass could cut"}
"""Where there is a loop in which no channel can be cut, and what ``prune-channels`` says."""

Arrays = dict[str, NDArray[Any]]
Key = tuple[str, str]


@dataclass
class Subject:
    """One model, lowered and compressed once for all tests."""

    key: Key
    cell: Cell
    folder: Path

    @cached_property
    def source(self) -> Any:
        return self.cell.make(self.folder)

    @cached_property
    def lowered(self) -> Lowered:
        return load_model(self.source, Request(RUNTIME, self.cell.example()))

    @cached_property
    def weights(self) -> surgery_ir.Result:
        return self.apply(MAGNITUDE if self.key[1] == "lstm" else WEIGHTS)

    @cached_property
    def channels(self) -> surgery_ir.Result:
        return self.apply(CHANNELS)

    def apply(self, pipeline: str) -> surgery_ir.Result:
        return surgery_ir.apply(self.source, pipeline, self.cell.data(), example_inputs=self.cell.example())

    def another(self) -> Any:
        """Make another instance with the same weights."""
        return self.cell.make(self.folder)

    def outputs(self, model: Any) -> list[NDArray[Any]]:
        """Outputs of a model, called as its framework's user does, on samples that nothing was fitted on."""
        return CALLS[self.key[0]](model, self.cell.data(seed=1))

    def results(self, graph: Graph) -> list[NDArray[Any]]:
        return list(RUNTIME.load(graph).run(self.cell.data(seed=1)).values())


def call_torch(model: Any, feeds: Arrays) -> list[NDArray[Any]]:
    import torch

    with torch.no_grad():
        found = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    found = tuple(found.values()) if isinstance(found, dict) else found
    return [item.numpy() for item in (found if isinstance(found, tuple) else (found,))]


def call_keras(model: Any, feeds: Arrays) -> list[NDArray[Any]]:
    given = [feeds[tensor.name] for tensor in model.inputs]
    found = model(given if len(given) > 1 else given[0], training=False)
    return [np.asarray(item) for item in (found if isinstance(found, tuple | list) else (found,))]


def call_jax(model: Any, feeds: Arrays) -> list[NDArray[Any]]:
    model.eval()
    return [np.asarray(model(**feeds))]


CALLS: dict[str, Callable[[Any, Arrays], list[NDArray[Any]]]] = {
    "PyTorch": call_torch,
    "Hugging Face": call_torch,
    "Keras": call_keras,
    "JAX": call_jax,
}


def matrices(framework: str, model: Any) -> list[NDArray[Any]]:
    """Parameters of two axes and more, as the framework holds them."""
    if framework in ("PyTorch", "Hugging Face"):
        found = [value.detach().numpy() for value in model.parameters()]
    elif framework == "Keras":
        found = [value.numpy() for value in model.weights]
    else:
        import jax
        from flax import nnx

        found = [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(nnx.state(model, nnx.Param))]
    return [value for value in found if value.ndim > 1]


def zeros(arrays: list[NDArray[Any]]) -> int:
    return sum(int(np.count_nonzero(value == 0)) for value in arrays)


def assert_equal(actual: list[NDArray[Any]], expected: list[NDArray[Any]]) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * float(np.abs(other).max()))


def marked(keys: list[Key]) -> list[Any]:
    return [
        pytest.param(key, id="-".join(key), marks=() if key in USUAL else pytest.mark.slow)
        for key in sorted(keys, key=lambda key: ([*NEEDED].index(key[0]), MODELS.index(key[1])))
    ]


ALL = marked([*CELLS])
LIVE = [key for key in CELLS if key[0] in IN_MEMORY]
WRITABLE = marked(LIVE)
FILES = marked([key for key in CELLS if key[0] not in IN_MEMORY])
LAID_OUT = marked([key for key in LIVE if key[0] in CHANNELS_LAST])
CUT = marked([key for key in LIVE if key not in LOOPED])

_made: dict[Key, Subject] = {}


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    key: Key = request.param
    for module in NEEDED[key[0]]:
        pytest.importorskip(module)
    if "torch" in NEEDED[key[0]]:
        import torch

        torch.set_num_threads(1)
    if key not in _made:
        _made.clear()  # tests of one model follow each other
        _made[key] = Subject(key, CELLS[key], tmp_path_factory.mktemp("model"))
    return _made[key]


def over(keys: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("subject", keys, indirect=True, scope="module")


def test_every_framework_has_every_model_or_a_reason() -> None:
    assert {*CELLS}.isdisjoint(MISSING)
    assert {*CELLS, *MISSING} == {(framework, model) for framework in NEEDED for model in MODELS}
    assert {key[0] for key in USUAL} == {*NEEDED}


@over(ALL)
def test_it_is_lowered_and_equal(subject: Subject) -> None:
    lowered = subject.lowered
    assert lowered.difference is not None
    assert lowered.difference <= TOLERANCE
    assert {value.name for value in lowered.graph.inputs} == subject.cell.data().keys()
    if subject.key[0] in CALLS:  # by another way than the frontend's, and at another batch size than the frontend's two
        assert_equal(subject.results(lowered.graph), subject.outputs(subject.source))


@over(ALL)
def test_parameters_have_initializers_under_their_names(subject: Subject) -> None:
    lowered = subject.lowered
    assert lowered.live is not None
    parameters = {name for name, value in lowered.live.parameters().items() if value.dtype.kind == "f" and value.ndim}
    bound = {name for binding in lowered.bindings for name in binding.parameters}
    initializers = lowered.graph.initializers
    assert bound >= parameters
    assert {binding.parameters[0] for binding in lowered.bindings if len(binding.parameters) == 1} <= {*initializers}
    assert all(binding.initializer in binding.parameters for binding in lowered.bindings)
    for binding in lowered.bindings:
        held = lowered.graph.array(binding.initializer)
        np.testing.assert_array_equal(binding.forward(lowered.live.parameters()), held)


@over(ALL)
def test_half_of_the_weights_are_cut(subject: Subject) -> None:
    result = subject.weights
    assert result.lowered is not None
    dense = result.lowered.graph
    cut = [
        result.graph.array(name)
        for name in result.graph.initializers
        if name in dense.initializers and zeros([result.graph.array(name)]) > zeros([dense.array(name)])
    ]
    assert cut
    size = sum(value.size for value in cut)
    assert zeros(cut) / size == pytest.approx(0.5, abs=0.02)
    everything = result.report.baseline.nonzeros
    if subject.key in LOOP:
        assert any(LOOP[subject.key] in item.reason for item in result.report.refusals)
    else:
        assert size / everything > 0.4


@over(WRITABLE)
def test_cut_weights_go_back(subject: Subject) -> None:
    result = subject.weights
    compressed = subject.results(result.graph)
    models = [subject.another(), subject.another()]
    for model in models:
        dense = matrices(subject.key[0], model)
        before, untouched = zeros(dense), subject.outputs(model)
        names = result.write_back(model)
        assert names
        assert_equal(subject.outputs(model), compressed)
        assert any(not np.allclose(*pair, atol=1e-3) for pair in zip(untouched, compressed, strict=True))
        assert zeros(matrices(subject.key[0], model)) - before == zeros_made(result)
        assert result.write_back(model) == ()  # it has them already


@over(WRITABLE)
def test_another_network_is_left_as_it_was(subject: Subject) -> None:
    model = subject.another()
    live = live_model(model, subject.lowered)
    live.assign({name: value * 1.5 for name, value in live.parameters().items() if value.dtype.kind == "f"})
    before = {name: value.copy() for name, value in live.parameters().items()}
    with pytest.raises(ModelError, match=r"^[^\n]*computes something else[^\n]*$"):
        subject.weights.write_back(model)
    for name, value in live.parameters().items():
        np.testing.assert_array_equal(value, before[name])


def zeros_made(result: surgery_ir.Result) -> int:
    """Zeros that matrices of the compressed graph have and those of the dense one have not."""
    assert result.lowered is not None
    dense = result.lowered.graph
    names = [name for name in result.graph.initializers if name in dense.initializers and dense.array(name).ndim > 1]
    return zeros([result.graph.array(name) for name in names]) - zeros([dense.array(name) for name in names])


@over(FILES)
def test_files_are_not_written_to(subject: Subject) -> None:
    source, weights = subject.source, subject.weights  # made on first use, which writes the files
    before = {path: path.read_bytes() for path in subject.folder.rglob("*") if path.is_file()}
    assert before
    with pytest.raises(ModelError, match=r"^[^\n]*$"):
        weights.write_back(source)
    assert {path: path.read_bytes() for path in subject.folder.rglob("*") if path.is_file()} == before


@over(ALL)
def test_a_third_of_the_channels_are_cut_with_proof(subject: Subject) -> None:
    result = subject.channels
    before, after = result.report.baseline, result.report.compressed
    if subject.key in LOOPED:
        assert any(LOOPED[subject.key] in item.reason for item in result.report.refusals)
        return
    assert not [item for item in result.report.refusals if "cannot be proven" in item.reason]
    assert after.params < 0.95 * before.params
    assert before.macs is None or (after.macs or 0) < before.macs
    dense = subject.results(subject.lowered.graph)
    for one, other in zip(subject.results(result.graph), dense, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(one).all()


@over(CUT)
def test_cut_channels_do_not_go_back(subject: Subject) -> None:
    model = subject.another()
    before = subject.outputs(model)
    with pytest.raises(ModelError, match=r"^[^\n]*only weights can be written back[^\n]*$"):
        subject.channels.write_back(model)
    for one, other in zip(subject.outputs(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


@over(LAID_OUT)
def test_weights_go_back_across_another_layout(subject: Subject) -> None:
    result = subject.apply(LAYOUT)
    assert transposes(result.graph) <= transposes(subject.weights.graph)
    model = subject.another()
    assert result.write_back(model)
    assert_equal(subject.outputs(model), subject.results(result.graph))


def transposes(graph: Graph) -> int:
    return sum(node.op_type == "Transpose" for node in graph.model.graph)
