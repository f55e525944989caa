"""Which option says how strong a pass is, and what a gene makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.passes.base import Pass
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.strength import Strength, strength_of
from tests.search.toys import Cut, Prune, Touch


def strength(template: Pass, *prefer: str) -> Strength:
    found = strength_of(template, prefer)
    assert found is not None
    return found


RATIO, MACS = strength(Prune()), strength(Cut(), "macs")


@pytest.mark.parametrize(
    ("text", "prefer", "expected"),
    [
        ("prune-weights", [], "ratio"),
        ("prune-weights", ["macs"], "ratio"),
        ("prune-channels", [], "ratio"),
        ("prune-channels", ["macs"], "macs"),
        ("prune-channels", ["latency", "macs"], "latency"),
        ("prune-channels", ["params", "macs"], "params"),
        ("prune-channels{ratio=0.4}", ["macs"], None),
        ("prune-channels{params=0.4}", ["macs"], None),
        ("prune-channels{ratios=[a:0.4]}", ["macs"], "macs"),
        ("prune-channels{ratios=[a:0.4]}", [], None),
        ("prune-weights{ratio=0.4}", [], None),
        ("prune-weights{ratios=[a:0.4]}", [], None),
        ("repair", ["macs"], None),
    ],
)
def test_what_turns_a_pass(text: str, prefer: Sequence[str], expected: str | None) -> None:
    (template,) = parse_pipeline(text)
    found = strength_of(template, prefer)
    assert (found.name if found else None) == expected
    assert found is None or found.keeps == (expected != "ratio")


def test_numbers_that_nobody_searches_are_no_strength() -> None:
    assert strength_of(Touch()) is None


@pytest.mark.parametrize(("of", "ends"), [(RATIO, (0.1, 0.95)), (MACS, (0.95, 0.1))])
def test_gene_0_keeps_most(of: Strength, ends: tuple[float, float]) -> None:
    assert (of.value(0.0), of.value(1.0)) == ends
    kept = [value if of.keeps else 1 - value for value in map(of.value, (0.0, 0.5, 1.0))]
    assert kept[1] == pytest.approx((kept[0] * kept[2]) ** 0.5, abs=1e-4)


@pytest.mark.parametrize("of", [RATIO, MACS])
@given(gene=st.floats(0, 1))
def test_genes_and_values_translate_both_ways(of: Strength, gene: float) -> None:
    assert of.gene(of.value(gene)) == pytest.approx(gene, abs=1e-3)
    assert of.value(of.gene(of.value(gene))) == of.value(gene)


@pytest.mark.parametrize("of", [RATIO, MACS])
@given(value=st.floats(0.1, 0.95), gene=st.floats(0, 1))
def test_an_early_round_takes_a_coarse_step_and_keeps_more_than_the_last(
    of: Strength, value: float, gene: float
) -> None:
    goal = of.value(gene)
    early = of.early(value, goal)
    share, least = (early, goal) if of.keeps else (1 - early, 1 - goal)
    assert share >= least
    assert early == goal or early in of.early_gene("p#2").values
    assert of.early(early, goal) == early


def test_early_rounds_start_gently() -> None:
    for of in (RATIO, MACS):
        item = of.early_gene("p#2")
        start = item.decode(item.gene.default)
        assert isinstance(start, float)
        assert 0.4 <= (start if of.keeps else 1 - start) <= 0.8
