"""What a frontend is, and how a model finds the one that can lower it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from surgery_ir.errors import SpecError
from surgery_ir.graph.model import Graph
from surgery_ir.graph.shapes import settle_shapes
from surgery_ir.graph.verify import check_finite, check_operators, verify

__all__ = ["Frontend", "Lowered", "check"]

ENTRY_POINTS = "surgery_ir.frontends"


@dataclass(frozen=True)
class Lowered:
    """A model that became a graph.

    Parameters
    ----------
    graph
        The graph, verified.
    parameters
        Name of each parameter in its framework, and the initializer that holds it.
    restated
        Names of the values whose declared shapes contradicted what follows from inputs and weights.
    """

    graph: Graph
    parameters: Mapping[str, str]
    restated: tuple[str, ...] = ()


@runtime_checkable
class Frontend(Protocol):
    """Lowers models of some kind. Third parties register theirs as entry points of ``surgery_ir.frontends``."""

    @property
    def reads(self) -> str:
        """What it reads, for messages: ``.onnx files``."""
        ...

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is of its kind, by type or suffix; it is not opened for that."""
        ...

    def load(self, source: object) -> Lowered:
        """Lower ``source``, which was accepted.

        Raises
        ------
        ModelError
            It cannot be read, or what it says contradicts itself.
        """
        ...


def check(graph: Graph) -> Lowered:
    """Give ``graph`` out as lowered from ONNX, after everything that a graph from outside must pass.

    Raises
    ------
    ModelError
        Its structure, operators, shapes or weights are faulty.
    """
    check_operators(graph)
    restated = settle_shapes(graph)
    verify(graph)
    check_finite(graph)
    return Lowered(graph, {name: name for name in graph.initializers}, restated)


def installed() -> Iterator[Frontend]:
    """Import the frontends of third parties, one after the other.

    Raises
    ------
    SpecError
        One cannot be imported, or is no frontend.
    """
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            found = entry.load()()
        except Exception as error:  # a stranger's module may raise anything
            raise SpecError(f"the frontend {entry.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
        if not isinstance(found, Frontend):
            raise SpecError(f"the frontend {entry.name!r} ({type(found).__name__}) lacks reads, accepts or load")
        yield found
