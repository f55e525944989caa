from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.targets import Target, plan
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph
from tests.harness import graph


def planned(text: str, residual: bool = True) -> dict[str, Target]:
    """Targets by the weight of their layer, in order."""
    found = graph(text)
    targets = plan(found, find_layers(found).layers, Cutter(found).values, residual).targets
    assert len(targets) == len(find_layers(found))
    assert_order(found, targets)
    return {target.layer.weight: target for target in targets}


def assert_order(graph: Graph, targets: tuple[Target, ...]) -> None:
    """Every layer comes after all layers that its input and its skip depend on."""
    view = graph.view()
    place = {target.layer.name: index for index, target in enumerate(targets)}
    for target in targets:
        ends = [target.layer.name, *(view.producer(skip) for skip in target.skips)]
        needed = set().union(*(nx.ancestors(view.graph, end) | {end} for end in ends if end is not None))
        for name in needed & place.keys() - {target.layer.name}:
            assert place[name] < place[target.layer.name], f"{target.layer.name} comes before {name}"


def sums(targets: dict[str, Target]) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    return {weight: (target.total, target.skips) for weight, target in targets.items()}


OWN: tuple[None, tuple[str, ...]] = (None, ())

CHAIN = """
g (float[N,4] x) => (float[N,4] y) <float[4,4] a, float[4,4] b, float[4,4] c> {
    p = MatMul(x, a)
    q = Relu(p)
    r = MatMul(q, b)
    s = Relu(r)
    y = MatMul(s, c)
}
"""


def test_in_a_chain_every_layer_has_its_own_output() -> None:
    assert sums(planned(CHAIN)) == {"a": OWN, "b": OWN, "c": OWN}
    assert list(planned(CHAIN)) == ["a", "b", "c"]


BLOCK = """
g (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,3,3] a, float[4,4,3,3] b, float[4,4,3,3] c, float[4,4,1,1] d> {
    h = Conv<pads=[1,1,1,1]>(x, a)
    p = Conv<pads=[1,1,1,1]>(h, b)
    q = Relu(p)
    r = Conv<pads=[1,1,1,1]>(q, c)
    s = Add(r, h)
    t = Relu(s)
    y = Conv(t, d)
}
"""


@pytest.mark.parametrize("node", ["s = Add(r, h)", "s = Add(h, r)"])
def test_the_last_layer_of_a_residual_block_absorbs_the_error_of_the_skip(node: str) -> None:
    text = BLOCK.replace("s = Add(r, h)", node)
    assert sums(planned(text)) == {"a": OWN, "b": OWN, "c": ("s", ("h",)), "d": OWN}
    assert sums(planned(text, residual=False)) == {"a": OWN, "b": OWN, "c": OWN, "d": OWN}


def test_only_relu_reads_it() -> None:
    assert {weight: target.rectified for weight, target in planned(BLOCK).items()} == {
        "a": False,  # the skip reads it too
        "b": True,
        "c": True,  # the sum is what counts
        "d": False,
    }


def test_of_two_layers_in_one_sum_the_larger_absorbs_and_comes_last() -> None:
    text = """
        g (float[N,4,8,8] x) => (float[N,8,4,4] y)
        <float[4,4,1,1] o, float[8,4,3,3] a, float[8,8,3,3] b, float[8,4,1,1] c> {
            i = Conv(x, o)
            p = Conv<pads=[1,1,1,1], strides=[2,2]>(i, a)
            q = Relu(p)
            r = Conv<pads=[1,1,1,1]>(q, b)
            s = Conv<strides=[2,2]>(i, c)
            t = Add(r, s)
            y = Relu(t)
        }
    """
    found = planned(text)
    assert sums(found) == {"o": OWN, "a": OWN, "c": OWN, "b": ("t", ("s",))}
    assert list(found) == ["o", "a", "c", "b"]  # the shortcut stands behind b in the file
    text = text.replace("float[8,8,3,3] b", "float[8,8,1,1] b").replace("r = Conv<pads=[1,1,1,1]>", "r = Conv")
    text = text.replace("float[8,4,1,1] c", "float[8,4,5,5] c").replace("s = Conv<", "s = Conv<pads=[2,2,2,2], ")
    swapped = planned(text)
    assert sums(swapped) == {"o": OWN, "a": OWN, "b": OWN, "c": ("t", ("r",))}


def test_a_stack_of_blocks() -> None:
    found = planned("""
        g (float[N,4] x) => (float[N,4] y) <float[4,4] a, float[4,4] b, float[4,4] c, float[4,4] d> {
            i = MatMul(x, a)
            p = MatMul(i, b)
            s = Add(i, p)
            q = MatMul(s, c)
            t = Add(s, q)
            y = MatMul(t, d)
        }
    """)
    assert sums(found) == {"a": OWN, "b": ("s", ("i",)), "c": ("t", ("s",)), "d": OWN}


def test_parallel_branches_that_are_concatenated_have_their_own_outputs() -> None:
    found = planned("""
        g (float[N,4] x) => (float[N,8] y) <float[4,4] a, float[4,4] b> {
            p = MatMul(x, a)
            q = MatMul(x, b)
            y = Concat<axis=1>(p, q)
        }
    """)
    assert sums(found) == {"a": OWN, "b": OWN}


@pytest.mark.parametrize(
    ("inputs", "weights", "node"),
    [
        ("", ", float[1,4,1,1] k", "s = Add(r, k)"),  # a constant has no error
        ("", ", float[4,1,1] k", "s = Add(k, r)"),
        (", float[N,4,8,8] z", "", "s = Add(r, z)"),  # nor has an input
        ("", "", "s = Add(r, r)"),
        ("", "", "s = Mul(r, h)"),
        ("", "", "s0 = Add(r, h) s = Add(s0, r)"),  # r is read twice
    ],
)
def test_sums_that_are_no_residual(inputs: str, weights: str, node: str) -> None:
    text = BLOCK.replace("x)", f"x{inputs})", 1).replace(" d>", f" d{weights}>").replace("s = Add(r, h)", node)
    assert sums(planned(text))["c"] == OWN


def test_an_output_that_the_sum_broadcasts_absorbs_nothing() -> None:
    text = """
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] a, float[4,4,1,1] b> {
            h = Conv(x, a)
            p = GlobalAveragePool(h)
            r = Conv(p, b)
            y = Add(r, h)
        }
    """
    assert sums(planned(text)) == {"a": OWN, "b": OWN}


def test_the_skip_may_be_broadcast() -> None:
    text = """
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] a, float[4,4,1,1] b> {
            h = Conv(x, a)
            p = GlobalAveragePool(h)
            r = Conv(h, b)
            y = Add(r, p)
        }
    """
    assert sums(planned(text))["b"] == ("y", ("p",))


def test_an_output_of_the_graph_stays_what_it_is() -> None:
    text = BLOCK.replace("(float[N,4,8,8] y)", "(float[N,4,8,8] y, float[N,4,8,8] r)")
    assert sums(planned(text))["c"] == OWN
    text = BLOCK.replace("(float[N,4,8,8] y)", "(float[N,4,8,8] y, float[N,4,8,8] s)")
    found = planned(text)["c"]
    assert (found.total, found.skips, found.rectified) == ("s", ("h",), False)


def test_a_bias_that_is_added_is_part_of_the_layer() -> None:
    found = planned("""
        g (float[N,4] x) => (float[N,4] y) <float[4,4] a, float[4,4] b, float[4] k> {
            i = MatMul(x, a)
            m = MatMul(i, b)
            p = Add(m, k)
            y = Add(i, p)
        }
    """)
    assert sums(found) == {"a": OWN, "b": ("y", ("i",))}


WIRED = """
g (float[N,4] x) => (float[N,4] y)
<float[4,4] a, float[4,4] b, float[4,4] c, float[4,4] t, float[4,4] u, float[4] k> {
    h = MatMul(x, a)
    p = Relu(h)
    m = MatMul(p, b)
    n = Add(m, k)
    e = MatMul(p, t)
    f = MatMul(h, u)
    i = Add(n, e)
    q = Add(i, f)
    r = Add(q, h)
    s = Relu(r)
    y = MatMul(s, c)
}
"""
"""A network to which two taps, t and u, were added: the dense model knows neither e and f nor n and i."""


@pytest.mark.parametrize(
    ("node", "taps", "total", "skips"),
    [
        ("", "tu", "r", ("h",)),
        ("q = Add(i, f)", "tu", "r", ("h",)),
        ("f = MatMul(h, u)", "tu", "r", ("h",)),
        ("e = MatMul(p, t)", "u", "r", ("e", "h")),
    ],
)
def test_a_layer_is_solved_together_with_its_taps(node: str, taps: str, total: str, skips: tuple[str, ...]) -> None:
    """Where a summand is no tap, it is one more skip."""
    text = WIRED
    if taps == "u":
        text = text.replace(node, "e0 = MatMul(p, t) e = Relu(e0)")
    found = graph(text)
    known = Cutter(found).values.keys() - set("mnefi") - {"e0"}
    result = plan(found, find_layers(found).layers, known)
    targets = {target.layer.weight: target for target in result.targets}
    assert "".join(tap.weight for tap in targets["b"].taps) == taps
    assert (targets["b"].total, targets["b"].skips, targets["b"].rectified) == (total, skips, True)
    assert targets["b"].wanted == "r"
    assert list(targets) == ["a", "b", "c"]
    names = {layer.name: layer.weight for layer in find_layers(found)}
    assert {names[name] for _, name in result.refusals} == ({"t"} if taps == "u" else set())


def test_taps_alone_are_solved_for_the_value_they_end_in() -> None:
    found = graph(WIRED)
    known = Cutter(found).values.keys() - set("mnefi")
    targets = {
        item.layer.weight: item for item in plan(found, find_layers(found).layers, known, residual=False).targets
    }
    assert (targets["b"].total, targets["b"].skips, targets["b"].rectified) == ("q", (), False)
    assert [part.weight for part in targets["b"].parts] == ["b", "t", "u"]


def test_layers_that_nothing_is_known_of_have_no_target() -> None:
    found = graph(CHAIN)
    result = plan(found, find_layers(found).layers, {"p", "y"})
    assert [target.layer.weight for target in result.targets] == ["a", "c"]
    ((reason, _),) = result.refusals
    assert reason == "the dense model has no value of the name it writes"


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Random layers, sums and activations over values of one shape."""
    lines, weights, values = [], [], ["x"]
    for index in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(["layer", "layer", "add", "add", "relu"]))
        recent = st.integers(max(0, len(values) - 5), len(values) - 1).map(values.__getitem__)
        one, other = draw(recent), draw(recent)
        if kind == "layer":
            weights.append(f"float[4,4] w{index}")
            lines.append(f"v{index} = MatMul({one}, w{index})")
        else:
            lines.append(f"v{index} = Add({one}, {other})" if kind == "add" else f"v{index} = Relu({one})")
        values.append(f"v{index}")
    return (
        f"g (float[N,4] x) => (float[N,4] {values[-1]}) <{', '.join([*weights, 'float[4] spare'])}> {{ "
        + " ".join(lines) + " }"
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(networks())
def test_the_order_is_topological(text: str) -> None:
    found = planned(text)
    view = graph(text).view()
    for target in found.values():
        if target.total is not None:
            (skip,) = target.skips
            (add,) = view.consumers(target.layer.output)
            assert sorted(view.operator(add).inputs) == sorted((target.layer.output, skip))
            assert view.operator(add).outputs == (target.total,)
