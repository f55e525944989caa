"""Re-solve every layer so that the compressed model follows the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range
from surgery_ir.passes.sequential import Equation, Fit, Sequential

__all__ = ["Repair", "refit"]


@dataclass(frozen=True)
class Repair(Pass):
    """Re-solve the weights that stay, layer by layer, from the compressed inputs to the dense outputs.

    Layers are solved in topological order: inputs come from the part of the model that is compressed and repaired
    already, targets from the dense model, so errors do not add up. Zeros stay zero. A layer that ends in an Add
    solves for the dense sum minus the compressed skip and so absorbs what the skip path has lost. Ahead of a Relu,
    targets below zero only ask for an output below zero (``relu`` rounds of majorisation, each re-solving for targets
    that leave rightly negative outputs where they are). A solution that does not lower the error on samples it has
    not seen is dropped.

    The layer equations of ridge regression towards the present weights; sequential targets as in SparseGPT
    (Frantar & Alistarh, 2023), applied to the final pattern.
    """

    name: ClassVar[str] = "repair"
    serves: ClassVar[frozenset[str]] = frozenset({"metric"})
    needs_samples: ClassVar[bool] = True

    ridge: Annotated[float, Range(0.0, 10.0, search=(1e-3, 0.1)), Help("pull towards the present weights")] = 0.01
    residual: Annotated[bool, Help("layers in front of an Add absorb the error of the other summand")] = True
    relu: Annotated[int, Range(0, 20), Help("rounds that free outputs which a Relu cuts off")] = 1
    positions: Annotated[int, Range(1, 4096), Help("positions of a sample that a layer looks at")] = 16

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Solve layer after layer."""
        walk = Sequential(
            editor,
            ctx,
            Fit(self.ridge, self.relu),
            "repairing layers",
            residual=self.residual,
            positions=self.positions,
        )
        for equation in walk:
            reason = refit(walk, equation)
            if reason is not None:
                walk.refuse(equation.target, reason)
        return walk.refusals


def refit(walk: Sequential, equation: Equation) -> str | None:
    """Re-solve the weights that one layer has; say why it was left alone, or ``None``."""
    equation.gather()
    before = equation.before
    mask = before.weights != 0
    old = equation.error(before)
    if old <= equation.rounding:
        return "what it puts out is what the dense model has already"
    new = equation.error(equation.solve("fit", before.weights, mask))
    if not new < old:
        return f"re-solving it does not lower its relative error on held-out samples ({old:.3g} to {new:.3g})"
    walk.write(equation, equation.solve("all", before.weights, mask))
    return None
