from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.graph.edits import Connections, Edit, connections, plasticity, tally

COUNTS = st.integers(0, 1000)
LOGS = st.lists(st.builds(Edit, st.just("set-weights"), st.sampled_from("abc"), st.sampled_from("uvw"), COUNTS, COUNTS))


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


def test_a_tally_adds_up_by_key_in_the_order_of_the_log() -> None:
    log = [Edit("k", "prune", "w", 9, 0), Edit("k", "regrow", "w", 1, 2), Edit("k", "prune", "v", 5, 0)]
    assert list(tally(log, lambda edit: edit.pass_name).items()) == [
        ("prune", Connections(14, 0)),
        ("regrow", Connections(1, 2)),
    ]
    assert tally(log, lambda edit: edit.where) == {"w": Connections(10, 2), "v": Connections(5, 0)}
    assert tally([], lambda edit: edit.where) == {}


@given(LOGS)
def test_parts_add_up_to_the_whole(log: list[Edit]) -> None:
    total = connections(log)
    for key in (lambda edit: edit.pass_name, lambda edit: edit.where):
        parts = tally(log, key)
        assert sum(parts.values(), Connections()) == total
        assert sum(total.share(part.created) for part in parts.values()) == pytest.approx(plasticity(log))
    assert total - total == Connections(0, 0)
