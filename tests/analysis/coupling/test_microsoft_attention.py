"""Attention of ONNX Runtime's own operators, each run by its CPU provider."""

from __future__ import annotations

import pytest

from surgery_ir.graph.model import Graph
from tests.analysis.coupling.constants import contributed, cut_constants, places
from tests.coupling import frozen, groups

FUSED = """float[6,24] w, float[24] b, float[6,20] w2, float[20] b2, float[8,2] o, float[4,2] o2, float[1,4,5,5] m4,
    float[1,1,5,5] m1, float[2,1,4,3,2] past, float[1,4,5,8] m8"""


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        ("4: b.0 o.0 w.1", "t = ms.Attention<num_heads = 4>(x, w, b)"),
        ("2: b.0 o.0 w.1", "t = ms.Attention<num_heads = 2, scale = 0.4>(x, w, b)"),
        ("4: b.0 m4.1 o.0 w.1", "t = ms.Attention<num_heads = 4, unidirectional = 1>(x, w, b, , , m4)"),
        ("4: b.0 o.0 w.1", "t = ms.Attention<num_heads = 4>(x, w, b, , , m1)"),
        ("4: b.0 o.0 past.2 w.1", "t, p = ms.Attention<num_heads = 4>(x, w, b, , past)"),
        ("4: b.0 o.0 w.1", "t = ms.Attention<num_heads = 4, qkv_hidden_sizes = [8, 8, 8]>(x, w, b)"),
        ("4: b2.0 o2.0 w2.1", "t = ms.Attention<num_heads = 4, qkv_hidden_sizes = [8, 8, 4]>(x, w2, b2)"),
        ("2: b2.0 o2.0 w2.1", "t = ms.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 4]>(x, w2, b2)"),
    ],
)
def test_heads_of_one_projection(found: str, nodes: str) -> None:
    batch = "1" if "past" in found else "N"
    read = "o2" if "o2" in found else "o"
    case = contributed(f"float[{batch},5,6] x", FUSED, f"{nodes} y = MatMul(t, {read})")
    assert cut_constants(case) == [found]


def test_inputs_of_one_projection() -> None:
    nodes = "h = MatMul(x, a) t = ms.Attention<num_heads = 4>(h, w, b) y = MatMul(t, o)"
    case = contributed("float[N,5,3] x", f"{FUSED}, float[3,6] a", nodes)
    assert cut_constants(case) == ["6: a.1 w.0", "4: b.0 o.0 w.1"]


def projected(nodes: str, sizes: tuple[int, int, int, int], weights: str, batch: str = "N") -> Graph:
    """Project ``x`` (batch, 5, 6) to ``q``, ``k`` and ``v``, which ``nodes`` read; they write ``t``."""
    query, key, value, output = sizes
    layers = f"float[6,{query}] wq, float[6,{key}] wk, float[6,{value}] wv, float[{output},2] o"
    projections = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
    return contributed(f"float[{batch},5,6] x", f"{layers}, {weights}", f"{projections} {nodes} y = MatMul(t, o)")


MULTI = """float[24] b, float[20] b2, float[1,4,5,5] m4, float[1,1,5,5] m1, float[1,4,3,2] pk, float[1,4,3,2] pv,
    float[1,4,7,2] k4, float[1,4,7,2] v4"""


@pytest.mark.parametrize(
    ("found", "values", "nodes"),
    [
        ("wk.1 wv.1", 8, "t = ms.MultiHeadAttention<num_heads = 4>(q, k, v)"),
        ("wk.1 wv.1", 8, "t = ms.MultiHeadAttention<num_heads = 4, scale = 0.4, unidirectional = 1>(q, k, v)"),
        ("b.0 wk.1 wv.1", 8, "t = ms.MultiHeadAttention<num_heads = 4>(q, k, v, b)"),
        ("b2.0 wk.1 wv.1", 4, "t = ms.MultiHeadAttention<num_heads = 4>(q, k, v, b2)"),
        ("m4.1 wk.1 wv.1", 8, "t = ms.MultiHeadAttention<num_heads = 4>(q, k, v, , , m4)"),
        ("wk.1 wv.1", 8, "t = ms.MultiHeadAttention<num_heads = 4>(q, k, v, , , m1)"),
        ("pk.1 pv.1 wk.1 wv.1", 8, "t, n, u = ms.MultiHeadAttention<num_heads = 4>(q, k, v, , , , pk, pv)"),
        ("k4.1 v4.1", 8, "t = ms.MultiHeadAttention<num_heads = 4>(q, k4, v4)"),
    ],
)
def test_heads_of_three_projections(found: str, values: int, nodes: str) -> None:
    batch = "1" if "pk" in found or "k4" in found else "N"
    case = projected(nodes, (8, 8, values, values), MULTI, batch)
    wanted = " ".join(sorted(f"o.0 wq.1 {found}".split()))
    assert f"4: {wanted}" in cut_constants(case)


def test_packed_keys_and_values() -> None:
    """The CPU provider runs neither packing, so that nothing is compared."""
    weights = "float[6,24] w, float[8,2] o, int64[5] five = {0, 0, 4, 3, 2}, float[1,5,8] t"
    nodes = "h = MatMul(x, w) p = Reshape(h, five) t = ms.MultiHeadAttention<num_heads = 4>(p) y = MatMul(t, o)"
    case = contributed("float[1,5,6] x", weights, nodes)
    assert places(groups(case), case) == ["4: o.0 w.1"]


GROUPED = """int32[1] l = {4}, int32[1] n = {5}, int32[1] l3 = {7}, int32[1] n3 = {8}, float[8,8] c, float[8,8] s,
    float[1,4,5,5] m4, float[1,1,5,5] m1, float[4] sink, float[1,2,3,16] pk, float[1,2,3,16] pv"""
TWO = "num_heads = 4, kv_num_heads = 2"


@pytest.mark.parametrize(
    ("found", "operator"),
    [
        ("", f"<{TWO}>(q, k, v, , , l, n)"),
        ("", f"<{TWO}, do_rotary = 1, scale = 0.3, local_window_size = 3>(q, k, v, , , l, n, c, s)"),
        ("m4.1 sink.0", f"<{TWO}>(q, k, v, , , l, n, , , , m4, sink)"),
        ("", f"<{TWO}>(q, k, v, , , l, n, , , , m1)"),
        ("pk.1 pv.1", f"<{TWO}>(q, k, v, pk, pv, l3, n3)"),
    ],
)
def test_key_heads_go_with_their_queries(found: str, operator: str) -> None:
    case = projected(f"t, u, z = ms.GroupQueryAttention{operator}", (64, 32, 32, 64), GROUPED, "1")
    wanted = " ".join(sorted(f"o.0 wk.1 wq.1 wv.1 {found}".split()))
    assert cut_constants(case) == [f"2: {wanted}"]


@pytest.mark.parametrize("operator", [f"GroupQueryAttention<{TWO}, qk_output = 1>(q, k, v, , , l, n)"])
def test_heads_whose_scores_leave_the_model_stay(operator: str) -> None:
    case = projected(f"t, u, z, w = ms.{operator} a = ReduceSum(w) d = Mul(t, a)", (64, 32, 32, 64), GROUPED, "1")
    assert not groups(case).groups


def test_an_only_key_head_stays() -> None:
    nodes = "t, u, z = ms.GroupQueryAttention<num_heads = 4, kv_num_heads = 1>(q, k, v, , , l, n)"
    case = projected(nodes, (64, 16, 16, 64), GROUPED, "1")
    assert cut_constants(case) == ["4: o.0 wq.1"]
    assert frozen(groups(case))["MatMul_1"].endswith(" reads it with every query head")


@pytest.mark.parametrize(("keys", "found"), [(1, []), (2, ["2: o.0 w.1"]), (4, ["4: o.0 w.1"])])
def test_packed_queries_keys_and_values(keys: int, found: list[str]) -> None:
    nodes = f"""h = MatMul(x, w) t, u, z = ms.GroupQueryAttention<num_heads = 4, kv_num_heads = {keys}>(h, , , , , l, n)
                y = MatMul(t, o)"""
    case = contributed("float[1,5,6] x", f"{GROUPED}, float[6,{64 + 32 * keys}] w, float[64,2] o", nodes)
    assert (cut_constants(case) if found else places(groups(case), case)) == found


@pytest.mark.parametrize(
    ("axes", "case"),
    [
        (
            {("p", 2)},
            contributed("float[1,5,6] x", FUSED, "t, p = ms.Attention<num_heads = 4>(x, w, b) y = MatMul(t, o)"),
        ),
        (
            {("n", 1), ("u", 1)},
            projected("t, n, u = ms.MultiHeadAttention<num_heads = 4>(q, k, v)", (8, 8, 8, 8), MULTI),
        ),
        (
            {("u", 1), ("z", 1), ("w", 1)},
            projected(
                f"t, u, z, w = ms.GroupQueryAttention<{TWO}, qk_output = 1>(q, k, v, , , l, n)",
                (64, 32, 32, 64),
                GROUPED,
                "1",
            ),
        ),
    ],
)
def test_states_and_scores_hold_the_heads(axes: set[tuple[str, int]], case: Graph) -> None:
    assert axes <= {(span.axis.value, span.axis.axis) for span in groups(case).groups[0].spans}


def test_quantized_caches_freeze() -> None:
    nodes = f"t, u, z = ms.GroupQueryAttention<{TWO}>(q, k, v, , , l, n, , , , , , ks, ks)"
    case = projected(nodes, (64, 32, 32, 64), f"{GROUPED}, float[32] ks, float[1,5,64] t", "1")
    assert not groups(case).groups
    assert frozen(groups(case))["MatMul_0"].endswith("cannot be looked into: its cache is quantized")
