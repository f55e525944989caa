"""Prefixes of pipelines are applied once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import pytest

from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Range
from surgery_ir.passes.spec import format_pipeline
from surgery_ir.search.network import Prefixes
from tests.search.toys import Crash, Cut, Fail, Prune, Touch, context, net


def prefixes(size: int = 12) -> Prefixes:
    graph = net()
    return Prefixes(graph, context(graph), size)


def test_what_was_applied_is_not_applied_again() -> None:
    of = prefixes()
    first = of.apply((Prune(), Touch(scale=1.1)))
    assert of.runs == 2
    of.apply((Prune(), Touch(scale=1.2)))
    assert of.runs == 3
    assert of.apply((Prune(), Touch(scale=1.1))) is first
    of.apply((Prune(),))
    assert of.runs == 3


def test_kept_results_are_those_of_applying_anew() -> None:
    of = prefixes()
    of.apply((Prune(), Touch(scale=1.1)))
    shared = of.apply((Prune(), Touch(scale=1.2)))
    alone = prefixes().apply((Prune(), Touch(scale=1.2)))
    assert shared.graph.fingerprint() == alone.graph.fingerprint()
    assert shared.edits == alone.edits


def test_edits_refusals_and_idle_passes_add_up() -> None:
    network = prefixes().apply((Prune(ratio=0.5), Touch(), Prune(ratio=0.5), Prune(ratio=0.6)))
    assert network.idle == (1, 2)
    assert [edit.pass_name for edit in network.edits] == ["toy-prune"] * 4
    assert {item.reason for item in network.refusals} == {"there is nothing to scale", "nothing to prune"}


def test_the_graph_that_was_given_stays_as_it_is() -> None:
    graph = net()
    before = graph.fingerprint()
    of = Prefixes(graph, context(graph))
    assert of.apply(()).graph is graph
    of.apply((Prune(),))
    assert graph.fingerprint() == before


def test_only_the_latest_are_kept_and_what_is_pinned() -> None:
    of = prefixes(size=2)
    best = (Prune(ratio=0.1),)
    of.apply(best)
    of.pin(format_pipeline(best))
    for ratio in (0.2, 0.3, 0.4, 0.5):
        of.apply((Prune(ratio=ratio),))
    runs = of.runs
    of.apply(best)
    of.apply((Prune(ratio=0.5),))
    assert of.runs == runs
    of.apply((Prune(ratio=0.2),))
    assert of.runs == runs + 1


@pytest.mark.parametrize(("culprit", "error"), [(Fail(), PassError), (Crash(), ZeroDivisionError)])
def test_failures_come_out_and_are_not_kept(culprit: Pass, error: type[Exception]) -> None:
    of = prefixes()
    for _ in range(2):
        with pytest.raises(error):
            of.apply((Prune(), culprit, Touch(scale=1.1)))
    assert of.runs == 1


@dataclass(frozen=True)
class Slow(Pass):
    """Take a while, so that threads meet."""

    name: ClassVar[str] = "toy-slow"
    ratio: Annotated[float, Range(0.0, 1.0)] = 0.5
    running: ClassVar[list[int]] = []

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        self.running.append(threading.get_ident())
        time.sleep(0.05)
        editor.set_weights("w2", editor.graph.array("w2") * np.float32(self.ratio))
        return []


def test_threads_wait_for_a_prefix_that_one_of_them_computes() -> None:
    of = prefixes()
    Slow.running.clear()
    pipelines = [(Slow(), Touch(scale=scale)) for scale in (1.1, 1.2, 1.3, 1.4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(of.apply, pipelines))
    assert len(Slow.running) == 1
    assert len({item.graph.fingerprint() for item in found}) == 4


def test_what_comes_to_the_same_is_done_once() -> None:
    of = prefixes()
    first = of.apply((Cut(macs=0.5), Touch(scale=1.1)))
    runs = of.runs
    again = of.apply((Cut(macs=0.51), Touch(scale=1.1)))
    assert again.graph is first.graph
    assert of.runs == runs + 1
    assert again.applied == (Cut(ratio=0.5), Touch(scale=1.1))


@pytest.mark.parametrize(("ratio", "units"), [(0.4, 10), (0.75, 8)])
def test_cuts_are_proven_apart_from_those_that_are_not(ratio: float, units: int) -> None:
    graph = net()
    of = Prefixes(graph, replace(context(graph), prove=False))
    passes = (Cut(ratio=ratio, unproven=0.5), Touch(scale=1.1))
    for _ in range(2):
        assert of.apply(passes).graph.array("w2").shape == (round(16 * (1 - ratio)), 16)
        assert of.proven(passes).graph.array("w2").shape == (units, 16)
        assert not of.apply(passes).refusals
        assert len(of.proven(passes).refusals) == (ratio > 0.5)
    assert (of.proven(passes) is of.apply(passes)) == (ratio < 0.5)


def test_proving_runs_nothing_that_follows_the_last_cut() -> None:
    graph = net()
    of = Prefixes(graph, replace(context(graph), prove=False))
    Slow.running.clear()
    of.apply((Cut(), Slow()))
    of.proven((Cut(), Slow()))
    of.proven((Slow(),))
    assert len(Slow.running) == 2
