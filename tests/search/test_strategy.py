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
from tests.search.toys import UNITS, Cut, Prune, Touch, budgeted, space

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
    rounds: int,
    *,
    policy: SearchPolicy | None = None,
    world: Callable[[Genome], Candidate] = outcome,
    seed: int = 0,
    of: Space = SPACE,
) -> tuple[list[list[Genome]], Strategy]:
    """Give what a strategy tries, round by round."""
    start = policy or SearchPolicy()
    strategy = Strategy(of, GOAL, start, seed)
    plan, tried = strategy.plan(), []
    genomes = next(plan)
    for _ in range(rounds):
        tried.append(genomes)
        candidates = [world(genome) for genome in genomes]
        start = strategy.update(start, genomes, candidates)
        genomes = plan.send(candidates)
    return tried, strategy


def test_the_opening_tries_the_dense_model_the_default_and_other_allocations() -> None:
    of = Space((Prune(), Touch()), units=lambda _: {"w2": 64, "w3": 256})
    dense, start, others, *_ = play(4, of=of, world=lambda genome: outcome(genome, of))[0]
    assert [of.decode(item) for item in dense] == [()]
    assert np.array_equal(start, [of.default])
    assert len(others) == len(list(of.allocations(of.default))) == 1


def cutting(genome: Genome, of: Space, reach: float = 1.0) -> Candidate:
    """A candidate of a world in which both passes cost quality, and the budget can be reached up to a strength."""
    passes = of.decode(genome)
    text = format_pipeline(passes)
    names = {item.name for item in passes}
    strengths = {name: float(genome[of.index[f"{name}/strength"]]) for name in names if name != "toy-touch"}
    if strengths.get("toy-cut", 0.0) > reach:
        return Candidate(text, failure="PassError: out of reach")
    if not strengths:
        return Candidate(text, shares={"nonzeros": 1.0}, complete=True)
    weights = {"toy-cut": 2.0, "toy-prune": 1.0}
    divergence = 0.02 * math.exp(5.0 * (sum(weights[name] * item**2 for name, item in strengths.items()) - 0.3))
    cost = math.exp(-2.0 * sum(strengths.values()))
    return Candidate(
        text, len(passes), shares={"nonzeros": cost}, drop=0.4 * divergence, error=0.1 * divergence,
        divergence=divergence, complete=True, changed=True,
    )  # fmt: skip


def test_where_several_passes_cut_each_is_tried_alone_and_their_relation_is_searched() -> None:
    of = budgeted(Cut(), Prune(), rounds=1)
    tried, strategy = play(24, of=of, world=lambda genome: cutting(genome, of))
    opening = [{item.name for item in of.decode(genome)} for genome in tried[2]]
    assert {"toy-cut"} in opening
    assert {"toy-prune"} in opening
    both = [
        round(float(genome[of.index["toy-cut/strength"]] - genome[of.index["toy-prune/strength"]]), 3)
        for genome, item in zip(strategy._genomes, strategy.candidates, strict=True)
        if item.profile.count("toy-") == 2
    ]
    assert len(set(both)) > 3
    best = min((item for item in strategy.candidates if item.feasible(GOAL)), key=lambda item: item.cost(GOAL))
    assert best.profile.count("toy-") == 2


def test_what_cannot_be_reached_is_tried_weaker() -> None:
    of = budgeted(Cut(), rounds=1)
    tried, strategy = play(12, of=of, world=lambda genome: cutting(genome, of, reach=0.15))
    index = of.index["toy-cut/strength"]
    assert tried[2][0][index] == 0.0
    assert max(genome[index] for genome in (item for part in tried[3:] for item in part)) <= 0.3
    good = [item for item in strategy.candidates if item.feasible(GOAL)]
    assert min(item.cost(GOAL) for item in good) < math.exp(-2.0 * 0.13)


def test_proposals_are_of_forms_that_were_not_tried() -> None:
    of = budgeted(Cut(), Touch(), rounds=2)
    tried, strategy = play(16, of=of, world=lambda genome: cutting(genome, of))
    proposed = [strategy._form(genome) for part in tried if len(part) == 4 for genome in part[1:3]]
    assert len(proposed) > 10
    assert len(set(proposed)) > 0.6 * len(proposed)


def test_rounds_are_of_four_and_stand_at_one_strength() -> None:
    tried, _ = play(14)
    assert {len(item) for item in tried[-6:]} == {4}
    for _, *others in tried[-6:]:
        assert np.ptp([genome[STRENGTH] for genome in others]) < 1e-12


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
    assert rounds == 4
