"""A pass that rounds weights to a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range

__all__ = ["RoundWeights"]


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of every layer to multiples of a share of the largest one; small ones become zero."""

    name: ClassVar[str] = "round-weights"

    step: Annotated[
        float, Range(1e-6, 1.0, search=(0.01, 0.5)), Help("distance of two weights, if the largest is 1")
    ] = 0.1

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Round layer by layer; layers that share weights are rounded together."""
        found = find_layers(editor.graph)
        refusals = [Refusal(item.reason, (item.name,)) for item in found.skipped]
        rounded: set[str] = set()
        for layer in found:
            if layer.weight in rounded:
                continue
            rounded.add(layer.weight)
            weights = editor.graph.array(layer.weight).astype(np.float64)
            step = self.step * np.abs(weights).max()
            edits = len(editor.edits)
            if step > 0:
                editor.set_weights(layer.weight, np.round(weights / step) * step)
            if len(editor.edits) == edits:
                refusals.append(Refusal("its weights are round already", (layer.name, *layer.sharers)))
        if not found.layers and not refusals:
            refusals.append(Refusal("there is no layer with constant weights"))
        return refusals
