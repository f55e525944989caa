"""Networks with residual branches, and running drop-layers on them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.extract import with_outputs
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, run_pass
from surgery_ir.passes.prune.layers import DropLayers
from tests.harness import run
from tests.passes.helpers import apply, build, context, sample_shape, samples


def inputs(graph: Graph, count: int = 256, seed: int = 0) -> Samples:
    return samples(x=np.random.default_rng(seed).standard_normal((count, *sample_shape(graph))))


def drop(graph: Graph, given: Samples | None = None, **options: Any) -> Outcome:
    return apply(DropLayers(**{"count": 1, "ridge": 0.0} | options), graph, given or inputs(graph))


def reported(graph: Graph, given: Samples, **options: Any) -> list[tuple[str, float]]:
    """What was dropped, and the error that was said to be left."""
    found: list[tuple[str, float]] = []

    def note(what: str, done: int, total: int) -> None:
        match = re.fullmatch(r"dropped (\S+), relative error (\S+) on held-out samples", what)
        if match is not None:
            found.append((match[1], float(match[2])))

    run_pass(DropLayers(ridge=0.0, **options), graph, replace(context(graph, given), progress=note))
    return found


def error(graph: Graph, dense: Graph, given: Samples, value: str) -> float:
    """Relative squared error of ``value``."""
    found, wanted = (
        run(with_outputs(item, [value]), dict(given.feeds))[value].astype(np.float64) for item in (graph, dense)
    )
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


def mlp(name: str, entry: str, hidden: int) -> tuple[str, str]:
    """A branch with a Relu that ends in an Add called ``name``: its weights and its operators."""
    weights = f"float[8,{hidden}] {name}1, float[{hidden},8] {name}2"
    return (
        weights,
        f"""
        {name}h = MatMul({entry}, {name}1)
        {name}r = Relu({name}h)
        {name}o = MatMul({name}r, {name}2)
        [{name}] {name}y = Add({entry}, {name}o)""",
    )


def chain(**branches: tuple[float, int]) -> Graph:
    """Branches behind each other, each of a scale and a width, a nonlinear operator at either end."""
    weights, body, entry = [], "s = Sigmoid(x)", "s"
    for name, (_, hidden) in branches.items():
        more, text = mlp(name, entry, hidden)
        weights.append(more)
        body, entry = body + text, f"{name}y"
    text = f"net (float[N,8] x) => (float[N,8] y) <{', '.join(weights)}> {{ {body} y = Tanh({entry}) }}"
    drawn = build(text)
    return build(text, **{f"{name}2": scale * drawn.array(f"{name}2") for name, (scale, _) in branches.items()})


POSTPONED = """net ({0}[N,8] x) => ({0}[N,8] y) <{0}[8,8] w0, {0}[8] c, {0}[8,{1}] w1, {0}[{1},8] w2> {{
    z = Gemm(x, w0, c)
    s = Relu(z)
    h = MatMul(s, w1)
    r = Relu(h)
    f = MatMul(r, w2)
    t = Add(s, f)
    y = Relu(t)
}}"""


LINEAR_BRANCH = """net (float[N,8] x) => (float[N,8] y) <float[8,16] w1, float[16] b, float[16,8] w2> {
    s = Sigmoid(x)
    h = MatMul(s, w1)
    c = Add(h, b)
    f = MatMul(c, w2)
    t = Add(f, s)
    y = Tanh(t)
}"""

LINEAR_CONVOLUTIONS = """net (float[N,4,5,5] x) => (float[N,4,5,5] y)
<float[16,4,1,1] w1, float[16] b, float[4,16,1,1] w2> {
    s = Sigmoid(x)
    h = Conv(s, w1, b)
    f = Conv(h, w2)
    t = Add(s, f)
    y = Tanh(t)
}"""
