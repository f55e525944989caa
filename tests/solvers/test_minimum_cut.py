"""Minimum cuts against all labellings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from surgery_ir.solvers.minimum_cut import CutProblem


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_the_cheapest_and_the_fewest_ones_among_these(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = CutProblem()
    variables = [problem.variable() for _ in range(7)]
    ends = [problem.zero, problem.one, *variables]
    largest = 10 if seed % 2 else 10**15
    costs = [(*rng.choice(ends, 2, replace=False), int(rng.integers(1, 9)) * largest) for _ in range(14)]
    ties = [tuple(rng.choice(variables, 2, replace=False)) for _ in range(3)]
    for low, high, cost in costs:
        problem.charge(int(low), int(high), cost)
    for low, high in ties:
        problem.forbid(int(low), int(high))

    def price(labels: tuple[int, ...]) -> tuple[int, int]:
        if any(labels[low] < labels[high] for low, high in ties):
            return 10**30, 0
        return sum(cost for low, high, cost in costs if labels[low] < labels[high]), sum(labels)

    every = [(0, 1, *labels) for labels in itertools.product((0, 1), repeat=7)]
    best = min(map(price, every))
    found = problem.solve()
    assert not found[problem.zero]
    assert found[problem.one]
    assert price(tuple(found.astype(int).tolist())) == best


def test_nothing_costs_anything() -> None:
    problem = CutProblem()
    variable = problem.variable()
    assert not problem.solve()[variable]
