"""Reductions, softmax and sorting: the axes they work along stay whole, all others pass."""

from __future__ import annotations

import pytest

from tests.analysis.coupling.sandwich import between_convs, between_matmuls, described, reason_against
from tests.coupling import assert_cut_is_exact

REDUCTIONS = {
    "ReduceL1": "takes the norm over it",
    "ReduceL2": "takes the norm over it",
    "ReduceLogSum": "sums over it",
    "ReduceLogSumExp": "sums over it",
    "ReduceMax": "takes the maximum over it",
    "ReduceMean": "takes the mean over it",
    "ReduceMin": "takes the minimum over it",
    "ReduceProd": "multiplies over it",
    "ReduceSum": "sums over it",
    "ReduceSumSquare": "sums over it",
}

reductions = pytest.mark.parametrize(("operator", "clause"), REDUCTIONS.items())


@reductions
@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("t = {}<axes = [2, 3]>(p)", "", 11),
        ("q = {}<axes = [-1, -2], keepdims = 0>(p) t = Unsqueeze<axes = [2, 3]>(q)", "", 11),
        ("t = {}(p, k)", "int64[2] k = {{3, -2}}", 18),
        ("q = {}<keepdims = 0>(p, k) t = Unsqueeze(q, k)", "int64[1] k = {{3}}", 18),
        ("t = {}<noop_with_empty_axes = 1>(p)", "", 18),
        ("t = {}<noop_with_empty_axes = 1, keepdims = 0>(p, k)", "int64[0] k", 18),
    ],
)
def test_axes_that_are_not_reduced_pass(operator: str, clause: str, nodes: str, weights: str, opset: int) -> None:
    case = between_convs("p = Exp(h) " + nodes.format(operator), weights.format(), opset)
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


@reductions
def test_axes_behind_a_reduced_one_move_up(operator: str, clause: str) -> None:
    weights = "int64[1] k = {1}"
    case = between_matmuls(f"p = Exp(h) t = {operator}<keepdims = 0>(p, k)", weights, 18)
    assert described(assert_cut_is_exact(case)) == ["8 a.1 -> b.0"]


def test_the_sum_has_its_axes_in_an_operand_since_opset_13() -> None:
    case = between_convs("t = ReduceSum(h, k)", "int64[2] k = {2, 3}", 13)
    assert described(assert_cut_is_exact(case)) == ["8 a.0 -> b.1"]


@reductions
@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("p = {}<axes = [1]>(h) t = Mul(p, h)", "", 11),
        ("p = {}<axes = [-3, 0]>(h) t = Mul(p, h)", "", 11),
        ("p = {}<keepdims = 0>(h) t = Mul(p, h)", "", 11),
        ("p = {}(h) t = Mul(p, h)", "", 18),
        ("p = {}(h, k) t = Mul(p, h)", "int64[1] k = {{-3}}", 18),
        ("p = {}(h, k) t = Mul(p, h)", "int64[0] k", 18),
        ("p = {}<noop_with_empty_axes = 1>(h, k) t = Mul(p, h)", "int64[1] k = {{1}}", 18),
    ],
)
def test_reduced_axes_are_left_alone(operator: str, clause: str, nodes: str, weights: str, opset: int) -> None:
    reason = reason_against(between_convs(nodes.format(operator), weights.format(), opset))
    assert reason == f"{operator} '{operator}_1' {clause}"


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("i = ArgMax<axis = 2>(h) t = Cast<to = 1>(i)", "", 13),
        ("i = ArgMin<axis = -1>(h) t = Cast<to = 1>(i)", "", 11),
        ("i = ArgMax<axis = 3, keepdims = 0>(h) q = Cast<to = 1>(i) t = Unsqueeze(q, k)", "int64[1] k = {3}", 13),
        ("t = CumSum(h, k)", "int64 k = {2}", 11),
        ("t = CumSum<reverse = 1>(h, k)", "int32[1] k = {-1}", 14),
        ("v, i = TopK<axis = 2>(h, k) j = Cast<to = 1>(i) t = Add(v, j)", "int64[1] k = {3}", 11),
        ("t, i = TopK<largest = 0>(h, k)", "int64[1] k = {3}", 11),
        ("v, i = TopK<axis = -2, k = 3>(h) j = Cast<to = 1>(i) t = Add(v, j)", "", 9),
        ("t = Softmax<axis = 2>(h)", "", 9),
        ("t = Softmax<axis = -1>(h)", "", 11),
        ("t = LogSoftmax<axis = -2>(h)", "", 11),
        ("t = Hardmax<axis = 3>(h)", "", 11),
        ("t = Softmax(h)", "", 13),
        ("t = LogSoftmax<axis = 2>(h)", "", 13),
        ("t = Hardmax<axis = -1>(h)", "", 13),
        ("t = Dropout<ratio = 0.5>(h)", "", 7),
        ("q, m = Dropout(h) n = Cast<to = 1>(m) t = Add(q, n)", "", 10),
        ("q, m = Dropout(h) n = Cast<to = 1>(m) t = Add(q, n)", "", 12),
        ("t = Dropout(h, r, o)", "float r = {0.5}, bool o = {0}", 13),
    ],
)
def test_axes_beside_the_one_it_works_along_pass(nodes: str, weights: str, opset: int) -> None:
    assert described(assert_cut_is_exact(between_convs(nodes, weights, opset))) == ["8 a.0 -> b.1"]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ("t = Softmax<axis = 1>(h)", "", 13),
        ("t = LogSoftmax<axis = 1>(h)", "", 13),
        ("t = Hardmax<axis = -2>(h)", "", 13),
        ("i = ArgMax<axis = 2>(h) t = Cast<to = 1>(i)", "", 13),
        ("i = ArgMin<axis = 1, keepdims = 0>(h) t = Cast<to = 1>(i)", "", 13),
        ("t = CumSum(h, k)", "int64 k = {1}", 14),
        ("v, i = TopK<axis = 1>(h, k) j = Cast<to = 1>(i) t = Add(v, j)", "int64[1] k = {2}", 11),
    ],
)
def test_axes_behind_the_one_it_works_along_pass(nodes: str, weights: str, opset: int) -> None:
    coupling = assert_cut_is_exact(between_matmuls(nodes, weights, opset))
    assert described(coupling) == ["8 a.1 -> b.0"]


SOFTMAX = "takes the softmax over it"
LARGEST = "picks the largest along it"
SUMS = "sums along it"
RANKS = "ranks what lies along it"
RANDOM = "drops elements at random"
UNKNOWN = "cannot be looked into: the value of its operand 'q' is not known"


@pytest.mark.parametrize(
    ("reason", "nodes", "weights", "opset"),
    [
        (SOFTMAX, "t = Softmax(h)", "", 11),
        (SOFTMAX, "t = Softmax<axis = 1>(h)", "", 13),
        (SOFTMAX, "t = Softmax<axis = -3>(h)", "", 13),
        (SOFTMAX, "t = LogSoftmax<axis = 1>(h)", "", 13),
        (LARGEST, "t = Hardmax<axis = 1>(h)", "", 13),
        (LARGEST, "i = ArgMax<axis = 1>(h) j = Cast<to = 1>(i) t = Mul(j, h)", "", 13),
        ("picks the smallest along it", "i = ArgMin<axis = -3>(h) j = Cast<to = 1>(i) t = Mul(j, h)", "", 13),
        (LARGEST, "i = ArgMax<axis = 1, keepdims = 0>(h) j = Cast<to = 1>(i) t = Conv(j, c)", "float[8,1,1,1] c", 13),
        (SUMS, "t = CumSum(h, k)", "int64 k = {1}", 14),
        (SUMS, "t = CumSum(h, k)", "int64 k = {-3}", 14),
        (RANKS, "v, i = TopK<axis = 1>(h, k) t = Mul(v, v)", "int64[1] k = {8}", 11),
        (RANKS, "v, i = TopK<axis = -3>(h, k) t = Mul(v, v)", "int64[1] k = {8}", 11),
        (RANDOM, "t = Dropout(h, r, o)", "float r, bool o = {1}", 13),
    ],
)
def test_the_axis_it_works_along_is_left_alone(reason: str, nodes: str, weights: str, opset: int) -> None:
    operator = nodes.split(" = ")[1].split("<")[0].split("(")[0]
    assert reason_against(between_convs(nodes, weights, opset)) == f"{operator} '{operator}_1' {reason}"


@pytest.mark.parametrize(
    ("reason", "nodes", "weights", "opset"),
    [
        *((SOFTMAX, f"t = Softmax{axis}(h)", "", 11) for axis in ("", "<axis = 0>", "<axis = 1>", "<axis = -2>")),
        (SOFTMAX, "t = LogSoftmax<axis = 1>(h)", "", 12),
        (LARGEST, "t = Hardmax(h)", "", 1),
        (SOFTMAX, "t = Softmax(h)", "", 13),
        (RANKS, "t, i = TopK(h, k)", "int64[1] k = {8}", 11),
    ],
)
def test_the_last_axis_by_default_or_as_one_of_many_is_left_alone(
    reason: str, nodes: str, weights: str, opset: int
) -> None:
    assert reason_against(between_matmuls(nodes, weights, opset)).endswith(reason)


@pytest.mark.parametrize(("operator", "clause"), [("ArgMax", LARGEST), ("ArgMin", "picks the smallest along it")])
def test_the_first_axis_by_default_is_left_alone(operator: str, clause: str) -> None:
    nodes = f"p = Transpose<perm = [1, 0, 2, 3]>(h) i = {operator}(p) j = Cast<to = 1>(i) t = Mul(j, h)"
    assert reason_against(between_convs(nodes, batch="1")) == f"{operator} '{operator}_2' {clause}"


@pytest.mark.parametrize(
    ("operator", "nodes", "weights"),
    [
        ("ReduceSum", "t = ReduceSum(h, q)", "int64[1] k = {2}"),
        ("ReduceMean", "t = ReduceMean(h, q)", "int64[1] k = {2}"),
        ("CumSum", "t = CumSum(h, q)", "int64 k = {2}"),
        ("Dropout", "t = Dropout(h, , q)", "bool k = {0}"),
    ],
)
def test_what_an_unknown_operand_decides_is_left_alone(operator: str, nodes: str, weights: str) -> None:
    compute = "q = Not(k)" if operator == "Dropout" else "q = Abs(k)"
    case = between_convs(f"{compute} {nodes}", weights, 18)
    assert reason_against(case) == f"{operator} '{operator}_2' {UNKNOWN}"
