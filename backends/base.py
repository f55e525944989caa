"""What a backend is, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from surgery_ir.analysis import runtime
from surgery_ir.analysis.inputs import InputSpec
from surgery_ir.errors import SpecError
from surgery_ir.graph.model import Graph

__all__ = ["Backend", "Capabilities", "Session", "backend", "backend_names", "baseline_of"]

ENTRY_POINTS = "surgery_ir.backends"
BUILT_IN = {
    "onnxruntime": "surgery_ir.backends.onnxruntime:OnnxRuntimeBackend",
    "sparse": "surgery_ir.backends.sparse:SparseBackend",
}


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    Parameters
    ----------
    version
        Version of the runtime behind it.
    threads
        Whether ``load`` obeys its ``threads``.
    sparse_speedup
        Whether zeros in weights make a model faster.
    patterns
        Blocks of zeros that it is quicker with than with as many zeros anywhere, as ``prune-weights`` names them.
    baseline
        Backend that a model runs on where this one is of no use, if that is another one: dense models are measured
        there, and passes, which load many models for a few runs each, work there.
    """

    version: str
    threads: bool = True
    sparse_speedup: bool = False
    patterns: tuple[str, ...] = ()
    baseline: str = ""


class Session(runtime.Session, Protocol):
    """A loaded graph that says what it takes and gives."""

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        """Type and shape of every input to feed."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that ``run`` gives."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Loads graphs for running. Third parties register a class under the entry-point group ``surgery_ir.backends``."""

    @property
    def name(self) -> str:
        """Name, as on the command line."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do on this machine."""
        ...

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        """Load ``graph``; ``threads`` = 0 leaves the number to the runtime.

        Raises
        ------
        BackendError
            The runtime refuses the graph.
        """
        ...


def backend_names() -> tuple[str, ...]:
    """Names of the backends that are built in or installed, in that order; none is imported."""
    installed = sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))
    return tuple(dict.fromkeys((*BUILT_IN, *installed)))


def backend(name: str) -> Backend:
    """Give the backend called ``name``. A plug-in is imported only when it is named; it cannot replace a built-in one.

    Raises
    ------
    SpecError
        There is no backend of that name, or it cannot be imported.
    BackendError
        It needs a package that is not installed.
    """
    found: object
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)()
    else:
        entries = tuple(entry_points(group=ENTRY_POINTS, name=name))
        if not entries:
            raise SpecError(f"there is no backend called {name!r}; there are {', '.join(backend_names())}")
        try:
            found = entries[0].load()()
        except Exception as error:  # a stranger's module may raise anything
            raise SpecError(f"the backend {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, Backend):
        raise SpecError(f"the backend {name!r} ({type(found).__name__}) lacks name, capabilities or load")
    return found


def baseline_of(runtime: Backend) -> Backend:
    """Give the backend that dense models are measured on, for comparison with ``runtime``: that itself, mostly."""
    name = runtime.capabilities.baseline
    return backend(name) if name else runtime
