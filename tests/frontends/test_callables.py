"""A name of Python code stands for the model that it makes, and every failure of that code is one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Frontend, Lowered, Request, check
from surgery_ir.frontends.callables import PythonName
from surgery_ir.frontends.load import load_model
from surgery_ir.graph.model import Graph
from tests.harness import proto
from tests.plugins import install

FRONTEND = PythonName()

NETS = """
import functools
import sys

from onnx import parser

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Neg(x) }'
model = parser.parse_model(TEXT)
number = 3
folders = list(sys.path)


class Zoo:
    @staticmethod
    def small():
        return model


class Own:
    def __call__(self):
        raise SystemError("a model is not called")


own = Own()


def create():
    print("creating")
    return model


cached = functools.cache(create)
partial = functools.partial(Zoo.small)


def with_example():
    return Own(), {"x": 1}


def itself():
    return "nets:create"


def nothing():
    return None


def fails():
    raise ValueError("first line\\n  and second")


def fails_inside():
    return parser.parse_model(7)


def fails_with_nothing():
    assert not model


def leaves():
    sys.exit(3)


def asks(argument):
    return model


def __getattr__(name):
    if name == "lazy":
        raise OSError("no network")
    raise AttributeError(name)
"""

OWN = """
from surgery_ir.frontends.base import check
from surgery_ir.graph.model import Graph
from onnx import parser

seen = []

class plugin:
    reads = "nets.Own"

    def accepts(self, source):
        return type(source).__name__ == "Own"

    def load(self, source, request):
        seen.append(request.example_inputs)
        return check(Graph.from_proto(parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Abs(x) }')))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The present folder, with a module ``nets`` and a package ``pack`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import json\n\nfrom absent_package import model\n")
    (tmp_path / "garbled.py").write_text("model = (\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text(NETS)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["nets:create", "pack.inner:create", "nets:Zoo.small", "_n1:f", "größe:netz"])
def test_names_of_code(name: str) -> None:
    assert FRONTEND.accepts(name)
    assert FRONTEND.accepts(Path(name))


@pytest.mark.parametrize(
    "name",
    ["nets", "nets:", ":create", "nets:create:more", "nets.:create", "a/b:create", "nets:f()", "1:2", ""],
)
def test_other_text(name: str) -> None:
    assert not FRONTEND.accepts(name)


@pytest.mark.parametrize("source", [None, 3, proto, b"nets:create", ("nets", "create")])
def test_other_things(source: object) -> None:
    assert not FRONTEND.accepts(source)


def test_a_drive_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FRONTEND.accepts("c:model") == (os.name != "nt")
    monkeypatch.setattr("surgery_ir.frontends.callables.Path", PureWindowsPath)
    assert not FRONTEND.accepts("c:model")


def test_a_file_of_such_a_name_is_a_file(folder: Path) -> None:
    (folder / "nets:create").touch()
    assert not FRONTEND.accepts("nets:create")


def test_it_is_a_frontend() -> None:
    assert isinstance(FRONTEND, Frontend)


@pytest.mark.parametrize(
    "name",
    [
        "nets:create",
        "nets:model",
        "nets:Zoo.small",
        "nets:cached",
        "nets:partial",
        "pack.inner:create",
        "pack.inner:model",
    ],
)
def test_what_gives_a_model(name: str) -> None:
    lowered = FRONTEND.load(Path(name), Request())
    assert [node.op_type for node in lowered.graph.model.graph] == ["Neg"]


def test_prints_of_the_function_leave_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    FRONTEND.load("nets:create", Request())
    assert capsys.readouterr() == ("", "creating\n")


def test_tensorflow_is_asked_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    FRONTEND.load("nets:create", Request())
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    FRONTEND.load("nets:create", Request())
    assert os.environ.pop("TF_CPP_MIN_LOG_LEVEL") == "2"


def test_the_present_folder_comes_first_and_is_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "nets.py").write_text("model = None\n")
    monkeypatch.syspath_prepend(str(other))
    before = list(sys.path)
    FRONTEND.load("nets:create", Request())
    assert sys.modules["nets"].folders == [str(folder), *before]
    assert sys.path == before
    with pytest.raises(ModelError):
        FRONTEND.load("nets:fails", Request())
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "given", "example"),
    [
        ("nets:with_example", None, {"x": 1}),
        ("nets:with_example", {"x": 2}, {"x": 2}),
        ("nets:own", None, None),
        ("nets:Own", {"x": 2}, {"x": 2}),
    ],
)
def test_models_of_plugins_and_their_example_inputs(
    name: str, given: Any, example: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, monkeypatch, "surgery_ir.frontends", "own", OWN)
    lowered = FRONTEND.load(name, Request(example_inputs=given))
    assert [node.op_type for node in lowered.graph.model.graph] == ["Abs"]
    assert sys.modules[f"{folder.name}_own".replace("-", "_")].seen == [example]


def test_plugins_are_not_imported_for_functions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, monkeypatch, "surgery_ir.frontends", "broken", "raise SystemError('imported')")
    FRONTEND.load("nets:create", Request())


def test_everything_else_of_the_request_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, Request]] = []

    def load(source: object, request: Request) -> Lowered:
        seen.append((source, request))
        return check(Graph.from_proto(proto("g (float[n] x) => (float[n] y) { y = Neg(x) }")))

    monkeypatch.setattr("surgery_ir.frontends.load.load_model", load)
    request = Request(dynamic_shapes={"x": None}, trust=True)
    FRONTEND.load("nets:model", request)
    assert seen == [(sys.modules["nets"].model, request)]


def line(text: str) -> str:
    """Say where in ``nets`` the code ``text`` stands."""
    return f"({{folder}}/nets.py, line {next(n for n, code in enumerate(NETS.splitlines(), 1) if text in code)})"


REFUSED = {
    "absent:create": "absent:create: there is no module 'absent', neither in {folder} nor installed",
    "absent.inner:create": "absent.inner:create: there is no module 'absent', neither in {folder} nor installed",
    "pack.absent:create": "pack.absent:create: there is no module 'pack.absent', neither in {folder} nor installed",
    "nets.absent:create": "nets.absent:create: there is no module 'nets.absent', neither in {folder} nor installed",
    "nets:absent": "nets:absent: nets has no 'absent'",
    "nets:Zoo.large": "nets:Zoo.large: nets.Zoo has no 'large'",
    "nets:lazy": f"nets:lazy: OSError: no network {line('no network')}",
    "broken:model": "broken:model: ModuleNotFoundError: No module named 'absent_package' ({folder}/broken.py, line 3)",
    "garbled:model": "garbled:model: SyntaxError: '(' was never closed (garbled.py, line 1)",
    "nets:fails": f"nets:fails: ValueError: first line and second {line('raise ValueError')}",
    "nets:fails_with_nothing": f"nets:fails_with_nothing: AssertionError {line('assert not')}",
    "nets:leaves": f"nets:leaves: SystemExit: 3 {line('sys.exit(3)')}",
    "nets:asks": "nets:asks: TypeError: asks() missing 1 required positional argument: 'argument'",
    "nets:nothing": "nets:nothing: is or gives NoneType, which cannot be read as a model",
    "nets:number": "nets:number: is or gives int, which cannot be read as a model",
    "nets:own": "nets:own: is or gives nets.Own, which cannot be read as a model",
    "nets:itself": "nets:itself: is or gives 'nets:create', which cannot be read as a model",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        FRONTEND.load(name, Request())
    assert "\n" not in str(caught.value)
    assert str(caught.value) == REFUSED[name].format(folder=folder)


def test_what_fails_in_a_library_is_shown_where_the_user_called_it(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^nets:fails_inside: ") as caught:
        FRONTEND.load("nets:fails_inside", Request())
    assert str(caught.value).endswith(line("parse_model(7)").format(folder=folder))


def test_the_whole_way_in() -> None:
    assert [node.op_type for node in load_model("nets:create").graph.model.graph] == ["Neg"]
