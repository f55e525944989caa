"""The allocation of sizes against trying every combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import pytest

from surgery_ir.solvers import allocation, exchange
from surgery_ir.solvers.allocation import BudgetError, Curve, Term, allocate
from surgery_ir.solvers.exchange import cheapen, refine
from surgery_ir.solvers.levels import Choice, Problem
from tests.solvers.problems import Array


def random_problem(
    groups: int, levels: int, pairs: int, seed: int, noise: float = 0.0
) -> tuple[list[Curve], list[Term]]:
    """Return curves of up to ``levels`` levels, and costs like those of layers: in · out, times measurement noise."""
    rng = np.random.default_rng(seed)
    curves, terms = [], [Term((), np.array(0.5))]
    for group in range(groups):
        n = int(rng.integers(2, levels + 1))
        kept = np.linspace(256, 16, n).astype(np.intp)
        steps = rng.exponential() * rng.exponential(size=n - 1) * np.geomspace(0.1, 2.0, n - 1)
        curves.append(Curve(kept, np.concatenate(([0.0], np.cumsum(steps)))))
        terms.append(Term((group,), 0.3 * rng.exponential() * kept / 256))
    for _ in range(pairs):
        first, second = rng.choice(groups, 2, replace=False).tolist()
        table = rng.exponential() * np.outer(curves[first].kept, curves[second].kept) / 256**2
        terms.append(Term((first, second), table * rng.uniform(1.0 - noise, 1.0 + noise, size=table.shape)))
    return curves, terms


def cost(terms: Sequence[Term], levels: Sequence[int]) -> float:
    return sum(float(term.table[tuple(levels[group] for group in term.groups)]) for term in terms)


def error(curves: Sequence[Curve], levels: Sequence[int]) -> float:
    return sum(float(curve.errors[level]) for curve, level in zip(curves, levels, strict=True))


def everything(curves: Sequence[Curve], terms: Sequence[Term]) -> tuple[Array, Array]:
    """Return errors and costs of all combinations."""
    combinations = list(product(*(range(curve.errors.size) for curve in curves)))
    return (
        np.array([error(curves, levels) for levels in combinations]),
        np.array([cost(terms, levels) for levels in combinations]),
    )


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9], ids=["monotone", "noisy", "wild"])
@pytest.mark.parametrize("seed", range(25))
def test_as_good_as_exhaustive_search(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 6))
    curves, terms = random_problem(groups, 5, int(rng.integers(0, 9)) if groups > 1 else 0, seed, noise)
    errors, costs = everything(curves, terms)
    for share in (0.02, 0.2, 0.5, 0.8):
        budget = float(costs.min() + share * (costs[0] - costs.min()))
        levels = allocate(curves, terms, budget)
        assert cost(terms, levels) <= budget * (1.0 + 1e-9)
        assert error(curves, levels) <= 1.0001 * errors[costs <= budget * (1.0 + 1e-9)].min()


@pytest.mark.parametrize("noise", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_the_least_cost_is_in_reach_and_less_is_refused(seed: int, noise: float) -> None:
    curves, terms = random_problem(5, 4, 6, seed, noise)
    least = everything(curves, terms)[1].min()
    assert cost(terms, allocate(curves, terms, least)) == pytest.approx(least)
    with pytest.raises(BudgetError, match="cannot be brought down") as caught:
        allocate(curves, terms, 0.999 * least)
    assert caught.value.least == pytest.approx(least)
    assert caught.value.budget == 0.999 * least


@pytest.mark.parametrize("seed", range(20))
def test_costs_without_any_order(seed: int) -> None:
    """The least cost lies anywhere, and so do the levels that meet a budget."""
    rng = np.random.default_rng(seed)
    curves = [curve(0.0, *np.cumsum(rng.exponential(size=3))) for _ in range(5)]
    terms = [Term((i, j), rng.exponential(size=(4, 4))) for i in range(5) for j in range(i)]
    errors, costs = everything(curves, terms)
    for budget in np.quantile(costs, [0.01, 0.05, 0.3]):
        levels = allocate(curves, terms, budget)
        assert cost(terms, levels) <= budget * (1.0 + 1e-9)
        assert error(curves, levels) <= 1.05 * errors[costs <= budget * (1.0 + 1e-9)].min()
    with pytest.raises(BudgetError) as caught:
        allocate(curves, terms, 0.99 * costs.min())
    assert caught.value.least == pytest.approx(costs.min())


def test_a_large_problem_is_near_the_bound_of_its_relaxation() -> None:
    """Without pairs, the minimum of error + μ · cost bounds what any choice can reach."""
    curves, terms = random_problem(300, 20, 0, 0)
    for share in (0.8, 0.4):
        budget = share * cost(terms, [0] * 300)
        levels = allocate(curves, terms, budget)
        bound = max(
            sum(
                float((curve.errors + multiplier * term.table).min())
                for curve, term in zip(curves, terms[1:], strict=True)
            )
            - multiplier * (budget - 0.5)
            for multiplier in np.geomspace(0.1, 100.0, 200)
        )
        assert cost(terms, levels) <= budget * (1.0 + 1e-9)
        assert bound <= error(curves, levels) <= 1.002 * bound


def test_many_coupled_groups_beat_the_same_level_everywhere() -> None:
    curves, terms = random_problem(60, 12, 180, 1, noise=0.2)
    depths = np.array([curve.errors.size - 1 for curve in curves])
    for share in (0.25, 0.5, 0.75):
        uniform = np.round(share * depths).astype(int).tolist()
        levels = allocate(curves, terms, cost(terms, uniform))
        assert cost(terms, levels) <= cost(terms, uniform) * (1.0 + 1e-9)
        assert error(curves, levels) < 0.5 * error(curves, uniform)


def curve(*errors: float) -> Curve:
    return Curve(np.arange(len(errors))[::-1] + 1, np.array(errors))


def test_a_budget_that_everything_meets_keeps_everything() -> None:
    curves, terms = random_problem(6, 5, 8, 2)
    assert allocate(curves, terms, cost(terms, [0] * 6)) == (0,) * 6
    assert allocate(curves, terms, np.inf) == (0,) * 6


def test_what_costs_no_error_is_saved_even_within_the_budget() -> None:
    for budget in (3.0, 10.0, np.inf):
        assert allocate([curve(0.0, 0.0, 1.0)], [Term((0,), np.array([3.0, 2.0, 1.0]))], budget) == (1,)


def test_a_level_that_is_slower_than_a_larger_one_is_not_chosen() -> None:
    latency = Term((0,), np.array([8.0, 9.0, 6.0, 7.0, 3.0]))
    errors = curve(0.0, 1.0, 2.0, 3.0, 4.0)
    assert [allocate([errors], [latency], budget) for budget in (8.5, 7.9, 6.5, 5.0)] == [(0,), (2,), (2,), (4,)]


def test_a_plateau_is_jumped_over() -> None:
    """Nothing is gained before the last level, which a descent level by level would not find."""
    curves = [curve(0.0, 1.0, 2.0, 3.0), curve(0.0, 5.0, 6.0, 40.0)]
    terms = [Term((0,), np.array([4.0, 4.0, 4.0, 1.0])), Term((1,), np.array([4.0, 3.0, 2.0, 1.0]))]
    assert allocate(curves, terms, 5.5) == (3, 0)


def test_a_pair_that_only_pays_together() -> None:
    """Cutting one side alone is slower than cutting none: no single change leads to the budget."""
    together = Term((1, 0), np.array([[5.0, 6.0], [7.0, 1.0]]))
    assert allocate([curve(0.0, 1.0), curve(0.0, 1.0)], [together], 2.0) == (1, 1)
    with pytest.raises(BudgetError) as caught:
        allocate([curve(0.0, 1.0), curve(0.0, 1.0)], [together], 0.5)
    assert caught.value.least == 1.0


def test_terms_over_the_same_groups_add_up_whatever_their_order() -> None:
    curves, table = [curve(0.0, 1.0, 5.0), curve(0.0, 2.0)], np.array([[9.0, 5.0], [4.0, 3.0], [1.0, 0.0]])
    split = [Term((0, 1), 0.5 * table), Term((1, 0), 0.25 * table.T), Term((0, 1), 0.25 * table)]
    for budget in np.arange(0.0, 9.5, 0.5):
        assert allocate(curves, split, budget) == allocate(curves, [Term((0, 1), table)], budget)


def test_without_groups_only_the_constant_is_left() -> None:
    assert allocate([], [], 0.0) == ()
    assert allocate([], [Term((), np.array(2.0)), Term((), np.array(1.0))], 3.0) == ()
    with pytest.raises(BudgetError) as caught:
        allocate([], [Term((), np.array(2.0)), Term((), np.array(1.0))], 2.5)
    assert caught.value.least == 3.0


def test_groups_with_a_single_level() -> None:
    curves = [curve(0.0), curve(0.0, 1.0, 2.0)]
    terms = [Term((0,), np.array([1.0])), Term((0, 1), np.array([[3.0, 2.0, 1.0]]))]
    assert allocate(curves, terms, 3.0) == (0, 1)


def test_a_cost_without_terms_is_zero() -> None:
    assert allocate([curve(0.0, 1.0)], [], 0.0) == (0,)


def test_the_same_problem_has_the_same_answer() -> None:
    curves, terms = random_problem(20, 8, 40, 3, noise=0.3)
    budget = 0.5 * cost(terms, [0] * 20)
    assert allocate(curves, terms, budget) == allocate(curves, terms, budget)


@pytest.mark.parametrize(
    "terms",
    [
        [Term((2,), np.ones(2))],
        [Term((-1,), np.ones(2))],
        [Term((0,), np.ones(3))],
        [Term((0, 1), np.ones((3, 2)))],
    ],
)
def test_terms_that_do_not_fit_the_curves(terms: list[Term]) -> None:
    with pytest.raises(ValueError, match=r"a term names|does not have the levels"):
        allocate([curve(0.0, 1.0), curve(0.0, 1.0, 2.0)], terms, 1.0)


@pytest.mark.parametrize(
    ("groups", "table"),
    [((0, 0), np.ones((2, 2))), ((0,), np.ones((2, 2))), ((0, 1, 2), np.ones((2, 2, 2))), ((0,), np.array([np.nan]))],
)
def test_a_term_that_makes_no_sense(groups: tuple[int, ...], table: Array) -> None:
    with pytest.raises(ValueError, match=r"does not fit|not finite"):
        Term(groups, table)


@pytest.mark.parametrize(
    ("kept", "errors"), [([2, 1], [0.0]), ([], []), ([1, 2], [0.0, 1.0]), ([2, 2], [0.0, 1.0]), ([2, 1], [0.0, np.inf])]
)
def test_a_curve_that_makes_no_sense(kept: list[int], errors: list[float]) -> None:
    with pytest.raises(ValueError, match=r"one value per level|do not descend"):
        Curve(np.array(kept, dtype=np.intp), np.array(errors))


def coupled(seed: int, groups: int = 5, levels: int = 4) -> Problem:
    rng = np.random.default_rng(seed)
    errors = np.sort(rng.exponential(size=(groups, levels)), axis=1)
    pairs = [(i, j) for i in range(groups) for j in range(i + 1, groups) if rng.random() < 0.6]
    joint = {pair: rng.standard_normal((levels, levels)) for pair in pairs}
    return Problem.of(errors, rng.standard_normal((groups, levels)), 1.5, joint)


@pytest.mark.parametrize("seed", range(5))
def test_the_bookkeeping_of_changes(seed: int) -> None:
    problem = coupled(seed)
    rng = np.random.default_rng(seed)
    choice = Choice(problem, np.zeros(5, dtype=np.intp))
    for _ in range(20):
        choice.move(int(rng.integers(5)), int(rng.integers(4)))
    fresh = choice.copy()
    np.testing.assert_allclose(choice.marginal, fresh.marginal, atol=1e-12)
    np.testing.assert_allclose((choice.cost, choice.error), (fresh.cost, fresh.error), atol=1e-12)
    errors, costs = choice.changes()
    joint_errors, joint_costs = choice.joint_changes()
    for group, level in product(range(5), range(4)):
        changed = choice.copy()
        changed.move(group, level)
        expected = (changed.error - choice.error, changed.cost - choice.cost)
        np.testing.assert_allclose((errors[group, level], costs[group, level]), expected, atol=1e-12)
    for pair, (first, second) in enumerate(problem.pairs.tolist()):
        for one, other in product(range(4), range(4)):
            levels = choice.levels.copy()
            levels[[first, second]] = one, other
            changed = Choice(problem, levels)
            expected = (changed.error - choice.error, changed.cost - choice.cost)
            actual = (joint_errors[pair, one, other], joint_costs[pair, one, other])
            np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_after_refinement_no_change_of_two_groups_helps(seed: int) -> None:
    problem = coupled(seed)
    choice = Choice(problem, np.full(5, 3, dtype=np.intp))
    limit = choice.cost + 1.0
    refine(choice, limit)
    assert choice.cost <= limit
    for first, second in product(range(5), range(5)):
        for one, other in product(range(4), range(4)):
            levels = choice.levels.copy()
            levels[first], levels[second] = one, other
            changed = Choice(problem, levels)
            assert changed.cost > limit or changed.error >= choice.error - 1e-9


@pytest.mark.parametrize(("gain", "payer"), list(permutations(range(7), 2)))
def test_refinement_finds_the_exchange_between_groups_that_share_nothing(gain: int, payer: int) -> None:
    rng = np.random.default_rng(0)
    errors = np.zeros((7, 2))
    single = np.zeros((7, 2))
    errors[:, 1] = rng.uniform(3.0, 4.0, size=7)
    single[:, 1] = -rng.uniform(0.1, 1.0, size=7)
    errors[gain, 1], errors[payer, 1], single[gain, 1], single[payer, 1] = 2.5, 2.0, -1.4, -1.5
    start = np.zeros(7, dtype=np.intp)
    start[gain] = 1
    choice = Choice(Problem.of(errors, single, 3.0, {}), start)
    refine(choice, 2.0)
    assert np.flatnonzero(choice.levels).tolist() == [payer]


@pytest.mark.parametrize(("little", "much"), [(1.0, 2.5), (3.5, 1.0)])
def test_refinement_uses_the_slack_and_takes_the_payer_of_less_error(little: float, much: float) -> None:
    """Neither payer covers the gain by itself; with what is left of the budget both do."""
    errors = np.array([[0.0, 3.0], [0.0, much], [0.0, 9.0], [0.0, little]])
    single = np.array([[0.0, -2.0], [0.0, -1.9], [0.0, 0.0], [0.0, -1.0]])
    choice = Choice(Problem.of(errors, single, 10.0, {}), np.array([1, 0, 0, 0]))
    refine(choice, 9.0)
    assert choice.levels.tolist() == ([0, 0, 0, 1] if little < much else [0, 1, 0, 0])


def test_one_look_at_the_exchanges_changes_no_group_twice() -> None:
    choice = Choice(coupled(0), np.zeros(5, dtype=np.intp))
    assert exchange._apply(choice, np.inf, [(0, 1, 1, 1), (0, 2, 2, 2), (3, 2, 1, 3), (3, 3, 4, 3)])
    assert choice.levels.tolist() == [1, 1, 0, 3, 3]


def test_the_multiplier_is_found() -> None:
    curves, terms = random_problem(40, 20, 60, 4)
    problem = allocation._problem(curves, terms)
    dense = Choice(problem, np.zeros(40, dtype=np.intp))
    cheapest = Choice(problem, np.array([curve.errors.size - 1 for curve in curves], dtype=np.intp))
    limit = 0.5 * dense.cost
    costs = sorted(start.cost / limit for start in allocation._starts(dense, cheapest, limit))
    assert len(costs) == 3
    assert 0.9 < costs[0] <= 1.0 < costs[1] < 1.1


@pytest.mark.parametrize("seed", range(10))
def test_cheapening_ends_where_no_coupled_pair_is_cheaper(seed: int) -> None:
    choice = Choice(coupled(seed), np.zeros(5, dtype=np.intp))
    cheapen(choice)
    assert choice.changes()[1].min() >= -1e-9
    assert choice.joint_changes()[1].min() >= -1e-9
