from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.backends.profile import _medians, profile
from surgery_ir.errors import BackendError
from tests import harness

CONVOLUTIONS = """
net (float[N,4,8,8] x) => (float[N,5] y) <float[8,4,3,3] w0, float[8] s, float[8,8,3,3] w1, float[8,5] w2> {
  [first] a = Conv<pads=[1,1,1,1]>(x, w0)
  [norm] b = BatchNormalization(a, s, s, s, s)
  [relu] c = Relu(b)
  [second] d = Conv<pads=[1,1,1,1]>(c, w1)
  [sum] e = Add(d, c)
  [pool] f = GlobalAveragePool(e)
  [flat] g = Flatten(f)
  [head] y = Gemm(g, w2)
}
"""

LOOP = """
net (float[2,3] x) => (float[2,3] y) <bool on = {1}, int64 steps = {5}, float[3,3] w> {
  [loop] y = Loop(steps, on, x) <body = body (int64 i, bool c, float[2,3] u) => (bool k, float[2,3] v) {
    [inside] v = MatMul(u, w)
    k = Identity(c)
  }>
}
"""


def test_fused_operators_are_charged_to_their_own_node() -> None:
    graph = harness.graph(CONVOLUTIONS, s=np.ones(8))
    feeds = {"x": np.ones((4, 4, 8, 8), np.float32)}
    times = profile(graph, feeds, runs=3, threads=1)
    assert {"first", "second", "head"} <= times.keys() <= {node.name for node in graph.model.graph} | {""}
    assert times["first"] > 0
    assert times["second"] > 0
    assert "norm" not in times


def test_what_runs_inside_a_loop_is_charged_to_the_loop() -> None:
    times = profile(harness.graph(LOOP), {"x": np.ones((2, 3), np.float32)}, runs=3, threads=1)
    assert "inside" not in times
    assert times["loop"] > 0


def test_medians_leave_out_the_first_run_and_what_lies_inside_another_operator() -> None:
    def event(name: str, start: float, length: float, category: str = "Node") -> dict[str, object]:
        return {"name": name, "cat": category, "ts": start, "dur": length, "args": {"op_name": "Op"}}

    events = []
    for start, length in ((0, 9000.0), (10000, 1000.0), (20000, 3000.0), (30000, 2000.0)):
        events.append(event("model_run", start, 9900, "Session"))
        events.append(event("outer_kernel_time", start + 10, length))
        events.append(event("inner_kernel_time", start + 20, length / 2))
        events.append(event("outer_kernel_time", start + 9800, 50))
        events.append(event("outer_fence_before", start + 9900, 50))
    assert _medians(events) == {("outer", "Op"): 2.05}


def test_a_model_that_the_runtime_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = harness.graph(CONVOLUTIONS)
    with pytest.raises(BackendError):
        profile(graph, {"x": np.ones((1, 2, 3, 4), np.float32)})
