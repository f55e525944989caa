"""Gradients of a loss with respect to weights, pruned ones included; frameworks that have them provide them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.model import Graph

__all__ = ["Gradient", "GradientProvider", "gains"]


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """First and second moment, over samples, of the gradient of one sample's loss with respect to an initializer.

    Parameters
    ----------
    mean : shape of the initializer
        E[g], the gradient of the mean loss; loss per unit of weight.
    fisher : shape of the initializer
        E[g²], the diagonal of the empirical Fisher matrix, an estimate of the curvature of the mean loss.

    Raises
    ------
    ValueError
        The shapes differ, or ``fisher`` is negative somewhere.
    """

    mean: NDArray[np.float64]
    fisher: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.mean.shape != self.fisher.shape:
            raise ValueError(f"the mean has shape {self.mean.shape}, the Fisher diagonal {self.fisher.shape}")
        if np.any(self.fisher < 0):
            raise ValueError("the Fisher diagonal is a mean of squares and cannot be negative")


class GradientProvider(Protocol):
    """Differentiates a graph: a framework that the model came from, or an interpreter in one."""

    def gradients(
        self, graph: Graph, names: Sequence[str], samples: Samples, reference: Graph
    ) -> Mapping[str, Gradient]:
        """Give the gradient of a loss with respect to initializers of ``graph``, at its present weights.

        Parameters
        ----------
        graph
            The graph, usually pruned.
        names
            Initializers, each once. Their entries that are 0 get gradients like all others: what a pruned connection
            would do if it came back is what regrowth ranks by.
        samples
            Inputs; the moments are over them.
        reference
            The dense model.

        Returns
        -------
        mapping of str to Gradient
            One entry for every name, in the layout of the initializer. The loss of a sample is its share in
            :class:`~surgery_ir.analysis.fidelity.Divergence` between the outputs of ``graph`` and those of
            ``reference`` on all ``samples``: KL in nats of outputs with classes, relative squared error of others.
            At the reference itself its gradient is 0. A provider may have a loss of its own, such as the cross entropy
            with labels; gains are then in the unit of that.

        Raises
        ------
        SurgeryError
            The graph holds something that cannot be differentiated; one line that names it.
        """
        ...


def gains(gradient: Gradient, damping: float) -> NDArray[np.float64]:
    """Expected decrease of the loss by one Newton step along each weight alone: E[g]² / (2 (E[g²] + damping)).

    With the loss L(w + δ) ≈ L(w) + g δ + ½ h δ² and the Fisher diagonal in the place of h, the best step is
    δ = -g / h and gains g² / 2h. That is what a pruned weight may win by coming back, and the basis of the saliency of
    Optimal Brain Damage (LeCun et al., 1989) with the curvature of WoodFisher (Singh & Alistarh, 2020).

    Parameters
    ----------
    gradient
        Of one initializer.
    damping
        Added to the curvature, in the unit of ``fisher``; above 0, so that a weight that few samples reach does not
        get an endless step. As E[g]² ≤ E[g²], no gain exceeds ½.

    Returns
    -------
    ndarray, shape of the initializer
        Not negative; 0 where the gradient is.

    Raises
    ------
    ValueError
        ``damping`` is not positive.
    """
    if not damping > 0:
        raise ValueError(f"damping must be positive, got {damping}")
    result: NDArray[np.float64] = np.square(gradient.mean) / (2.0 * (gradient.fisher + damping))
    return result
