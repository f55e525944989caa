"""A response surface: from a few evaluated points to where the optimum should be.

Around the best point the loss is modelled as b·z + h‖z‖²/2, a slope of its own for each coordinate but one curvature
for all, so that g + 1 numbers are fitted, by ridge regression, where a full quadratic has g²/2. The optimum of that is
−b/h. It is the steepest descent of response surface methodology (Box and Wilson, 1951) with the step length learnt.
It suits losses that are smooth and free of noise, such as the divergence on a fixed set of samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["descend"]

RIDGE = 0.1
CURVATURE = 0.02
"""Curvature that is assumed until the points say otherwise; in losses per squared spread."""

REACH = 3.0
"""Longest step, in root-mean-square spreads."""

NEAR = 4.0
"""Points count half at this root-mean-square distance from the best, squared, in squared spreads."""


def descend(
    points: NDArray[np.float64], losses: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predict the optimum from evaluated points.

    Parameters
    ----------
    points : (n, g)
        Coordinates.
    losses : (n,)
        Finite losses, to be minimised.
    spread : (g,)
        Scale on which each coordinate varies; greater than 0.

    Returns
    -------
    (g,)
        The predicted optimum: the best point itself where the others say nothing.
    """
    best = int(np.argmin(losses))
    z = (points - points[best]) / spread
    rise = losses - losses[best]
    squares = np.square(z).sum(axis=1)
    genes = z.shape[1]
    weights = 1.0 / (1.0 + squares / (NEAR * genes))
    features = np.column_stack([z, squares / 2.0])
    gram = (features * weights[:, None]).T @ features + RIDGE * np.eye(genes + 1)
    moment = (features * weights[:, None]).T @ (rise - CURVATURE * features[:, -1])
    fitted = np.linalg.solve(gram, moment)
    curvature = max(float(fitted[-1]) + CURVATURE, CURVATURE / 2.0)
    step = -fitted[:-1] / curvature
    length = float(np.sqrt(np.mean(np.square(step)))) if genes else 0.0
    if length > REACH:
        step *= REACH / length
    optimum: NDArray[np.float64] = points[best] + step * spread
    return optimum
