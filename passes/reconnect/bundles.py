"""Connections that come in bundles: maps of low rank from an earlier value to a layer, or channels of it as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from surgery_ir.analysis.similarity import Similarity
from surgery_ir.analysis.taps import Tap
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.emission import emit, insert_map
from surgery_ir.passes.reconnect.acceptance import Gain, Trial, judge_of
from surgery_ir.passes.reconnect.donors import best_donors, donor_gains
from surgery_ir.passes.reconnect.exchange import Exchanged, Rules, reachable_taps
from surgery_ir.passes.reconnect.visit import Proposal, Visit, padded
from surgery_ir.passes.sequential import Affine, Equation, Sequential
from surgery_ir.solvers.lowrank import reduced_rank
from surgery_ir.solvers.patterns import kept_pattern
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.regrowth import regrow
from surgery_ir.solvers.ridge import solve

__all__ = ["Bundles", "bundle"]

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Ranks, or numbers of channels, that are tried."""


@dataclass(frozen=True)
class Bundles:
    """Which bundles layers may get.

    Parameters
    ----------
    kind
        ``rank`` for maps of low rank, ``channels`` for channels that all outputs of the layer read.
    most
        Largest rank, or most channels.
    divergence
        How far a layer's features must have diverged from the dense ones; see
        :class:`~surgery_ir.analysis.similarity.Similarity`.
    pays
        Whether a layer pays for a bundle with as many of its own connections; otherwise somebody has to afterwards.
    """

    kind: Literal["rank", "channels"]
    most: int
    divergence: float = 0.0
    pays: bool = True


def bundle(editor: Editor, ctx: PassContext, bundles: Bundles, rules: Rules, what: str) -> Exchanged:
    """Visit layer after layer, re-solve it, and give it a bundle where that helps."""
    judge = judge_of(ctx, rules.checks)
    taps, unreachable = reachable_taps(editor.graph, ctx, rules.radius)
    walk = Sequential(
        editor, ctx, rules.fit, what, residual=rules.residual, positions=rules.positions, taps=taps,
        trial=judge.samples,
    )  # fmt: skip
    trial = Trial(walk, judge)
    gains: list[Gain] = []
    for equation in walk:
        name = equation.layer.name
        visit = Visit(walk, equation, trial, rules.accept)
        search = _Search(walk, equation, bundles, rules, taps.get(name, ()), unreachable.get(name))
        reason = visit.decide(search.present, search.propose)
        gains += visit.gains
        if reason is not None:
            walk.refuse(equation.target, reason)
    return Exchanged(tuple(walk.refusals), tuple(gains))


class _Search:
    """Looks for the bundle of one layer."""

    def __init__(
        self,
        walk: Sequential,
        equation: Equation,
        bundles: Bundles,
        rules: Rules,
        taps: Sequence[Tap],
        unreachable: str | None,
    ) -> None:
        self.walk = walk
        self.equation = equation
        self.bundles = bundles
        self.rules = rules
        self.taps = taps
        self.unreachable = unreachable
        self.present: Mask = equation.before.weights != 0

    def propose(self, plain: Affine) -> Proposal | str:
        """Find the bundle that lowers the error most, for the layer solved on what it has."""
        reason = self._reason_against()
        if reason is not None:
            return reason
        if self.bundles.divergence > 0:
            drift = self._divergence(plain)
            if drift < self.bundles.divergence:
                return f"its features have not diverged from the dense ones ({drift:.2g})"
        (tap,) = best_donors(self.walk, self.equation, plain, self.taps, 1)
        wide = self.walk.equation(self.equation.target, (tap,))
        around = Affine(padded(plain.weights, wide), plain.biases)
        (problem,) = wide.quadratics("fit", around)
        best: tuple[float, Mask, Array] | None = None
        allowed = self.rules.allowed(self.present)
        for down in self._maps(plain, problem, tap):
            price = self._price(down)
            mask = self._paying(problem, price)
            if mask is None or (allowed is not None and price > allowed):
                break
            error = self._error(problem, mask, down)
            if best is None or error < best[0]:
                best = error, mask, down
        if best is None or not best[0] < float(problem.error(around.weights[0]).sum()):
            return "no bundle lowers its error more than what would pay for it"
        return self._proposal(wide, tap, best[1], best[2])

    def _reason_against(self) -> str | None:
        if not self.taps:
            return self.unreachable or "no earlier value is within the radius"
        if self.equation.layer.groups > 1:
            return "a convolution with groups gets no bundles"
        if self.bundles.pays and self.present.all():
            return "none of its weights is pruned: it has nothing to trade"
        if self.rules.allowed(self.present) == 0:
            return f"its budget, a share of its {self.rules.per} connections, allows none"
        pattern = kept_pattern(self.present[0])
        if self.bundles.pays and pattern is not None:
            return f"its zeros follow the pattern {pattern}, which single connections would break"
        return None

    def _divergence(self, plain: Affine) -> float:
        similarity = Similarity()
        for batch in self.equation.rows.batches("check"):
            similarity.add(batch.total[0], plain(batch)[0])
        return similarity.divergence

    def _maps(self, plain: Affine, problem: Quadratic, tap: Tap) -> list[Array]:
        """Maps from the donor's channels to fewer values, (size, channels), smallest first."""
        own = self.equation.rows.columns
        sizes = [size for size in SIZES if size <= min(self.bundles.most, tap.layer.inputs, problem.outputs)]
        if self.bundles.kind == "channels":
            (gains,) = donor_gains(self.walk, self.equation, plain, (tap,))
            order = np.argsort(-gains.sum(axis=1), kind="stable")
            return [np.eye(tap.layer.inputs)[np.sort(order[:size])] for size in sizes]
        weights = plain.weights[0]
        rest = Quadratic(
            problem.h[own:, own:],
            problem.r[own:] - problem.h[own:, :own] @ weights.T,
            problem.error(np.pad(weights, ((0, 0), (0, tap.layer.inputs)))),
        )
        if not sizes:
            return []
        down, _ = reduced_rank(rest, sizes[-1], self.equation.fit.ridge)
        # As large as the layer's own columns: one ridge is for all of them.
        power, usual = np.einsum("kc,cd,kd->k", down, rest.h, down), np.diagonal(problem.h).mean()
        down = down * np.sqrt(np.divide(usual, power, out=np.ones_like(power), where=power > 0))[:, None]
        return [down[:size] for size in sizes]

    def _price(self, down: Array) -> int:
        """Connections of a bundle."""
        up = len(down) * self.equation.layer.outputs
        return up if self.bundles.kind == "channels" else up + int(np.count_nonzero(down))

    def _paying(self, problem: Quadratic, price: int) -> Mask | None:
        """The layer's own connections less the ``price`` least useful ones; ``None`` where it cannot pay."""
        if not self.bundles.pays:
            return self.present
        held, own = int(np.count_nonzero(self.present)), self.equation.rows.columns
        if 2 * price > held:
            return None
        alone = Quadratic(problem.h[:own, :own], problem.r[:own], problem.yy)
        stored, ridge = self.equation.before.weights[0], self.equation.fit.ridge
        return regrow(alone, stored, self.present[0], ridge, count=held - price, rounds=0).mask[np.newaxis]

    def _error(self, problem: Quadratic, mask: Mask, down: Array) -> float:
        basis, prior, kept = self._in_basis(mask, down)
        reduced = Quadratic(basis @ problem.h @ basis.T, basis @ problem.r, problem.yy)
        return float(reduced.error(solve(reduced, prior[0], self.equation.fit.ridge, kept[0]).weights).sum())

    def _in_basis(self, mask: Mask, down: Array) -> tuple[Array, Array, Mask]:
        """Own columns and the values that ``down`` makes, as combinations of all; the prior, and what there is."""
        up = (*mask.shape[:2], len(down))
        prior = np.concatenate([np.where(mask, self.equation.before.weights, 0.0), np.zeros(up)], axis=2)
        kept = np.concatenate([mask, np.ones(up, np.bool_)], axis=2)
        return block_diag(np.eye(mask.shape[2]), down), prior, kept

    def _proposal(self, wide: Equation, tap: Tap, mask: Mask, down: Array) -> Proposal:
        basis, prior, kept = self._in_basis(mask, down)
        own = self.equation.rows.columns

        def write(solution: Affine) -> None:
            up = solution.weights[0, :, own:] @ np.linalg.pinv(down)
            self._write(wide, Affine(solution.weights[:, :, :own], solution.biases), tap, down, up)

        return Proposal(
            wide, (tap,), self._price(down),
            solve=lambda part: wide.solve(part, prior, kept, basis),
            write=write,
        )  # fmt: skip

    def _write(self, wide: Equation, own: Affine, tap: Tap, down: Array, up: Array) -> None:
        if self.bundles.kind == "channels":
            solution = Affine(np.concatenate([own.weights, (up @ down)[None]], axis=2), own.biases)
            self.walk.write(wide, solution, (tap,))
            return
        self.walk.write(self.equation, own)
        editor, layer = self.walk.editor, self.equation.layer
        narrow = insert_map(editor, layer, tap, down)
        emit(editor, layer, narrow, up)
        self.walk.renew()
