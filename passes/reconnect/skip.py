"""Add skip connections where features have diverged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.reconnect.bundles import Bundles
from surgery_ir.passes.reconnect.coarse import bundled
from surgery_ir.passes.reconnect.exchange import Rules
from surgery_ir.passes.sequential import Fit

__all__ = ["Skip"]


@dataclass(frozen=True)
class Skip(Pass):
    """Add low-rank skip connections to layers whose features have diverged from the dense model's.

    Divergence is 1 − linear CKA (Kornblith et al., ICML 2019) plus the shift of mean and variance. The new edge is the
    map of rank r from an earlier value to what the layer still misses that lowers its error most (reduced-rank
    regression, Izenman, 1975): r · (inputs + outputs) connections, which the layer pays for with its least useful
    ones, or, where weights are not pruned, the network with its least useful units. A skip that does not help on
    selection data is undone.
    """

    name: ClassVar[str] = "skip"
    needs_samples: ClassVar[bool] = True

    radius: Annotated[int, Range(0, 16, search=(1, 8)), Help("layers that a skip may jump over")] = 4
    rank: Annotated[int, Range(1, 64, search=(1, 8)), Help("largest rank of a skip")] = 4
    divergence: Annotated[float, Range(0.0, 2.0), Help("divergence of features from which a layer may get a skip")] = (
        0.01
    )
    accept: Annotated[
        float, Range(0.0, 0.5), Help("share by which the divergence on selection data has to fall for a skip to stay")
    ] = 0.0
    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16
    checks: Annotated[int, Range(1, 100_000), Help("selection samples that judge")] = 256

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Add skips layer by layer."""
        rules = Rules(
            radius=self.radius, accept=self.accept, fit=Fit(self.ridge), positions=self.positions, checks=self.checks
        )  # fmt: skip
        return bundled(editor, ctx, Bundles("rank", self.rank, self.divergence), rules, "adding skips")
