"""Run a user's ``f(gs.Graph) -> gs.Graph`` as a pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import onnx_graphsurgeon as gs

from surgery_ir.errors import PassError, SpecError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help

__all__ = ["GraphSurgeon", "run_function"]


@dataclass(frozen=True)
class GraphSurgeon(Pass):
    """Hand the graph to a function ``f(gs.Graph) -> gs.Graph`` of yours, named as module:function.

    What onnx-graphsurgeon does not carry (metadata, the model's documentation) is lost in what the function returns.
    """

    name: ClassVar[str] = "graphsurgeon"
    runs_code: ClassVar[bool] = True

    function: Annotated[str, Help("module:function, importable where the command runs")]

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Import the function and run it."""
        return run_function(_import(self.function), editor, self.function)


def run_function(function: Callable[[gs.Graph], gs.Graph], editor: Editor, name: str) -> Sequence[Refusal]:
    """Replace the graph by what ``function`` makes of it.

    Raises
    ------
    PassError
        The function raises, or returns something that is not a graph or cannot be used.
    """
    given = editor.graph.to_graphsurgeon()
    try:
        returned = function(given)
    except Exception as error:
        raise PassError(f"graphsurgeon: {name} raised {_one_line(error)}") from error
    if not isinstance(returned, gs.Graph):
        raise PassError(f"graphsurgeon: {name} returned {type(returned).__name__}, not a gs.Graph")
    try:
        result = Graph.from_graphsurgeon(returned, editor.graph.source)
    except Exception as error:  # onnx-graphsurgeon fails on broken graphs wherever it happens to notice
        raise PassError(f"graphsurgeon: {name} returned a graph that cannot be used: {_one_line(error)}") from error
    result.model.ir_version = editor.graph.model.ir_version
    if result.fingerprint() == Graph.from_graphsurgeon(editor.graph.to_graphsurgeon()).fingerprint():
        return [Refusal(f"{name} changed nothing")]
    editor.replace_graph(result)
    return []


def _import(text: str) -> Callable[[gs.Graph], gs.Graph]:
    module, _, attribute = text.partition(":")
    if not module or not attribute:
        raise SpecError(f"graphsurgeon: {text!r} is not of the form module:function")
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module does while it is imported
        raise SpecError(f"graphsurgeon: {text!r} cannot be imported: {_one_line(error)}") from error
    if not callable(function):
        raise SpecError(f"graphsurgeon: {text!r} is not a function")
    return function  # type: ignore[no-any-return]


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
