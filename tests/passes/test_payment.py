"""Paying in units: multiply-accumulates are counted as by hand, and what is cut is what is missed least."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.payment import ALIGNED, macs_of, pay_macs
from tests.harness import assert_equivalent
from tests.passes.helpers import build, sample_shape, samples
from tests.passes.wiring import NETWORKS, context, divergence, inputs

BATCH = 2
"""Samples of the run whose shapes are looked at, where the model leaves their number open."""

COUNTED = {
    "chain": BATCH * (12 * 16 + 16 * 16 + 16 * 14 + 14 * 6),
    "a batch of four": 4 * (12 * 16 + 16 * 14 + 14 * 6),
    "grouped and depthwise": BATCH * 36 * (6 * 12 + 12 * 9 + 12 * 6 * 9 + 12 * 4),
    "residual": BATCH * (64 * 9 * (4 * 8 + 8 * 8 + 8 * 8) + 16 * (8 * 12 * 9 + 8 * 12) + 12 * 6),
}


@pytest.mark.parametrize("network", COUNTED)
def test_macs_are_those_of_a_batch(network: str) -> None:
    dense = build(NETWORKS[network])
    assert macs_of(dense, context(dense)) == COUNTED[network]


WIDE = """net (float[N,8] x) => (float[N,4] y)
<float[8,32] w1, float[32] c1, float[32,24] w2, float[24] c2, float[24,4] w3> {
    [one] a = Gemm(x, w1, c1)
    b = Relu(a)
    [two] c = Gemm(b, w2, c2)
    d = Relu(c)
    [three] y = MatMul(d, w3)
}"""


def wide(idle: int) -> Graph:
    """The last ``idle`` units of the first hidden layer matter to nobody; all others give something."""
    weights = build(WIDE).array("w2").astype(np.float64).copy()
    weights[32 - idle :] = 1e-7
    return build(WIDE, w2=weights, c1=np.full(32, 0.5), c2=np.full(24, 1.0))


def pay(graph: Graph, share: float) -> tuple[Graph, float]:
    """Pay on inputs that are independent of one another, so that hidden units are too."""
    data = samples(x=np.random.default_rng(0).standard_normal((160, *sample_shape(graph))))
    editor, ctx = Editor(graph.clone(), "test"), context(graph, data=data, selection=data)
    limit = share * macs_of(graph, ctx)
    assert not [item for item in pay_macs(editor, ctx, limit) if "cannot be" in item.reason]
    return editor.graph, limit


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
def test_no_more_is_left_than_the_limit_and_little_less(share: float) -> None:
    dense = wide(idle=0)
    paid, limit = pay(dense, share)
    verify(paid)
    step = ALIGNED * BATCH * max(8 + 24, 32 + 4)
    assert limit - step < macs_of(paid, context(dense)) <= limit
    widths = paid.array("w1").shape[1], paid.array("w2").shape[1]
    assert widths < (32, 24)
    assert all(width % ALIGNED == 0 for width in widths)
    assert {bytes(row) for row in paid.array("w3")} <= {bytes(row) for row in dense.array("w3")}, "re-solved"


def test_units_that_matter_to_nobody_go_and_weights_stay() -> None:
    """Nothing is re-solved: what is left is a part of what was there."""
    dense = wide(idle=4)
    paid, _ = pay(dense, 1 - 4 * (8 + 24) / (8 * 32 + 32 * 24 + 24 * 4))
    np.testing.assert_array_equal(paid.array("w1"), dense.array("w1")[:, :28])
    np.testing.assert_array_equal(paid.array("w2"), dense.array("w2")[:28])
    np.testing.assert_array_equal(paid.array("w3"), dense.array("w3"))
    assert_equivalent(paid, dense)


@pytest.mark.parametrize("share", [1.0, 1.2])
def test_what_is_within_the_limit_pays_nothing(share: float) -> None:
    dense = wide(idle=8)
    editor, ctx = Editor(dense.clone(), "test"), context(dense)
    assert not pay_macs(editor, ctx, share * macs_of(dense, ctx))
    assert not editor.edits


def test_units_of_any_kind_pay() -> None:
    """Heads, widths and channels alike: all groups are the payment's own."""
    dense = build(NETWORKS["attention"])
    paid, limit = pay(dense, 0.75)
    verify(paid)
    assert macs_of(paid, context(dense)) <= limit
    assert divergence(paid, dense, inputs(dense, 32, seed=2)) < 1.0


def test_a_limit_that_is_out_of_reach() -> None:
    dense = wide(idle=0)
    editor, ctx = Editor(dense.clone(), "test"), context(dense)
    with pytest.raises(PassError, match=r"0\.05 of the MACs cannot be reached, \S+ is the least"):
        pay_macs(editor, ctx, 0.05 * macs_of(dense, ctx))
    assert not editor.edits
