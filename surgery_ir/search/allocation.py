"""How one ratio is spread over the units of a pass: layers, for pruning.

Ratios are handled as *densities*, 1 − ratio, on a logarithmic scale. Deviations only redistribute: whatever they are,
all units together keep what the strength says. So a unit that goes up takes from the others, and a search over
deviations runs at constant cost (the level switch of EvoPress, Sieberling et al., 2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery_ir.passes.options import Range
from surgery_ir.search.strength import DIGITS

__all__ = ["Allocation"]

REACH = math.log(8.0)
"""Logarithm of the largest factor between a unit's density and the mean one."""

NEGLIGIBLE = 5e-3
"""Redistribution by less than this share is rounding, and left out, so that profiles encode to what they are."""


@dataclass(frozen=True)
class Allocation:
    """Translates between genes and ratios of the units of one pass.

    Parameters
    ----------
    span
        Valid ratios, as the pass declares them.
    units
        Number of weights in each unit, by name.
    """

    span: Range
    units: Mapping[str, int]

    def ratios(self, ratio: float, deviations: NDArray[np.float64]) -> dict[str, float]:
        """Ratio of each unit; empty where all are the common one."""
        offsets = (deviations - 0.5) * 2.0 * REACH
        sizes = np.array(list(self.units.values()), dtype=np.float64)
        densities = _redistribute(1.0 - ratio, np.exp(offsets), sizes, 1.0 - self.span.high, 1.0 - self.span.low)
        spelt = {name: round(float(1.0 - item), DIGITS) for name, item in zip(self.units, densities, strict=True)}
        return {} if all(item == ratio for item in spelt.values()) else spelt

    def deviations(self, ratio: float, ratios: Mapping[str, float]) -> NDArray[np.float64]:
        """Genes for the ratios of units; units that are not named follow ``ratio``."""
        offsets = [
            math.log(max(1.0 - ratios.get(name, ratio), 1e-9) / max(1.0 - ratio, 1e-9)) / (2.0 * REACH)
            for name in self.units
        ]
        return np.clip(0.5 + np.array(offsets, dtype=np.float64), 0.0, 1.0)

    def graded(self) -> NDArray[np.float64]:
        """Genes that keep more of small units: density ∝ size^−½, the Erdős–Rényi rule (Mocanu et al., 2018)."""
        logs = np.log(np.array(list(self.units.values()), dtype=np.float64).clip(min=1.0))
        offsets = -0.5 * (logs - logs.mean()) if logs.size else logs
        graded: NDArray[np.float64] = np.clip(0.5 + offsets / (2.0 * REACH), 0.0, 1.0)
        return graded

    def mean_ratio(self, ratios: Mapping[str, float]) -> float:
        """Ratio of all units together."""
        total = sum(self.units.values())
        return sum(size * ratios.get(name, 0.0) for name, size in self.units.items()) / total if total else 0.0


def _redistribute(
    density: float, factors: NDArray[np.float64], sizes: NDArray[np.float64], low: float, high: float
) -> NDArray[np.float64]:
    """Scale ``density · factors`` so that the units keep ``density`` of all weights, each within its bounds."""
    density = float(np.clip(density, low, high))
    low, high = max(low, density * math.exp(-REACH)), min(high, density * math.exp(REACH))
    budget = density * sizes.sum()

    def densities(log_scale: float) -> NDArray[np.float64]:
        return np.clip(density * factors * math.exp(log_scale), low, high)

    plain = densities(0.0)
    if abs(float(sizes @ plain) - budget) <= NEGLIGIBLE * budget:
        return plain
    lower, upper = -2.0 * REACH - 3.0, 2.0 * REACH + 3.0
    for _ in range(50):
        middle = 0.5 * (lower + upper)
        if float(sizes @ densities(middle)) > budget:
            upper = middle
        else:
            lower = middle
    return densities(lower)
