"""Attention of ONNX itself: a head goes with its queries, keys, values and what reads it."""

from __future__ import annotations

import pytest

from surgery_ir.analysis.coupling.relations import Axis
from surgery_ir.graph.model import Graph
from tests.analysis.coupling.constants import contributed, cut_constants
from tests.analysis.coupling.sandwich import reason_against
from tests.coupling import frozen, groups

SPLIT = """{0}3 = Reshape({0}, {1}) {0}4 = Transpose<perm = [0, 2, 1, 3]>({0}3)"""
MERGE = "m3 = Transpose<perm = [0, 2, 1, 3]>(t4) t = Reshape(m3, merge)"


def attention(nodes: str, opset: int, keys: int = 8, values: int = 8, outputs: int = 8, batch: str = "N") -> Graph:
    """Project ``x`` (batch, 5, 6) to ``q``, ``k`` and ``v``, which ``nodes`` read; they write ``t``."""
    weights = f"""float[6,8] wq, float[6,{keys}] wk, float[6,{values}] wv, float[{outputs},2] o, float[5,5] m2,
        float[4,5,5] m3d, float[1,4,5,5] m4, float[1,1,5,5] m1, float[1,4,3,2] pk, float[1,4,3,2] pv,
        float[1,2,3,2] pk2, float[1,2,3,2] pv2, int64[4] four = {{0, 0, 4, 2}}, int64[4] two = {{0, 0, 2, 2}},
        int64[4] one = {{0, 0, 1, 2}}, int64[3] merge = {{0, 0, -1}}, int64[1] n = {{3}}"""
    projections = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
    return contributed(f"float[{batch},5,6] x", weights, f"{projections} {nodes} y = MatMul(t, o)", opset)


HEADS = "q_num_heads = 4, kv_num_heads = 4"


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize(
    ("found", "operator"),
    [
        ("", f"Attention<{HEADS}>(q, k, v)"),
        ("", f"Attention<{HEADS}, is_causal = 1, scale = 0.3, softcap = 2.0>(q, k, v)"),
        ("", f"Attention<{HEADS}>(q, k, v, m2)"),
        ("", f"Attention<{HEADS}>(q, k, v, m1)"),
        ("m3d.0", f"Attention<{HEADS}>(q, k, v, m3d)"),
        ("m4.1", f"Attention<{HEADS}>(q, k, v, m4)"),
        ("pk.1 pv.1", f"Attention<{HEADS}>(q, k, v, , pk, pv)"),
    ],
)
def test_a_head_goes_with_its_queries_keys_and_values(found: str, operator: str, opset: int) -> None:
    batch = "1" if "pk" in found else "N"
    outputs = "t, p1, p2" if "pk" in found else "t"
    case = attention(f"{outputs} = {operator}", opset, batch=batch)
    assert cut_constants(case) == [" ".join(sorted(f"4: o.0 wk.1 wq.1 wv.1 {found}".split()))]


@pytest.mark.parametrize("opset", [23, 24])
def test_a_key_head_goes_with_all_queries_that_read_it(opset: int) -> None:
    nodes = "t, p1, p2, s = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v, , pk2, pv2)"
    case = attention(nodes, opset, keys=4, values=4, batch="1")
    assert cut_constants(case) == ["2: o.0 pk2.1 pv2.1 wk.1 wq.1 wv.1"]
    assert {Axis("p1", 1), Axis("p2", 1), Axis("s", 1)} <= {span.axis for span in groups(case).groups[0].spans}
    assert [span.indices.tolist() for span in groups(case).groups[0].read] == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    nodes = "t = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v, m4)"
    assert cut_constants(attention(nodes, opset, keys=4, values=4)) == ["2: m4.1 o.0 wk.1 wq.1 wv.1"]


def test_an_only_key_head_stays() -> None:
    case = attention("t = Attention<q_num_heads = 4, kv_num_heads = 1>(q, k, v)", 23, keys=2, values=2)
    assert cut_constants(case) == ["4: o.0 wq.1"]
    assert frozen(groups(case))["MatMul_1"] == "Attention 'Attention_3' reads it with every query head"


def test_values_may_have_another_size() -> None:
    case = attention(f"t = Attention<{HEADS}>(q, k, v)", 23, values=12, outputs=12)
    assert cut_constants(case) == ["4: o.0 wk.1 wq.1 wv.1"]


@pytest.mark.parametrize(
    ("found", "keys", "layout", "operator"),
    [
        (["4: o.0 wk.1 wq.1 wv.1"], 8, "four", "Attention(q4, k4, v4)"),
        (["4: m4.1 o.0 wk.1 wq.1 wv.1"], 8, "four", "Attention(q4, k4, v4, m4)"),
        (["2: o.0 wk.1 wq.1 wv.1"], 4, "two", "Attention(q4, k4, v4)"),
        (["4: o.0 wk.1 wq.1 wv.1"], 8, "four", f"Attention<{HEADS}>(q4, k4, v4)"),
        (["2: wk.1 wq.1", "2: o.0 wv.1"], 2, "one", "Attention(q4, k4, v4)"),  # features: more weights go than by heads
    ],
)
def test_heads_with_an_axis_of_their_own(found: list[str], keys: int, layout: str, operator: str) -> None:
    split = " ".join([SPLIT.format("q", "four"), SPLIT.format("k", layout), SPLIT.format("v", layout)])
    case = attention(f"{split} t4 = {operator} {MERGE}", 23, keys=keys, values=keys)
    assert cut_constants(case) == found


@pytest.mark.parametrize(("scale", "opset"), [("", 23), ("<scale = 0.7>", 23), ("", 24)])
def test_features_of_heads_that_are_given(scale: str, opset: int) -> None:
    """The default scale is that of the head size before the cut."""
    weights = "float[6,8] wq, float[6,8] wk, float[6,7] wv, float[7,2] o"
    nodes = f"q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Attention{scale}(q, k, v) y = MatMul(t, o)"
    case = contributed("float[N,3,5,6] x", weights, nodes, opset)
    assert cut_constants(case) == ["8: wk.1 wq.1", "7: o.0 wv.1"]


def test_features_go_from_the_cache_too() -> None:
    weights = "float[6,8] wq, float[6,8] wk, float[6,7] wv, float[7,2] o, float[1,3,4,8] pk, float[1,3,4,7] pv"
    nodes = """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t, p1, p2 = Attention(q, k, v, , pk, pv)
               y = MatMul(t, o)"""
    case = contributed("float[1,3,5,6] x", weights, nodes, 23)
    assert cut_constants(case) == ["8: pk.3 wk.1 wq.1", "7: o.0 pv.3 wv.1"]
    keys, values = ({span.axis for span in group.spans} for group in groups(case).groups)
    assert Axis("p1", 3) in keys
    assert Axis("p2", 3) in values


ANGLES = """float[6,16] a, float[16,2] b, int64[1,5] p = {0, 1, 2, 3, 4}, float[8,1] c1, float[8,1] s1, float[8,2] c,
    float[8,2] s, int64[4] four = {0, 0, 4, 4}, int64[3] merge = {0, 0, -1}"""


@pytest.mark.parametrize(
    "nodes",
    [
        "t = RotaryEmbedding<num_heads = 4>(h, c, s, p)",
        "t = RotaryEmbedding<num_heads = 4, interleaved = 1, rotary_embedding_dim = 2>(h, c1, s1, p)",
        f"{SPLIT.format('h', 'four')} t4 = RotaryEmbedding(h4, c, s, p) {MERGE}",
        f"{SPLIT.format('h', 'four')} t4 = RotaryEmbedding<num_heads = 4>(h4, c, s, p) {MERGE}",
        "t = ms.RotaryEmbedding(h, p, c, s)",
        "t = ms.RotaryEmbedding<num_heads = 4>(h, p, c, s)",
        "t = ms.RotaryEmbedding<num_heads = 4, rotary_embedding_dim = 2>(h, p, c1, s1)",
        f"{SPLIT.format('h', 'four')} t4 = ms.RotaryEmbedding(h4, p, c, s) {MERGE}",
    ],
)
def test_whole_heads_are_rotated(nodes: str) -> None:
    case = contributed("float[1,5,6] x", ANGLES, f"h = MatMul(x, a) {nodes} y = MatMul(t, b)", 23)
    assert cut_constants(case) == ["4: a.1 b.0"]


@pytest.mark.parametrize("operator", ["RotaryEmbedding(h, c, s, p)", "ms.RotaryEmbedding(h, p, c, s)"])
def test_features_that_are_rotated_stay(operator: str) -> None:
    weights = "float[6,4] a, float[4,2] b, int64[1,5] p = {0, 1, 2, 3, 4}, float[8,2] c, float[8,2] s"
    case = contributed("float[1,3,5,6] x", weights, f"h = MatMul(x, a) t = {operator} y = MatMul(t, b)", 23)
    assert reason_against(case).endswith("RotaryEmbedding 'RotaryEmbedding_1' rotates pairs of its indices")
