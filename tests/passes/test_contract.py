"""What holds for every pass, ours and plugged in. A new pass needs no change here but an entry in the catalogue."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from surgery_ir.errors import SpecError
from surgery_ir.graph.editor import carries_connections
from surgery_ir.graph.edits import connections
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import Pass, run_pass
from surgery_ir.passes.options import Option, options_of
from surgery_ir.passes.registry import builtin_passes, pass_class
from surgery_ir.passes.spec import create, format_pass, format_pipeline, parse_pipeline
from tests.harness import assert_equivalent, run
from tests.passes.catalogue import NAMES, REQUIRED, TEXTS, context, rich, samples, snapshot, worked, working

pytestmark = pytest.mark.usefixtures("plugin_installed")

EXACT = [name for name in builtin_passes() if pass_class(name).exact]

# --- declaration


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_and_its_options_are_documented(name: str) -> None:
    cls = pass_class(name)
    assert cls.name == name
    assert name == name.lower()
    assert (cls.__doc__ or "").strip()
    for option in options_of(cls):
        assert option.help, f"option {option.name} has no help"
        assert option.required or option.check(option.default) == option.default
        if option.range is not None and option.range.search is not None:
            low, high = option.range.search
            assert option.range.low <= low < high <= option.range.high
    assert {option.name for option in options_of(cls) if option.required} == set(REQUIRED.get(name, {}))


# --- text form


def values(name: str, option: Option) -> st.SearchStrategy[Any]:
    """Valid values of an option, from its declaration."""
    low, high = (option.range.low, option.range.high) if option.range else (-1e6, 1e6)
    numbers = st.floats(low, high)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "int": st.integers(int(np.ceil(low)), int(high)),
        "float": numbers,
        "choice": st.sampled_from(option.choices or ("",)),
        "map": st.dictionaries(st.text(max_size=8), numbers, max_size=3),
        "str": st.sampled_from(TEXTS.get((name, option.name), ("",))),
    }
    return st.none() | kinds[option.kind] if option.optional else kinds[option.kind]


@st.composite
def instances(draw: st.DrawFn, name: str) -> Pass:
    chosen = {
        option.name: draw(values(name, option))
        for option in options_of(pass_class(name))
        if option.required or draw(st.booleans())
    }
    try:
        return create(name, chosen)
    except SpecError:  # two options, each valid, may contradict each other
        assume(False)
        raise


@pytest.mark.parametrize("name", NAMES)
def test_the_text_form_of_the_defaults_is_the_name(name: str) -> None:
    made = create(name, REQUIRED.get(name, {}))
    assert parse_pipeline(format_pass(made)) == (made,)
    if name not in REQUIRED:
        assert format_pass(made) == name


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_the_text_form_reads_back(name: str, data: st.DataObject) -> None:
    one, other = data.draw(instances(name)), data.draw(instances(name))
    text = format_pipeline([one, other])
    assert parse_pipeline(text) == (one, other)
    assert format_pipeline(parse_pipeline(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_passes_can_be_sent_to_workers(name: str) -> None:
    assert pickle.loads(pickle.dumps(working(name))) == working(name)


def unusable(option: Option) -> Iterator[object]:
    """Values that an option must refuse."""
    if option.range is not None and option.kind in ("int", "float"):
        yield from (option.range.low - 1, option.range.high + 1)
    if option.range is not None and option.kind == "map":
        yield from ({"layer": option.range.low - 1}, {"layer": option.range.high + 1})
    yield from {
        "bool": (3, "maybe", {"layer": 0.5}),
        "int": ("many", True, 1.5, float("nan"), {"layer": 1.0}),
        "float": ("much", False, float("nan"), {"layer": 0.5}),
        "choice": ("something else", 1, {"layer": 0.5}),
        "map": ("much", 0.5, {"layer": "much"}),
        "str": (1, True, {"layer": 0.5}),
    }[option.kind]
    if not option.optional:
        yield None


@pytest.mark.parametrize("name", NAMES)
def test_unusable_values_are_refused_in_one_line(name: str) -> None:
    for option in options_of(pass_class(name)):
        for value in unusable(option):
            with pytest.raises(SpecError) as caught:
                create(name, {**REQUIRED.get(name, {}), option.name: value})
            assert str(caught.value).startswith(f"{name}: option {option.name!r}"), value
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(SpecError, match=f"^{name}: there is no option 'colour' \\(options: ") as caught:
        parse_pipeline(f"{name}{{colour=red}}")
    assert "\n" not in str(caught.value)


# --- running


@pytest.mark.parametrize("name", NAMES)
def test_check_changes_nothing(name: str) -> None:
    found, dense = rich(pruned=True), rich()
    before = snapshot(found), snapshot(dense)
    working(name).check(found, context(found, reference=dense))
    assert (snapshot(found), snapshot(dense)) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_that_is_given_stays_as_it_is(name: str) -> None:
    found, dense = rich(pruned=True), rich()
    before = snapshot(found), snapshot(dense)
    outcome = run_pass(working(name), found, context(found, reference=dense))
    assert (snapshot(found), snapshot(dense)) == before
    assert outcome.changed
    assert outcome.graph is not found
    assert outcome.graph.fingerprint() != found.fingerprint()
    assert outcome.graph.revision > found.revision


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_graph(name: str) -> None:
    (_, one), (_, other) = worked(name, seed=7), worked(name, seed=7)
    assert one.graph.fingerprint() == other.graph.fingerprint()
    assert one.edits == other.edits
    assert one.refusals == other.refusals


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_sound(name: str) -> None:
    found, outcome = worked(name)
    verify(outcome.graph)
    result = run(outcome.graph, dict(samples(found, 3).feeds))["y"]
    assert result.shape == (3, 5)
    assert np.isfinite(result).all()
    for kind in ("inputs", "outputs"):
        was, now = getattr(found, kind), getattr(outcome.graph, kind)
        assert [(item.name, item.dtype, str(item.shape)) for item in now] == [
            (item.name, item.dtype, str(item.shape)) for item in was
        ]


@pytest.mark.parametrize("name", [*EXACT, "graphsurgeon"])
def test_exact_passes_are_exact(name: str) -> None:
    found, outcome = worked(name)
    assert_equivalent(outcome.graph, found)


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_signed_and_names_what_exists(name: str) -> None:
    found, outcome = worked(name)
    nodes = {node.name for node in found.model.graph}
    assert {edit.pass_name for edit in outcome.edits} == {name}
    assert all(edit.kind and edit.where for edit in outcome.edits)
    for refusal in outcome.refusals:
        assert refusal.pass_name == name
        assert refusal.reason.strip()
        assert "\n" not in refusal.reason
        assert set(refusal.nodes) <= nodes


def masks(found: Graph) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    return {name: found.array(name) != 0 for name, value in found.initializers.items() if carries_connections(value)}


@pytest.mark.parametrize("name", NAMES)
def test_the_log_counts_the_connections_that_came_and_went(name: str) -> None:
    found, outcome = worked(name)
    before, after = masks(found), masks(outcome.graph)
    pruned = created = 0
    sliced = False
    for key in before.keys() | after.keys():
        was = before.get(key, np.zeros((), bool))
        now = after.get(key, np.zeros((), bool))
        if was.ndim and now.ndim and was.shape != now.shape:
            sliced = True
            pruned += int(np.count_nonzero(was)) - int(np.count_nonzero(now))
        else:
            pruned += int(np.count_nonzero(was & ~now))
            created += int(np.count_nonzero(now & ~was))
    total = connections(outcome.edits)
    assert total.pruned - total.created == pruned - created
    if not sliced:  # what came and went again inside a slice that stayed cannot be told from the result
        assert (total.pruned, total.created) == (pruned, created)


@pytest.mark.parametrize("name", NAMES)
def test_without_samples_a_pass_works_or_says_that_it_needs_them(name: str) -> None:
    found = rich(pruned=True)
    outcome = run_pass(working(name), found, context(found, reference=rich(), data=False))
    if not outcome.changed:
        assert outcome.graph is found
        assert "--data" in outcome.refusals[0].reason


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_on_the_result_is_sound_too(name: str) -> None:
    _, outcome = worked(name)
    again = run_pass(working(name), outcome.graph, context(outcome.graph, reference=rich()))
    assert again.changed or again.refusals
    verify(again.graph)
