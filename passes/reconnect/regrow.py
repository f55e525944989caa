"""Let pruned weights return where the layer misses them most, and drop others for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.gradients import Gradient, gains
from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.reconnect.exchange import Rules, exchange
from surgery_ir.passes.sequential import Fit

__all__ = ["Regrow"]

DAMPING = 0.01
"""Least curvature, relative to the mean over a layer's weights, in what a task gains by the return of one."""


@dataclass(frozen=True)
class Regrow(Pass):
    """Let pruned weights return where their gradient is largest; every one pays with the least useful weight kept.

    Layers are solved in topological order as by ``repair``. Of a layer's pruned weights those with the largest gain
    Γ²/H return, Γ being the gradient of the layer's error, the weights of least OBS saliency go, what stays is
    re-solved, and the swap is kept if the joint error fell; until no swap lowers it. ``criterion=task`` ranks what
    returns by the gradient of the network's own loss, where a framework supplies it. A layer's swaps are undone where
    they do not help on selection data.

    After RigL (Evci et al., ICML 2020) and DSnoT (Zhang et al., ICLR 2024), with exact re-solving and acceptance.
    """

    name: ClassVar[str] = "regrow"
    needs_samples: ClassVar[bool] = True

    criterion: Annotated[
        Literal["gradient", "task"], Help("gradient of the layer's error, or of the task's loss (needs a framework)")
    ] = "gradient"
    budget: Annotated[float, Range(0.0, 1.0), Help("most weights that return, as a share of a layer's pruned ones")] = (
        1.0
    )
    extra: Annotated[float, Range(0.0, 1.0), Help("share by which the nonzeros of a layer may grow")] = 0.0
    accept: Annotated[
        float, Range(0.0, 0.5), Help("share by which the divergence on selection data has to fall for swaps to stay")
    ] = 0.0
    rounds: Annotated[int, Range(1, 100), Help("rounds of swaps")] = 8
    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16
    checks: Annotated[int, Range(0, 100_000), Help("selection samples that judge; 0 leaves it to held-out rows")] = 256

    def check(self, graph: Graph, ctx: PassContext) -> Refusal | None:
        """Refuse task gradients where nothing supplies them."""
        if self.criterion == "task" and ctx.gradients is None:
            return Refusal("criterion task needs gradients of the task's loss, which only a framework supplies")
        return None

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Swap layer after layer."""
        rules = Rules(
            budget=self.budget, extra=self.extra, accept=self.accept, rounds=self.rounds, fit=Fit(self.ridge),
            positions=self.positions, checks=self.checks, importance=self._importance(editor.graph, ctx),
        )  # fmt: skip
        return exchange(editor, ctx, rules, "regrowing weights").refusals

    def _importance(self, graph: Graph, ctx: PassContext) -> Mapping[str, NDArray[np.float64]]:
        """What the task would gain by the return of each weight, by layer."""
        if self.criterion != "task":
            return {}
        assert ctx.gradients is not None and ctx.samples is not None
        layers = [layer for layer in find_layers(graph) if not layer.sharers]
        found = ctx.gradients.gradients(graph, [layer.weight for layer in layers], ctx.samples, ctx.reference)
        # A layer's own factor, which may be negative, does not change what its weights are worth.
        return {layer.name: np.abs(layer.matrix(_gains(found[layer.weight]))) for layer in layers}


def _gains(gradient: Gradient) -> NDArray[np.float64]:
    curvature = DAMPING * float(gradient.fisher.mean())
    return gains(gradient, max(curvature, np.finfo(np.float64).tiny))
