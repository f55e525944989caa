from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.graph import sparse
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from surgery_ir.passes.base import run_pass
from surgery_ir.passes.cleanup.store_sparse import StoreSparse
from tests.harness import assert_equivalent, assert_same_structure
from tests.passes.helpers import apply, build, context, reasons

TEXT = """net (float[N,64] x) => (float[N,32] y) <float[64,64] w1, float[64,32] w2, float[32] c> {
    a = MatMul(x, w1)
    b = Relu(a)
    y = Gemm(b, w2, c)
}"""


def with_zeros(shape: tuple[int, ...], share: float) -> NDArray[np.float64]:
    """An array in which exactly ``share`` of the entries are zero."""
    size = int(np.prod(shape))
    values = np.random.default_rng(0).uniform(0.1, 1.0, size)
    values[np.random.default_rng(1).permutation(size)[: round(share * size)]] = 0
    return values.reshape(shape)


def sparse_graph() -> Graph:
    return build(TEXT, w1=with_zeros((64, 64), 0.9), w2=with_zeros((64, 32), 0.3))


LEFT_ALONE = {
    "dense weights": (TEXT, {}, 0.1, "no weight has enough zeros to take fewer bytes: w1, w2"),
    "just too few zeros": (TEXT, {"w1": 0.69, "w2": 0.69}, 0.1, "no weight has enough zeros"),
    "a saving that is asked for": (TEXT, {"w1": 0.9, "w2": 0.9}, 0.8, "no weight has enough zeros"),
    "small weights": (
        "net (float[N,8] x) => (float[N,8] y) <float[8,8] w1> { y = MatMul(x, w1) }",
        {"w1": 0.9},
        0.1,
        "no weight has enough zeros to take fewer bytes",
    ),
    "integers": (
        "net (int32[N,64] x) => (int32[N,64] y) <int32[64,64] w1> { y = MatMul(x, w1) }",
        {"w1": 1.0},
        0.1,
        "no weight has enough zeros to take fewer bytes",
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    text, shares, saving, reason = LEFT_ALONE[case]
    shapes = {name: build(text).array(name).shape for name in shares}
    graph = build(text, **{name: with_zeros(shapes[name], share) for name, share in shares.items()})
    outcome = apply(StoreSparse(saving=saving), graph)
    assert outcome.graph is graph
    assert reasons(outcome)[""].startswith(reason)


BEFORE_AFTER = {
    "one weight of two": ({"w1": 0.9, "w2": 0.3}, {"w1"}),
    "both": ({"w1": 0.71, "w2": 0.95}, {"w1", "w2"}),
    "nothing but zeros": ({"w1": 1.0, "w2": 0.0}, {"w1"}),
}


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str, tmp_path: Path) -> None:
    shares, expected = BEFORE_AFTER[case]
    shapes = {"w1": (64, 64), "w2": (64, 32)}
    graph = build(TEXT, c=np.ones(32), **{name: with_zeros(shapes[name], share) for name, share in shares.items()})
    result = apply(StoreSparse(), graph).graph
    assert {name for name, value in result.initializers.items() if sparse.is_sparse(value)} == expected
    assert {item.values.name for item in result.to_proto().graph.sparse_initializer} == expected
    write_model(graph, tmp_path / "dense.onnx")
    write_model(result, tmp_path / "sparse.onnx")
    sizes = {name: int(np.prod(shapes[name])) for name in expected}
    saved = sum(round(shares[name] * size) * 12 - size * 8 for name, size in sizes.items())
    difference = (tmp_path / "dense.onnx").stat().st_size - (tmp_path / "sparse.onnx").stat().st_size
    assert saved - 200 < difference <= saved

    again = read_model(tmp_path / "sparse.onnx")
    for name in graph.initializers:
        assert np.array_equal(again.array(name), graph.array(name))
    assert_same_structure(again, TEXT)
    assert_equivalent(again, graph, tolerance=0)
    write_model(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").stat().st_size == (tmp_path / "sparse.onnx").stat().st_size
    assert read_model(tmp_path / "again.onnx").fingerprint() == again.fingerprint()


@pytest.mark.parametrize(("dtype", "share"), [("float16", 0.85), ("double", 0.6)])
def test_element_types(dtype: str, share: float) -> None:
    text = f"net ({dtype}[N,64] x) => ({dtype}[N,64] y) <{dtype}[64,64] w> {{ y = MatMul(x, w) }}"
    graph = build(text, w=with_zeros((64, 64), share))
    result = apply(StoreSparse(), graph).graph
    assert sparse.is_sparse(result.initializers["w"])
    assert_equivalent(Graph.from_proto(result.to_proto()), graph, tolerance=0)


def test_once_is_enough_and_no_connection_is_lost() -> None:
    graph = sparse_graph()
    outcome = apply(StoreSparse(), graph)
    assert [(edit.kind, edit.where, edit.pruned, edit.created) for edit in outcome.edits] == [
        ("store-sparse", "w1", 0, 0)
    ]
    second = run_pass(StoreSparse(), outcome.graph, context(graph))
    assert not second.changed
    assert reasons(second)[""] == "every weight that gets smaller is stored sparse already"


def test_the_given_graph_is_not_marked() -> None:
    graph = sparse_graph()
    assert apply(StoreSparse(), graph).changed
    assert not graph.to_proto().graph.sparse_initializer
