"""A model with its data, and how its compressed forms are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.cost import Cost, cost
from surgery_ir.analysis.samples import Samples
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.backends.evaluate import fidelity, predict
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext

__all__ = ["RUNTIME", "Quality", "Task", "Unavailable"]

RUNTIME = OnnxRuntimeBackend()
KEPT = 7, 8
"""Seven of eight calibration samples are used; a seed chooses which, so that seeds show what luck with data does."""


class Unavailable(Exception):
    """A model or its data are not on this machine; the message says what to install."""


@dataclass(frozen=True)
class Quality:
    """What a model is worth on report data.

    Parameters
    ----------
    right
        Percent of samples classified as their labels say, or, without labels, as the dense model does.
    kl
        KL(dense ‖ model) in nats, mean over the samples.
    """

    right: float
    kl: float


@dataclass(frozen=True, eq=False)
class Task:
    """A model and three disjoint sets of samples.

    Parameters
    ----------
    name
        What it is called in tables.
    graph
        The dense model.
    calibration, selection, report
        Samples that weights are fitted on, that reconnections are accepted on, and that nothing ever sees but the
        final judgement. Calibration samples carry no labels.
    prune
        Further options of ``prune-weights``, with ``{ratio}`` where the share of zeros goes.
    """

    name: str
    graph: Graph
    calibration: Samples
    selection: Samples
    report: Samples
    prune: str = ""

    def context(self, seed: int) -> PassContext:
        """Give passes the seed and the calibration samples that go with it."""
        count = len(self.calibration) * KEPT[0] // KEPT[1]
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.calibration))[:count])
        return PassContext(self.graph, RUNTIME, self.calibration.take(chosen), seed, selection=self.selection)

    def quality(self, graph: Graph) -> Quality:
        outputs = predict(RUNTIME.load(graph), self.report)
        (name,) = self._dense
        wanted = self._dense[name].argmax(-1) if self.report.labels is None else self.report.labels
        right = np.isfinite(outputs[name]).all(-1) & (outputs[name].argmax(-1) == wanted)
        return Quality(100 * float(right.mean()), fidelity(outputs, self._dense).kl)

    def cost(self, graph: Graph) -> Cost:
        return cost(graph, sample_shapes(graph, RUNTIME, next(self.report.take(1).batches(graph, 1)).feeds))

    @property
    def measure(self) -> str:
        """What :attr:`Quality.right` is."""
        return "agreement with the dense model" if self.report.labels is None else "accuracy"

    @cached_property
    def _dense(self) -> Mapping[str, NDArray[Any]]:
        return predict(RUNTIME.load(self.graph), self.report)
