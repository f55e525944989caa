"""``.pt2`` archives are read without running anything; checkpoints are refused unread."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.pytorch.frontend import TorchCheckpoint, TorchModule, TorchProgram
from tests.harness import RUNTIME, assert_equivalent

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402
from torch.export import Dim  # noqa: E402
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter  # noqa: E402

from surgery_ir.frontends.pytorch.live import LiveModule, LiveProgram  # noqa: E402

OPEN = ({0: Dim.AUTO},)
WRITTEN_BY_THE_WRITER = ("archive_format", "archive_version", "byteorder", "version", ".data/")


def load(source: object, **options: Any) -> Lowered:
    return TorchProgram().load(source, Request(runtime=RUNTIME, **options))


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()


def exported(module: Any, dynamic: Any = OPEN, rows: int = 2) -> Any:
    return torch.export.export(module, (torch.randn(rows, 4),), dynamic_shapes=dynamic)


def saved(program: Any, folder: Path) -> Path:
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


def test_a_file_is_what_the_module_is(tmp_path: Path) -> None:
    module = network()
    result = load(saved(exported(module), tmp_path))
    direct = TorchModule().load(module, Request(runtime=RUNTIME, example_inputs=torch.randn(2, 4)))
    assert_equivalent(result.graph, direct.graph)
    assert result.difference is not None
    assert result.difference < 1e-5
    assert [str(binding) for binding in result.bindings] == [str(binding) for binding in direct.bindings]
    assert result.graph.source.endswith("net.pt2")
    again = TorchModule().live(module, result)
    assert isinstance(again, LiveModule)
    np.testing.assert_allclose(again.run(result.feeds)[0], direct.live.run(result.feeds)[0])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "example", [torch.ones(3, 4), np.ones((3, 4)), (np.ones((1, 4)),), {"input": np.ones((3, 4), np.float32)}]
)
def test_example_inputs_may_be_others_than_those_in_the_file(example: Any, tmp_path: Path) -> None:
    result = load(saved(exported(network()), tmp_path), example_inputs=example)
    assert result.feeds["input"].dtype == np.float32
    assert result.feeds["input"].tolist() == np.ones((len(result.feeds["input"]), 4)).tolist()


def test_values_are_written_into_a_program_in_memory() -> None:
    program = exported(network())
    result = load(program)
    live = TorchProgram().live(program, result)
    assert isinstance(live, LiveProgram)
    live.assign({"3.weight": np.zeros((2, 8)), "3.bias": np.array([1.0, 2.0])})
    np.testing.assert_array_equal(live.run(result.feeds)[0], [[1, 2]] * 2)
    elsewhere = TorchProgram().live(program, Lowered(result.graph, result.bindings))
    np.testing.assert_array_equal(elsewhere.run(result.feeds)[0], [[1, 2]] * 2)
    for values in ({"4.weight": np.zeros((2, 8))}, {"3.bias": np.zeros(3)}):
        with pytest.raises(ModelError, match=r"has no parameter called|has shape"):
            live.assign(values)


def test_values_are_not_written_into_files(tmp_path: Path) -> None:
    path = saved(exported(network()), tmp_path)
    with pytest.raises(ModelError, match=r"load it with torch\.export\.load first"):
        TorchProgram().live(path, load(path))


PROGRAMS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "one size of batch": (
        lambda: exported(network(), None),
        None,
        r'exported for batches of 2 only; export it with dynamic_shapes=\{"input": \{0: torch\.export\.Dim\.DYNAMIC',
    ),
    "training": (lambda: exported(network().train()), None, r"exported in training mode; export model\.eval\(\)"),
    "other names": (lambda: exported(network()), {"x": np.ones((2, 4))}, "it takes input; the example has x"),
    "more inputs": (lambda: exported(network()), (np.ones((2, 4)),) * 2, "it takes input; the example holds 2 inputs"),
    "other tree": (lambda: exported(network()), {"input": [np.ones((2, 4))]}, "nested in another way"),
    "other widths": (lambda: exported(network()), np.ones((2, 5)), r"does not take input of \[2, 5\]"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_cannot_be_lowered(name: str) -> None:
    make, example, message = PROGRAMS[name]
    with pytest.raises(ModelError, match=message) as caught:
        load(make(), example_inputs=example)
    assert "\n" not in str(caught.value)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"hello",
    "truncated": lambda data: data[: len(data) // 2],
    "damaged": lambda data: data.replace(b'"graph_module"', b'"graph_\x00odule"'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_files_that_are_damaged(name: str, tmp_path: Path) -> None:
    path = saved(exported(network()), tmp_path)
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    with pytest.raises(ModelError, match=r"net\.pt2: .*(truncated, corrupt|so that reading it may run code)") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "net.pt2")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ModelError, match="is not a file"):
        load(tmp_path / "folder.pt2")


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_pickles_that_are_called_pt2(kind: str, tmp_path: Path) -> None:
    module = network()
    torch.save(module if kind == "checkpoint" else module.state_dict(), tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"not a program that torch\.export\.save wrote"):
        load(tmp_path / "net.pt2")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".PT"])
def test_checkpoints_are_refused_unread(suffix: str) -> None:
    source = f"no such folder/model{suffix}"
    assert TorchCheckpoint().accepts(source)
    with pytest.raises(ModelError, match=r"is a pickle.*torch\.export\.save\(.*package\.module:function$") as caught:
        TorchCheckpoint().load(source, Request(trust=True))
    assert "\n" not in str(caught.value)


# what a stranger may have put into a file


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(((Payload(mark),), {}), buffer)
    return buffer.getvalue()


def code(mark: Path) -> str:
    return f"__import__('pathlib').Path('{mark}').touch()"


def in_model(change: Callable[[Any, Path], None]) -> Callable[[str, bytes, Path], bytes]:
    """Change the description of the model."""

    def rewrite(name: str, data: bytes, mark: Path) -> bytes:
        if name != "models/model.json":
            return data
        model = json.loads(data)
        change(model, mark)
        return json.dumps(model).encode()

    return rewrite


def size(model: Any, mark: Path) -> None:
    def visit(value: Any) -> None:
        if isinstance(value, dict) and "expr_str" in value:
            value["expr_str"] = code(mark)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            visit(inner)

    visit(model)


def guard(model: Any, mark: Path) -> None:
    model["guards_code"] = [f"{code(mark)} or True"]


def operator(model: Any, mark: Path) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def file_operator(model: Any, mark: Path) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def name(model: Any, mark: Path) -> None:
    model["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["name"] = f"x={code(mark)}"


def container(model: Any, mark: Path) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    spec = json.loads(signature["in_spec"])
    context = {"default_factory_module": "this", "default_factory_name": "s", "dict_context": []}
    spec[1]["children_spec"][1] = {
        "type": "collections.defaultdict",
        "context": json.dumps(context),
        "children_spec": [],
    }
    signature["in_spec"] = json.dumps(spec)


def pickled_weights(name: str, data: bytes, mark: Path) -> bytes:
    if not name.endswith("weights_config.json"):
        return data
    config = json.loads(data)
    for item in config["config"].values():
        item["use_pickle"] = True
    return json.dumps(config).encode()


def unchanged(name: str, data: bytes, mark: Path) -> bytes:
    return data


def sample(name: str, data: bytes, mark: Path) -> bytes:
    return pickled(mark) if name.startswith("data/sample_inputs") else data


ATTACKS: dict[str, tuple[Callable[[str, bytes, Path], bytes], str, str]] = {
    "example inputs": (sample, "", "its example inputs are a pickle of more than tensors"),
    "size": (in_model(size), "", "it has expr_str"),
    "guard": (in_model(guard), "", "it has guards_code"),
    "operator": (in_model(operator), "", r"it has target 'torch\.os\.system'"),
    "file": (in_model(file_operator), "", r"it has target 'torch\.ops\.aten\.from_file\.default'"),
    "name": (in_model(name), "", "it has name"),
    "container": (in_model(container), "", "it has in_spec"),
    "weights": (pickled_weights, "", "'.*' is stored as a pickle"),
    "library": (unchanged, "data/aotinductor/model/net.so", r"the archive holds 'data/aotinductor/model/net\.so'"),
    "object": (unchanged, "data/constants/opaque_obj_0", "the archive holds 'data/constants/opaque_obj_0'"),
    "older format": (unchanged, "data/weights/model.pt", r"the archive holds 'data/weights/model\.pt'"),
}


def attacked(kind: str, folder: Path, mark: Path) -> Path:
    change, extra, _ = ATTACKS[kind]
    with (
        PT2ArchiveReader(str(saved(exported(network()), folder))) as reader,
        PT2ArchiveWriter(str(folder / "evil.pt2")) as writer,
    ):
        for file in reader.get_file_names():
            if not file.startswith(WRITTEN_BY_THE_WRITER):
                writer.write_bytes(file, change(file, reader.read_bytes(file), mark))
        if extra:
            writer.write_bytes(extra, b"text" if extra.endswith(".txt") else pickled(mark))
    return folder / "evil.pt2"


@pytest.mark.parametrize("kind", ATTACKS)
def test_reading_a_file_runs_nothing_that_is_in_it(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(ModelError, match=ATTACKS[kind][2]) as caught:
        load(attacked(kind, tmp_path, mark))
    assert str(caught.value).endswith("so that reading it may run code; pass --trust if you know where it is from")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["example inputs", "size", "guard"])
def test_the_attacks_are_real(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with contextlib.suppress(ModelError):  # it runs nevertheless
        load(attacked(kind, tmp_path, mark), trust=True)
    assert mark.exists()


def test_a_rewritten_file_is_read(tmp_path: Path) -> None:
    ATTACKS["none"] = (unchanged, "extra/note.txt", "")
    try:
        assert load(attacked("none", tmp_path, tmp_path / "ran")).difference is not None
    finally:
        del ATTACKS["none"]


def test_trusted_files_are_read(tmp_path: Path) -> None:
    assert load(saved(exported(network()), tmp_path), trust=True).difference is not None
