"""A net that takes no time, samples for it, and passes whose behaviour is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from surgery_ir.analysis.samples import Samples
from surgery_ir.backends.base import Backend
from surgery_ir.backends.metrics import find_metric
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Progress, Refusal, silent
from surgery_ir.passes.options import Range
from surgery_ir.search.evaluator import Evaluator
from surgery_ir.search.goal import Goal
from surgery_ir.search.space import Space
from surgery_ir.search.study import Study
from tests import harness

__all__ = [
    "BACKEND",
    "UNITS",
    "Crash",
    "Cut",
    "Dawdle",
    "Fail",
    "Prune",
    "Regrow",
    "Touch",
    "budgeted",
    "context",
    "data",
    "evaluator",
    "net",
    "space",
]

BACKEND: Backend = OnnxRuntimeBackend()

NET = """
net (float[N,8] x) => (float[N,4] y)
<float[16,8] w1, float[16,16] w2, float[16,16] w3, float[4,16] w4> {
    h1 = Gemm<transB=1>(x, w1)
    r1 = Relu(h1)
    h2 = Gemm<transB=1>(r1, w2)
    r2 = Relu(h2)
    h3 = Gemm<transB=1>(r2, w3)
    r3 = Relu(h3)
    y = Gemm<transB=1>(r3, w4)
}
"""

UNITS = MappingProxyType({"w2": 256, "w3": 256})


def net() -> Graph:
    """Four Gemm layers with random weights; the two in the middle may be pruned."""
    return harness.graph(NET)


def data(count: int = 400, *, labels: bool = True, seed: int = 0, noise: bool = False) -> Samples:
    """Random inputs, labelled by the net itself except for one in ten, or by nothing but chance."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 8)).astype(np.float32)
    if not labels:
        return Samples({"x": x})
    classes = harness.run(net(), {"x": x})["y"].argmax(1)
    return Samples({"x": x}, np.where(rng.random(count) < (1.0 if noise else 0.1), rng.integers(0, 4, count), classes))


@dataclass(frozen=True)
class Prune(Pass):
    """Set the smallest weights of some initializers to zero."""

    name: ClassVar[str] = "toy-prune"

    ratio: Annotated[float, Range(0.0, 0.99, search=(0.1, 0.95))] = 0.5
    ratios: Annotated[Mapping[str, float], Range(0.0, 0.99)] = field(default_factory=lambda: MappingProxyType({}))
    order: Literal["magnitude", "worst"] = "magnitude"

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        refusals = []
        for name in UNITS:
            weights = editor.graph.array(name)
            scores = np.abs(weights) * (1 if self.order == "magnitude" else -1)
            count = round(self.ratios.get(name, self.ratio) * weights.size)
            threshold = np.sort(scores, axis=None)[count - 1] if count else -np.inf
            pruned = np.where(scores <= threshold, 0, weights)
            if np.array_equal(pruned, weights):
                refusals.append(Refusal("nothing to prune", (name,)))
            editor.set_weights(name, pruned)
        return refusals


@dataclass(frozen=True)
class Touch(Pass):
    """Scale what is left of one layer a little; stands for a repair."""

    name: ClassVar[str] = "toy-touch"

    scale: Annotated[float, Range(0.5, 2.0, search=(1.0, 1.2))] = 1.0
    flag: bool = False

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        editor.set_weights("w3", editor.graph.array("w3") * np.float32(self.scale))
        return [Refusal("there is nothing to scale")] if self.scale == 1.0 else []


@dataclass(frozen=True)
class Regrow(Pass):
    """Swap some of what was pruned for as much of what was kept; stands for a reconnection."""

    name: ClassVar[str] = "toy-regrow"
    serves: ClassVar[frozenset[str]] = frozenset({"metric"})

    share: Annotated[float, Range(0.0, 1.0, search=(0.02, 0.5))] = 0.1
    kind: Literal["first", "last"] = "first"

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        refusals = []
        for name in UNITS:
            weights = editor.graph.array(name).copy()
            zeros, kept = np.flatnonzero(weights == 0), np.flatnonzero(weights)
            count = min(round(self.share * len(zeros)), len(kept))
            picked = slice(0, count) if self.kind == "first" else slice(len(zeros) - count, len(zeros))
            least = kept[np.argsort(np.abs(weights.flat[kept]), kind="stable")[:count]]
            weights.flat[least] = 0
            weights.flat[zeros[picked]] = ctx.reference.array(name).flat[zeros[picked]]
            if not count:
                refusals.append(Refusal("nothing to regrow", (name,)))
            editor.set_weights(name, weights)
        return refusals


@dataclass(frozen=True)
class Cut(Pass):
    """Remove the last hidden units, as many as a budget says; where that has to be proven, some cuts are refused.

    ``macs`` is the share of the hidden units that stay.
    """

    name: ClassVar[str] = "toy-cut"
    serves: ClassVar[frozenset[str]] = frozenset({"macs"})
    proves: ClassVar[bool] = True

    ratio: Annotated[float, Range(0.0, 0.9, search=(0.1, 0.8))] = 0.5
    macs: Annotated[float | None, Range(0.01, 1.0, search=(0.1, 0.95))] = None
    unproven: Annotated[float, Range(0.0, 1.0)] = 1.0
    least: Annotated[float, Range(0.0, 1.0)] = 0.0

    def settle(self, graph: Graph, ctx: PassContext) -> Cut:
        if self.macs is None:
            return self
        if self.macs < self.least:
            raise PassError(f"toy-cut: {self.macs} cannot be reached")
        return replace(self, macs=None, ratio=round(16 * (1 - self.macs)) / 16)

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Keep the share; one that is above ``unproven`` is cut to half only under proof."""
        units = editor.graph.array("w2").shape[0]
        kept = max(1, round(16 * (1 - self.ratio)))
        refusals = []
        if ctx.prove and self.ratio > self.unproven:
            kept = max(kept, 8)
            refusals.append(Refusal("cutting all of it cannot be proven"))
        if kept >= units:
            return [Refusal("it is as small already")]
        editor.slice_weights("w2", {0: np.arange(kept)})
        editor.slice_weights("w3", {1: np.arange(kept)})
        return refusals


@dataclass(frozen=True)
class Dawdle(Pass):
    """Change what :class:`Touch` does, layer by layer, and tell of each."""

    name: ClassVar[str] = "toy-dawdle"

    layers: Annotated[int, Range(1, 1000)] = 10

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        for layer in range(self.layers):
            ctx.progress("dawdling", layer, self.layers)
        editor.set_weights("w3", editor.graph.array("w3") * np.float32(1.01))
        return []


@dataclass(frozen=True)
class Fail(Pass):
    """Fail as a pass may."""

    name: ClassVar[str] = "toy-fail"

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        raise PassError("toy-fail: cannot")


@dataclass(frozen=True)
class Crash(Pass):
    """Fail as a pass must not."""

    name: ClassVar[str] = "toy-crash"

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        raise ZeroDivisionError("a bug")


def space(*pool: Pass, **options: Any) -> Space:
    """The space over some passes, by default pruning and touching."""
    return Space(pool or (Prune(), Touch()), units=lambda _: UNITS, **options)


def budgeted(*pool: Pass, **options: Any) -> Space:
    """The space over some passes whose strength is the share of MACs, where they have that option."""
    return space(*pool, budgets=lambda _: ("macs",), **options)


def context(graph: Graph, seed: int = 0, progress: Progress = silent) -> PassContext:
    """A context as a search has it."""
    return PassContext(graph, BACKEND, data(64, labels=False), seed, progress=progress)


def evaluator(
    goal: Goal | None = None,
    *,
    selection: Samples | None = None,
    workers: int = 1,
    study: Study | None = None,
    progress: Progress = silent,
    backend: Backend = BACKEND,
) -> Evaluator:
    """An evaluator of the net."""
    graph = net()
    samples = selection or data()
    metric = find_metric("fidelity" if samples.labels is None else "accuracy")
    ctx = context(graph, progress=progress)
    return Evaluator(graph, ctx, backend, samples, metric, goal or Goal(max_drop=0.1), workers=workers, study=study)
