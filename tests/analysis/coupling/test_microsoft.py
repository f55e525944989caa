"""ONNX Runtime's own fused operators, each run by its CPU provider."""

from __future__ import annotations

import pytest

from surgery_ir.analysis.coupling.rules import find_rule
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.prune.cutting import cut, masked
from tests.analysis.coupling.constants import contributed, cut_constants, places
from tests.coupling import choose, frozen, groups
from tests.harness import assert_equivalent


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        ("8: a.1 b.0", "t = ms.Gelu(h)"),
        ("8: a.1 b.0", "t = ms.QuickGelu<alpha = 1.5>(h)"),
        ("8: a.1 b.0", "t = ms.FastGelu(h)"),
        ("8: a.1 b.0 s.0", "t = ms.FastGelu(h, s)"),
        ("8: a.1 b.0 s.0", "t = ms.BiasGelu(h, s)"),
    ],
)
def test_activations(found: str, nodes: str) -> None:
    weights = "float[5,8] a, float[8,2] b, float[8] s"
    case = contributed("float[N,3,5] x", weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)")
    assert cut_constants(case) == [found]


def test_bias_add() -> None:
    """The CPU provider has no kernel for it, so that nothing is compared."""
    weights = "float[5,8] a, float[5,8] c, float[8,2] b, float[8] s, float[1,3,8] h, float[1,3,8] k, float[1,3,8] t"
    nodes = "h = MatMul(x, a) k = MatMul(x, c) t = ms.BiasAdd(h, s, k) y = MatMul(t, b)"
    case = contributed("float[1,3,5] x", weights, nodes)
    assert places(groups(case), case) == ["8: a.1 b.0 c.1 s.0"]


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        (["8: a.0 c.1", "6: c.0 k.1"], 't = ms.FusedConv<activation = "Relu">(h, c)'),
        (["8: a.0 c.1", "6: c.0 d.0 k.1"], 't = ms.FusedConv<activation = "Tanh">(h, c, d)'),
        (["8: a.0 c.1", "6: c.0 d.0 e.0 k.1"], 'z = Conv(x, e) t = ms.FusedConv<activation = "Relu">(h, c, d, z)'),
        (["8: a.0 c.1", "6: c.0 e.0 k.1"], 'z = Conv(x, e) t = ms.FusedConv<activation = "Relu">(h, c, , z)'),
        (["4: a.0 f.1", "3: d.0 f.0 k.1"], 't = ms.FusedConv<activation = "Relu", group = 2>(h, f, d)'),
        (["8: a.0 l.0 m.0 n.1"], 't = ms.FusedConv<activation = "Relu", group = 8>(h, l, m)'),
    ],
)
def test_convolutions(found: list[str], nodes: str) -> None:
    weights = """float[8,2,1,1] a, float[6,8,1,1] c, float[6,4,1,1] f, float[6] d, float[6,2,1,1] e, float[2,6,1,1] k,
                 float[8,1,3,3] l, float[8] m, float[2,8,1,1] n"""
    read = "n" if "n.1" in found[0] else "k"
    case = contributed("float[N,2,5,5] x", weights, f"h = Conv(x, a) {nodes} y = Conv(t, {read})")
    assert cut_constants(case) == found


PRODUCT = ["8: a.1 c.0", "6: b.0 c.1"]
TRANSPOSED = ["8: a.1 d.1", "6: b.0 d.0"]


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        (["8: a.1 c.0", "6: b.0 c.1 e.0"], 't = ms.FusedGemm<activation = "Relu">(h, c, e)'),
        (["8: a.1 d.1", "6: b.0 d.0 e.0"], 't = ms.FusedGemm<activation = "Relu", transB = 1>(h, d, e)'),
        (PRODUCT, 'q = Transpose(h) t = ms.FusedGemm<activation = "Tanh", transA = 1>(q, c)'),
        (PRODUCT, "t = ms.FusedMatMul(h, c)"),
        (TRANSPOSED, "t = ms.FusedMatMul<transB = 1, alpha = 0.5>(h, d)"),
        (TRANSPOSED, "q = Transpose(h) t = ms.FusedMatMul<transA = 1, transB = 1>(q, d)"),
        (TRANSPOSED, "t = ms.TransposeMatMul<transB = 1>(h, d)"),
    ],
)
def test_products_of_matrices(found: list[str], nodes: str) -> None:
    weights = "float[5,8] a, float[8,6] c, float[6,8] d, float[6] e, float[6,2] b"
    case = contributed("float[N,5] x", weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)")
    assert cut_constants(case) == found


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        (PRODUCT, "t = ms.FusedMatMul(h, c)"),
        (PRODUCT, "q = Transpose<perm = [0, 2, 1]>(h) t = ms.FusedMatMul<transA = 1>(q, c)"),
        (["8: a.1 g.1", "6: b.0 g.2"], "t = ms.FusedMatMul(h, g)"),
        (
            ["8: a.1 g.1", "6: b.0 g.2"],
            "q = Transpose<perm = [1, 0, 2]>(h) t = ms.FusedMatMul<transBatchA = 1>(q, g)",
        ),
        (
            ["8: a.1 g.1", "6: b.0 g.2"],
            "q = Transpose<perm = [2, 0, 1]>(h) t = ms.FusedMatMul<transBatchA = 1, transA = 1>(q, g)",
        ),
        (
            ["8: a.1 f.1"],
            "k = MatMul(x, f) q = Transpose<perm = [1, 0, 2]>(k) t = ms.FusedMatMul<transB = 1, transBatchB = 1>(h, q)",
        ),
        (
            ["8: a.1 f.1"],
            "k = MatMul(x, f) q = Transpose<perm = [2, 0, 1]>(k) t = ms.FusedMatMul<transBatchB = 1>(h, q)",
        ),
    ],
)
def test_products_of_many_matrices(found: list[str], nodes: str) -> None:
    batch = "1" if "g.1" in found[0] else "N"
    weights = "float[5,8] a, float[5,8] f, float[8,6] c, float[1,8,6] g, float[6,2] b"
    case = contributed(f"float[{batch},6,5] x", weights, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)")
    assert cut_constants(case) == found


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        ("4: a.0 b.1 n.0", "t = ms.FusedMatMul(h, n)"),
        ("4: a.0 b.1 n.0", "t = ms.FusedMatMul<transA = 1>(h, n)"),
        ("4: a.0 b.1", "t = ms.FusedMatMul(h, h)"),
        ("4: a.0 b.1", "t = ms.FusedMatMul(h, m)"),
        ("4: a.0 b.1", "t = ms.FusedMatMul(h, k)"),
        ("4: a.0 b.1", "q = Transpose<perm = [2, 0, 1, 3]>(h) t = ms.FusedMatMul<transBatchB = 1>(h, q)"),
        ("4: a.0 b.1", "q = Transpose<perm = [3, 0, 1, 2]>(h) t = ms.FusedMatMul<transBatchA = 1, transA = 1>(q, h)"),
    ],
)
def test_channels_of_matrices(found: str, nodes: str) -> None:
    weights = "float[4,2,1,1] a, float[3,4,1,1] b, float[6,6] m, float[4,6,6] n, float[1,6,6] k"
    case = contributed("float[N,2,6,6] x", weights, f"h = Conv(x, a) {nodes} y = Conv(t, b)")
    assert cut_constants(case) == [found]


SKIP = """h = MatMul(x, a) k = MatMul(x, c) {} z = MatMul({}, b) y = MatMul(z, d)"""


@pytest.mark.parametrize(
    ("nodes", "read"),
    [
        ("t = ms.SkipLayerNormalization(h, k, s, s2)", "t"),
        ("t = ms.SkipLayerNormalization(h, k, s)", "t"),
        ("t, , , u = ms.SkipLayerNormalization(h, k, s, s2, s3) t1 = Identity(t)", "u"),
        ("t = ms.SkipSimplifiedLayerNormalization(h, k, s)", "t"),
        ("t, , , u = ms.SkipSimplifiedLayerNormalization(h, k, s, s2) t1 = Identity(t)", "u"),
    ],
)
def test_normalised_features_stay(nodes: str, read: str) -> None:
    weights = "float[5,8] a, float[5,8] c, float[8] s, float[8] s2, float[8] s3, float[8,6] b, float[6,2] d"
    case = contributed("float[N,3,5] x", weights, SKIP.format(nodes, read))
    assert cut_constants(case) == ["6: b.1 d.0"]
    reason = frozen(groups(case))["MatMul_0"]
    assert reason == frozen(groups(case))["MatMul_1"]
    assert "Skip" in reason
    assert reason.endswith(" normalises over it")


@pytest.mark.parametrize(
    ("found", "nodes", "read"),
    [
        (["8: a.0 b.1 c.0"], "t = ms.SkipLayerNormalization(h, k, s)", "t"),
        (["8: a.0 b.1 i.1", "8: c.0"], "t = ms.SkipLayerNormalization(h, i, s)", "t"),
        (["8: a.0 b.1 i.0", "8: c.0"], "t = ms.SkipLayerNormalization(h, j, s)", "t"),
        (["8: a.0 b.1 c.0"], "t, , , u = ms.SkipSimplifiedLayerNormalization(h, k, s)", "u"),
    ],
)
def test_positions_that_are_normalised_by_themselves_can_be_cut(found: list[str], nodes: str, read: str) -> None:
    """Layers that multiply from the left write positions."""
    nodes = nodes.replace("(h, j", "(h, i")
    constant = "float[8,6] i" if "i.0" in found[0] else "float[1,8,6] i"
    weights = f"float[8,3] a, float[8,3] c, {constant}, float[6] s, float[2,8] b"
    case = contributed("float[N,3,6] x", weights, f"h = MatMul(a, x) k = MatMul(c, x) {nodes} y = MatMul(b, {read})")
    assert cut_constants(case) == found


def test_simplified_normalisation() -> None:
    """ONNX Runtime registers it in ONNX's own domain, where the ONNX checker does not know it."""
    weights = "float[8,3] a, float[3,6] c, float[6] s, float[2,8] b, float[6,2] d"
    nodes = "h = MatMul(a, x) t = SimplifiedLayerNormalization(h, s) y = MatMul(b, t)"
    case = contributed("float[N,3,6] x", weights, nodes)
    assert places(groups(case), case) == ["8: a.0 b.1"]
    editor = Editor(case.clone(), "cut")
    removed = choose(groups(case), 0.4, 0)
    cut(editor, groups(case), removed)
    assert_equivalent(editor.graph, masked(case, groups(case), removed))
    for nodes in (
        "h = MatMul(x, c) t = SimplifiedLayerNormalization<axis = 2>(h, s) y = MatMul(t, d)",
        "h = MatMul(a, x) t = SimplifiedLayerNormalization<axis = 1>(h, w) y = MatMul(b, t)",
    ):
        case = contributed("float[N,3,3] x", f"{weights}, float[8,3] w", nodes)
        assert frozen(groups(case))["MatMul_0"] == (
            "SimplifiedLayerNormalization 'SimplifiedLayerNormalization_1' normalises over it"
        )


def test_embeddings_stay() -> None:
    weights = "float[9,6] w, float[4,6] p, float[3,6] e, float[6] g, float[6] b, float[6,7] c, float[7,2] d"
    nodes = "t, m = ms.EmbedLayerNormalization(x, s, w, p, e, g, b) h = MatMul(t, c) y = MatMul(h, d)"
    case = contributed("int32[N,4] x, int32[N,4] s", weights, nodes)
    assert cut_constants(case) == ["7: c.1 d.0"]


@pytest.mark.parametrize("name", ["MatMulNBits", "QAttention", "BiasSplitGelu", "MoE"])
def test_operators_without_a_rule_freeze(name: str) -> None:
    assert find_rule("com.microsoft", name) is None
