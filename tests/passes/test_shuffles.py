"""canonicalize writes channel shuffles as permutations."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.spec import create
from tests.harness import RUNTIME, assert_equivalent, graph

SHUFFLE = """net (float[{n},6,4,4] x) => (float[{n},6,4,4] y) <int64[5] s, int64[4] t> {{
    a = Reshape(x, s)
    b = Transpose<perm = {perm}>(a)
    {extra} = Reshape(b, t)
}}"""


def shuffled(n: object = "N", perm: str = "[0,2,1,3,4]", extra: str = "y", **given: list[int]) -> Graph:
    sizes = {"s": [0, 2, 3, 4, 4] if n == "N" else [1, 2, 3, 4, 4], "t": [-1, 6, 4, 4], **given}
    text = SHUFFLE.format(n=n, perm=perm, extra=extra)
    return graph(text, {name: np.array(value) for name, value in sizes.items()})


def canonical(found: Graph) -> Graph:
    return run_pass(create("canonicalize", {}), found, PassContext(found, RUNTIME)).graph


def operators(found: Graph) -> list[str]:
    return [node.op_type for node in found.model.graph]


LEFT_ALONE = {
    "another permutation": shuffled(perm="[0,1,2,4,3]", s=[0, 2, 3, 4, 4]),
    "axes that are not neighbours": shuffled(perm="[0,3,2,1,4]", s=[0, 2, 3, 4, 4]),
    "merged otherwise": graph(
        """net (float[1,6,4,4] x) => (float[1,3,8,4] y) <int64[5] s, int64[4] t> {
            a = Reshape(x, s) b = Transpose<perm = [0,2,1,3,4]>(a) y = Reshape(b, t)
        }""",
        {"s": np.array([1, 2, 3, 4, 4]), "t": np.array([1, 3, 8, 4])},
    ),
    "read by others": graph(
        """net (float[1,6,4,4] x) => (float[1,6,4,4] y, float[1,3,2,4,4] z) <int64[5] s, int64[4] t> {
            a = Reshape(x, s) b = Transpose<perm = [0,2,1,3,4]>(a) y = Reshape(b, t) z = Relu(b)
        }""",
        {"s": np.array([1, 2, 3, 4, 4]), "t": np.array([1, 6, 4, 4])},
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    assert "Gather" not in operators(canonical(LEFT_ALONE[case]))


BEFORE_AFTER = {
    "fixed sizes": shuffled(1),
    "open batch": shuffled(),
    "sizes computed": graph(
        """net (float[N,6,H,W] x) => (float[N,6,H,W] y)
        <int64[1] n, int64[2] g, int64[1] c, int64[1] i, int64[2] hw> {
            z = Shape(x)
            m = Gather(z, i)
            l = Gather(z, hw)
            s = Concat<axis=0>(m, g, l)
            a = Reshape(x, s)
            b = Transpose<perm = [0,2,1,3,4]>(a)
            t = Concat<axis=0>(n, c, l)
            y = Reshape(b, t)
        }""",
        {
            "n": np.array([-1]), "g": np.array([3, 2]), "c": np.array([6]), "i": np.array([0]), "hw": np.array([2, 3]),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_AFTER)
def test_before_and_after(case: str) -> None:
    found = BEFORE_AFTER[case]
    context = PassContext(found, RUNTIME)
    if case == "sizes computed":  # the sizes of an image are told by samples
        context = PassContext(found, RUNTIME, Samples({"x": np.ones((2, 6, 5, 7), np.float32)}))
    after = run_pass(create("canonicalize", {}), found, context).graph
    assert operators(after) == ["Gather"]
    assert_equivalent(after, found, tolerance=0)
