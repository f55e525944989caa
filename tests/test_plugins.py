"""Passes from elsewhere: a real plug-in, installed by pip, and broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.registry import builtin_passes, pass_class, plugin_passes
from surgery_ir.passes.spec import parse_pipeline
from tests.plugins import install

GROUP = "surgery_ir.passes"

PRELUDE = """
import json, sys
from surgery_ir.passes.registry import builtin_passes, pass_class, plugin_passes
from surgery_ir.passes.spec import format_pipeline, parse_pipeline

def loaded():
    return "surgery_ir_round" in sys.modules
"""


def python(code: str, folder: Path | None) -> Any:
    """Run ``code`` in a fresh interpreter that finds the plug-in; give what it prints as JSON."""
    path = [*([str(folder)] if folder is not None else []), *(item for item in sys.path if item)]
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_listed(plugin_folder: Path) -> None:
    code = "print(json.dumps({name: cls.__module__ for name, cls in plugin_passes().items()}))"
    assert python(code, plugin_folder)["round-weights"] == "surgery_ir_round"
    assert "round-weights" not in python(code, None)


def test_it_runs_by_its_name(plugin_folder: Path) -> None:
    code = """
from tests.harness import RUNTIME, small_graph
from surgery_ir.passes.base import PassContext, run_pass

graph = small_graph("float[N,3] x | float[3,2] w | y = MatMul(x, w)")
(found,) = parse_pipeline("round-weights{step=0.5}")
outcome = run_pass(found, graph, PassContext(reference=graph, runtime=RUNTIME))
grid = outcome.graph.array("w") / abs(graph.array("w")).max()
print(json.dumps({
    "text": format_pipeline([found]),
    "edits": [[edit.kind, edit.pass_name, edit.where] for edit in outcome.edits],
    "weights": sorted(set(abs(grid).ravel().tolist())),
}))
"""
    assert python(code, plugin_folder) == {
        "text": "round-weights{step=0.5}",
        "edits": [["set-weights", "round-weights", "w"]],
        "weights": [0.0, 0.5, 1.0],
    }


def test_it_is_not_imported_unless_it_is_named(plugin_folder: Path) -> None:
    code = """
seen = [loaded()]
parse_pipeline("canonicalize,prune-weights{ratio=0.5}")
builtin_passes()
pass_class("repair")
try:
    pass_class("round-weight")
except Exception as error:
    seen.append(str(error))
seen.append(loaded())
parse_pipeline("round-weights")
seen.append(loaded())
print(json.dumps(seen))
"""
    before, message, unnamed, named = python(code, plugin_folder)
    assert (before, unnamed, named) == (False, False, True)
    assert message.startswith("there is no pass called 'round-weight' (passes: canonicalize,")
    assert message.endswith("round-weights)")


VALID = """
from dataclasses import dataclass
from typing import ClassVar
from surgery_ir.passes.base import Pass

@dataclass(frozen=True)
class plugin(Pass):
    name: ClassVar[str] = "{name}"
    {field}
"""

BROKEN = {
    "missing module": ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "missing attribute": ("x = 1", "AttributeError: module .* has no attribute 'plugin'"),
    "syntax": ("def plugin(:", "SyntaxError: "),
    "any error": ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line second line"),
    "no class": ("plugin = 1", "is not a pass called 'stranger'"),
    "no pass": ("class plugin: name = 'stranger'", "is not a pass called 'stranger'"),
    "another name": (VALID.format(name="other", field=""), "is not a pass called 'stranger'"),
    "an option of no kind": (VALID.format(name="stranger", field="size: bytes = b''"), "cannot be imported: "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_an_error_only_where_it_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, reason = BROKEN[kind]
    install(tmp_path, monkeypatch, GROUP, "stranger", code)
    assert parse_pipeline("canonicalize")
    assert builtin_passes()
    for use in (lambda: pass_class("stranger"), lambda: parse_pipeline("canonicalize,stranger")):
        with pytest.raises(SpecError, match=reason) as caught:
            use()
        assert "stranger" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert str(plugin_passes()["stranger"]) == str(caught.value), "a list of passes says what is wrong, and goes on"


def test_a_plugin_cannot_replace_a_pass_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "canonicalize", "raise RuntimeError")
    assert pass_class("canonicalize") is builtin_passes()["canonicalize"]
    assert dict(plugin_passes()) == {}


def test_a_sound_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, GROUP, "sound", VALID.format(name="sound", field="times: int = 3"))
    (found,) = parse_pipeline("sound{times=5}")
    assert isinstance(found, Pass)
    assert found == pass_class("sound")(times=5)  # type: ignore[call-arg]
