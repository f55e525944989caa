from __future__ import annotations

import pytest

from surgery_ir.graph.edits import Connections, Edit, connections, plasticity


def edits(*counts: tuple[int, int]) -> list[Edit]:
    return [Edit("set-weights", "test", "w", pruned, created) for pruned, created in counts]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], 0.0),
        ([(0, 0)], 0.0),
        ([(0, 5)], 0.0),  # nothing was pruned
        ([(10, 0)], 0.0),
        ([(10, 5)], 0.5),
        ([(10, 0), (0, 5)], 0.5),
        ([(4, 4), (4, 8)], 1.5),
    ],
)
def test_plasticity_is_created_by_pruned(counts: list[tuple[int, int]], expected: float) -> None:
    assert plasticity(edits(*counts)) == expected
    assert plasticity(iter(edits(*counts))) == expected


def test_connections_add_up() -> None:
    assert connections(edits((3, 1), (0, 2), (4, 0))) == Connections(pruned=7, created=3)
    assert connections([]) == Connections(0, 0)
