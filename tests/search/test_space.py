"""Genomes and the passes they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery_ir.passes.base import Pass
from surgery_ir.passes.prune.channels import PruneChannels
from surgery_ir.passes.prune.weights import PruneWeights
from surgery_ir.passes.repair.refit import Repair
from surgery_ir.passes.spec import format_pipeline, parse_pipeline
from surgery_ir.search.schedules import substitutions
from surgery_ir.search.space import Genome, Space
from tests.search.toys import UNITS, Cut, Prune, Regrow, Touch, space

REAL = Space(
    parse_pipeline("prune-weights{compensate=false},repair"),
    parse_pipeline("canonicalize"),
    units=lambda _: {"a": 100, "b/c": 1000, "d": 10},
    rounds=3,
)
PATTERNED = Space(
    parse_pipeline("prune-weights{compensate=false},repair"),
    units=lambda _: {"a": 100, "b": 1000},
    texts={"pattern": ("4x1", "1x4")},
)
FIXED = space(Prune(order="worst"), Touch(flag=True))


def genomes(of: Space) -> st.SearchStrategy[Genome]:
    corner = st.sampled_from([0.0, 0.5, 1.0, -3.0, 7.0, float("nan"), float("inf")])
    gene = st.one_of(st.floats(0.0, 1.0), corner)
    return st.lists(gene, min_size=len(of), max_size=len(of)).map(lambda genes: np.array(genes, dtype=np.float64))


@settings(max_examples=150, deadline=None)
@given(genomes(REAL))
def test_every_genome_is_a_pipeline_that_survives_its_text_form(genome: Genome) -> None:
    passes = REAL.decode(genome)
    text = format_pipeline(passes)
    assert text.startswith("canonicalize")
    assert parse_pipeline(text) == passes
    assert format_pipeline(REAL.decode(genome)) == text


@settings(max_examples=150, deadline=None)
@given(genomes(REAL))
def test_decoded_passes_encode_to_themselves(genome: Genome) -> None:
    passes = REAL.decode(genome)
    encoded = REAL.encode(passes)
    assert np.all((encoded >= 0) & (encoded <= 1))
    assert format_pipeline(REAL.decode(encoded)) == format_pipeline(passes)


@settings(max_examples=150, deadline=None)
@given(genomes(PATTERNED))
def test_all_rounds_of_a_pass_share_a_pattern(genome: Genome) -> None:
    passes = PATTERNED.decode(genome)
    found = {item.pattern for item in passes if isinstance(item, PruneWeights)}
    assert len(found) < 2
    assert found <= {"unstructured", "4x1", "1x4"}
    assert format_pipeline(PATTERNED.decode(PATTERNED.encode(passes))) == format_pipeline(passes)


def test_patterns_that_a_runtime_prefers_are_variations() -> None:
    texts = [format_pipeline(PATTERNED.decode(item)) for item in PATTERNED.variations(PATTERNED.default)]
    assert [sum(f"pattern={name}" in text for text in texts) for name in ("4x1", "1x4")] == [1, 1]
    assert "pattern" not in format_pipeline(PATTERNED.decode(PATTERNED.default))
    assert not any(".pattern" in gene.name for gene in REAL.genes)
    (blocked,) = [item for item in PATTERNED.variations(PATTERNED.default) if "4x1" in PATTERNED.structure(item)]
    rounds = [PATTERNED.decode(item) for item in PATTERNED.variations(blocked)]
    (twice,) = [found for found in rounds if len(found) == 4]
    assert [item.pattern for item in twice if isinstance(item, PruneWeights)] == ["4x1", "4x1"]


def test_a_pattern_that_the_pool_names_is_kept() -> None:
    of = Space(parse_pipeline("prune-weights{pattern=1x4}"), texts={"pattern": ("4x1",)})
    assert not any(".pattern" in gene.name for gene in of.genes)
    assert "pattern=1x4" in format_pipeline(of.decode(of.default))


@settings(max_examples=60, deadline=None)
@given(genomes(FIXED))
def test_options_that_the_pool_names_are_never_changed(genome: Genome) -> None:
    for item in FIXED.decode(genome):
        assert not isinstance(item, Prune) or item.order == "worst"
        assert not isinstance(item, Touch) or item.flag


def test_default_is_one_round_in_natural_order_with_default_options() -> None:
    passes = REAL.decode(REAL.default)
    assert [item.name for item in passes] == ["canonicalize", "prune-weights", "repair"]
    assert passes[2] == Repair()
    assert isinstance(passes[1], PruneWeights)
    assert passes[1].criterion == "obs"
    assert not passes[1].ratios


def test_order_and_gates_are_genes() -> None:
    of = space()
    genome = of.default.copy()
    genome[of.index["toy-prune#1/order"]], genome[of.index["toy-touch#1/order"]] = 0.9, 0.1
    assert [item.name for item in of.decode(genome)] == ["toy-touch", "toy-prune"]
    genome[of.index["toy-touch#1/on"]] = 0.0
    assert [item.name for item in of.decode(genome)] == ["toy-prune"]
    genome[of.index["toy-prune#1/on"]] = 0.0
    assert of.decode(genome) == ()


def test_strength_is_logarithmic_in_what_is_kept() -> None:
    of = space()
    kept = []
    for strength in (0.0, 0.5, 1.0):
        genome = of.default.copy()
        genome[of.index["toy-prune/strength"]] = strength
        (pruned, _) = of.decode(genome)
        assert isinstance(pruned, Prune)
        kept.append(1 - pruned.ratio)
    assert kept[0] == pytest.approx(0.9)
    assert kept[2] == pytest.approx(0.05)
    assert kept[1] == pytest.approx(np.sqrt(0.9 * 0.05), abs=1e-4)


def test_deviations_redistribute_and_keep_the_total() -> None:
    of = space()
    genome = of.default.copy()
    genome[of.index["toy-prune/deviation[w2]"]] = 0.8
    (pruned, _) = of.decode(genome)
    assert isinstance(pruned, Prune)
    assert pruned.ratios["w2"] < pruned.ratio < pruned.ratios["w3"]
    total = sum(UNITS[name] * (1 - ratio) for name, ratio in pruned.ratios.items())
    assert total == pytest.approx(sum(UNITS.values()) * (1 - pruned.ratio), rel=2e-3)


def test_an_early_round_never_prunes_beyond_the_last_one() -> None:
    of = space(rounds=2)
    genome = of.default.copy()
    genome[of.index["toy-prune#2/on"]] = 1.0
    genome[of.index["toy-prune#2.ratio"]] = 1.0
    genome[of.index["toy-prune/strength"]] = 0.3
    genome[of.index["toy-prune/deviation[w2]"]] = 0.7
    early, late, _ = of.decode(genome)
    assert isinstance(early, Prune)
    assert isinstance(late, Prune)
    assert early.ratio <= late.ratio
    assert early.ratios.get("w2", early.ratio) <= late.ratios["w2"]


def test_early_rounds_do_not_change_with_small_deviations() -> None:
    of = space(rounds=2)
    start = of.default.copy()
    start[of.index["toy-prune#2/on"]] = 1.0
    moved = start.copy()
    moved[of.index["toy-prune/deviation[w2]"]] = 0.52
    moved[of.index["toy-prune/strength"]] += 0.01
    assert of.decode(start)[0] == of.decode(moved)[0]
    assert of.decode(start)[1] != of.decode(moved)[1]


def test_contradicting_options_fall_back_to_what_was_given() -> None:
    of = Space(parse_pipeline("prune-weights{pattern=2:4}"), units=lambda _: {"a": 10, "b": 10})
    genome = of.default.copy()
    genome[of.index["prune-weights/deviation[a]"]] = 0.9
    (pruned,) = of.decode(genome)
    assert isinstance(pruned, PruneWeights)
    assert pruned.pattern == "2:4"
    assert not pruned.ratios


def test_a_pass_that_stands_in_the_pool_twice_has_genes_for_each() -> None:
    of = space(Prune(order="worst"), Touch(), Prune())
    assert {"toy-prune/strength", "toy-prune.2/strength"} <= of.index.keys()
    assert [item.name for item in of.decode(of.default)] == ["toy-prune", "toy-touch", "toy-prune"]


def test_what_has_no_place_in_the_space_is_left_out() -> None:
    of = space(Prune(), rounds=1)
    strangers: tuple[Pass, ...] = (Touch(), Prune(ratio=0.2), Prune(ratio=0.5))
    (kept,) = of.decode(of.encode(strangers))
    assert isinstance(kept, Prune)
    assert kept.ratio == pytest.approx(0.5, abs=1e-3)


def test_shifting_changes_strengths_of_passes_that_run_and_nothing_else() -> None:
    of = space()
    shifted = of.shifted(of.default, 0.2)
    changed = np.flatnonzero(shifted != of.default)
    assert [of.genes[index].name for index in changed] == ["toy-prune/strength"]
    off = of.default.copy()
    off[of.index["toy-prune#1/on"]] = 0.0
    assert np.array_equal(of.shifted(off, 0.2), off)


def test_structure_is_blind_to_numbers_only() -> None:
    of = space()
    same = of.shifted(of.default, 0.2)
    same[of.index["toy-touch#1.scale"]] = 1.0
    same[of.index["toy-prune/deviation[w3]"]] = 0.1
    assert of.structure(same) == of.structure(of.default)
    other = of.default.copy()
    other[of.index["toy-prune#1/order"]] = 0.99
    assert of.structure(other) != of.structure(of.default)


BUDGETED = Space(
    parse_pipeline("drop-layers,prune-channels{compensate=false multiple=8},prune-weights{compensate=false},repair"),
    parse_pipeline("canonicalize"),
    units=lambda _: {"a": 100, "d": 10},
    budgets=lambda _: ("macs",),
)


@settings(max_examples=150, deadline=None)
@given(genomes(BUDGETED))
def test_budgets_survive_their_text_form_and_encode_to_themselves(genome: Genome) -> None:
    passes = BUDGETED.decode(genome)
    assert parse_pipeline(format_pipeline(passes)) == passes
    assert format_pipeline(BUDGETED.decode(BUDGETED.encode(passes))) == format_pipeline(passes)
    budgets = [item.macs or 0.0 for item in passes if isinstance(item, PruneChannels)]
    assert all(0.1 <= item <= 0.95 for item in budgets)
    assert not any(item.ratios or item.params for item in passes if isinstance(item, PruneChannels))
    assert budgets == sorted(budgets, reverse=True)


def test_one_gene_is_the_budget_of_all_rounds() -> None:
    genome = BUDGETED.default.copy()
    for gene in ("on", "macs"):
        genome[BUDGETED.index[f"prune-channels#2{'/' if gene == 'on' else '.'}{gene}"]] = 0.75
    genome[BUDGETED.index["prune-channels/strength"]] = 1.0
    early, late = [item.macs for item in BUDGETED.decode(genome) if isinstance(item, PruneChannels)]
    assert late == 0.1
    assert early == pytest.approx(0.737)


def test_a_budget_that_is_given_leaves_nothing_to_the_ratio() -> None:
    of = Space(parse_pipeline("prune-channels{macs=0.5},prune-weights"), budgets=lambda _: ("macs",))
    assert not any(gene.name.startswith("prune-channels") and "ratio" in gene.name for gene in of.genes)
    assert "prune-channels/strength" not in of.index
    assert "prune-weights/strength" in of.index


def test_each_pass_that_cuts_is_tried_alone() -> None:
    alone = [[item.name for item in BUDGETED.decode(genome)] for genome in BUDGETED.allocations(BUDGETED.default)]
    for name in ("drop-layers", "prune-channels", "prune-weights"):
        assert ["canonicalize", name, "repair"] in alone
    assert len(list(space(Prune()).allocations(space(Prune()).default))) == 0


def test_all_rounds_are_those_of_what_runs() -> None:
    genome = BUDGETED.default.copy()
    for name in ("drop-layers", "prune-weights"):
        genome[BUDGETED.index[f"{name}#1/on"]] = 0.0
    passes = [BUDGETED.decode(item) for item in BUDGETED.variations(genome)]
    names = [[item.name for item in found] for found in passes]
    assert ["canonicalize", *2 * ["prune-channels", "repair"]] in names
    assert names.count(["canonicalize", "drop-layers", "prune-channels", "repair"]) == 1
    more = names.index(["canonicalize", "prune-channels", "prune-weights", "repair"])
    assert [item.ratio for item in passes[more] if isinstance(item, PruneWeights)] == [pytest.approx(0.4624)]
    assert not any({"drop-layers", "prune-weights"} <= set(item) for item in names)


def test_variations_are_every_choice_and_all_rounds() -> None:
    of = space(rounds=2)
    texts = [format_pipeline(of.decode(item)) for item in of.variations(of.default)]
    assert len(texts) == len(set(texts)) == 2
    assert sum("order=worst" in text for text in texts) == 1
    assert sum(text.count("toy-prune") == 2 for text in texts) == 1


def test_ratios_that_came_out_can_be_spelt_out() -> None:
    of = space()
    spelt = of.reallocated(of.default, {"w2": 0.6, "w3": 0.9, "elsewhere": 0.1})
    (pruned, _) = of.decode(spelt)
    assert isinstance(pruned, Prune)
    assert dict(pruned.ratios) == pytest.approx({"w2": 0.6, "w3": 0.9}, abs=2e-3)
    assert pruned.ratio == pytest.approx(0.75, abs=2e-3)


def test_only_deviations_have_a_gradient() -> None:
    of = space()
    names = [gene.name for gene, free in zip(of.genes, of.continuous, strict=True) if free]
    assert names == [f"toy-prune/deviation[{name}]" for name in UNITS]


def test_small_units_keep_more_where_allocation_is_graded() -> None:
    of = Space(parse_pipeline("prune-weights"), units=lambda _: {"small": 100, "big": 900})
    graded, by_threshold = of.allocations(of.default)
    (pruned,) = of.decode(graded)
    assert isinstance(pruned, PruneWeights)
    density = {name: 1 - ratio for name, ratio in pruned.ratios.items()}
    assert density["small"] / density["big"] == pytest.approx(3, rel=0.01)
    (pruned,) = of.decode(by_threshold)
    assert isinstance(pruned, PruneWeights)
    assert pruned.allocation == "global"


COVERS = {"toy-regrow": {"toy-touch"}}


def covering(*more: Pass, rounds: int = 2) -> Space:
    return space(Prune(), Regrow(), Touch(), *more, covers=COVERS, rounds=rounds)


def names_of(of: Space, genome: Genome) -> list[str]:
    return [item.name.removeprefix("toy-") for item in of.decode(genome)]


def test_a_pass_that_covers_another_one_is_off_at_first() -> None:
    assert names_of(covering(), covering().default) == ["prune", "touch"]
    alone = space(Prune(), Regrow(), covers=COVERS)
    assert names_of(alone, alone.default) == ["prune", "regrow"]
    real = Space(parse_pipeline("prune-weights,repair,repair-statistics"))
    assert [item.name for item in real.decode(real.default)] == ["prune-weights", "repair", "repair-statistics"]


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (["toy-prune#1", "toy-touch#1"], [["prune", "regrow"]]),
        (["toy-prune#1", "toy-regrow#1"], [["prune", "touch"]]),
        (["toy-prune#1", "toy-regrow#1", "toy-touch#1"], [["prune", "regrow"], ["prune", "touch"]]),
        (["toy-prune#1"], [["prune", "regrow"], ["prune", "touch"]]),
        (
            ["toy-prune#2", "toy-touch#2", "toy-prune#1", "toy-touch#1"],
            [["prune", "regrow", "prune", "regrow"]],
        ),
    ],
    ids=str,
)
def test_passes_are_tried_in_the_place_of_those_that_they_cover(running: list[str], expected: list[list[str]]) -> None:
    of = covering()
    genome = of.switched(of.default, {slot.name: slot.name in running for slot in of.slots})
    assert [names_of(of, item) for item in substitutions(of, genome)] == expected
    assert [names_of(of, item) for item in of.variations(genome)][: len(expected)] == expected


def test_pruning_and_reconnecting_by_turns_is_proposed_as_a_whole() -> None:
    of = covering(rounds=3)
    proposed = [names_of(of, item) for item in of.variations(of.default)]
    assert proposed[:3] == [["prune", "regrow"], 2 * ["prune", "regrow"], 3 * ["prune", "regrow"]]
    assert proposed[-2:] == [2 * ["prune", "touch"], 3 * ["prune", "touch"]]


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_rounds_of_a_schedule_go_up_step_by_step(strength: float) -> None:
    of = covering(rounds=3)
    start = of.default.copy()
    start[of.index["toy-prune/strength"]] = strength
    genome = [*of.variations(start)][2]
    ratios = [item.ratio for item in of.decode(genome) if isinstance(item, Prune)]
    kept = np.log([1 - ratio for ratio in ratios])
    last = of.decode(start)[0]
    assert isinstance(last, Prune)
    assert ratios[-1] == last.ratio
    assert ratios == sorted(set(ratios))
    steps = np.diff([np.log(0.9), *kept])  # a round more or less alike; early ones stand on a coarse grid
    assert np.all(steps < 0)


def test_a_schedule_follows_the_order_of_its_genome_and_stores_once() -> None:
    of = Space(parse_pipeline("prune-weights,repair,store-sparse"))
    genome = of.default.copy()
    genome[of.index["repair#1/order"]], genome[of.index["prune-weights#1/order"]] = 0.01, 0.02
    (found,) = [item for item in map(of.decode, of.variations(genome)) if len(item) > 3]
    assert [item.name for item in found] == [*2 * ["repair", "prune-weights"], "store-sparse"]


def test_what_a_schedule_was_decoded_to_encodes_to_itself() -> None:
    of = covering(rounds=3)
    for genome in of.variations(of.default):
        passes = of.decode(genome)
        assert of.decode(of.encode(passes)) == passes


def test_budgets_of_a_schedule_shrink() -> None:
    of = space(Cut(), Regrow(), Touch(), covers=COVERS, budgets=lambda _: ("macs",))
    genome = next(item for item in of.variations(of.default) if len(of.decode(item)) == 4)
    early, late = [item.macs for item in of.decode(genome) if isinstance(item, Cut)]
    assert early is not None
    assert late is not None
    assert early > late


def test_what_the_pool_repeats_may_be_applied_as_often() -> None:
    of = Space(parse_pipeline("repeat(3){prune-weights,repair}"))
    assert of.rounds == 3
    assert [item.name for item in of.decode(of.default)] == ["prune-weights", "repair"]
    assert max(len(of.decode(item)) for item in of.variations(of.default)) == 6
    assert Space(parse_pipeline("prune-weights,repair")).rounds == 2
