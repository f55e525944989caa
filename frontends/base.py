"""What a frontend is: it lowers models of some kind to graphs, and knows where their parameters went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from surgery_ir.analysis.runtime import Runtime
from surgery_ir.errors import SpecError
from surgery_ir.frontends.parameters import Binding
from surgery_ir.graph.model import Graph
from surgery_ir.graph.shapes import settle_shapes
from surgery_ir.graph.verify import check_finite, check_operators, verify

__all__ = ["Frontend", "LiveFrontend", "LiveModel", "Lowered", "Request", "check", "installed"]

ENTRY_POINTS = "surgery_ir.frontends"


@dataclass(frozen=True)
class Request:
    """What lowering may need besides the model.

    Parameters
    ----------
    runtime
        Runs what a framework's model was lowered to, for the comparison with the model itself.
    example_inputs
        One batch as the model takes it: an array, a tuple of them, or a mapping from the names of the inputs.
    dynamic_shapes
        What a framework's own exporter takes under this name, where its default is not wanted.
    trust
        Whether code that comes inside a file may run.
    """

    runtime: Runtime | None = None
    example_inputs: Any = None
    dynamic_shapes: Any = None
    trust: bool = False


class LiveModel(Protocol):
    """A model in its framework: what it computes, and its parameters by the framework's names."""

    @property
    def framework(self) -> str:
        """Name of the framework, for messages: ``PyTorch``."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run one batch, inputs by the names that the graph gives them; outputs in the order of the graph's."""
        ...

    def inner(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, tuple[str, NDArray[Any]]]:
        """Name and output of each layer, by the value of the graph that holds the same, in the order of computation.

        Empty where the framework does not tell.
        """
        ...

    def parameters(self) -> Mapping[str, NDArray[Any]]:
        """Parameters and buffers by name."""
        ...

    def assign(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Give parameters, by name, new values of the same shape, in place."""
        ...


@dataclass(frozen=True)
class Lowered:
    """A model that became a graph.

    Parameters
    ----------
    graph
        The graph, verified.
    bindings
        Which initializers hold which parameters of the framework, and how. An initializer of none is the
        converter's own.
    restated
        Names of the values whose declared shapes contradicted what follows from inputs and weights.
    live
        The model in its framework; ``None`` for files of ONNX.
    difference
        Largest difference from the framework's outputs, relative to their largest magnitude, where they were compared.
    feeds
        The batch that they were compared on, by the graph's input names.
    """

    graph: Graph
    bindings: tuple[Binding, ...] = ()
    restated: tuple[str, ...] = ()
    live: LiveModel | None = None
    difference: float | None = None
    feeds: Mapping[str, NDArray[Any]] = field(default_factory=dict)


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

    def load(self, source: object, request: Request) -> Lowered:
        """Lower ``source``, which was accepted.

        Raises
        ------
        ModelError
            It cannot be read, or what it says contradicts itself.
        """
        ...


@runtime_checkable
class LiveFrontend(Frontend, Protocol):
    """Lowers models in memory, whose weights can be put back."""

    def live(self, source: object, lowered: Lowered) -> LiveModel:
        """Give access to ``source``, the model that was lowered or another one of the same architecture.

        Raises
        ------
        ModelError
            It has other parameters.
        """
        ...


def check(graph: Graph) -> Lowered:
    """Give ``graph`` out as lowered, after everything that a graph from outside must pass.

    Raises
    ------
    ModelError
        Its structure, operators, shapes or weights are faulty.
    """
    check_operators(graph)
    restated = settle_shapes(graph)
    verify(graph)
    check_finite(graph)
    return Lowered(graph, tuple(Binding(name, (name,)) for name in graph.initializers), restated)


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
