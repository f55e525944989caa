"""One layer on the way: re-solve what it has, or take new connections if they help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.rows import Part
from surgery_ir.analysis.taps import Tap
from surgery_ir.passes.reconnect.acceptance import Gain, Trial
from surgery_ir.passes.sequential import Affine, Equation, Sequential

__all__ = ["Proposal", "Visit", "padded"]

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Proposal:
    """New connections of a layer.

    Parameters
    ----------
    equation
        The layer's equation with the columns that they need.
    taps
        Taps among them, in the order of the columns.
    created
        How many there are.
    solve
        Solves on a part of the rows.
    write
        Writes a solution into the graph.
    """

    equation: Equation
    taps: tuple[Tap, ...]
    created: int
    solve: Callable[[Part], Affine]
    write: Callable[[Affine], None]


Propose = Callable[[Affine], Proposal | str]
"""Makes new connections for a layer that is solved without them, or says why there are none."""


class Visit:
    """Decides about one layer.

    Parameters
    ----------
    walk
        The walk.
    equation
        The layer's equation.
    trial
        Tries solutions on selection data; ``None`` leaves the decision to held-out rows.
    accept
        Share by which divergence on selection data has to fall.
    """

    def __init__(self, walk: Sequential, equation: Equation, trial: Trial | None, accept: float) -> None:
        equation.gather()
        self.walk = walk
        self.equation = equation
        self.trial = trial
        self.accept = accept
        self.gains: list[Gain] = []

    def decide(self, start: Mask, propose: Propose) -> str | None:
        """Write the layer; say why it got no new connections, or ``None``.

        Parameters
        ----------
        start : (groups, outputs, columns)
            Weights that it has without them. It is re-solved for these if that lowers its error, and anyhow where
            they are not those that it has now.
        propose
            Makes the new connections.
        """
        equation, before = self.equation, self.equation.before
        forced = not np.array_equal(start, before.weights != 0)
        old = equation.error(before)
        if old <= equation.rounding and not forced:
            return "what it puts out is what the dense model has already"
        plain = equation.solve("fit", before.weights, start)
        error = equation.error(plain)
        found = propose(plain)
        reason = found if isinstance(found, str) else self._reason_against(plain, error, found)
        if reason is None and isinstance(found, Proposal):
            found.write(found.solve("all"))
        elif forced or error < old:
            self.walk.write(equation, equation.solve("all", np.where(start, before.weights, 0.0), start))
        return reason

    def _reason_against(self, plain: Affine, error: float, found: Proposal) -> str | None:
        """Say why new connections are undone, or ``None``; where it could be measured, the gain is noted."""
        solution = found.solve("fit")
        lowered = found.equation.error(solution)
        if not lowered < error:
            return (
                f"undone: {found.created} new connections do not lower its error on held-out rows "
                f"({error:.3g} to {lowered:.3g})"
            )
        if self.trial is None or not self.trial.can_measure(self.equation):
            return None
        before = self.trial.divergence(self.equation, plain)
        measured = before - self.trial.divergence(found.equation, solution, found.taps)
        predicted = before * (error - lowered) / error
        kept = measured > self.accept * before or before == measured == 0.0  # nothing to lower is no reason against
        self.gains.append(Gain(self.equation.layer.name, found.created, before, predicted, measured, kept))
        if kept:
            return None
        return (
            f"undone: {found.created} new connections do not help on selection data "
            f"(divergence {before:.3g}, predicted gain {predicted:.2g}, measured {measured:.2g})"
        )


def padded(array: NDArray[Scalar], equation: Equation) -> NDArray[Scalar]:
    """Widen weights or a mask by zeros to the columns of ``equation``."""
    found = np.zeros(equation.before.weights.shape, array.dtype)
    found[:, :, : array.shape[2]] = array
    return found
