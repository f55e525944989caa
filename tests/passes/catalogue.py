"""Every pass with options that suit it, and a model on which each has work: what the contract suite runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, Pass, PassContext, run_pass
from surgery_ir.passes.registry import builtin_passes
from surgery_ir.passes.spec import create
from tests.harness import RUNTIME, graph, random_feeds

__all__ = ["NAMES", "REQUIRED", "TEXTS", "context", "rich", "samples", "snapshot", "worked", "working"]

NAMES = [*builtin_passes(), "round-weights"]

REQUIRED: Mapping[str, Mapping[str, object]] = {"graphsurgeon": {"function": f"{__name__}:unchanged"}}
"""Values for options without a default."""

TEXTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("graphsurgeon", "function"): ("module:function", "a.b:c_1"),
    ("prune-weights", "pattern"): ("unstructured", "2:4", "4x1", "1x4"),
}
"""Valid values for options that are text."""

WORK: Mapping[str, Mapping[str, object]] = {
    "drop-layers": {"count": 1},
    "prune-weights": {"ratio": 0.9},
    "prune-channels": {"ratio": 0.5, "multiple": 1},
    "prune-heads": {"ratio": 0.5, "multiple": 1},
    "prune-width": {"ratio": 0.5, "multiple": 1},
    "graphsurgeon": {"function": f"{__name__}:double_relu"},
}
"""Options that leave something to do on :func:`rich`, where the defaults do not."""


def unchanged(graph: gs.Graph) -> gs.Graph:
    return graph


def double_relu(graph: gs.Graph) -> gs.Graph:
    """Put a second Relu, which changes nothing, behind every one."""
    for node in list(graph.nodes):
        if node.op == "Relu":
            (after,) = node.outputs
            between = gs.Variable(f"{after.name}/{len(graph.nodes)}", dtype=after.dtype, shape=after.shape)
            node.outputs = [between]
            graph.nodes.append(gs.Node("Relu", name=between.name, inputs=[between], outputs=[after]))
    return graph.toposort()


RICH = """
rich (float[N,4,8,8] x) => (float[N,5] y)
<float[16,4,3,3] w1, float[16] s, float[16] o, float[16] m, float[16] v, float[16,4,3,3] w2, float[16] b2,
 float[16,16,1,1] w3, float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo, int64[3] flat,
 int64[4] split, int64[3] merged, float[16,96] u, float[96] c, float[96,5] p, float[5] q, int64[1] axes> {
    a1 = Conv<pads=[1,1,1,1]>(x, w1)
    n1 = BatchNormalization(a1, s, o, m, v)
    r1 = Relu(n1)
    i1 = Identity(r1)
    a2 = Conv<pads=[1,1,1,1], group=4, strides=[2,2]>(i1, w2, b2)
    a3 = Conv<strides=[2,2]>(i1, w3)
    t3 = Add(a2, a3)
    r3 = Relu(t3)
    e3 = Reshape(r3, flat)
    e = Transpose<perm=[0,2,1]>(e3)
    q1 = MatMul(e, wq)
    q2 = Reshape(q1, split)
    q4 = Transpose<perm=[0,2,1,3]>(q2)
    k1 = MatMul(e, wk)
    k2 = Reshape(k1, split)
    k4 = Transpose<perm=[0,2,3,1]>(k2)
    v1 = MatMul(e, wv)
    v2 = Reshape(v1, split)
    v4 = Transpose<perm=[0,2,1,3]>(v2)
    g1 = MatMul(q4, k4)
    g2 = Softmax<axis=-1>(g1)
    g3 = MatMul(g2, v4)
    g4 = Transpose<perm=[0,2,1,3]>(g3)
    g5 = Reshape(g4, merged)
    g6 = MatMul(g5, wo)
    g7 = Add(e, g6)
    f = ReduceMean<keepdims=0>(g7, axes)
    a4 = MatMul(f, u)
    b4 = Add(a4, c)
    t4 = Transpose(b4)
    s4 = Relu(t4)
    r4 = Transpose(s4)
    d4 = Gemm(r4, p)
    y = Gemm(r4, p, q)
}
"""

GIVEN: Mapping[str, NDArray[Any]] = {
    "v": np.linspace(0.5, 2, 16),
    "flat": np.array([0, 16, 16]),
    "split": np.array([0, 0, 4, 4]),
    "merged": np.array([0, 0, 16]),
    "axes": np.array([1]),
}


def rich(pruned: bool = False) -> Graph:
    """A small model with something to do for every pass; ``pruned`` by magnitude, without repair."""
    found = graph(RICH, GIVEN, seed=3)
    if not pruned:
        return found
    rng = np.random.default_rng(0)
    sparse = found.array("w1").copy(), found.array("u").copy(), found.array("w3").copy()
    masks = [rng.random(array.shape) < 0.2 for array in sparse]
    w1, u, w3 = (np.where(mask, array, 0) for mask, array in zip(masks, sparse, strict=True))
    return graph(RICH, GIVEN, seed=3, w1=w1, u=u, w3=w3)


def samples(found: Graph, count: int = 48) -> Samples:
    return Samples(random_feeds(input_specs(found), count, seed=0))


def context(found: Graph, *, reference: Graph | None = None, data: bool = True, seed: int = 0) -> PassContext:
    return PassContext(
        reference=reference or found, runtime=RUNTIME, samples=samples(found) if data else None, seed=seed
    )


def working(name: str) -> Pass:
    return create(name, WORK.get(name, {}))


def worked(name: str, seed: int = 0) -> tuple[Graph, Outcome]:
    """Run a pass where it has work: the graph before and the outcome."""
    found = rich(pruned=True)
    return found, run_pass(working(name), found, context(found, reference=rich(), seed=seed))


def snapshot(found: Graph) -> tuple[bytes, str, int]:
    return found.to_proto().SerializeToString(deterministic=True), found.fingerprint(), found.revision
