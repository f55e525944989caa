"""Layer equations one after the other: inputs from what is compressed and solved already, targets from the dense model.

Repair, regrowing and wiring across layers all solve the same equation of a layer and its taps. They differ in which
columns a layer may have; how rows are gathered, solved, judged and written is the same and stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import find_layers
from surgery_ir.analysis.rows import CHECK_EVERY, Part, RowBatch, Rows
from surgery_ir.analysis.samples import Samples, require
from surgery_ir.analysis.taps import Tap
from surgery_ir.analysis.targets import Target, plan
from surgery_ir.analysis.walk import Walk
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.extract import Cutter
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.bias import layer_bias, set_layer_bias
from surgery_ir.passes.emission import emit
from surgery_ir.solvers.quadratic import Moments, Quadratic
from surgery_ir.solvers.retarget import Retargeted
from surgery_ir.solvers.ridge import solve

__all__ = ["Affine", "Equation", "Fit", "Sequential", "rounding"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PARTS: tuple[Part, ...] = ("fit", "check")
"""The parts that all rows fall into."""


@dataclass(frozen=True)
class Affine:
    """Weights (groups, outputs, columns) and biases (groups, outputs) of a layer and its taps."""

    weights: Array
    biases: Array

    def __call__(self, rows: RowBatch) -> Array:
        """Give what the layer, with all that is added to it, puts out for ``rows``: (groups, n, outputs)."""
        out: Array = np.einsum("gnd,god->gno", rows.x, self.weights, optimize=True) + self.biases[:, None]
        return out if rows.skip is None else out + rows.skip


@dataclass(frozen=True)
class Fit:
    """How equations are solved: ``ridge`` pulls towards present weights, ``relu`` rounds free what a Relu cuts off."""

    ridge: float = 0.01
    relu: int = 1


class Equation:
    """The regression of one layer on its columns and those of its taps.

    Parameters
    ----------
    graph
        Graph that holds the layer.
    rows
        Rows of the regression.
    fit
        How it is solved.
    pass_name
        Who solves it, for messages.
    """

    def __init__(self, graph: Graph, rows: Rows, fit: Fit, pass_name: str) -> None:
        self.target = rows.target
        self.layer = rows.target.layer
        self.rows = rows
        self.fit = fit
        self.pass_name = pass_name
        self.rounding = rounding(graph.array(self.layer.weight).dtype)
        self.before = Affine(_present(graph, rows), layer_bias(graph, self.layer))
        self._moments: dict[Part, list[Moments]] = {}

    @property
    def rectified(self) -> bool:
        """Whether negative outputs are free to be any negative number."""
        return self.target.rectified and self.fit.relu > 0

    def gather(self) -> None:
        """Accumulate the moments of all rows.

        Raises
        ------
        PassError
            Activations are no finite numbers.
        """
        for part in PARTS:
            self.moments(part)

    def moments(self, part: Part) -> list[Moments]:
        """Moments of the rows of ``part``, one for each group; accumulated once."""
        if part == "all" and part not in self._moments:
            merged = self.moments("fit")  # used up: nothing is fitted on a part once all is
            for item, other in zip(merged, self.moments("check"), strict=True):
                item.merge(other)
            self._moments = {"all": merged}
        elif part not in self._moments:
            self._moments[part] = self._accumulate(part)
        return self._moments[part]

    def solve(self, part: Part, prior: Array, mask: Mask, basis: Array | None = None) -> Affine:
        """Solve on the rows of ``part`` for the weights that ``mask`` keeps, near ``prior``.

        Parameters
        ----------
        part
            Rows to solve on.
        prior, mask : (groups, outputs, k)
            Weights to stay near, and which of them there are.
        basis : (k, columns), optional
            What the weights are weights of; by default the columns themselves.
        """
        moments = self.moments(part)
        solution = self._ridge(moments, prior, mask, basis)
        for _ in range(self.fit.relu if self.target.rectified else 0):
            solution = self._ridge(self._freed(part, solution), prior, mask, basis)
        return solution

    def quadratics(self, part: Part, around: Affine) -> list[Quadratic]:
        """The layer's problems, one for each group, targets that a Relu cuts off being free as seen from ``around``."""
        found: Sequence[Moments | Retargeted] = self._freed(part, around) if self.rectified else self.moments(part)
        return [item.quadratic(self.layer.takes_bias) for item in found]

    def error(self, solution: Affine) -> float:
        """Squared error on held-out rows relative to the energy of the targets, behind the Relu if there is one."""
        error = energy = 0.0
        for batch in self.rows.batches("check"):
            output, wanted = solution(batch), batch.total.astype(np.float64)
            if self.rectified:
                output, wanted = np.maximum(output, 0), np.maximum(wanted, 0)
            error += float(np.square(output - wanted).sum())
            energy += float(np.square(wanted).sum())
        return error / energy if energy > 0 else error

    def split(self, weights: Array) -> list[Array]:
        """Cut columns of ``weights`` apart, one array for each part of the rows."""
        ends = np.cumsum([part.inputs for part in self.rows.parts])[:-1]
        return np.split(weights, ends, axis=2)

    def _freed(self, part: Part, around: Affine) -> list[Retargeted]:
        """Moments with targets that leave outputs which are rightly negative where ``around`` has them."""
        freed = [Retargeted(item) for item in self.moments(part)]
        for batch in self.rows.batches(part):
            total = np.where(batch.total > 0, batch.total, np.minimum(around(batch), 0))
            target = total if batch.skip is None else total - batch.skip
            for item, x, y in zip(freed, batch.x, target, strict=True):
                item.add(x, y)
        return freed

    def _ridge(self, moments: Sequence[Moments | Retargeted], prior: Array, mask: Mask, basis: Array | None) -> Affine:
        weights, biases = np.empty_like(self.before.weights), np.zeros_like(self.before.biases)
        for group, part in enumerate(moments):
            problem = part.quadratic(self.layer.takes_bias)
            if basis is not None:
                problem = Quadratic(basis @ problem.h @ basis.T, basis @ problem.r, problem.yy)
            found = solve(problem, prior[group], self.fit.ridge, mask[group]).weights
            weights[group] = found if basis is None else found @ basis
            if self.layer.takes_bias:
                biases[group] = part.intercept(weights[group])
        return Affine(weights, biases)

    def _accumulate(self, part: Part) -> list[Moments]:
        moments = [Moments(self.rows.columns, self.layer.outputs) for _ in range(self.layer.groups)]
        for batch in self.rows.batches(part):
            for item, x, y in zip(moments, batch.x, batch.target, strict=True):
                try:
                    item.add(x, y)
                except ValueError as error:
                    raise PassError(f"{self.pass_name}: activations of {self.layer.name!r}: {error}") from error
        return moments


class Sequential:
    """Visits the layers of a graph in an order in which each comes after all that it depends on.

    Parameters
    ----------
    editor
        Changes the graph.
    ctx
        Context of the pass.
    fit
        How equations are solved.
    what
        What the pass is doing, for progress.
    residual
        Whether layers in front of an Add absorb the error of the other summand.
    positions
        Positions of a sample that a layer looks at.
    taps
        Connections that could be made, by layer.
    trial
        Samples that changes are tried on; :attr:`trial` walks along on them.
    """

    def __init__(
        self,
        editor: Editor,
        ctx: PassContext,
        fit: Fit,
        what: str,
        *,
        residual: bool = True,
        positions: int = 16,
        taps: Mapping[str, Sequence[Tap]] | None = None,
        trial: Samples | None = None,
    ) -> None:
        assert ctx.samples is not None
        self.editor = editor
        self.ctx = ctx
        self.fit = fit
        self.what = what
        self.positions = positions
        self.taps = taps or {}
        found = find_layers(editor.graph)
        planned = plan(editor.graph, found.layers, Cutter(ctx.reference).values, residual)
        self.targets = planned.targets
        self._places = {target.layer.name: place for place, target in enumerate(planned.targets)}
        self.refusals = [Refusal(item.reason, (item.name,)) for item in found.skipped]
        self.refusals += [Refusal(reason, (name,)) for reason, name in planned.refusals]
        if not self.targets:
            self.refusals = self.refusals or [Refusal("there is no layer with constant weights")]
            return
        require(ctx.samples, CHECK_EVERY, editor.pass_name)
        reads = [name for item in self.targets for name in self._reads(item)]
        self.dense = Walk(ctx.reference, ctx.samples, ctx.runtime, keep=[item.wanted for item in self.targets])
        self.small = Walk(editor.graph, ctx.samples, ctx.runtime, keep=reads)
        self.trial = None if trial is None else Walk(editor.graph, trial, ctx.runtime, keep=reads)

    def __iter__(self) -> Iterator[Equation]:
        """Yield the equation of every layer whose shape fits the dense model's; :meth:`write` answers it."""
        for index, target in enumerate(self.targets):
            self.ctx.progress(self.what, index, len(self.targets))
            equation = self.equation(target)
            clash = equation.rows.clash()
            if clash is None:
                yield equation
            else:
                self.refuse(target, clash)
            self.dense.forget([target.wanted])
            for walk in (self.small, self.trial):
                if walk is not None:
                    walk.forget(self._reads(target))
        self.ctx.progress(self.what, len(self.targets), len(self.targets))

    def _reads(self, target: Target) -> list[str]:
        """Values that the equation of a layer is about, those of the taps that it may get among them."""
        donors = [tap.donor for tap in self.taps.get(target.layer.name, ())]
        return [*(part.input for part in target.parts), *target.skips, *donors]

    def equation(self, target: Target, taps: Sequence[Tap] = ()) -> Equation:
        """Give the equation of a layer, with further taps as columns."""
        layers = [tap.layer for tap in taps]
        rows = Rows(
            target, self.small, self.dense, self.positions, [self.ctx.seed, self._places[target.layer.name]], layers
        )
        return Equation(self.editor.graph, rows, self.fit, self.editor.pass_name)

    def refuse(self, target: Target, reason: str) -> None:
        """Note why a layer was left alone."""
        self.refusals.append(Refusal(reason, (target.layer.name,)))

    def write(self, equation: Equation, solution: Affine, taps: Sequence[Tap] = ()) -> None:
        """Write the weights of a layer and its taps; of new ones, those that have a connection."""
        layer, editor = equation.layer, self.editor
        parts = equation.split(solution.weights)
        own = equation.target.parts
        editor.set_weights(layer.weight, layer.array(parts[0]))
        for part, weights in zip(own[1:], parts[1 : len(own)], strict=True):
            editor.set_weights(part.weight, part.array(weights.reshape(1, -1, part.inputs)))
        if layer.takes_bias:
            set_layer_bias(editor, layer, solution.biases)
        added = False
        for tap, weights in zip(taps, parts[len(own) :], strict=True):
            added |= emit(editor, layer, tap, weights.reshape(-1, tap.layer.inputs)) is not None
        if added:
            self.renew()

    def renew(self) -> None:
        """Take note of operators that were added behind those that the walks have been at."""
        for walk in (self.small, self.trial):
            if walk is not None:
                walk.renew()


def rounding(dtype: np.dtype[Any]) -> float:
    """Relative squared error that a runtime's own rounding may cause."""
    return max(1e-10, (4 * float(np.spacing(np.ones((), dtype)))) ** 2)


def _present(graph: Graph, rows: Rows) -> Array:
    """Weights as they are stored; zeros for taps that do not exist yet."""
    layer, existing = rows.target.layer, len(rows.target.parts)
    found = []
    for index, part in enumerate(rows.parts):
        if index < existing:
            matrix = part.matrix(graph.array(part.weight)).astype(np.float64)
        else:
            matrix = np.zeros((1, part.outputs, part.inputs))
        found.append(matrix.reshape(layer.groups, layer.outputs, part.inputs))
    return np.concatenate(found, axis=2)
