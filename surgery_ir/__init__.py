"""surgery-ir compiles a model file to a smaller one whose accuracy it has measured.

::

    import surgery_ir

    result = surgery_ir.compile("model.onnx", data="inputs.npz", goal=surgery_ir.Goal(max_drop=0.01), time_limit=600)
    result.save("small.onnx")
    surgery_ir.apply("model.onnx", "canonicalize,prune-weights{ratio=0.8},repair", data="inputs.npz")

What is listed here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from surgery_ir.version import __version__ as __version__

if TYPE_CHECKING:
    from surgery_ir.analysis.samples import Samples
    from surgery_ir.compiler import apply, compile, export
    from surgery_ir.errors import SurgeryError
    from surgery_ir.graph.model import Graph
    from surgery_ir.result import Result
    from surgery_ir.search.goal import Goal
    from surgery_ir.search.policy import SearchPolicy
    from surgery_ir.search.profile import CompressionProfile

__all__ = [
    "CompressionProfile",
    "Goal",
    "Graph",
    "Result",
    "Samples",
    "SearchPolicy",
    "SurgeryError",
    "__version__",
    "apply",
    "compile",
    "export",
]

LAZY = {
    "CompressionProfile": "surgery_ir.search.profile",
    "Goal": "surgery_ir.search.goal",
    "Graph": "surgery_ir.graph.model",
    "Result": "surgery_ir.result",
    "Samples": "surgery_ir.analysis.samples",
    "SearchPolicy": "surgery_ir.search.policy",
    "SurgeryError": "surgery_ir.errors",
    "apply": "surgery_ir.compiler",
    "compile": "surgery_ir.compiler",
    "export": "surgery_ir.compiler",
}


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(LAZY[name]), name)
    return found


def __dir__() -> list[str]:
    """List what can be asked for."""
    return sorted({*globals(), *LAZY})
