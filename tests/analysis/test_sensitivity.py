"""Sensitivities of linear networks, whose noise can be carried to the outputs by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.judge import Judge
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.sensitivity import sensitivity
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import ModelError
from surgery_ir.graph.model import Graph
from tests.harness import RUNTIME, graph, random_feeds

Array = NDArray[Any]

LINEAR = """
g (float[N,6] x) => (float[N,5,1,1] y) <float[6,8] w, float[8,5] v, int64[4] shape> {
    a = MatMul(x, w)
    b = MatMul(a, v)
    y = Reshape(b, shape)
}
"""
"""Rank 4 outputs hold no classes: they are judged by 1 − R²."""

CONVOLUTION = """
g (float[N,3,6,6] x) => (float[N,4,6,6] y) <float[3,3,1,1] w, float[4,3,1,1] v> {
    a = Conv(x, w)
    y = Conv(a, v)
}
"""


def linear() -> Graph:
    scale = np.array([5, 1, 1, 1, 0.2, 0.2, 0.05, 0])  # channels differ much, one is dead
    w = np.random.default_rng(1).standard_normal((6, 8)) * scale
    return graph(LINEAR, w=w, shape=np.array([-1, 5, 1, 1]))


def make(found: Graph, count: int = 2000) -> Judge:
    return Judge(found, Samples(random_feeds(input_specs(found), count, seed=0)), RUNTIME, limit=count)


def dense(judge: Judge, name: str) -> Iterable[Array]:
    walk = Walk(judge.reference, judge.samples, RUNTIME, keep=[name])
    walk.compute([name])
    return walk.values(name)


@pytest.mark.parametrize("relative_error", [0.01, 0.3, 3.0])
def test_a_linear_network(relative_error: float) -> None:
    """Noise of variance ε m_c in channel c gives a squared error of ε Σ m_c v_co² in output o, whatever ε."""
    judge = make(linear())
    a = judge.samples.feeds["x"].astype(np.float64) @ judge.reference.array("w")
    v = judge.reference.array("v").astype(np.float64)
    wanted = np.square(a).mean(0) @ np.square(v).sum(1) / (a @ v).var(0).sum()
    assert sensitivity(judge, "a", 1, relative_error, dense(judge, "a"), 0) == pytest.approx(wanted, rel=0.05)
    assert sensitivity(judge, "a", -1, relative_error, dense(judge, "a"), 1) == pytest.approx(wanted, rel=0.05)


def test_channels_that_are_an_inner_axis() -> None:
    judge = make(graph(CONVOLUTION, w=np.diag([5, 1, 0.1])[:, :, None, None]), 300)
    x, w, v = judge.samples.feeds["x"], judge.reference.array("w"), judge.reference.array("v")
    a = np.einsum("nihw,oi->nohw", x, w[..., 0, 0], dtype=np.float64)
    y = np.einsum("nihw,oi->nohw", a, v[..., 0, 0], dtype=np.float64)
    power = np.square(a).mean((0, 2, 3)) @ np.square(v[..., 0, 0].astype(np.float64)).sum(0)
    wanted = power * 36 / y.var(0).sum()
    assert sensitivity(judge, "a", 1, 0.1, dense(judge, "a"), 0) == pytest.approx(wanted, rel=0.05)


TOKENS = """
g (float[N,4,3] x) => (float[N,4,5,1] y) <float[3,3] w, float[3,5] v, int64[1] last> {
    a = MatMul(x, w)
    b = MatMul(a, v)
    y = Unsqueeze(b, last)
}
"""


@pytest.mark.parametrize("axis", [2, -1])
def test_channels_that_are_the_last_axis(axis: int) -> None:
    judge = make(graph(TOKENS, w=np.diag([5, 1, 0.1]), last=np.array([3])), 500)
    v = judge.reference.array("v").astype(np.float64)
    a = judge.samples.feeds["x"].astype(np.float64) @ judge.reference.array("w")
    wanted = 4 * np.square(a).mean((0, 1)) @ np.square(v).sum(1) / (a @ v).var(0).sum()
    assert sensitivity(judge, "a", axis, 0.1, dense(judge, "a"), 0) == pytest.approx(wanted, rel=0.05)


def test_classes() -> None:
    """For small noise n on logits, E KL = ½ Σ E n_c² p_c (1 − p_c): the Fisher information of a softmax."""
    judge = make(graph("g (float[N,6] x) => (float[N,6] y) <float[6,6] w> { y = MatMul(x, w) }"))
    y = judge.samples.feeds["x"].astype(np.float64) @ judge.reference.array("w")
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    wanted = 0.5 * np.square(y).mean(0) @ (p * (1 - p)).mean(0)
    assert sensitivity(judge, "y", 1, 1e-3, dense(judge, "y"), 0) == pytest.approx(wanted, rel=0.05)


def test_the_noise_is_seeded() -> None:
    judge = make(linear(), 100)
    first, second, other = (sensitivity(judge, "a", 1, 0.1, dense(judge, "a"), seed) for seed in (3, 3, 4))
    assert first == second
    assert first != other
    assert other == pytest.approx(first, rel=0.3)


def test_batches_differ_in_noise_but_not_in_scale() -> None:
    """The scale is that of all samples: a batch of zeros is disturbed too, so the order of samples does not matter."""
    found = linear()
    x = random_feeds(input_specs(found), 128, seed=0)["x"]
    x[:64] = 0
    judge = Judge(found, Samples({"x": x}), RUNTIME)
    seen: list[Array] = []

    class Listening(Judge):
        def patched(self, name: str, values: Iterable[Array]) -> float:
            seen.extend(values)
            return 0.1

    listening = Listening(found, judge.samples, RUNTIME)
    values = list(dense(judge, "a"))
    assert sensitivity(listening, "a", 1, 0.5, values, 0) == pytest.approx(0.2)
    noise = [got.astype(np.float64) - value for got, value in zip(seen, values, strict=True)]
    wanted = 0.5 * np.square(np.concatenate(values)).mean(0)
    for part in noise:
        assert part.var(0)[:7] == pytest.approx(wanted[:7], rel=0.6)
        assert not part[:, 7].any()
    assert abs(np.corrcoef(noise[0][:, :7].ravel(), noise[1][:, :7].ravel())[0, 1]) < 0.2
    assert all(array.dtype == np.float32 for array in seen)


def test_half_precision() -> None:
    """The noisy value has to be of half precision too, or the product would be refused."""
    text = (
        "g (float[N,4,1,1] x) => (float[N,4,1,1] y) <float16 k> { a = Cast<to=10>(x) b = Mul(a, k) y = Cast<to=1>(b) }"
    )
    judge = make(graph(text))
    assert sensitivity(judge, "a", 1, 0.1, dense(judge, "a"), 0) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("relative_error", [0.0, -0.1, np.inf, np.nan])
def test_errors_that_make_no_sense(relative_error: float) -> None:
    judge = make(linear(), 10)
    with pytest.raises(ValueError, match="must be positive and finite"):
        sensitivity(judge, "a", 1, relative_error, dense(judge, "a"), 0)


def test_an_unknown_value() -> None:
    judge = make(linear(), 10)
    with pytest.raises(ModelError, match="no value called 'b2'"):
        sensitivity(judge, "b2", 1, 0.1, dense(judge, "a"), 0)
