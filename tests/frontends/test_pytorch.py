"""PyTorch's modules become graphs that compute the same, whose initializers are their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import compare
from surgery_ir.frontends.base import Frontend, LiveFrontend, Lowered, Request
from surgery_ir.frontends.pytorch.frontend import TorchCheckpoint, TorchModule, TorchProgram
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, graph

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from surgery_ir.frontends.pytorch.live import LiveModule  # noqa: E402
from tests.frontends import torch_models as models  # noqa: E402
from tests.zoo.models import branches, language, mobile, residual, sequence, vision_transformers  # noqa: E402
from tests.zoo.models.common import randomize  # noqa: E402

ZOO = {
    **residual.RECIPES,
    **mobile.RECIPES,
    **branches.RECIPES,
    **vision_transformers.RECIPES,
    **language.RECIPES,
    **sequence.RECIPES,
}
OWN: dict[str, tuple[Callable[[], Any], Callable[[], tuple[Any, ...]]]] = {
    "weight_norm": (models.normed, lambda: (torch.randn(2, 3, 9),)),
    "transposed": (models.transposed, lambda: (torch.randn(2, 4, 8, 8),)),
    "tied": (models.Tied, lambda: (torch.randn(2, 4),)),
    "attention": (models.Attention, lambda: (torch.randint(0, 9, (2, 5)), torch.zeros(2, 5, dtype=torch.bool))),
}
FAST = ("resnet", "mobilenet_v3", "unet", "vit", "bert", "gpt", "lstm_tagger", "gru", *OWN)
NAMES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in ZOO if name not in FAST)]

UNREAD = {
    "gpt": ("wte.weight",),  # lm_head.weight is the same tensor
    "tied": ("first.weight",),
    "shufflenet_v2": tuple(f"{block}.branch1" for block in (2, 3, 5)),
}
"""Beginnings of the names of what a model holds and does not compute with, or under another name."""

GATHERED = {"swin": ["stage2.attention.relative_bias"]}
"""Parameters that stay behind operators which make more numbers of them than they hold."""

TOKENS = ["batch", "sequence"]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "BatchNormalization", "LayerNormalization")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def lower(module: Any, example: Any, **options: Any) -> Lowered:
    return TorchModule().load(module, Request(runtime=RUNTIME, example_inputs=example, **options))


@cache
def lowered(name: str) -> tuple[Any, Lowered]:
    torch.manual_seed(0)
    if name in OWN:
        build, inputs = OWN[name]
        module, example = randomize(build()), inputs()
    else:
        module, example = randomize(ZOO[name].build()), tuple(ZOO[name].inputs.values())
    return module, lower(module, example)


def state(module: Any) -> dict[str, NDArray[Any]]:
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def shapes(values: tuple[ir.Value, ...]) -> dict[str, list[Any]]:
    found = {}
    for value in values:
        assert value.shape is not None
        found[value.name or ""] = [size if isinstance(size, int) else size.value for size in value.shape]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_the_same_for_batches_of_every_size(name: str) -> None:
    _, result = lowered(name)
    assert result.difference is not None
    assert result.difference < 1e-5
    assert result.restated == ()
    assert all(sizes[0] == "batch" for sizes in shapes(result.graph.inputs).values())
    assert all(sizes[0] == "batch" for sizes in shapes(result.graph.outputs).values())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_an_initializer_under_its_name(name: str) -> None:
    module, result = lowered(name)
    bound = {parameter for binding in result.bindings for parameter in binding.parameters}
    unread = (*UNREAD.get(name, ()),)
    wanted = {
        key for key in module.state_dict() if not key.startswith(unread) and not key.endswith("num_batches_tracked")
    }
    assert bound == wanted
    for binding in result.bindings:
        assert binding.initializer.removesuffix(".1").removesuffix(".2") == binding.parameters[0]


@pytest.mark.parametrize("name", NAMES)
def test_layers_read_their_parameters_directly(name: str) -> None:
    _, result = lowered(name)
    bound = {binding.initializer for binding in result.bindings}
    foldable = []
    for node in result.graph.model.graph:
        read = [value.name for value in node.inputs if value is not None]
        if node.op_type in LAYERS:
            assert bound.issuperset(read[1:3]), node
        if read and bound.issuperset(read):
            foldable += read
    assert foldable == GATHERED.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_values_go_both_ways(name: str) -> None:
    module, result = lowered(name)
    parameters = state(module)
    computed = 0
    for binding in result.bindings:
        value = result.graph.array(binding.initializer)
        np.testing.assert_array_equal(binding.forward(parameters), value)
        if binding.computes:
            computed += 1
            continue
        back = binding.backward(value, parameters)
        assert back.keys() == set(binding.parameters)
        for parameter, found in back.items():
            np.testing.assert_array_equal(found, parameters[parameter])
    assert computed == {"weight_norm": 2, "swin": 2}.get(name, 0)


def test_lengths_are_open() -> None:
    expected: dict[str, dict[str, list[Any]]] = {
        "bert": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), TOKENS),
        "lstm_tagger": {"input_ids": ["batch", "sequence"]},
        "gru": {"frames": ["batch", "sequence", 12]},
        "attention": {"tokens": ["batch", "sequence"], "padding": ["batch", "sequence"]},
    }
    assert {name: shapes(lowered(name)[1].graph.inputs) for name in expected} == expected
    assert shapes(lowered("lstm_tagger")[1].graph.outputs) == {"linear": ["batch", "sequence", 9]}


@pytest.mark.parametrize(
    ("kind", "bidirectional", "batch_first"),
    [(nn.LSTM, True, True), (nn.LSTM, False, False), (nn.GRU, True, False), (nn.GRU, False, True)],
)
def test_recurrent_layers_are_not_unrolled(kind: Any, bidirectional: bool, batch_first: bool) -> None:
    operator = torch.ops.aten.lstm.input if kind is nn.LSTM else torch.ops.aten.gru.input
    before = dict(operator.py_kernels)
    result = lower(models.Reshaping(kind, bidirectional, batch_first), torch.randn(2, 7, 6))
    assert operator.py_kernels == before
    assert [node.op_type for node in result.graph.model.graph if node.op_type in ("LSTM", "GRU")] == [kind.__name__]
    assert shapes(result.graph.inputs) == {"frames": ["batch", "sequence", 6]}


def test_a_length_that_the_model_fixes_stays() -> None:
    result = lower(models.FixedLength(), torch.randint(0, 9, (2, 5)))
    assert shapes(result.graph.inputs) == {"tokens": ["batch", 5]}
    result = lower(nn.RNN(4, 3, batch_first=True), torch.randn(2, 5, 4))  # which PyTorch unrolls
    assert shapes(result.graph.inputs) == {"input": ["batch", 5, 4]}


def test_recurrent_weights_are_recipes_of_both_directions() -> None:
    bindings = {binding.initializer: binding.parameters for binding in lowered("lstm_tagger")[1].bindings}
    assert bindings["lstm.weight_ih_l0"] == ("lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse")
    assert bindings["lstm.weight_hh_l1"] == ("lstm.weight_hh_l1", "lstm.weight_hh_l1_reverse")
    assert set(bindings["lstm.bias_ih_l0"]) == {
        f"lstm.bias_{kind}_l0{end}" for kind in ("ih", "hh") for end in ("", "_reverse")
    }


def test_what_the_module_does_later_is_not_for_the_graph() -> None:
    module = nn.Sequential(nn.Linear(4, 3))
    result = lower(module, torch.randn(2, 4))
    before, fingerprint = result.graph.array("0.weight").copy(), result.graph.fingerprint()
    with torch.no_grad():
        module[0].weight.add_(1)
    np.testing.assert_array_equal(result.graph.array("0.weight"), before)
    assert result.graph.fingerprint() == fingerprint


def test_no_line_of_the_users_code_gets_into_the_graph() -> None:
    data = lowered("resnet")[1].graph.to_proto().SerializeToString()
    assert b".py" not in data
    assert b"pkg.torch" not in data


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    lower(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(ModelError):
        lower(models.Branching(), torch.randn(2, 4))
    assert capfd.readouterr() == ("", "")


def test_training_flags_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.9))
    module.train()
    module[1].eval()
    flags = [True, True, False, True]
    result = lower(module, torch.randn(2, 4))
    assert result.live is not None
    result.live.run({"input": np.ones((3, 4), np.float32)})
    result.live.inner({"input": np.ones((3, 4), np.float32)})
    assert [layer.training for layer in module.modules()] == flags
    failing = nn.Sequential(module, models.Raising())
    with pytest.raises(ModelError):
        lower(failing, torch.randn(2, 4))
    assert [layer.training for layer in module.modules()] == flags


# how it is called


@dataclass(frozen=True)
class Call:
    """A module, an example, and the shapes of inputs and outputs that follow."""

    module: Callable[[], Any]
    example: Callable[[], Any]
    inputs: Mapping[str, list[Any]]
    outputs: tuple[str, ...] | None = None
    dynamic: Any = None


ROWS = ["batch", 4]
CALLS: dict[str, Call] = {
    "array": Call(lambda: nn.Linear(4, 2), lambda: np.ones((3, 4), np.float32), {"input": ROWS}),
    "float64": Call(lambda: nn.Linear(4, 2), lambda: np.ones((3, 4)), {"input": ROWS}),
    "one row": Call(lambda: nn.Linear(4, 2), lambda: torch.ones(1, 4), {"input": ROWS}),
    "list": Call(lambda: nn.Bilinear(4, 4, 2), lambda: [torch.ones(2, 4)] * 2, {"input1": ROWS, "input2": ROWS}),
    "by name": Call(
        lambda: nn.Bilinear(4, 4, 2),
        lambda: {"input2": torch.ones(2, 4), "input1": np.ones((2, 4))},
        {"input1": ROWS, "input2": ROWS},
    ),
    "mapping": Call(
        models.Mapping, lambda: torch.randn(2, 4), {"x": ROWS}, ("twice", "again", "input", "weight")
    ),
    "keyword": Call(
        models.Mapping, lambda: {"x": torch.randn(2, 4), "mask": np.ones((2, 4))}, {"x": ROWS, "mask": ROWS}
    ),
    "constants": Call(models.Mapping, lambda: {"x": torch.randn(2, 4), "scale": 2.0, "mask": None}, {"x": ROWS}),
    "tree": Call(
        models.Nested,
        lambda: ({"first": torch.randn(2, 4), "rest": [torch.randn(2, 4), np.ones((2, 4))]}, torch.randn(2, 4)),
        {"tree_first": ROWS, "tree_rest_0": ROWS, "tree_rest_1": ROWS, "more_0": ROWS},
    ),
    "axis named": Call(
        lambda: nn.Linear(4, 2), lambda: torch.ones(2, 4), {"input": ["rows", 4]}, None, {"input": {0: "rows"}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_example_inputs(name: str) -> None:
    case = CALLS[name]
    result = lower(case.module(), case.example(), dynamic_shapes=case.dynamic)
    assert shapes(result.graph.inputs) == case.inputs
    assert result.feeds.keys() == case.inputs.keys()
    if case.outputs is not None:
        assert tuple(value.name for value in result.graph.outputs) == case.outputs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_are_lowered_as_what_they_were() -> None:
    result = lower(torch.compile(nn.Linear(4, 2)), torch.randn(2, 4))
    assert {binding.initializer for binding in result.bindings} == {"weight", "bias"}


BAD: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "branch": (
        models.Branching,
        lambda: torch.randn(2, 4),
        r"^Branching: what it computes depends on the values of its inputs \(.*torch_models\.py, line \d+: "
        r"`if x\.sum\(\) > 0:`\), which a graph cannot follow: write the choice with torch\.where or torch\.cond",
    ),
    "cut": (models.Counting, lambda: torch.ones(2, 4), r"^Counting: what it .*torch_models\.py, line \d+: `count ="),
    "operator": (models.Unsupported, lambda: torch.ones(2, 4), r"knows no ONNX operator for prims\.bessel_j0"),
    "none": (
        models.Mapping,
        lambda: None,
        r"^Mapping: PyTorch needs example inputs .* forward takes x, \[scale\], \[mask\]$",
    ),
    "width": (
        lambda: nn.Linear(4, 2),
        lambda: torch.ones(2, 5),
        r"^Linear: it does not take the example inputs \[2, 5\]: RuntimeError: mat1 and mat2 shapes cannot be "
        r"multiplied \(2x5 and 4x2\); forward takes input$",
    ),
    "type": (lambda: nn.Linear(4, 2), lambda: torch.ones(2, 4).long(), "does not take the example inputs"),
    "too many": (lambda: nn.Linear(4, 2), lambda: (torch.ones(2, 4),) * 2, "too many positional arguments"),
    "unknown": (lambda: nn.Linear(4, 2), lambda: {"x": torch.ones(2, 4)}, "missing a required argument: 'input'"),
    "rows differ": (
        lambda: nn.Bilinear(3, 4, 2),
        lambda: (torch.ones(2, 3), torch.ones(3, 4)),
        r"the first axis is the batch, but the example inputs are of \[2, 3\], \[3, 4\]",
    ),
    "no tensor": (lambda: nn.Linear(4, 2), lambda: "text", "hold no tensor"),
    "its own": (models.Raising, lambda: torch.ones(2, 4), r"\[2, 4\]: ValueError: the first line; forward takes x$"),
    "one batch": (models.Rows, lambda: torch.ones(2, 4), "the first axis of 'x' is fixed at 2"),
    "random": (models.Noisy, lambda: torch.ones(2, 4), "computes something else than PyTorch"),
    "scripted": (lambda: torch.jit.script(nn.Linear(4, 2)), lambda: torch.ones(2, 4), "TorchScript cannot be lowered"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_lowered_is_refused_in_one_line(name: str) -> None:
    module, example, message = BAD[name]
    with pytest.raises(ModelError, match=message) as caught:
        lower(module(), example())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_axes_that_the_model_fixes_and_the_caller_opens() -> None:
    with pytest.raises(ModelError, match=r"^Linear: dynamic_shapes and the model do not agree") as caught:
        lower(nn.Linear(4, 2), torch.ones(2, 4), dynamic_shapes={"input": {0: "rows", 1: torch.export.Dim("k")}})
    assert "\n" not in str(caught.value)


def test_a_runtime_is_needed() -> None:
    with pytest.raises(ModelError, match="a runtime is needed"):
        TorchModule().load(nn.Linear(4, 2), Request(example_inputs=torch.ones(2, 4)))


def test_what_is_accepted() -> None:
    frontends: tuple[Frontend, ...] = (TorchModule(), TorchProgram(), TorchCheckpoint())
    program = torch.export.export(nn.Linear(4, 2), (torch.ones(2, 4),))
    sources = (nn.Linear(4, 2), program, "net.pt2", "net.PT2", "net.pt", "a/pytorch_model.bin", "net.onnx", 3)
    accepting = [
        next((index for index, one in enumerate(frontends) if one.accepts(source)), None) for source in sources
    ]
    assert accepting == [0, 1, 1, 1, 2, 2, None, None]
    assert isinstance(frontends[0], LiveFrontend)
    assert isinstance(frontends[1], LiveFrontend)


# the live model


def live_of(name: str) -> tuple[LiveModule, Graph, Mapping[str, NDArray[Any]]]:
    """Give the model called ``name``, which a test may spoil, with the graph of the one that was lowered."""
    module, result = lowered(name)
    torch.manual_seed(0)
    other = randomize(OWN[name][0]() if name in OWN else ZOO[name].build())
    other.load_state_dict(module.state_dict())
    live = TorchModule().live(other, result)
    assert isinstance(live, LiveModule)
    return live, result.graph, result.feeds


@pytest.mark.parametrize(
    ("name", "parameter", "layer"),
    [
        ("resnet", "stages.2.conv1.0.weight", "stages.2.conv1.0"),
        ("vit", "blocks.1.mlp.fc1.bias", "blocks.1.mlp.fc1"),
        ("bert", "layers.0.norm1.weight", "layers.0.norm1"),
        ("transposed", "1.running_mean", "1"),
    ],
)
def test_the_first_layer_that_differs_is_named(name: str, parameter: str, layer: str) -> None:
    live, graph, feeds = live_of(name)
    assert compare(graph, live, feeds, RUNTIME) < 1e-5
    with torch.no_grad():
        live.module.state_dict()[parameter].add_(0.5)
    with pytest.raises(ModelError, match=rf"the first layer that differs is '{layer}', by "):
        compare(graph, live, feeds, RUNTIME)


@pytest.mark.parametrize("name", FAST)
def test_layers_inside_compute_what_the_graph_says(name: str) -> None:
    from surgery_ir.graph.extract import with_outputs

    live, graph, feeds = live_of(name)
    inner = live.inner(feeds)
    known = {value.name for node in graph.model.graph for value in node.outputs}
    names = [value for value in inner if value in known]
    assert names
    found = RUNTIME.load(with_outputs(graph, names)).run(feeds)
    for value in names:
        layer, wanted = inner[value]
        assert found[value].shape == wanted.shape, layer
        np.testing.assert_allclose(found[value], wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=layer)


class Lying(LiveModule):
    """Gives one number more than its model."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        return tuple(value + np.float32(0.01) for value in super().run(feeds))


class Short(LiveModule):
    """Keeps its last output to itself."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        return super().run(feeds)[:-1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Lying, "by 0.0.* of its scale .*; no layer inside differs"),
        (Short, "PyTorch gives 1 outputs, the lowered model 2"),
    ],
)
def test_a_model_that_lies_is_caught(kind: type[LiveModule], message: str) -> None:
    live, graph, feeds = live_of("bert")
    with pytest.raises(ModelError, match=message):
        compare(graph, kind(live.module, live.calling, live.layers), feeds, RUNTIME)


def test_values_are_written_in_place() -> None:
    live, _, feeds = live_of("transposed")
    before = {name: tensor.data_ptr() for name, tensor in live.module.state_dict().items()}
    weight = live.parameters()["0.weight"] * 0
    live.assign({"0.weight": weight.astype(np.float64), "1.running_var": live.parameters()["1.running_var"] + 1})
    assert {name: tensor.data_ptr() for name, tensor in live.module.state_dict().items()} == before
    assert live.module[0].weight.dtype == torch.float32
    assert live.module[0].weight.requires_grad
    np.testing.assert_array_equal(live.parameters()["0.weight"], weight)
    assert np.ptp(live.run(feeds)[0][:, :, ::2, ::2], axis=(2, 3)).max() < 1e-6  # one colour per channel


def test_a_tied_weight_is_written_once_for_both() -> None:
    live, _, _ = live_of("tied")
    assert {"first.weight", "second.weight"} <= live.parameters().keys()
    live.assign({"second.weight": np.eye(4)})
    np.testing.assert_array_equal(live.parameters()["first.weight"], np.eye(4))


def test_a_missing_bias_is_added() -> None:
    live, _, feeds = live_of("transposed")
    before = live.run(feeds)[0]
    live.assign({"0.bias": np.arange(8.0)})
    assert isinstance(live.module[0].bias, nn.Parameter)
    assert live.module[0].bias.dtype == torch.float32
    assert not np.allclose(live.run(feeds)[0], before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"0.weigth": np.zeros(3)}, "Sequential has no parameter called '0.weigth'"),
        ({"9.bias": np.zeros(3)}, "Sequential has no parameter called '9.bias'"),
        ({"0.weight": np.zeros((8, 4, 3, 3))}, r"'0.weight' has shape \[8, 2, 3, 3\], its new values \[8, 4, 3, 3\]"),
        ({"0.bias": np.zeros(7)}, r"'0.bias' has shape \[7\], a bias of \[8\] fits"),
        ({"2.bias": np.zeros(8)}, r"'2.bias' has shape \[4\], its new values \[8\]"),
    ],
)
def test_what_does_not_fit_is_not_written(values: dict[str, NDArray[Any]], message: str) -> None:
    live, _, _ = live_of("transposed")
    before = {name: array.copy() for name, array in live.parameters().items()}
    with pytest.raises(ModelError, match=message):
        live.assign({"1.weight": np.zeros(8), **values})
    assert live.parameters().keys() == before.keys()
    for name, array in live.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_parameters_cannot_be_written_by_mistake() -> None:
    live, _, _ = live_of("tied")
    with pytest.raises(ValueError, match="read-only"):
        live.parameters()["first.weight"][:] = 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Linear(4, 4), "Linear has no parameter called"),
        (lambda: nn.Sequential(nn.Conv2d(4, 8, 5, groups=2), *models.transposed()[1:]), "'0.weight' of Sequen"),
    ],
)  # fmt: skip
def test_a_module_of_another_kind_is_refused(other: Callable[[], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TorchModule().live(other(), lowered("transposed")[1])


def test_a_module_for_a_graph_that_came_from_elsewhere() -> None:
    text = "g (float[n,4] input) => (float[n,2] y) <float[2,4] weight, float[2] bias> "
    text += "{ y = Gemm<transB=1>(input, weight, bias) }"
    live = TorchModule().live(nn.Linear(4, 2), Lowered(graph(text)))
    assert live.run({"input": np.ones((3, 4), np.float32)})[0].shape == (3, 2)
    live = TorchModule().live(nn.Linear(4, 2), Lowered(graph(text.replace("input", "x"))))
    assert live.run({"x": np.ones((3, 4), np.float32)})[0].shape == (3, 2)


def test_layers_that_run_twice_are_left_out() -> None:
    shared = nn.Linear(4, 4)
    result = lower(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 4))
    assert isinstance(result.live, LiveModule)
    assert [layer for layer, _ in result.live.inner(result.feeds).values()] == ["1"]
    assert replace(result.live, layers={}).inner(result.feeds) == {}


# Hugging Face


def small(kind: str) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(image_size=16, patch_size=8, **sizes)
        return transformers.ViTForImageClassification(config), torch.randn(2, 3, 16, 16)
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=32, **sizes)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return transformers.BertModel(config), {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": mask}


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs"),
    [
        ("vit", {"pixel_values": ["batch", 3, 16, 16]}, {"logits": ["batch", 2]}),
        (
            "bert",
            {"input_ids": TOKENS, "attention_mask": TOKENS},
            {"last_hidden_state": ["batch", "sequence", 16], "pooler_output": ["batch", 16]},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_of_hugging_face(kind: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> None:
    module, example = small(kind)
    result = lower(module, example)
    assert shapes(result.graph.inputs) == inputs
    assert shapes(result.graph.outputs) == outputs
    bound = {parameter for binding in result.bindings for parameter in binding.parameters}
    assert bound == module.state_dict().keys()
    parameters = state(module)
    for binding in result.bindings:
        np.testing.assert_array_equal(binding.forward(parameters), result.graph.array(binding.initializer))
