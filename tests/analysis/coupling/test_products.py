"""Costs as polynomials: at any widths they say what the graph costs that is really cut to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.products import Monomial, macs_by_node, macs_polynomial, params_polynomial
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.cutting import cut
from tests.analysis.coupling.random_graphs import random_model
from tests.coupling import choose, groups
from tests.harness import small_graph
from tests.zoo.test_cuts import clean, coupling_of

BATCH = 2


def value(polynomial: Sequence[Monomial], kept: Sequence[int]) -> float:
    """Evaluate a polynomial."""
    return sum(item.factor * math.prod(kept[number] for number in item.groups) for item in polynomial)


def cut_to(graph: Graph, coupling: Coupling, seed: int) -> tuple[Graph, list[int]]:
    """Cut a random share of every group; what each keeps."""
    removed = choose(coupling, float(np.random.default_rng(seed).uniform(0.05, 0.95)), seed)
    editor = Editor(graph.clone(), "cut")
    cut(editor, coupling, removed)
    return editor.graph, [group.units - len(removed[group.name]) for group in coupling.groups]


def sample(graph: Graph, coupling: Coupling) -> Mapping[str, Sequence[int]]:
    return {item.name or "": coupling.facts.shapes[item.name or ""] for item in graph.inputs}


def assert_costs_agree(graph: Graph, coupling: Coupling, seed: int) -> None:
    small, kept = cut_to(graph, coupling, seed)
    found = cost(small, sample(graph, coupling))
    assert value(params_polynomial(graph, coupling), kept) == pytest.approx(found.params, rel=1e-9)
    if found.macs is not None:
        assert value(macs_polynomial(graph, coupling), kept) == pytest.approx(found.macs, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["densenet", "gru", "mobilenet_v3", "resnext", "shufflenet_v2", "vit", "yolo"])
def test_what_cut_models_cost_is_known_before(name: str, seed: int) -> None:
    graph = clean(name)
    assert_costs_agree(graph, coupling_of(graph, name), seed)


@pytest.mark.parametrize("seed", range(40))
def test_what_cut_random_networks_cost_is_known_before(seed: int) -> None:
    graph = Graph.from_proto(random_model(seed))
    assert_costs_agree(graph, groups(graph), seed)


def test_a_vector_that_one_reader_keeps_whole_counts_twice() -> None:
    case = small_graph(
        "float[N,4,5] x | float[5,8] a, float[8] p, float[8,8] b | "
        "h = MatMul(x, a) g = Add(h, p) f = MatMul(g, b) y = Add(f, p)"
    )
    coupling = groups(case)
    assert [group.name for group in coupling.groups] == ["MatMul_0"]
    assert value(params_polynomial(case, coupling), [3]) == 5 * 3 + 3 + 3 * 8 + 8
    assert_costs_agree(case, coupling, seed=0)


def test_products_of_activations_shrink_with_what_they_write_and_sum_over() -> None:
    case = small_graph(
        "float[N,4,3] x | float[3,8] a, float[3,8] b, float[3,6] c, float[6,2] d | "
        "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) t = Transpose<perm = [0, 2, 1]>(k) "
        "s = MatMul(q, t) m = MatMul(s, v) y = MatMul(m, d)"
    )
    coupling = groups(case)
    assert [group.units for group in coupling.groups] == [8, 6]
    found = macs_by_node(case, coupling)
    assert value(found["MatMul_4"], [5, 6]) == BATCH * 4 * 4 * 5
    assert value(found["MatMul_5"], [8, 2]) == BATCH * 4 * 4 * 2
    assert_costs_agree(case, coupling, seed=1)
