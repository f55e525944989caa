"""What a search tries, and in which order, whatever becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from surgery_ir.passes.spec import format_pipeline
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.goal import Goal
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.space import Genome, Space
from surgery_ir.search.strategy import Strategy
from tests.search.toys import UNITS, Prune, Touch, space

SPACE = space(Prune(), Touch(), rounds=2)
GOAL = Goal(max_drop=0.01)
W2 = SPACE.index["toy-prune/deviation[w2]"]
STRENGTH = SPACE.index["toy-prune/strength"]


def outcome(genome: Genome, of: Space = SPACE) -> Candidate:
    """A candidate of a world in which w2 should keep more than w3, and everything else is worse than the start."""
    passes = of.decode(genome)
    text = format_pipeline(passes)
    if not passes:
        return Candidate(text, shares={"nonzeros": 1.0}, complete=True)
    strange = 0.5 * (text.count("worst") + len(passes) - 2 + text.startswith("toy-touch"))
    off = 4.0 * (genome[W2] - genome[W2 + 1] - 0.2) ** 2
    divergence = 0.02 * math.exp(5.0 * (genome[STRENGTH] - 0.6) + 5.0 * off + strange)
    return Candidate(
        text, len(passes), shares={"nonzeros": math.exp(-2.0 * genome[STRENGTH])}, drop=0.4 * divergence,
        error=0.1 * divergence, divergence=divergence, complete=True, changed=True,
        density=dict.fromkeys(UNITS, 0.3),
    )  # fmt: skip


def play(
    rounds: int, *, policy: SearchPolicy | None = None, world: Callable[[Genome], Candidate] = outcome, seed: int = 0
) -> tuple[list[list[Genome]], Strategy]:
    """Give what a strategy tries, round by round."""
    start = policy or SearchPolicy()
    strategy = Strategy(SPACE, GOAL, start, seed)
    plan, tried = strategy.plan(), []
    genomes = next(plan)
    for _ in range(rounds):
        tried.append(genomes)
        candidates = [world(genome) for genome in genomes]
        start = strategy.update(start, genomes, candidates)
        genomes = plan.send(candidates)
    return tried, strategy


def test_the_opening_tries_the_dense_model_the_default_and_other_allocations() -> None:
    dense, start, others, *_ = play(4)[0]
    assert [SPACE.decode(item) for item in dense] == [()]
    assert np.array_equal(start, [SPACE.default])
    assert len(others) == len(list(SPACE.allocations(SPACE.default)))


def test_rounds_are_of_four_and_stand_at_one_strength() -> None:
    tried, _ = play(14)
    assert {len(item) for item in tried[-6:]} == {4}
    for _, *others in tried[-6:]:
        assert len({genome[STRENGTH] for genome in others}) == 1


def test_the_edge_is_found_and_followed() -> None:
    tried, strategy = play(20)
    best = min(item.cost(GOAL) for item in strategy.candidates if item.feasible(GOAL))
    assert best < math.exp(-2.0 * 0.58)
    last = [outcome(genome).bound for genome in tried[-1]]
    assert min(last) < 2.0 * GOAL.max_drop


def test_the_policy_learns_the_allocation() -> None:
    _, strategy = play(20)
    mean, _ = strategy.policy.belief(SPACE)
    assert 0.1 < mean[W2] - mean[W2 + 1] < 0.3


def test_every_variation_is_tried_once_the_rounds_run() -> None:
    _, strategy = play(16)
    texts = {item.profile for item in strategy.candidates}
    assert any("worst" in text for text in texts)
    assert any(text.count("toy-prune") == 2 for text in texts)


def test_the_same_seed_tries_the_same() -> None:
    one, other, third = play(10)[0], play(10)[0], play(10, seed=1)[0]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, third, strict=True))


def test_a_learnt_policy_skips_what_is_known() -> None:
    _, first = play(12)
    learnt = SearchPolicy(first.policy.beliefs, (), first.policy.evaluations, searches=1)
    _, start, step, *_ = play(3, policy=learnt)[0]
    assert len(start) == len(step) == 1
    assert np.array_equal(start[0], learnt.belief(SPACE)[0])


def test_nothing_but_failures_ends_the_plan() -> None:
    strategy = Strategy(SPACE, GOAL, SearchPolicy())
    plan = strategy.plan()
    rounds = 0
    genomes: list[Genome] | None = next(plan)
    while genomes is not None:
        rounds += 1
        failed = [Candidate(f"p{index}", failure="PassError: no") for index in range(len(genomes))]
        strategy.update(strategy.policy, genomes, failed)
        try:
            genomes = plan.send(failed)
        except StopIteration:
            genomes = None
    assert rounds == 3
