"""Evaluate candidates: apply the passes, measure what the result costs and how good it is.

Cuts of candidates are not proven. That would cost more than the cuts themselves, and what does not compute what it
should scores badly; :mod:`~surgery_ir.search.winner` proves what wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from surgery_ir.analysis.cost import Cost, LayerCost, cost
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.base import Backend, baseline_of
from surgery_ir.backends.evaluate import Metric
from surgery_ir.backends.latency import measure, ratio
from surgery_ir.errors import SurgeryError
from surgery_ir.graph.edits import connections, plasticity
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext
from surgery_ir.passes.spec import format_pipeline
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.goal import Goal
from surgery_ir.search.network import Network, Prefixes
from surgery_ir.search.scoring import Scorer
from surgery_ir.search.study import Study

__all__ = ["Evaluator"]

WITHOUT_HOPE = 256
"""Selection samples for candidates that miss a target whatever their drop is."""

TIMING_SECONDS = 1.0

CUT_SHORT = "cut short by the time limit"


class OutOfTime(Exception):
    """Raised out of a pass that works on a candidate when time is up; no pass may take it for a failure of its own."""


def never() -> bool:
    """Tell that time is not up."""
    return False


class Evaluator:
    """Turns profiles into candidates. Each profile is evaluated once, each prefix of passes applied once.

    Parameters
    ----------
    graph
        The dense model.
    ctx
        Context of the passes, with the calibration samples; it is not asked to prove anything.
    backend
        Runs the candidates; the dense model runs on the backend that it is compared with.
    selection
        Samples that candidates are scored on.
    metric
        Scores outputs.
    goal
        Tells which candidates cannot win, and whether they must be timed.
    prologue
        How many passes every profile starts with that change nothing about what the model computes.
    workers
        Candidates at a time; one where they are timed.
    study
        Where candidates are kept for later runs.
    """

    def __init__(
        self,
        graph: Graph,
        ctx: PassContext,
        backend: Backend,
        selection: Samples,
        metric: Metric,
        goal: Goal,
        *,
        prologue: int = 0,
        workers: int = 1,
        study: Study | None = None,
    ) -> None:
        self.backend = backend
        self.goal = goal
        self.prologue = prologue
        self.workers = 1 if goal.needs_latency else max(1, workers)
        self.seen: dict[str, Candidate] = {}
        self._progress = ctx.progress
        self._over = never
        self.networks = Prefixes(graph, replace(ctx, prove=False, progress=self._check_time))
        self._study = study
        self._stock = baseline_of(backend)
        dense = self._stock.load(graph)
        self._timed = self._stock.load(graph, threads=1) if goal.needs_latency else dense
        self.scorer = Scorer(dense, selection, metric, goal.max_drop, ctx.seed)
        self._feeds = next(iter(selection.take(1).batches(graph, 1))).feeds
        self._costs = _quantities(cost(graph, sample_shapes(graph, self._stock, self._feeds)))

    @property
    def evaluated(self) -> int:
        """Profiles that were evaluated."""
        return len(self.seen)

    @property
    def failed(self) -> int:
        """Profiles that could not be applied or run."""
        return sum(item.failure not in ("", CUT_SHORT) for item in self.seen.values())

    @property
    def cut_short(self) -> int:
        """Profiles whose evaluation was given up, or not begun, because time was up."""
        return sum(item.failure == CUT_SHORT for item in self.seen.values())

    @property
    def refused(self) -> int:
        """Profiles of which a pass changed nothing."""
        return sum(item.refused for item in self.seen.values())

    def evaluate(
        self,
        profiles: Sequence[Sequence[Pass]],
        tick: Callable[[int], None] = lambda done: None,
        over: Callable[[], bool] = never,
    ) -> list[Candidate]:
        """Give the candidate of each profile, in order.

        A candidate that cannot be applied or run is counted and says why; it does not stop the search. ``tick`` is
        told how many were newly evaluated, whenever one more is. ``over`` tells whether time is up: what has not been
        applied by then is cut short, at the next layer that a pass comes to. That holds for these profiles alone.
        """
        texts = [format_pipeline(passes) for passes in profiles]
        fresh = {text: passes for text, passes in zip(texts, profiles, strict=True) if text not in self.seen}
        known = {text: self._study.known[text] for text in fresh if self._study and text in self._study.known}
        missing = {text: passes for text, passes in fresh.items() if text not in known}
        self._over = over
        try:
            if self.workers == 1 or len(missing) < 2:
                known.update(_counted(map(self._try, missing.values()), tick))
            else:
                with ThreadPoolExecutor(min(self.workers, len(missing)), "candidate") as pool:
                    known.update(_counted(pool.map(self._try, missing.values()), tick))
        finally:
            self._over = never
        self.seen.update((text, known[text]) for text in fresh)
        return [self.seen[text] for text in texts]

    def _try(self, passes: Sequence[Pass]) -> Candidate:
        started = time.perf_counter()
        try:
            self._raise_if_over()
            network = self.networks.apply(passes)
            self._raise_if_over()
            candidate = self.measure(passes, network)
        except OutOfTime:  # it is not kept: another search may have time for it
            return Candidate(format_pipeline(passes), failure=CUT_SHORT, seconds=time.perf_counter() - started)
        except SurgeryError as error:
            candidate = Candidate(format_pipeline(passes), failure=f"{type(error).__name__}: {error}")
        candidate = replace(candidate, seconds=time.perf_counter() - started)
        if self._study is not None:
            self._study.add(candidate)
        return candidate

    def _check_time(self, what: str, done: int, total: int) -> None:
        self._raise_if_over()
        self._progress(what, done, total)

    def _raise_if_over(self) -> None:
        if self._over():
            raise OutOfTime

    def measure(self, passes: Sequence[Pass], network: Network) -> Candidate:
        """Measure a network that ``passes`` have led to; nothing of it is kept.

        Raises
        ------
        SurgeryError
            It cannot be run.
        """
        session = self.backend.load(network.graph)
        costs = cost(network.graph, sample_shapes(network.graph, self._stock, self._feeds))
        quantities = _quantities(costs)
        shares = {name: value / self._costs[name] for name, value in quantities.items() if self._costs.get(name)}
        total = connections(network.edits)
        created = plasticity(network.edits)
        missed = any(self.goal.excesses({**shares, "plasticity": created}))
        scored = self.scorer.score(session, limit=WITHOUT_HOPE if missed else None)
        if self.goal.needs_latency and scored.complete:
            quantities["latency"], shares["latency"] = self.time(network, TIMING_SECONDS)
        idle = sum(position >= self.prologue for position in network.idle)
        changed = idle < len(passes) - self.prologue
        return Candidate(
            profile=format_pipeline(passes),
            passes=len(passes),
            quantities=quantities,
            shares=shares,
            metric=scored.metric,
            drop=scored.drop,
            error=scored.error if changed else 0.0,
            divergence=scored.divergence,
            samples=scored.samples,
            complete=scored.complete,
            pruned=total.pruned,
            created=total.created,
            plasticity=created,
            changed=changed,
            refused=idle > 0,
            density=_densities(costs.layers),
        )

    def time(self, network: Network, seconds: float) -> tuple[float, float]:
        """Measure the latency of a network in turns with the dense model's: milliseconds, and the ratio of the two."""
        timed = [self._timed, self.backend.load(network.graph, threads=1)]
        dense, compressed = measure(timed, self._feeds, seconds=seconds)
        return compressed.median_ms, ratio(compressed, dense)


def _counted(made: Iterable[Candidate], tick: Callable[[int], None]) -> Iterator[tuple[str, Candidate]]:
    for done, candidate in enumerate(made, start=1):
        tick(done)
        yield candidate.profile, candidate


def _quantities(total: Cost) -> dict[str, float]:
    known = {"nonzeros": total.nonzeros, "params": total.params, "size": total.bytes, "macs": total.macs}
    return {name: float(value) for name, value in known.items() if value is not None}


def _densities(layers: Sequence[LayerCost]) -> dict[str, float]:
    """Share of nonzeros among the weights that each layer has left."""
    return {layer.name: layer.nonzeros / layer.params for layer in layers if layer.params}
