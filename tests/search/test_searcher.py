"""Nevergrad behind its class: seeded, bounded, quiet, and told about points it did not ask for."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import surgery_ir
from surgery_ir.search.searcher import Optimizer

START, SPREAD = np.full(8, 0.5), np.full(8, 0.1)


def bowl(point: NDArray[np.float64]) -> float:
    return 1.0 + float(np.square(point - 0.6).sum())


def trace(seed: int, count: int = 40) -> list[NDArray[np.float64]]:
    optimizer = Optimizer(START, SPREAD, seed)
    points = []
    for _ in range(count):
        points.append(optimizer.ask())
        optimizer.tell(points[-1], bowl(points[-1]))
    return points


def test_same_seed_same_points() -> None:
    assert np.array_equal(trace(3), trace(3))
    assert not np.array_equal(trace(3), trace(4))


def test_points_are_genomes_and_get_better() -> None:
    points = trace(0, 80)
    assert all(point.shape == (8,) and np.all((point >= 0) & (point <= 1)) for point in points)
    assert min(map(bowl, points)) < 0.5 * (bowl(START) - 1) + 1


def test_a_suggestion_is_asked_next() -> None:
    optimizer = Optimizer(START, SPREAD, 0)
    wanted = np.linspace(0.1, 0.9, 8)
    optimizer.suggest(wanted)
    assert np.allclose(optimizer.ask(), wanted)


def test_points_of_others_are_learnt_from() -> None:
    optimizer = Optimizer(START, np.full(8, 0.02), 0)
    found = np.full(8, 0.9)
    optimizer.tell(optimizer.ask(), 10.0)
    optimizer.tell(found, 1.0)
    asked = np.array([optimizer.ask() for _ in range(10)])
    assert np.mean(np.abs(asked - found) < 0.1) > 0.5


def test_a_violated_constraint_outweighs_a_better_loss() -> None:
    optimizer = Optimizer(START, np.full(8, 0.02), 0)
    optimizer.tell(np.full(8, 0.2), 1.0)
    for _ in range(5):
        optimizer.tell(np.full(8, 0.9), 0.9, [1.0])
    asked = np.array([optimizer.ask() for _ in range(10)])
    assert np.mean(np.abs(asked - 0.9) < 0.1) < 0.2


@pytest.mark.parametrize("loss", [float("inf"), 1e300])
def test_failures_are_told_quietly(loss: float) -> None:
    optimizer = Optimizer(START, SPREAD, 0)
    optimizer.tell(optimizer.ask(), loss)
    optimizer.ask()


def test_nothing_else_imports_nevergrad() -> None:
    root = Path(surgery_ir.__file__).parent
    importers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "nevergrad" for name in names):
                importers.add(path.name)
    assert importers == {"searcher.py"}
