"""The policy: what it learns, and that nothing is lost in its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_ir.errors import SpecError
from surgery_ir.passes.options import options_of
from surgery_ir.passes.reconnect.policy import ReconnectionPolicy
from surgery_ir.search.policy import Belief, Elite, Observation, SearchPolicy
from surgery_ir.search.reconnection import GENES
from surgery_ir.search.space import Genome, Space
from tests.search.toys import Prune, Touch, space

SPACE = space()
finite = st.floats(-10, 10)
share = st.floats(0, 1)
elites = st.builds(Elite, st.text(max_size=20), finite, share, finite, share, st.booleans())
names = st.text(min_size=1, max_size=12) | st.sampled_from([item.gene.name for item in GENES])
policies = st.builds(
    SearchPolicy,
    st.dictionaries(names, st.builds(Belief, share, share), max_size=4),
    st.lists(elites, max_size=3).map(tuple),
    st.integers(0, 999),
    st.integers(0, 9),
)


def observe(genome: Genome, loss: float, plasticity: float = 0.0) -> Observation:
    return Observation(genome, Elite(f"{loss} {plasticity}", loss, 0.5, 0.0, plasticity, feasible=True))


@given(policies)
def test_plain_values_hold_all_of_it(policy: SearchPolicy) -> None:
    assert SearchPolicy.from_plain(policy.to_plain()) == policy


def test_file_holds_all_of_it(tmp_path: Path) -> None:
    genome = SPACE.default.copy()
    genome[SPACE.index["toy-prune/deviation[w2]"]] = 1 / 3
    policy = SearchPolicy().updated(SPACE, [observe(genome, -0.1 / 3)], 1)
    policy.write(tmp_path / "policy.yaml")
    assert SearchPolicy.read(tmp_path / "policy.yaml") == policy


def test_an_empty_policy_starts_at_the_defaults_of_the_space() -> None:
    mean, spread = SearchPolicy().belief(SPACE)
    assert np.array_equal(mean, SPACE.default)
    assert np.all(spread > 0)


def test_proposals_are_genomes_near_the_mean_and_repeat_with_the_seed() -> None:
    policy = SearchPolicy({"toy-prune/strength": Belief(0.9, 0.01)})
    drawn = [policy.propose(SPACE, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert all(np.all((item >= 0) & (item <= 1)) for item in drawn)
    assert drawn[0][SPACE.index["toy-prune/strength"]] == pytest.approx(0.9, abs=0.05)


def test_wider_draws_concern_a_few_genes() -> None:
    policy = SearchPolicy({gene.name: Belief(0.5, 1e-6) for gene in SPACE.genes})
    rng = np.random.default_rng(0)
    moved = [np.abs(policy.propose(SPACE, rng, 3.0) - 0.5) > 1e-3 for _ in range(200)]
    assert 0.1 < np.mean(moved) < 0.4
    assert not np.any(np.abs(policy.propose(SPACE, rng) - 0.5) > 1e-3)


def test_it_learns_a_choice_from_the_best() -> None:
    worst = SPACE.default.copy()
    worst[SPACE.index["toy-prune#1.order"]] = 0.99
    policy = SearchPolicy().updated(SPACE, [observe(SPACE.default, 0.0), observe(worst, -1.0)], 2)
    assert policy.beliefs["toy-prune#1.order"].mean == pytest.approx(0.75)


def test_it_moves_deviations_against_the_slope() -> None:
    index = SPACE.index["toy-prune/deviation[w2]"]
    seen = []
    for value in (0.4, 0.45, 0.5):
        genome = SPACE.default.copy()
        genome[index] = value
        seen.append(observe(genome, -value))
    policy = SearchPolicy().updated(SPACE, seen, 3)
    assert policy.beliefs["toy-prune/deviation[w2]"].mean > 0.5


def test_other_structures_do_not_bend_the_surface() -> None:
    index = SPACE.index["toy-prune/deviation[w2]"]
    gate = SPACE.index["toy-touch#1/on"]
    stranger = SPACE.default.copy()
    stranger[index], stranger[gate] = 0.9, 0.0
    alone = SearchPolicy().updated(SPACE, [observe(SPACE.default, 0.0)], 1)
    both = SearchPolicy().updated(SPACE, [observe(SPACE.default, 0.0), observe(stranger, 5.0)], 2)
    assert both.beliefs == alone.beliefs


def test_plasticity_breaks_ties() -> None:
    other = SPACE.default.copy()
    other[SPACE.index["toy-touch#1/on"]] = 0.0
    policy = SearchPolicy().updated(SPACE, [observe(SPACE.default, 0.0), observe(other, 0.0, plasticity=0.1)], 2)
    assert policy.beliefs["toy-touch#1/on"].mean == pytest.approx(0.25)
    assert policy.elites[0].plasticity == 0.1


def test_continuing_adds_up_and_keeps_what_this_space_does_not_have() -> None:
    first = SearchPolicy({"other-pass/strength": Belief(0.3, 0.1)}).updated(SPACE, [observe(SPACE.default, 0.0)], 1)
    second = first.updated(SPACE, [observe(SPACE.default, 0.0)], 4)
    assert second.evaluations == 5
    assert second.beliefs["other-pass/strength"] == Belief(0.3, 0.1)


def test_beliefs_about_passes_carry_over_to_a_model_with_other_layers() -> None:
    genome = SPACE.default.copy()
    genome[SPACE.index["toy-prune/strength"]] = 0.81
    policy = SearchPolicy().updated(SPACE, [observe(genome, 0.0)], 1)
    other = Space((Prune(), Touch()), units=lambda _: {"elsewhere": 10})
    mean, _ = policy.belief(other)
    assert mean[other.index["toy-prune/strength"]] == pytest.approx(0.81)
    assert mean[other.index["toy-prune/deviation[elsewhere]"]] == 0.5


def test_spreads_shrink_but_never_vanish() -> None:
    policy = SearchPolicy()
    for _ in range(200):
        policy = policy.updated(SPACE, [observe(SPACE.default, 0.0)], 1)
    _, spread = policy.belief(SPACE)
    start = np.array([gene.spread for gene in SPACE.genes])
    assert np.all(spread < 0.5 * start)
    assert np.all(spread > 0.2 * start)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "genes: {}",
        "surgery-ir profile: 1",
        "surgery-ir policy: 2",
        "{surgery-ir policy: 1, gene: {}}",
        "{surgery-ir policy: 1, genes: {a: [0.5]}}",
        "{surgery-ir policy: 1, genes: {a: [0.5, x]}}",
        "{surgery-ir policy: 1, genes: {a: [1.5, 0.1]}}",
        "{surgery-ir policy: 1, genes: [1]}",
        "{surgery-ir policy: 1, elites: [{profile: a}]}",
        "{surgery-ir policy: 1, elites: 3}",
        "{surgery-ir policy: 1, learnt: {evaluations: -1}}",
        "{surgery-ir policy: 1, reconnection: [radius]}",
        "{surgery-ir policy: 1, reconnection: {reach: 4}}",
        "{surgery-ir policy: 1, reconnection: {radius: 99}}",
        "{surgery-ir policy: 1, reconnection: {radius: far}}",
        "{surgery-ir policy: 1, reconnection: {granularity: null}}",
        "{surgery-ir policy: 1, reconnection: {1: 2}}",
        "!!python/object/apply:os.getcwd []",
    ],
)
def test_what_is_no_policy_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"policy\.yaml") as caught:
        SearchPolicy.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        SearchPolicy.read(tmp_path / "none.yaml")


FIELDS = {option.name: option for option in options_of(ReconnectionPolicy)}


def test_every_field_of_the_reconnection_policy_is_searched() -> None:
    assert {item.option.name for item in GENES} == FIELDS.keys()
    assert all(len(set(item.values)) > 1 for item in GENES)


def test_without_beliefs_reconnection_is_at_its_defaults() -> None:
    assert SearchPolicy().reconnection == ReconnectionPolicy()


@given(st.dictionaries(st.sampled_from([item.gene.name for item in GENES]), share))
def test_reconnection_is_what_the_genes_decode_to(means: dict[str, float]) -> None:
    found = SearchPolicy({name: Belief(mean, 0.1) for name, mean in means.items()}).reconnection
    for item in GENES:
        mean = means.get(item.gene.name)
        expected = FIELDS[item.option.name].default if mean is None else item.decode(mean)
        assert getattr(found, item.option.name) == expected


def test_a_field_that_was_edited_in_the_file_moves_its_gene_and_no_other(tmp_path: Path) -> None:
    policy = SearchPolicy({item.gene.name: Belief(0.4, 0.02) for item in GENES})
    assert policy.reconnection.radius == 3
    policy.write(tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text()
    assert "radius: 3" in text
    (tmp_path / "p.yaml").write_text(text.replace("radius: 3", "radius: 7"))
    edited = SearchPolicy.read(tmp_path / "p.yaml")
    assert edited.reconnection == replace(policy.reconnection, radius=7)
    moved = {name for name in policy.beliefs if edited.beliefs[name] != policy.beliefs[name]}
    assert moved == {"reconnect#1.radius"}
    assert edited.beliefs["reconnect#1.radius"] == Belief(7 / 8, 0.02)


def test_a_reconnection_policy_alone_is_a_prior() -> None:
    plain = {"surgery-ir policy": 1, "reconnection": {"granularity": "channel", "radius": 7.0, "shift": 0.0}}
    policy = SearchPolicy.from_plain(plain)
    assert policy.reconnection == ReconnectionPolicy(granularity="channel", radius=7, shift=0.0)
    assert policy.beliefs.keys() == {f"reconnect#1.{name}" for name in ("granularity", "radius", "shift")}
    assert policy == SearchPolicy().reconnecting(granularity="channel", radius=7, shift=0.0)


def test_an_unknown_field_of_reconnection_is_named() -> None:
    with pytest.raises(SpecError, match=r"^p: reconnection: there is no field 'reach' \(fields: granularity, radius, "):
        SearchPolicy.from_plain({"surgery-ir policy": 1, "reconnection": {"reach": 4}}, "p")
    with pytest.raises(SpecError, match=r"^p: reconnection: option 'radius': 99 is out of range \(0 to 16\)$"):
        SearchPolicy.from_plain({"surgery-ir policy": 1, "reconnection": {"radius": 99}}, "p")
