"""Options of passes: what a declaration means, and which values it lets through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import pytest

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Help, Option, Range, options_of


@dataclass(frozen=True)
class Example(Pass):
    """A pass with an option of every kind."""

    name: ClassVar[str] = "example"

    function: Annotated[str, Help("module:function")]
    ratio: Annotated[float, Range(0.0, 0.99, search=(0.1, 0.9)), Help("share to remove")] = 0.5
    rounds: Annotated[int, Range(1, 20)] = 1
    fast: bool = False
    kind: Literal["one", "two"] = "one"
    limit: Annotated[float | None, Range(0.0, 1.0)] = None
    ratios: Annotated[Mapping[str, float], Range(0.0, 0.99)] = field(default_factory=lambda: MappingProxyType({}))


OPTIONS = {option.name: option for option in options_of(Example)}


def test_declarations_are_read_in_order() -> None:
    assert list(OPTIONS) == ["function", "ratio", "rounds", "fast", "kind", "limit", "ratios"]
    assert OPTIONS["function"] == Option("function", "str", None, required=True, help="module:function")
    assert OPTIONS["ratio"] == Option(
        "ratio", "float", 0.5, range=Range(0.0, 0.99, search=(0.1, 0.9)), help="share to remove"
    )
    assert OPTIONS["rounds"] == Option("rounds", "int", 1, range=Range(1, 20))
    assert OPTIONS["fast"] == Option("fast", "bool", False)
    assert OPTIONS["kind"] == Option("kind", "choice", "one", choices=("one", "two"), searched=("one", "two"))
    assert OPTIONS["limit"] == Option("limit", "float", None, optional=True, range=Range(0.0, 1.0))
    assert OPTIONS["ratios"] == Option("ratios", "map", MappingProxyType({}), range=Range(0.0, 0.99))
    assert options_of(Example) is options_of(Example)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("function", "text"),
        ("ratio", "float from 0 to 0.99"),
        ("rounds", "int from 1 to 20"),
        ("fast", "true | false"),
        ("kind", "one | two"),
        ("limit", "float from 0 to 1"),
        ("ratios", "[layer:number …] from 0 to 0.99"),
    ],
)
def test_valid_values_are_described(name: str, text: str) -> None:
    assert OPTIONS[name].describe() == text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ratio", 0, 0.0),
        ("ratio", 0.99, 0.99),
        ("rounds", 3.0, 3),
        ("fast", True, True),
        ("kind", "two", "two"),
        ("limit", None, None),
        ("limit", 1, 1.0),
        ("ratios", {"a": 0}, {"a": 0.0}),
        ("function", "x", "x"),
    ],
)
def test_values_come_out_in_the_type_of_the_option(name: str, value: object, expected: object) -> None:
    checked = OPTIONS[name].check(value)
    assert checked == expected
    if not isinstance(expected, dict):
        assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ratio", 1.0, "option 'ratio': 1 is out of range (0 to 0.99)"),
        ("ratio", -0.1, "option 'ratio': -0.1 is out of range (0 to 0.99)"),
        ("ratio", float("nan"), "option 'ratio': nan is not valid, it takes float from 0 to 0.99"),
        ("ratio", float("inf"), "option 'ratio': inf is not valid, it takes float from 0 to 0.99"),
        ("ratio", True, "option 'ratio': True is not valid, it takes float from 0 to 0.99"),
        ("ratio", "0.5", "option 'ratio': '0.5' is not valid, it takes float from 0 to 0.99"),
        ("ratio", None, "option 'ratio' needs a value: float from 0 to 0.99"),
        ("rounds", 1.5, "option 'rounds': 1.5 is not a whole number"),
        ("rounds", float("nan"), "option 'rounds': nan is not valid, it takes int from 1 to 20"),
        ("rounds", float("inf"), "option 'rounds': inf is not valid, it takes int from 1 to 20"),
        ("fast", 1, "option 'fast': 1 is not valid, it takes true | false"),
        ("kind", "three", "option 'kind': 'three' is not valid, it takes one | two"),
        ("kind", None, "option 'kind' needs a value: one | two"),
        ("ratios", {"a": 1.0}, "option 'ratios': 1 is out of range (0 to 0.99)"),
        ("ratios", {"a": True}, "option 'ratios': True for 'a' is not a number"),
        ("ratios", {"a": "x"}, "option 'ratios': 'x' for 'a' is not a number"),
        ("ratios", [0.5], "option 'ratios': [0.5] is not valid, it takes [layer:number …] from 0 to 0.99"),
        ("function", 3, "option 'function': 3 is not valid, it takes text"),
    ],
)
def test_unusable_values_say_what_would_do(name: str, value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        OPTIONS[name].check(value)
    assert str(caught.value) == message


def test_creating_a_pass_checks_its_options() -> None:
    made = Example(function="f", ratio=0, ratios={"a": 0})
    assert isinstance(made.ratio, float)
    assert made.ratios == {"a": 0.0}
    with pytest.raises(TypeError):
        made.ratios["a"] = 0.5  # type: ignore[index]
    with pytest.raises(SpecError, match=r"^example: option 'ratio': 2 is out of range \(0 to 0.99\)$"):
        Example(function="f", ratio=2)


def test_a_mapping_that_is_given_is_copied() -> None:
    given = {"a": 0.5}
    made = Example(function="f", ratios=given)
    given["a"] = 0.1
    assert made.ratios == {"a": 0.5}
