"""Local search under a budget: change one group, or two at once, for as long as the error falls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Mask
from surgery_ir.solvers.levels import ROUNDING, Choice

_CANDIDATES: Final = 64  # exchanges that are tried for every look at all of them

Exchange = tuple[int, int, int, int]  # group, level, other group, its level


def refine(choice: Choice, limit: float) -> None:
    """Lower the error of a choice, in place, by changes of one or two groups until none is found that stays in limit.

    No single change and no change of two groups that share a table is missed. Of the other pairs only the best partner
    of each change is looked at. Changes that leave the error as it is and save cost are made too.

    Parameters
    ----------
    choice : Choice
        Its cost is at most ``limit``, before and after.
    limit : float
    """
    while _single(choice, limit) or _apply(choice, limit, _pairs(choice, limit)) or _coupled(choice, limit):
        pass


def cheapen(choice: Choice) -> None:
    """Lower the cost of a choice, in place, until no change of one group, or of two that share a table, does so."""
    while True:
        choice.relax(0.0, 1.0)
        if not choice.problem.tables.size:
            return
        costs = choice.joint_changes()[1]
        pair, first, second = np.unravel_index(int(np.argmin(costs)), costs.shape)
        if not costs[pair, first, second] < -ROUNDING * abs(choice.cost):
            return
        groups = choice.problem.pairs[pair]
        choice.move(int(groups[0]), int(first))
        choice.move(int(groups[1]), int(second))


def _single(choice: Choice, limit: float) -> bool:
    errors, costs = choice.changes()
    fits = choice.cost + costs <= limit
    better = fits & (errors < -ROUNDING * abs(choice.error))
    if not better.any():
        better = fits & (errors <= 0.0) & (costs < -ROUNDING * abs(choice.cost))
        errors = costs
    if not better.any():
        return False
    group, level = np.unravel_index(int(np.argmin(np.where(better, errors, np.inf))), errors.shape)
    choice.move(int(group), int(level))
    return True


def _pairs(choice: Choice, limit: float) -> Iterator[Exchange]:
    """Yield the exchanges of least error over all pairs of groups, costed as if no two shared a table.

    For each change that lowers the error, the best one of another group that pays for it is found by a search among the
    changes sorted by cost. Two distinct numbers differ in some bit, so that one search per bit, between the groups that
    have it and those that have not, meets all pairs.
    """
    errors, costs = (values.ravel() for values in choice.changes())
    levels = choice.problem.errors.shape[1] if errors.size else 1
    slack = limit - choice.cost
    gains = np.flatnonzero((errors < 0.0) & (costs > slack) & np.isfinite(costs))
    payers = np.flatnonzero(costs < 0.0)
    payers = payers[np.argsort(costs[payers], kind="stable")]
    found = [np.zeros((0, 2), dtype=np.intp)]
    for bit in range((choice.levels.size - 1).bit_length()):
        for side in (0, 1):
            able = gains[gains // levels >> bit & 1 == side]
            paying = payers[payers // levels >> bit & 1 != side]
            if able.size and paying.size:
                found.append(_best_payers(able, paying, errors, costs, slack))
    exchanges = np.concatenate(found)
    total = errors[exchanges].sum(axis=1)
    useful = _least(total, total < -ROUNDING * abs(choice.error))
    for gain, payer in exchanges[useful].tolist():
        yield *divmod(gain, levels), *divmod(payer, levels)


def _best_payers(gains: Indices, payers: Indices, errors: Array, costs: Array, slack: float) -> Indices:
    """Return (gain, payer) for every gain that one of the payers, sorted by cost, can pay for: the least in error."""
    least = np.minimum.accumulate(errors[payers])
    least_at = np.maximum.accumulate(np.where(errors[payers] == least, np.arange(payers.size), 0))
    enough = np.searchsorted(costs[payers], slack - costs[gains], side="right")
    return np.stack((gains[enough > 0], payers[least_at[enough[enough > 0] - 1]]), axis=1)


def _coupled(choice: Choice, limit: float) -> bool:
    """Apply the exchanges of least error between groups that share a table, costed exactly."""
    errors, costs = (values.ravel() for values in choice.joint_changes())
    levels = choice.problem.errors.shape[1] if errors.size else 1
    useful = _least(errors, (errors < -ROUNDING * abs(choice.error)) & (choice.cost + costs <= limit))
    pair, rest = np.divmod(useful, levels * levels)
    first, second = choice.problem.pairs[pair].T.tolist()
    row, column = (values.tolist() for values in np.divmod(rest, levels))
    return _apply(choice, limit, zip(first, row, second, column, strict=True))


def _least(values: Array, candidates: Mask) -> Indices:
    """Return the indices of the least candidates, in order."""
    chosen = np.flatnonzero(candidates)
    if chosen.size > _CANDIDATES:
        chosen = chosen[np.argpartition(values[chosen], _CANDIDATES)[:_CANDIDATES]]
    return np.asarray(chosen[np.lexsort((chosen, values[chosen]))])


def _apply(choice: Choice, limit: float, exchanges: Iterable[Exchange]) -> bool:
    """Make those exchanges that turn out to fit, each group changed once at most; return whether any did."""
    changed: set[int] = set()
    for group, level, other, other_level in exchanges:
        if group in changed or other in changed:
            continue
        before = int(choice.levels[group]), int(choice.levels[other])
        choice.move(group, level)
        choice.move(other, other_level)
        if choice.cost <= limit:
            changed |= {group, other}
        else:
            choice.move(group, before[0])
            choice.move(other, before[1])
    return bool(changed)
