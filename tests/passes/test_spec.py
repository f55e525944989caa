"""The text form of pipelines: grammar, quoting, and where an error is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.errors import SpecError
from surgery_ir.passes import spec
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Range
from surgery_ir.passes.registry import pass_class
from surgery_ir.passes.spec import create, format_pass, format_pipeline, parse_pipeline, plain_options


@dataclass(frozen=True)
class Full(Pass):
    """A pass with an option of every kind."""

    name: ClassVar[str] = "full"

    ratio: Annotated[float, Range(0.0, 1.0)] = 0.5
    rounds: Annotated[int, Range(1, 9)] = 3
    dry_run: bool = False
    kind: Literal["one", "two"] = "one"
    text: str = ""
    limit: float | None = None
    cap: float | None = 1.0
    ratios: Annotated[Mapping[str, float], Range(0.0, 1.0)] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Needy(Pass):
    """A pass with an option that must be given."""

    name: ClassVar[str] = "needy"

    function: str


@pytest.fixture(autouse=True)
def _passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known: dict[str, type[Pass]] = {"full": Full, "needy": Needy}
    monkeypatch.setattr(spec, "pass_class", lambda name: known.get(name) or pass_class(name))
    return iter(())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full", Full()),
        ("full{}", Full()),
        ("full{ }", Full()),
        ("full{ratio=0.25}", Full(ratio=0.25)),
        ("full{ratio=1e-3}", Full(ratio=0.001)),
        ("full{ratio=1}", Full(ratio=1.0)),
        ("full{rounds=4}", Full(rounds=4)),
        ("full{rounds=4.0}", Full(rounds=4)),
        ("full{dry_run=true}", Full(dry_run=True)),
        ("full{dry-run=True}", Full(dry_run=True)),
        ("full{kind=two}", Full(kind="two")),
        ("full{limit=-2.5}", Full(limit=-2.5)),
        ("full{cap=none}", Full(cap=None)),
        ("full{text=2:4}", Full(text="2:4")),
        ("full{text=package.module:function}", Full(text="package.module:function")),
        ("full{text=a/b-c.d}", Full(text="a/b-c.d")),
        ('full{text="two words"}', Full(text="two words")),
        (r'full{text="a \"quoted\" {word}, 1=[2:3]\n"}', Full(text='a "quoted" {word}, 1=[2:3]\n')),
        ('full{text=""}', Full(text="")),
        ('full{"kind"="two"}', Full(kind="two")),
        ("full{ratios=[]}", Full()),
        ("full{ratios=[conv1:0.5 /net/conv.2:1]}", Full(ratios={"conv1": 0.5, "/net/conv.2": 1.0})),
        ('full{ratios=["a b":0.5 "c:d":0.25]}', Full(ratios={"a b": 0.5, "c:d": 0.25})),
        ("full{ ratio = 0.25   rounds=2 kind =two }", Full(ratio=0.25, rounds=2, kind="two")),
        ("full{ratio=0.25\n  rounds=2\n}", Full(ratio=0.25, rounds=2)),
        ("needy{function=a:b}", Needy(function="a:b")),
    ],
)
def test_one_pass(text: str, expected: Pass) -> None:
    assert parse_pipeline(text) == (expected,)


def test_a_pipeline_keeps_the_order() -> None:
    text = " canonicalize , full{ratio=0.25}, full,canonicalize "
    assert [item.name for item in parse_pipeline(text)] == ["canonicalize", "full", "full", "canonicalize"]
    assert parse_pipeline(text)[1:3] == (Full(ratio=0.25), Full())


REPEATED = [
    ("repeat(1){full}", [Full()]),
    ("repeat(3){full}", 3 * [Full()]),
    ("repeat( 2 ) { full{ratio=0.25} , canonicalize }", 2 * ["full{ratio=0.25}", "canonicalize"]),
    ("full,repeat(2){canonicalize,full},canonicalize", ["full", *2 * ["canonicalize", "full"], "canonicalize"]),
    ("repeat(2){repeat(2){full},canonicalize}", 2 * ["full", "full", "canonicalize"]),
    ("repeat(3){full{ratio=0.5..0.9}}", [Full(ratio=0.5), Full(ratio=0.7), Full(ratio=0.9)]),
    ("repeat(3){full{ratio=0.9..0.5}}", [Full(ratio=0.9), Full(ratio=0.7), Full(ratio=0.5)]),
    ("repeat(4){full{ratio=0.1..0.4}}", [Full(ratio=0.1), Full(ratio=0.2), Full(ratio=0.3), Full(ratio=0.4)]),
    ("repeat(2){full{ratio=0.1..0.4 limit=-1..1}}", [Full(ratio=0.1, limit=-1.0), Full(ratio=0.4, limit=1.0)]),
    ("repeat(1){full{ratio=0.1..0.4}}", [Full(ratio=0.4)]),
    ("repeat(3){full{ratio=.1...4}}", [Full(ratio=0.1), Full(ratio=0.25), Full(ratio=0.4)]),
    ("repeat(4){full{rounds=1..3}}", [Full(rounds=1), Full(rounds=2), Full(rounds=2), Full(rounds=3)]),
    ("repeat(4){full{rounds=3..2}}", [Full(rounds=3), Full(rounds=3), Full(rounds=2), Full(rounds=2)]),
    ("repeat(2){full{text=a..b}}", 2 * [Full(text="a..b")]),
    (
        "repeat(2){full{ratio=0.0..1.0},repeat(3){full{rounds=4..6}}}",
        [Full(ratio=0.0), *(rounds := [Full(rounds=4), Full(rounds=5), Full(rounds=6)]), Full(ratio=1.0), *rounds],
    ),
]


@pytest.mark.parametrize(("text", "expected"), REPEATED, ids=[row[0] for row in REPEATED])
def test_repetitions_are_written_out(text: str, expected: list[Pass | str]) -> None:
    passes = parse_pipeline(text)
    assert passes == tuple(parse_pipeline(item)[0] if isinstance(item, str) else item for item in expected)
    assert parse_pipeline(format_pipeline(passes)) == passes


def test_as_many_passes_as_there_may_be() -> None:
    assert len(parse_pipeline("repeat(500){full},repeat(10){repeat(50){full}}")) == 1000
    assert parse_pipeline(8 * "repeat(1){" + "full" + 8 * "}") == (Full(),)


@given(
    st.integers(1, 12),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_a_schedule_goes_from_its_first_value_to_its_last(
    count: int, ratio: tuple[float, float], rounds: tuple[int, int]
) -> None:
    text = f"repeat({count}){{full{{ratio={ratio[0]!r}..{ratio[1]!r} rounds={rounds[0]}..{rounds[1]}}}}}"
    passes = [item for item in parse_pipeline(text) if isinstance(item, Full)]
    assert len(passes) == count
    for (first, last), values in ((ratio, [item.ratio for item in passes]), (rounds, [item.rounds for item in passes])):
        assert values[-1] == last
        assert count == 1 or values[0] == first
        assert values == sorted(values, reverse=last < first)
    steps = [later.ratio - item.ratio for item, later in pairwise(passes)]
    assert steps == pytest.approx([(ratio[1] - ratio[0]) / max(count - 1, 1)] * (count - 1), abs=1e-9)
    assert parse_pipeline(format_pipeline(passes)) == tuple(passes)


ERRORS = [
    ("", "the pipeline is empty: name at least one pass"),
    ("   ", "the pipeline is empty: name at least one pass"),
    ("full,", "pipeline 'full,': ends where 'more' should follow"),
    (",full", "pipeline ',full': the name of a pass expected, not ','"),
    ("full full", "pipeline 'full full': ',' expected at character 6, not 'full'"),
    ("full{ratio=0.5", "pipeline 'full{ratio=0.5': ends where 'more' should follow"),
    ("full{ratio}", "pipeline 'full{ratio}': '=' expected at character 11, not '}'"),
    ("full{ratio=}", "pipeline 'full{ratio=}': a value expected, not '}'"),
    ("full{ratio=0.5,rounds=2}", "the name of an option expected, not ','"),
    ("full}", "pipeline 'full}': ',' expected at character 5, not '}'"),
    ("full{ratio=0.5}}", "',' expected at character 16, not '}'"),
    ('full{text="open}', "pipeline 'full{text=\"open}': unexpected '\"' at character 11"),
    ("full{ratios=[a:0.5}", "the name of a layer expected, not '}'"),
    ("full{ratios=[a]}", "pipeline 'full{ratios=[a]}': ':' expected at character 15, not ']'"),
    ("full{ratios=[a:much]}", "'much' is not a number"),
    ("full{ratios=[a:0.5 a:0.6]}", "'a' is given twice"),
    ("full{ratio=0.5 ratio=0.6}", "full: option 'ratio' is given twice"),
    ("full{dry-run=true dry_run=true}", "full: option 'dry_run' is given twice"),
    ("fool", "there is no pass called 'fool' (passes: "),
    (
        "full{colour=red}",
        "full: there is no option 'colour' (options: ratio, rounds, dry_run, kind, text, limit, cap, ratios)",
    ),
    ("full{ratio=1.5}", "full: option 'ratio': 1.5 is out of range (0 to 1)"),
    ("full{ratio=much}", "full: option 'ratio': 'much' is not valid, it takes float from 0 to 1"),
    ("full{ratio=nan}", "full: option 'ratio': nan is not valid, it takes float from 0 to 1"),
    ("full{limit=inf}", "full: option 'limit': inf is not valid, it takes float"),
    ("full{rounds=2.5}", "full: option 'rounds': 2.5 is not a whole number"),
    ("full{rounds=0}", "full: option 'rounds': 0 is out of range (1 to 9)"),
    ("full{dry_run=maybe}", "full: option 'dry_run': 'maybe' is not valid, it takes true | false"),
    ("full{kind=three}", "full: option 'kind': 'three' is not valid, it takes one | two"),
    ("full{text=[a:1]}", "full: option 'text': {'a': 1.0} is not valid, it takes text"),
    ("full{ratios=0.5}", "full: option 'ratios': '0.5' is not valid, it takes [layer:number …] from 0 to 1"),
    ("full{ratios=[a:2]}", "full: option 'ratios': 2 is out of range (0 to 1)"),
    ("needy", "needy: option 'function' is required (text)"),
    ("repeat(0){full}", "'repeat(0)' is no repetition: write repeat(3){pass,…}"),
    ("repeat(-1){full}", "'repeat(-1)' is no repetition"),
    ("repeat(2.5){full}", "'repeat(2.5)' is no repetition"),
    ("repeat(\u0663){full}", "is no repetition"),
    ("repeat(){full}", "'repeat()' is no repetition"),
    ("repeat({full}", "'repeat(' is no repetition"),
    ("repeat(3", "'repeat(3' is no repetition"),
    ("repeat(3)x{full}", "'repeat(3)x' is no repetition"),
    ("repeat(3)", "pipeline 'repeat(3)': ends where '{' should follow"),
    ("repeat(3)full", "'repeat(3)full' is no repetition"),
    ("repeat(3),full", "pipeline 'repeat(3),full': '{' expected at character 10, not ','"),
    ("repeat(3){}", "the name of a pass expected, not '}'"),
    ("repeat(3){full", "pipeline 'repeat(3){full': ends where '}' should follow"),
    ("repeat(3){full full}", "'}' expected at character 16, not 'full'"),
    ("repeat(3){full,}", "the name of a pass expected, not '}'"),
    ("repeat(3){full}}", "',' expected at character 16, not '}'"),
    ("repeat(3){fool}", "there is no pass called 'fool'"),
    ("repeat(3){full{ratio=0.5..1.5}}", "full: option 'ratio': 1.5 is out of range (0 to 1)"),
    ("repeat(1){full{ratio=1.5..0.5}}", "full: option 'ratio': 1.5 is out of range (0 to 1)"),
    ("repeat(3){full{rounds=1..2.5}}", "full: option 'rounds': 2.5 is not a whole number"),
    ("repeat(3){full{ratio=0.1..nan}}", "full: option 'ratio': nan is not valid"),
    ("repeat(3){full{ratio=low..high}}", "full: option 'ratio': 'low..high' is not valid, it takes float from 0 to 1"),
    ("repeat(3){full{ratio=0.1..}}", "full: option 'ratio': '0.1..' is not valid"),
    ("repeat(3){full{limit=none..0.5}}", "full: option 'limit': 'none..0.5' is not valid, it takes float"),
    ("repeat(3){full{kind=one..two}}", "full: option 'kind': 'one..two' is not valid, it takes one | two"),
    ("repeat(3){full{ratios=[a:0.1..0.5]}}", "'0.1..0.5' is not a number"),
    ("full{ratio=0.1..0.5}", "full: option 'ratio': a schedule 0.1..0.5 needs a repetition around it"),
    ("repeat(1001){full}", "repetitions come to more than 1,000 passes"),
    ("repeat(32){repeat(32){full}}", "repetitions come to more than 1,000 passes"),
    ("repeat(500){full},full,repeat(500){full}", "repetitions come to more than 1,000 passes"),
    ("repeat(" + 5000 * "9" + "){full}", "repetitions come to more than 1,000 passes"),
    (9 * "repeat(1){" + "full" + 9 * "}", "repetitions are nested more than 8 deep"),
    (5000 * "repeat(1){", "repetitions are nested more than 8 deep"),
    ("canonicalize{level=2}", "canonicalize: there is no option 'level' (options: none)"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS, ids=[row[0][:40] or "empty" for row in ERRORS])
def test_errors_are_one_line_that_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_pipeline(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [r'full{text="\q"}', 'full{text="a\nb"}', r'full{text="\u12"}'])
def test_text_that_json_refuses(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_pipeline(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Full(), "full"),
        (Full(ratio=0.5), "full"),  # the default is left out
        (Full(ratio=0.1, rounds=4, dry_run=True), "full{ratio=0.1 rounds=4 dry_run=true}"),
        (Full(kind="two", text="2:4"), 'full{kind=two text="2:4"}'),
        (Full(limit=1.0, cap=None), "full{limit=1.0 cap=none}"),
        (Full(ratios={"a": 0.5, "b c": 1}), 'full{ratios=[a:0.5 "b c":1.0]}'),
        (Needy(function="f"), "needy{function=f}"),
    ],
)
def test_text_form(made: Pass, text: str) -> None:
    assert format_pass(made) == text
    assert parse_pipeline(text) == (made,)


def test_text_form_of_a_pipeline() -> None:
    assert format_pipeline([Full(), Full(rounds=2)]) == "full,full{rounds=2}"
    assert plain_options(Full(ratios={"a": 1}, kind="two")) == {"kind": "two", "ratios": {"a": 1.0}}


@given(st.text(), st.dictionaries(st.text(), st.floats(0, 1)))
def test_any_text_reads_back(text: str, ratios: Mapping[str, float]) -> None:
    made = Full(text=text, ratios=ratios)
    assert parse_pipeline(format_pass(made)) == (made,)


def test_create_takes_plain_values_and_names() -> None:
    assert create("full", {"ratio": 1, "ratios": {"a": 0.5}}) == Full(ratio=1.0, ratios={"a": 0.5})
    assert create("full", {"limit": None}) == Full()
    with pytest.raises(SpecError, match=r"^full: there is no option 'colour'"):
        create("full", {"colour": 1})
    with pytest.raises(SpecError, match=r"^needy: option 'function' is required \(text\)$"):
        create("needy", {})
    with pytest.raises(SpecError, match=r"^there is no pass called 'fool'"):
        create("fool", {})
