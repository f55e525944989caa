"""Random networks over the rule table: whatever is cut computes what the network computes when nothing reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from surgery_ir.analysis.coupling.rules import rule_table
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.prune.cutting import cut, masked
from tests.analysis.coupling.random_graphs import random_model
from tests.coupling import choose, groups
from tests.harness import assert_equivalent

CASES = 2000
FEW, CHUNK = 10, 100
TOLERANCE = 1e-4
SHARES = (0.05, 0.95)

NOT_DRAWN = {
    **dict.fromkeys(
        ("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        "rounds activations to few numbers, so that the last bit of a sum may become a step",
    ),
    **dict.fromkeys(
        ("com.microsoft::QuantizeLinear", "com.microsoft::QLinearAdd", "com.microsoft::QLinearMul"),
        "rounds activations to few numbers, so that the last bit of a sum may become a step",
    ),
    **dict.fromkeys(
        ("com.microsoft::QLinearLeakyRelu", "com.microsoft::QLinearSigmoid"),
        "rounds activations to few numbers, so that the last bit of a sum may become a step",
    ),
    **dict.fromkeys(("Scatter", "Upsample"), "was replaced before the oldest opset that is drawn"),
    "SimplifiedLayerNormalization": "stands in ONNX's own domain without being one of its operators",
    "com.microsoft::BiasAdd": "ONNX Runtime has it for no processor",
    "com.microsoft::TransposeMatMul": "is the old name of FusedMatMul",
    **dict.fromkeys(
        ("com.microsoft::EmbedLayerNormalization", "com.microsoft::GroupQueryAttention"),
        "needs inputs of its own: lengths, masks and positions",
    ),
    "com.microsoft::RotaryEmbedding": "needs inputs of its own: lengths, masks and positions",
}
"""Operators of the rule table that no random network has, and why."""


def outcome(seed: int) -> str:
    """Cut one network; say ``whole`` where nothing could be cut, ``same`` where the cut changes no output."""
    graph = Graph.from_proto(random_model(seed))
    verify(graph)
    coupling = groups(graph)
    for item in coupling.frozen:
        assert str(item.frost).strip(), f"{item.name} is frozen without a reason"
        assert item.units > 0
    if not coupling.groups:
        return "whole"
    rng = np.random.default_rng(seed)
    every = choose(coupling, float(rng.uniform(*SHARES)), seed)
    removed = {name: units for name, units in every.items() if rng.random() < 0.7} or every
    editor = Editor(graph.clone(), "cut")
    cut(editor, coupling, removed)
    verify(editor.graph)
    expected = masked(graph, coupling, removed)
    assert_equivalent(editor.graph, expected, tolerance=TOLERANCE, seed=seed)
    try:
        assert_equivalent(graph, expected, tolerance=TOLERANCE, seed=seed)
    except AssertionError:
        return "cut"
    return "same"


def check(seeds: Sequence[int]) -> None:
    found, failures = [], []
    for seed in seeds:
        try:
            found.append(outcome(seed))
        except Exception as error:  # noqa: BLE001 - every failure is reported, with its network
            text = re.sub(r"\{[-0-9.,e ]*\}", "", onnx.printer.to_text(random_model(seed)))
            failures.append(f"seed {seed}: {type(error).__name__}: {error}\n{text}")
    assert not failures, f"{len(failures)} of {len(seeds)} cases fail\n\n" + "\n\n".join(failures[:5])
    assert found.count("cut") >= 0.8 * len(found), f"most cuts change nothing: {found}"


@pytest.mark.parametrize("first", range(0, 60, FEW))
def test_a_cut_equals_the_masked_network(first: int) -> None:
    check(range(first, first + FEW))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(60, CASES, CHUNK))
def test_many_cuts_equal_the_masked_networks(first: int) -> None:
    check(range(first, min(first + CHUNK, CASES)))


@pytest.mark.slow
def test_random_networks_have_every_operator_of_the_rule_table() -> None:
    drawn: set[str] = set()
    for seed in range(CASES):
        drawn.update(f"{node.domain}::{node.op_type}".removeprefix("::") for node in random_model(seed).graph.node)
    assert drawn <= rule_table().keys(), f"operators without a rule: {drawn - rule_table().keys()}"
    missing = set(rule_table()) - drawn
    assert missing == set(NOT_DRAWN)


def test_a_seed_tells_everything() -> None:
    one, again, other = (random_model(seed).SerializeToString(deterministic=True) for seed in (3, 3, 4))
    assert one == again != other
