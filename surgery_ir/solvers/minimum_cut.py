"""Minimum cuts: binary labels of least cost where unlike neighbours cost something."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["CutProblem"]

_TOTAL: Final = 1 << 29
"""Capacities add up to no more, so that a flow fits the 32 bits that scipy gives it."""


class CutProblem:
    """Variables with the labels 0 and 1, and costs that arise where one is 0 and another 1.

    What can be written so is minimised exactly, by a maximum flow (Ford and Fulkerson, 1956; Kolmogorov and Zabih,
    "What energy functions can be minimized via graph cuts?", 2004). :attr:`zero` and :attr:`one` are variables whose
    labels are given.
    """

    def __init__(self) -> None:
        self.zero = 0
        self.one = 1
        self._size = 2
        self._costs: dict[tuple[int, int], int] = {}
        self._ties: set[tuple[int, int]] = set()

    def variable(self) -> int:
        """Add a variable."""
        self._size += 1
        return self._size - 1

    def charge(self, low: int, high: int, cost: int) -> None:
        """Let it cost ``cost`` that variable ``low`` is 0 and variable ``high`` is 1."""
        self._costs[low, high] = self._costs.get((low, high), 0) + cost

    def forbid(self, low: int, high: int) -> None:
        """Rule out that variable ``low`` is 0 while variable ``high`` is 1."""
        self._ties.add((low, high))

    def solve(self) -> NDArray[np.bool_]:
        """Find labels of least cost, by variable; of equally good ones those with the fewest ones.

        Costs beyond 2²⁹ in total are rounded to parts of it.
        """
        total = sum(self._costs.values())
        scale = max(1, -(-total // _TOTAL))
        # A tie costs more than everything else together.
        capacities = {edge: -(-cost // scale) for edge, cost in self._costs.items()} | dict.fromkeys(
            self._ties, total // scale + len(self._costs) + 1
        )
        rows, columns = np.array([*capacities], np.intp).reshape(-1, 2).T
        shape = (self._size, self._size)
        network = csr_array((np.array([*capacities.values()], np.int32), (rows, columns)), shape=shape)
        flow = maximum_flow(network, self.zero, self.one).flow
        backwards = csr_array((network - flow).T)
        backwards.eliminate_zeros()
        labels = np.zeros(self._size, bool)
        labels[breadth_first_order(backwards, self.one, return_predecessors=False)] = True
        return labels
