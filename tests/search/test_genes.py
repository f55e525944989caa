"""Options become genes by what they declare, and ratios become strengths and deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Range, Searched
from surgery_ir.search.allocation import Allocation
from surgery_ir.search.genes import option_genes


@dataclass(frozen=True)
class Every(Pass):
    """One option of each kind."""

    name: ClassVar[str] = "every"

    flag: bool = True
    some: Annotated[Literal["a", "b", "c"], Searched(("b", "c"))] = "b"
    choice: Literal["a", "b", "c"] = "b"
    perhaps: Literal["x", "y"] | None = None
    linear: Annotated[float, Range(0.0, 2.0, search=(0.5, 1.0))] = 0.6
    wide: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1))] = 0.01
    whole: Annotated[int, Range(1, 100, search=(2, 10))] = 4
    unsearched: Annotated[float, Range(0.0, 1.0)] = 0.5
    absent: Annotated[float | None, Range(0.0, 1.0, search=(0.1, 0.2))] = None
    text: str = "t"
    table: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


GENES = {item.option.name: item for item in option_genes(Every, "every#1")}


def test_what_is_searched() -> None:
    assert list(GENES) == ["flag", "some", "choice", "perhaps", "linear", "wide", "whole"]
    assert GENES["wide"].gene.name == "every#1.wide"
    assert [item.option.name for item in option_genes(Every, "every#1", ["flag", "wide"])] == [
        "some", "choice", "perhaps", "linear", "whole",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("flag", [False, True]),
        ("some", ["b", "c"]),
        ("choice", ["a", "b", "c"]),
        ("perhaps", [None, "x", "y"]),
        ("linear", [0.5, 0.562, 0.625, 0.688, 0.75, 0.812, 0.875, 0.938, 1.0]),
        ("wide", [0.001, 0.00178, 0.00316, 0.00562, 0.01, 0.0178, 0.0316, 0.0562, 0.1]),
        ("whole", [2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_values(name: str, values: list[object]) -> None:
    item = GENES[name]
    assert list(item.values) == values
    for value in values:
        assert item.decode(item.encode(value)) == value
        Every(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(GENES))
def test_a_search_starts_at_the_default_or_next_to_it(name: str) -> None:
    item = GENES[name]
    start = item.decode(item.gene.default)
    default = getattr(Every(), name)
    assert start == (pytest.approx(default, rel=0.1) if isinstance(default, float) else default)


@pytest.mark.parametrize("name", list(GENES))
def test_few_draws_leave_the_start(name: str) -> None:
    item = GENES[name]
    draws = np.clip(item.gene.default + item.gene.spread * np.random.default_rng(0).standard_normal(5000), 0, 1)
    changed = np.mean([item.decode(float(gene)) != item.decode(item.gene.default) for gene in draws])
    assert 0.001 < changed < 0.03


UNITS = {"a": 1000, "b": 10, "c": 300}
ALLOCATION = Allocation(Range(0.0, 0.99, search=(0.3, 0.95)), UNITS)


@given(st.floats(0.3, 0.95), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_units_keep_the_common_ratio_together_and_stay_in_range(ratio: float, deviations: list[float]) -> None:
    ratios = ALLOCATION.ratios(ratio, np.array(deviations))
    assert all(0.0 <= item <= 0.99 for item in ratios.values())
    if ratios:
        assert 1 - ALLOCATION.mean_ratio(ratios) == pytest.approx(1 - ratio, rel=0.01, abs=1e-3)


def test_ratios_of_units_translate_both_ways() -> None:
    ratios = {"a": 0.8, "b": 0.5, "c": 0.9}
    deviations = ALLOCATION.deviations(ALLOCATION.mean_ratio(ratios), ratios)
    assert ALLOCATION.ratios(ALLOCATION.mean_ratio(ratios), deviations) == pytest.approx(ratios, abs=1e-3)


def test_no_deviation_is_no_map() -> None:
    assert ALLOCATION.ratios(0.8, np.full(3, 0.5)) == {}
