"""Networks that lost weights, running reconnecting passes on them, and counting connections by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.judge import Judge
from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.editor import Editor, carries_connections
from surgery_ir.graph.edits import Connections
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, Pass, PassContext, run_pass
from tests.harness import RUNTIME
from tests.passes.helpers import build, correlated, sample_shape, samples

__all__ = [
    "NETWORKS",
    "context",
    "depths",
    "divergence",
    "inputs",
    "networks",
    "nonzeros",
    "prune",
    "reconnect",
    "recount",
]  # fmt: skip

NETWORKS = {
    "chain": """net (float[N,12] x) => (float[N,6] y)
        <float[12,16] w1, float[16] c1, float[16,16] w2, float[16,14] w3, float[14,6] w4> {
            [one] a = Gemm(x, w1, c1)
            b = Relu(a)
            [two] c = MatMul(b, w2)
            d = Tanh(c)
            [three] e = MatMul(d, w3)
            f = Relu(e)
            [four] y = MatMul(f, w4)
        }""",
    "residual": """net (float[N,4,8,8] x) => (float[N,6] y)
        <float[8,4,3,3] w1, float[8] c1, float[8,8,3,3] w2, float[8,8,3,3] w3, float[12,8,3,3] w4, float[12,8,1,1] w5,
         float[12,6] w6, float[6] c6> {
            [one] a = Conv<pads = [1, 1, 1, 1]>(x, w1, c1)
            b = Relu(a)
            [two] c = Conv<pads = [1, 1, 1, 1]>(b, w2)
            d = Relu(c)
            [three] e = Conv<pads = [1, 1, 1, 1]>(d, w3)
            f = Add(e, b)
            g = Relu(f)
            [four] h = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(g, w4)
            [short] i = Conv<strides = [2, 2]>(g, w5)
            j = Add(h, i)
            k = Relu(j)
            l = GlobalAveragePool(k)
            m = Flatten(l)
            [five] y = Gemm(m, w6, c6)
        }""",
    "U-Net": """net (float[N,3,8,8] x) => (float[N,2,8,8] y)
        <float[6,3,3,3] w1, float[8,6,3,3] w2, float[8,8,3,3] w3, float[6,14,3,3] w4, float[2,6,1,1] w5,
         float[4] up = {1, 1, 2, 2}> {
            [one] a = Conv<pads = [1, 1, 1, 1]>(x, w1)
            b = Relu(a)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
            [two] c = Conv<pads = [1, 1, 1, 1]>(p, w2)
            d = Relu(c)
            [three] e = Conv<pads = [1, 1, 1, 1]>(d, w3)
            f = Relu(e)
            u = Resize(f, , up)
            v = Concat<axis = 1>(u, b)
            [four] g = Conv<pads = [1, 1, 1, 1]>(v, w4)
            h = Relu(g)
            [five] y = Conv(h, w5)
        }""",
    "grouped and depthwise": """net (float[N,6,6,6] x) => (float[N,4,6,6] y)
        <float[12,6,1,1] w1, float[12] c1, float[12,1,3,3] w2, float[12,6,3,3] w3, float[4,12,1,1] w4> {
            [one] a = Conv(x, w1, c1)
            b = Relu(a)
            [depthwise] c = Conv<group = 12, pads = [1, 1, 1, 1]>(b, w2)
            d = Relu(c)
            [grouped] e = Conv<group = 2, pads = [1, 1, 1, 1]>(d, w3)
            f = Relu(e)
            [four] y = Conv(f, w4)
        }""",
    "attention": """net (float[N,6,12] x) => (float[N,6,12] y)
        <float[12,12] wq, float[12,12] wk, float[12,12] wv, float[12,12] wo, float[12,24] w1, float[24] c1,
         float[24,12] w2, float[12] c2> {
            [query] q = MatMul(x, wq)
            [key] k = MatMul(x, wk)
            t = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, t)
            p = Softmax<axis = -1>(s)
            [value] v = MatMul(x, wv)
            h = MatMul(p, v)
            [out] o = MatMul(h, wo)
            r = Add(x, o)
            [up] u = MatMul(r, w1)
            a = Add(u, c1)
            g = Relu(a)
            [down] d = MatMul(g, w2)
            e = Add(d, c2)
            y = Add(r, e)
        }""",
    "a batch of four": """net (float[4,12] x) => (float[4,6] y) <float[12,16] w1, float[16,14] w2, float[14,6] w3> {
            [one] a = MatMul(x, w1)
            b = Relu(a)
            [two] c = MatMul(b, w2)
            d = Relu(c)
            [three] y = MatMul(d, w3)
        }""",
}  # fmt: skip


def prune(dense: Graph, ratio: float = 0.7, seed: int = 0, **ratios: float) -> Editor:
    """Set random weights of every layer to zero; ``ratios`` are those of single initializers."""
    editor, rng = Editor(dense.clone(), "prune"), np.random.default_rng(seed)
    for layer in find_layers(dense):
        array = dense.array(layer.weight)
        share = ratios.get(layer.weight, ratio)
        if share:
            editor.set_weights(layer.weight, np.where(rng.random(array.shape) >= share, array, 0))
    return editor


def networks(name: str, ratio: float = 0.7, seed: int = 0) -> tuple[Graph, Graph]:
    """A dense network and a pruned one."""
    dense = build(NETWORKS[name])
    return dense, prune(dense, ratio, seed).graph


def inputs(graph: Graph, count: int, seed: int = 0) -> Samples:
    """Centred inputs whose channels are correlated."""
    shape = sample_shape(graph)
    return samples(x=correlated(count, *shape, seed=seed) - 1.0)


def context(
    dense: Graph, *, count: int = 160, data: Samples | None = None, selection: Samples | None = None, seed: int = 0
) -> PassContext:
    """Calibration samples, and selection samples of the same kind."""
    return PassContext(
        reference=dense, runtime=RUNTIME, samples=data or inputs(dense, count), seed=seed,
        selection=selection or inputs(dense, 64, seed=1),
    )  # fmt: skip


def reconnect(
    pass_: Pass, small: Graph, dense: Graph, data: Samples | None = None, selection: Samples | None = None,
    **given: object,
) -> Outcome:  # fmt: skip
    """Run a pass, see :func:`context`; what is ``given`` has the last word."""
    return run_pass(pass_, small, replace(context(dense, data=data, selection=selection), **given))  # type: ignore[arg-type]


def divergence(graph: Graph, dense: Graph, data: Samples | None = None) -> float:
    """How far the outputs are from the dense model's on samples that no pass has seen."""
    return Judge(dense, data or inputs(dense, 96, seed=2), RUNTIME).whole(graph)


def masks(graph: Graph) -> Mapping[str, NDArray[np.bool_]]:
    return {name: graph.array(name) != 0 for name, value in graph.initializers.items() if carries_connections(value)}


def nonzeros(graph: Graph) -> int:
    """Connections of a graph."""
    return sum(int(np.count_nonzero(mask)) for mask in masks(graph).values())


def recount(before: Graph, after: Graph) -> Connections:
    """Connections that came and went, told from the two models alone; wider weights are wider at the end."""
    total, was, now = Connections(), masks(before), masks(after)
    for name in was.keys() | now.keys():
        old, new = was.get(name), now.get(name)
        old = np.zeros_like(new) if old is None else old
        new = np.zeros_like(old) if new is None else new
        wide = np.zeros(np.maximum(old.shape, new.shape), bool), np.zeros(np.maximum(old.shape, new.shape), bool)
        for full, mask in zip(wide, (old, new), strict=True):
            full[tuple(slice(size) for size in mask.shape)] = mask
        total += Connections(int(np.count_nonzero(wide[0] & ~wide[1])), int(np.count_nonzero(wide[1] & ~wide[0])))
    return total


def depths(graph: Graph) -> Mapping[str, int]:
    """Largest number of layers on a path to each value."""
    names = {layer.name for layer in find_layers(graph)}
    depth = {value.name or "": 0 for value in graph.inputs}
    for operator in graph.view().operators():
        reached = max((depth.get(name, 0) for name in operator.inputs), default=0) + (operator.name in names)
        depth.update(dict.fromkeys(operator.outputs, reached))
    return depth
