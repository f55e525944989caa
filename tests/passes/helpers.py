"""Running one pass in a test, and inputs that are as correlated as activations are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import input_specs
from surgery_ir.analysis.runtime import Runtime, Session
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Outcome, Pass, PassContext, run_pass
from tests import harness

__all__ = ["CountingRuntime", "apply", "build", "context", "correlated", "reasons", "sample_shape", "samples", "zeros"]

VARIANCE = re.compile(r"\b(?:float|double|float16)\[(\d+)\] (v\w*)")


def build(text: str, **weights: NDArray[Any]) -> Graph:
    """Build a graph; one-dimensional initializers called ``v…`` are variances, and positive."""
    rng = np.random.default_rng(5)
    variances = {name: rng.uniform(0.3, 3.0, int(size)) for size, name in VARIANCE.findall(text)}
    return harness.graph(text, **(variances | weights))


def context(
    graph: Graph, inputs: Samples | None = None, *, reference: Graph | None = None,
    runtime: Runtime = harness.RUNTIME, seed: int = 0,
) -> PassContext:  # fmt: skip
    """Make a context whose dense model is ``graph`` itself unless ``reference`` is another."""
    return PassContext(reference=reference or graph, runtime=runtime, samples=inputs, seed=seed)


def apply(pass_: Pass, graph: Graph, inputs: Samples | None = None, *, reference: Graph | None = None) -> Outcome:
    """Run one pass, see :func:`context`."""
    return run_pass(pass_, graph, context(graph, inputs, reference=reference))


def reasons(outcome: Outcome) -> dict[str, str]:
    """Reason by node; under ``""`` where the whole graph is refused."""
    return {node: item.reason for item in outcome.refusals for node in item.nodes or ("",)}


def samples(**feeds: NDArray[Any]) -> Samples:
    """Samples that are fed as float32."""
    return Samples({name: array.astype(np.float32) for name, array in feeds.items()})


def correlated(count: int, *shape: int, seed: int = 0, share: float = 0.9) -> NDArray[np.float64]:
    """Positive inputs of shape (count, channels, …) whose channels share most of their variance, neighbours most."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((count, 1, *shape[1:]))
    walk = np.cumsum(rng.standard_normal((count, *shape)), axis=1) / np.sqrt(shape[0])
    own = rng.standard_normal((count, *shape))
    mixed: NDArray[np.float64] = np.abs(share * (common + walk) + (1 - share) * own)
    return mixed


def sample_shape(graph: Graph) -> tuple[int, ...]:
    """Shape of one sample of input ``x``."""
    shape = input_specs(graph)["x"].shape
    assert shape is not None
    return tuple(size for size in shape[1:] if isinstance(size, int))


def zeros(graph: Graph, name: str) -> int:
    """Number of zeros in an initializer."""
    return int(np.count_nonzero(graph.array(name) == 0))


class CountingRuntime:
    """Counts what another runtime is asked for."""

    name = "counting"

    def __init__(self, runtime: Runtime = harness.RUNTIME) -> None:
        self.runtime = runtime
        self.runs = 0

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        session, counter = self.runtime.load(graph, threads=threads), self

        class Counted:
            def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                counter.runs += 1
                return session.run(feeds)

        return Counted()
