"""What analysis and passes need of a runtime; backends provide it and the compiler hands it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from surgery_ir.graph.model import Graph

__all__ = ["Runtime", "Session"]


class Session(Protocol):
    """A loaded graph."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch; outputs by name."""
        ...


class Runtime(Protocol):
    """Loads graphs. Implemented by every backend."""

    @property
    def name(self) -> str:
        """Name of the backend, as on the command line."""
        ...

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        """Load ``graph``; ``threads`` = 0 leaves the number to the runtime."""
        ...
