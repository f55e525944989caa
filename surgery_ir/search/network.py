"""Apply pipelines that share prefixes: a prefix that was applied already is not applied again.

Prefixes are told apart by what they come to. Budgets of 40 and of 41 % may leave the same widths, and whatever follows
is then done once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from surgery_ir.graph.edits import Edit
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Cache, Pass, PassContext, Refusal, run_pass
from surgery_ir.passes.spec import format_pipeline

__all__ = ["Network", "Prefixes"]


@dataclass(frozen=True)
class Network:
    """A graph after some passes, with what they did and what they refused.

    ``idle`` are the positions of passes that changed nothing. ``applied`` are the passes with everything that was
    measured spelled out: applied again, anywhere, they give the same graph.
    """

    graph: Graph
    edits: tuple[Edit, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    idle: tuple[int, ...] = ()
    applied: tuple[Pass, ...] = ()


class Prefixes:
    """Applies pipelines to one graph and keeps the latest results, of whole pipelines and of their beginnings.

    Passes are functions of graph and context, so what is kept equals what applying anew would give. Safe to use from
    threads: one that needs what another is about to compute waits for it.

    Parameters
    ----------
    graph
        Graph that every pipeline starts from.
    ctx
        Context of the passes.
    size
        Number of results to keep. Graphs share the tensors that their passes left alone.
    """

    def __init__(self, graph: Graph, ctx: PassContext, size: int = 12) -> None:
        self.ctx = ctx
        self.runs = 0
        self._start = Network(graph)
        self._kept = Cache(size)
        self._steps = Cache(size)
        self._lock = threading.Lock()

    def apply(self, passes: Sequence[Pass]) -> Network:
        """Give the graph after ``passes``.

        Raises
        ------
        SurgeryError
            A pass failed; nothing of it is kept.
        """
        return self._kept.get(format_pipeline(passes), lambda: self._run(passes)) if passes else self._start

    def proven(self, passes: Sequence[Pass]) -> Network:
        """Give the graph after ``passes`` with their cuts proven, whatever the context says of that.

        Nothing that was not proven is taken over: all passes up to the last one that proves are applied anew. Where
        their graph is the one that is known, so is what follows.

        Raises
        ------
        SurgeryError
            A pass failed.
        """
        last = max((place for place, item in enumerate(passes, start=1) if item.proves), default=0)
        if self.ctx.prove or not last:
            return self.apply(passes)
        proving = Prefixes(self._start.graph, replace(self.ctx, prove=True))
        same = proving.apply(passes[:last]).graph.fingerprint() == self.apply(passes[:last]).graph.fingerprint()
        return self.apply(passes) if same else proving.apply(passes)

    def pin(self, profile: str) -> None:
        """Keep the result of this pipeline, instead of what was pinned before, however many follow."""
        self._kept.pin(profile)

    def _run(self, passes: Sequence[Pass]) -> Network:
        before = self.apply(passes[:-1])
        step = format_pipeline((*before.applied, passes[-1]))
        return self._steps.get(step, lambda: self._run_last(passes, before))

    def _run_last(self, passes: Sequence[Pass], before: Network) -> Network:
        outcome = run_pass(passes[-1], before.graph, self.ctx)
        with self._lock:
            self.runs += 1
        idle = () if outcome.changed else (len(passes) - 1,)
        return Network(
            outcome.graph,
            (*before.edits, *outcome.edits),
            (*before.refusals, *outcome.refusals),
            (*before.idle, *idle),
            (*before.applied, outcome.applied or passes[-1]),
        )
