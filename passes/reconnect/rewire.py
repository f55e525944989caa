"""Wire earlier values into layers that miss what these know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.reconnect.bundles import Bundles
from surgery_ir.passes.reconnect.coarse import bundled
from surgery_ir.passes.reconnect.exchange import Rules, exchange
from surgery_ir.passes.sequential import Fit

__all__ = ["Rewire"]


@dataclass(frozen=True)
class Rewire(Pass):
    """Connect channels of earlier layers to where the residual correlates with them, weight by weight.

    A layer may read values that lie up to ``radius`` layers before its own input, aligned by strides. Donors are
    ranked by their correlation with the residual y − Wx of the dense targets, not with the outputs, which would pick
    what the layer knows already. Connections then enter one by one as further columns of the layer's equation
    (orthogonal matching pursuit, Pati et al., 1993), each paid for with the layer's least useful weight, while the
    joint error falls. They are written as a 1×1 convolution or a matrix product beside the layer, or as further input
    channels of one that is there. A layer's taps are undone where they do not help on selection data.
    """

    name: ClassVar[str] = "rewire"
    needs_samples: ClassVar[bool] = True

    granularity: Annotated[
        Literal["weight", "channel"], Help("single connections, or channels that all outputs of a layer read")
    ] = "weight"
    radius: Annotated[int, Range(0, 16, search=(1, 8)), Help("layers that a connection may jump over")] = 4
    donors: Annotated[int, Range(1, 16), Help("earlier values that one layer may newly read")] = 2
    budget: Annotated[float, Range(0.0, 1.0), Help("most new connections, as a share of a layer's nonzeros")] = 0.25
    extra: Annotated[float, Range(0.0, 1.0), Help("share by which the nonzeros of a layer may grow")] = 0.0
    accept: Annotated[
        float, Range(0.0, 0.5), Help("share by which the divergence on selection data has to fall for taps to stay")
    ] = 0.0
    channels: Annotated[int, Range(1, 64, search=(1, 16)), Help("most channels that a layer may newly read")] = 8
    rounds: Annotated[int, Range(1, 100), Help("rounds of swaps")] = 8
    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16
    checks: Annotated[int, Range(0, 100_000), Help("selection samples that judge; 0 leaves it to held-out rows")] = 256

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Wire layer after layer."""
        rules = Rules(
            own=False, radius=self.radius, donors=self.donors, budget=self.budget, per="nonzeros", extra=self.extra,
            accept=self.accept, rounds=self.rounds, fit=Fit(self.ridge), positions=self.positions, checks=self.checks,
        )  # fmt: skip
        if self.granularity == "channel":
            return bundled(editor, ctx, Bundles("channels", self.channels), rules, "wiring channels")
        return exchange(editor, ctx, rules, "wiring across layers").refusals
