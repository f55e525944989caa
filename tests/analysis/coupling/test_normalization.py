"""Normalisations: channels that are normalised by themselves can be cut, axes that share a statistic cannot."""

from __future__ import annotations

import pytest

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.prune.cutting import cut, masked
from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import assert_equivalent

BATCH = "float[8] s, float[8] c, float[8] m, float[8] v = {0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9}"
CHANNEL = "float[8] s, float[8] c"


@pytest.mark.parametrize(
    ("units", "nodes", "weights", "opset"),
    [
        *((8, "t = BatchNormalization(h, s, c, m, v)", BATCH, opset) for opset in (7, 9, 14, 15)),
        (8, "t = BatchNormalization(h, s, s, s, v)", BATCH, 15),
        (8, "t = InstanceNormalization(h, s, c)", CHANNEL, 6),
        (8, "t = InstanceNormalization(h, s, c)", CHANNEL, 22),
        (4, "t = GroupNormalization<num_groups = 4>(h, s, c)", CHANNEL, 21),
        (2, "t = GroupNormalization<num_groups = 2>(h, s, c)", CHANNEL, 21),
        (8, "t = GroupNormalization<num_groups = 8>(h, s, c)", CHANNEL, 21),
        (8, "t = LayerNormalization<axis = 2>(h, s, c)", "float[6,6] s, float[6,6] c", 17),
        (8, "t = LayerNormalization<axis = -2>(h, s)", "float[6,6] s", 17),
        (8, "t = LayerNormalization(h, s)", "float[8,1,6] s", 17),
        (8, "t = LayerNormalization(h, s, c)", "float[6] s, float[8,1,6] c", 17),
        (8, "n, m, i = LayerNormalization<axis = 2>(h, s) p = Mul(m, i) t = Add(n, p)", "float[6,6] s", 17),
        (8, "n, m, i = LayerNormalization(h, s) p = Mul(m, i) t = Add(n, p)", "float[6] s", 17),
        (8, "t = RMSNormalization(h, s)", "float[6] s", 23),
        (8, "t = RMSNormalization<axis = 2>(h, s)", "float[6,6] s", 23),
        (8, "t = MeanVarianceNormalization(h)", "", 9),
        (8, "t = LpNormalization(h)", "", 1),
        (8, "t = LpNormalization<axis = 2, p = 1>(h)", "", 22),
    ],
)
def test_channels_that_are_normalised_by_themselves_can_be_cut(
    units: int, nodes: str, weights: str, opset: int
) -> None:
    coupling = assert_cut_is_exact(between_convs(nodes, weights, opset))
    assert described(coupling) == [f"{units} a.0 -> b.1"]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset", "middle"),
    [
        ("t = BatchNormalization(h, s, c, m, v)", BATCH, 15, ""),
        ("t = LRN<size = 3>(h)", "", 13, "3,4,"),
        ("t = MeanVarianceNormalization<axes = [1, -2]>(h)", "", 13, "3,4,"),
        ("t = LpNormalization<axis = 1>(h)", "", 22, "3,4,"),
    ],
)
def test_columns_that_are_normalised_by_themselves_can_be_cut(
    nodes: str, weights: str, opset: int, middle: str
) -> None:
    coupling = assert_cut_is_exact(between_matmuls(nodes, weights, opset, middle=middle))
    assert described(coupling) == ["8 a.1 -> b.0"]


@pytest.mark.parametrize("num_groups", [2, 4, 8])
def test_scale_and_shift_of_a_group_go_with_it(num_groups: int) -> None:
    """Opset 18; onnx calls it deprecated there, which is why nothing is verified."""
    weights = f"float[{num_groups}] s, float[{num_groups}] c"
    case = between_convs(f"t = GroupNormalization<num_groups = {num_groups}>(h, s, c)", weights, 18)
    coupling = groups(case)
    assert described(coupling) == [f"{num_groups} a.0 -> b.1"]
    removed = choose(coupling, 0.4, 0)
    editor = Editor(case.clone(), "cut")
    cut(editor, coupling, removed)
    assert_equivalent(editor.graph, masked(case, coupling, removed), tolerance=1e-4)


@pytest.mark.parametrize(
    ("reason", "nodes", "weights", "opset"),
    [
        (
            "learns the statistics of its batch",
            "t, n, d = BatchNormalization<training_mode = 1>(h, s, c, m, v)",
            BATCH,
            15,
        ),
        ("learns the statistics of its batch", "t = BatchNormalization<training_mode = 1>(h, s, c, m, v)", BATCH, 15),
        ("learns the statistics of its batch", "t, n, d, o, e = BatchNormalization(h, s, c, m, v)", BATCH, 9),
        (
            "does not let it be cut",
            "t = BatchNormalization<spatial = 0>(h, s, s, s, s)",
            "float[8,6,6] s",
            7,
        ),
        ("normalises over it", "t = GroupNormalization<num_groups = 1>(h, s, c)", CHANNEL, 21),
        ("normalises over it", "t = LayerNormalization<axis = 1>(h, s)", "float[8,6,6] s", 17),
        ("normalises over it", "t = LayerNormalization<axis = -3>(h, s)", "float[8,6,6] s", 17),
        ("normalises over it", "t = LayerNormalization<axis = 1>(h, s)", "float[6] s", 17),
        ("normalises over it", "t = RMSNormalization<axis = 1>(h, s)", "float[8,6,6] s", 23),
        ("normalises over neighbours along it", "t = LRN<size = 3>(h)", "", 13),
        ("normalises over it", "t = MeanVarianceNormalization<axes = [1]>(h)", "", 13),
        ("normalises over it", "t = MeanVarianceNormalization<axes = [2, -3]>(h)", "", 13),
        ("normalises over it", "t = LpNormalization<axis = 1>(h)", "", 22),
        ("normalises over it", "t = LpNormalization<axis = -3>(h)", "", 22),
    ],
)
def test_channels_that_share_a_statistic_are_left_alone(reason: str, nodes: str, weights: str, opset: int) -> None:
    operator = nodes.split(" = ")[1].split("<")[0].split("(")[0]
    found = reason_against(between_convs(nodes, weights, opset))
    assert found == f"{operator} '{operator}_1' {reason}"


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ("t = InstanceNormalization(h, s, s)", "float[3] s"),
        ("t = GroupNormalization<num_groups = 3>(h, s, s)", "float[3] s"),
        ("t = LayerNormalization(h, s, c)", CHANNEL),
        ("t = LayerNormalization<axis = 2>(h, s)", "float[4,8] s"),
        ("t = RMSNormalization(h, s)", "float[8] s"),
        ("t = LpNormalization(h)", ""),
        ("t = MeanVarianceNormalization(h)", ""),
    ],
)
def test_columns_that_share_a_statistic_are_left_alone(nodes: str, weights: str) -> None:
    assert reason_against(between_matmuls(nodes, weights, 23)).endswith("normalises over it")
