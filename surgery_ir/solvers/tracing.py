"""All rows of a layer followed to the end of their elimination, and their traces merged as one competition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Mask
from surgery_ir.solvers.cholesky import factor, scale, supports
from surgery_ir.solvers.downdate import Support
from surgery_ir.solvers.elimination import Trace, eliminate
from surgery_ir.solvers.patterns import NM, Block, Pattern
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve

_ROUND_SHARE: Final = 0.25  # of the units left, dropped between two solutions of the layer
_ROUND_DEPTH: Final = 0.4  # of a column block, priced in a round: the cheapest blocks lose more than the share
_ROUND_TOLERANCE: Final = 1e-2


@dataclass(frozen=True, eq=False)
class Competition:
    """The units of a layer competing to stay.

    A unit is what is dropped at once: a weight, or a block. Units have flat indices in row-major order of their grid;
    ``alive`` arguments are (row groups, d), where a row group is the outputs that a block spans.

    Parameters
    ----------
    q, prior, ridge
        As in :func:`surgery_ir.solvers.ridge.solve`.
    pattern : Pattern
    fraction : float
        As in :func:`surgery_ir.solvers.elimination.eliminate`.
    """

    q: Quadratic
    prior: Array
    ridge: float
    pattern: Pattern
    fraction: float

    @property
    def block(self) -> Block:
        """The shape of a unit."""
        return self.pattern if isinstance(self.pattern, Block) else Block(1, 1)

    def fit(self, alive: Mask, start: Array) -> tuple[Array, float]:
        """Return the best weights (o, d) on a support, near ``start``, and the layer's ridge objective there."""
        mask = alive.repeat(self.block.rows, axis=0)[: self.q.outputs]
        weights = solve(self.q, self.prior, self.ridge, mask, start=start, tolerance=_ROUND_TOLERANCE).weights
        gap = weights - self.prior
        penalty = self.ridge * scale(self.q.h) * float(np.einsum("od,od->", gap, gap))
        return weights, float(self.q.error(weights).sum()) + penalty

    def flops(self, alive: Mask) -> float:
        """Return what :meth:`finish` would cost."""
        return float(sum(len(columns) ** 3 * (1.0 + len(groups) / 3.0) for groups, columns in supports(alive)))

    def finish(self, alive: Mask) -> Trace:
        """Follow every row to its end: all units that are left, in the order in which they have to go."""
        return self._merge(self._whole_rows(alive))

    def thin(self, alive: Mask, weights: Array, width: int) -> Trace:
        """Price the units of every row within blocks of about ``width`` columns; return the cheapest quarter of all."""
        block = self.block
        period = self.pattern.m if isinstance(self.pattern, NM) else block.cols
        trace = self._merge(self._column_blocks(alive, weights, -(-width // period) * period))
        left = np.count_nonzero(alive[:, :: block.cols])
        count = max(1, round(_ROUND_SHARE * left))
        return Trace(trace.units[:count], trace.costs[:count])

    def without(self, alive: Mask, units: Indices) -> Mask:
        """Return ``alive`` less these units."""
        gone = np.zeros((len(alive), self._grid_width), dtype=np.bool_)
        gone.flat[units] = True
        return alive & ~gone.repeat(self.block.cols, axis=1)[:, : self.q.inputs]

    @property
    def _grid_width(self) -> int:
        return -(-self.q.inputs // self.block.cols)

    def _rows(self, group: int) -> slice:
        return slice(group * self.block.rows, (group + 1) * self.block.rows)

    def _whole_rows(self, alive: Mask) -> Iterator[tuple[int, Trace]]:
        unit = scale(self.q.h)
        for groups, columns in supports(alive):
            chol = factor(self.q.h, columns, self.ridge, unit)
            rows = [np.arange(self.q.outputs)[self._rows(group)] for group in groups.tolist()]
            kept = np.ix_(np.concatenate(rows), columns)
            weights = chol.solve((self.q.r.T[kept] + chol.ridge * unit * self.prior[kept]).T).T
            inverse = chol.inverse()
            ends = np.cumsum([len(members) for members in rows])
            for group, own in zip(groups.tolist(), np.split(weights, ends[:-1]), strict=True):
                yield group, eliminate(Support(inverse, own, columns), self.pattern, self.fraction)

    def _column_blocks(self, alive: Mask, weights: Array, width: int) -> Iterator[tuple[int, Trace]]:
        shared = self._shared_inverse(alive)
        unit = scale(self.q.h)
        for start in range(0, self.q.inputs, width):
            h = self.q.h[start : start + width, start : start + width]
            for groups, places in supports(alive[:, start : start + width]):
                columns = places + start
                if shared is None:
                    inverse = factor(h, places, self.ridge, unit).inverse()
                else:
                    inverse = shared[np.ix_(columns, columns)]
                for group in groups.tolist():
                    support = Support(inverse, weights[self._rows(group)][:, columns], columns)
                    yield group, eliminate(support, self.pattern, 1.0, _ROUND_DEPTH)

    def _shared_inverse(self, alive: Mask) -> Array | None:
        """Return H⁻¹ (lower triangle) if all rows keep the same columns, zero off them; None if they do not.

        Its diagonal blocks know what the columns outside a block compensate, which those of H do not.
        """
        whole = list(supports(alive))
        if len(whole) != 1:
            return None
        columns = whole[0][1]
        inverse = np.zeros(self.q.h.shape)
        inverse[np.ix_(columns, columns)] = factor(self.q.h, columns, self.ridge, scale(self.q.h)).inverse()
        return inverse

    def _merge(self, traces: Iterable[tuple[int, Trace]]) -> Trace:
        """Merge by cost per weight, each trace in its own order: the cheapest unit that is next in its row goes first.

        A unit that got cheaper by what went before it goes right after it, hence the running maximum.
        """
        sizes = self.block.sums(np.ones(self.prior.shape)).ravel()
        units, costs, keys = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0)]
        for group, trace in traces:
            units.append(group * self._grid_width + trace.units)
            costs.append(trace.costs)
            keys.append(np.maximum.accumulate(trace.costs / sizes[units[-1]]))
        order = np.argsort(np.concatenate(keys), kind="stable")
        return Trace(np.concatenate(units)[order], np.concatenate(costs)[order])
