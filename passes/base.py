"""What a pass is, and the one way it is run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypeVar

from surgery_ir.analysis.gradients import GradientProvider
from surgery_ir.analysis.runtime import Runtime
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.threads import single_threaded_blas
from surgery_ir.errors import PassError, VerificationError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import Edit
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.options import validate

__all__ = ["Cache", "Outcome", "Pass", "PassContext", "Progress", "Refusal", "run_pass"]

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


class Cache:
    """Results that several passes and candidates share, the latest used kept; safe to use from threads.

    Whoever asks first computes; who asks for the same meanwhile waits, and nobody else does. What is pinned stays,
    however much follows.
    """

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self._items: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._pinned: Hashable = None
        self._lock = threading.Lock()

    def pin(self, key: Hashable) -> None:
        """Keep what is under ``key``, instead of what was pinned before."""
        self._pinned = key

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Give what is kept under ``key``, computing it the first time."""
        with self._lock:
            known = self._items.get(key)
            item: Future[T] = Future() if known is None else known
            self._items[key] = item
            self._items.move_to_end(key)
            surplus = max(0, len(self._items) - self.size)
            for other in [other for other in self._items if other != self._pinned][:surplus]:
                del self._items[other]
        if known is None:
            try:
                item.set_result(compute())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets the same error
                with self._lock:
                    self._items.pop(key, None)
                item.set_exception(error)
        return item.result()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was left alone, and which nodes it concerns.

    Parameters
    ----------
    reason
        One clause a user understands.
    nodes
        Names of the nodes concerned; empty where the whole graph is.
    pass_name
        Filled in by :func:`run_pass`.
    """

    reason: str
    nodes: tuple[str, ...] = ()
    pass_name: str = ""


@dataclass(frozen=True)
class PassContext:
    """What a pass may use besides the graph.

    Parameters
    ----------
    reference
        The dense model as it was loaded. Values that survive keep their names, so every layer finds its target
        there.
    runtime
        Runs graphs.
    samples
        Calibration samples, or ``None``.
    seed
        Seed of everything random.
    cache
        Shared between the candidates of a search.
    progress
        Told how far long work has come.
    prove
        Whether cuts are proven by running them; a search leaves that to its winner.
    selection
        Samples that nothing is fitted on, for passes that keep only what helps; without them such a pass judges by
        calibration samples that it holds out.
    gradients
        Gives gradients of the task's own loss, where a framework is there.
    """

    reference: Graph
    runtime: Runtime
    samples: Samples | None = None
    seed: int = 0
    cache: Cache = field(default_factory=Cache)
    progress: Progress = silent
    prove: bool = True
    selection: Samples | None = None
    gradients: GradientProvider | None = None


@dataclass(frozen=True)
class Pass:
    """Base of every pass: a frozen dataclass whose fields are its options.

    A subclass sets :attr:`name`, declares options as fields (see :mod:`surgery_ir.passes.options`) and writes
    :meth:`apply`; :meth:`check` refuses graphs as a whole before anything is copied.
    """

    name: ClassVar[str]
    needs_samples: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False
    """Whether an option names Python code; a profile with such a pass is replayed only where it is trusted."""
    serves: ClassVar[frozenset[str]] = frozenset()
    """What a search applies it for without being asked: quantities that it lowers, or ``metric``, which it restores.

    A pass that serves nothing has to be named.
    """
    proves: ClassVar[bool] = False
    """Whether it looks at :attr:`PassContext.prove`; a search proves such passes of its winner."""
    exact: ClassVar[bool] = False
    """Whether it only rewrites, whatever the weights are: done on the dense model, it shows what became of each."""

    def __post_init__(self) -> None:
        """Check every option."""
        validate(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as class and plain options, so that passes can be sent to other processes."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return _create, (type(self), {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()})

    def check(self, graph: Graph, ctx: PassContext) -> Refusal | None:
        """Say why this graph cannot be worked on at all, or ``None``. Must not change anything."""
        return None

    def settle(self, graph: Graph, ctx: PassContext) -> Self:
        """Give the same pass with all that it would measure on this machine spelled out, so that it can be replayed."""
        return self

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Change the graph through ``editor``; return what was left alone, and why."""
        raise NotImplementedError


def _create(cls: type[Pass], values: dict[str, object]) -> Pass:
    return cls(**values)


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    ``graph`` is the input itself where nothing changed, a changed copy otherwise. ``applied`` is the pass as it was
    settled; applying it again gives the same graph.
    """

    graph: Graph
    edits: tuple[Edit, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    applied: Pass | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was edited."""
        return bool(self.edits)


def run_pass(pass_: Pass, graph: Graph, ctx: PassContext) -> Outcome:
    """Run ``pass_`` on a copy of ``graph``: clone, check, settle, apply, verify.

    Raises
    ------
    PassError
        The pass changed nothing and gave no reason.
    VerificationError
        The pass broke the graph.
    """

    def signed(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
        return tuple(Refusal(item.reason, item.nodes, pass_.name) for item in refusals)

    if pass_.needs_samples and ctx.samples is None:
        return Outcome(graph, refusals=signed([Refusal("needs sample inputs: pass --data")]), applied=pass_)
    refusal = pass_.check(graph, ctx)
    if refusal is not None:
        return Outcome(graph, refusals=signed([refusal]), applied=pass_)
    editor = Editor(graph.clone(), pass_.name)
    with single_threaded_blas():
        pass_ = pass_.settle(graph, ctx)
        refusals = pass_.apply(editor, ctx)
    if not editor.edits:
        if not refusals:
            raise PassError(f"{pass_.name}: changed nothing and gave no reason")
        return Outcome(graph, refusals=signed(refusals), applied=pass_)
    try:
        verify(editor.graph)
    except VerificationError as error:
        raise VerificationError(f"after {pass_.name}: {error}", error.neighbourhood) from error
    _check_interface(pass_, graph, editor.graph)
    return Outcome(editor.graph, tuple(editor.edits), signed(refusals), pass_)


def _check_interface(pass_: Pass, before: Graph, after: Graph) -> None:
    for kind, old, new in (("inputs", before.inputs, after.inputs), ("outputs", before.outputs, after.outputs)):
        was = [(value.name, value.dtype) for value in old]
        now = [(value.name, value.dtype) for value in new]
        if was != now:
            raise VerificationError(f"after {pass_.name}: the {kind} of the graph changed from {was} to {now}")
