"""What a graph costs as a function of how many units every group keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from surgery_ir.analysis.cost import is_parameter
from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.relations import Axis
from surgery_ir.analysis.macs import node_macs
from surgery_ir.graph.model import Graph

__all__ = ["Monomial", "Shares", "evaluate", "macs_by_node", "macs_polynomial", "params_polynomial"]


Use = tuple[str, int]
"""An operator, and which of its inputs."""


@dataclass(frozen=True, slots=True)
class Monomial:
    """``factor`` times the product of the units that ``groups`` keep; a group may stand there twice."""

    groups: tuple[int, ...]
    factor: float


def evaluate(polynomial: Iterable[Monomial], units: Sequence[int]) -> float:
    """Value of a polynomial when every group keeps so many ``units``."""
    return sum(item.factor * prod(units[number] for number in item.groups) for item in polynomial)


def macs_polynomial(graph: Graph, coupling: Coupling) -> list[Monomial]:
    """Multiply-accumulates, as :mod:`surgery_ir.analysis.macs` counts them, for the shapes of the coupling.

    Operators whose multiply-accumulates are not known are left out.
    """
    return _sum(macs_by_node(graph, coupling).values())


def macs_by_node(graph: Graph, coupling: Coupling) -> dict[str, list[Monomial]]:
    """Multiply-accumulates of every operator that has some."""
    shares = Shares(coupling)
    functions = {identifier[:2] for identifier in graph.model.functions}
    found: dict[str, list[Monomial]] = {}
    for node in graph.model.graph:
        macs = node_macs(node, coupling.facts.shapes, functions)
        if macs is None or not macs.total:
            continue
        parts = macs.by_input or {0: macs.total}
        if sum(parts.values()) > macs.total:  # either operand of a product counts all of it
            index = next((index for index in parts if graph.is_constant(node.inputs[index])), None)
            if index is None:
                found[node.name or ""] = shares.product(float(macs.total), node)
                continue
            parts = {index: macs.total}
        values = {index: node.inputs[index] for index in parts}
        found[node.name or ""] = _sum(
            shares.expand(float(parts[index]), value) for index, value in values.items() if value is not None
        )
    return found


def params_polynomial(graph: Graph, coupling: Coupling) -> list[Monomial]:
    """Parameters, as :mod:`surgery_ir.analysis.cost` counts them.

    Of a small constant that several operators read, each has a copy of its own.
    """
    shares = Shares(coupling)
    return _sum(
        shares.expand(float(value.const_value.size), value, use)
        for value in graph.initializers.values()
        if value.const_value is not None and is_parameter(value)
        for use in shares.uses(value)
    )


class Shares:
    """Share of every axis that each group owns.

    Parameters
    ----------
    coupling
        The groups.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.owners: dict[Axis, list[tuple[int, int]]] = {}
        self.copies: dict[str, dict[Use, None]] = {}
        for number, group in enumerate(coupling.groups):
            for span in group.spans:
                self.owners.setdefault(span.axis, []).append((number, span.indices.shape[1]))
                if span.axis.use is not None:
                    self.copies.setdefault(span.axis.value, {})[span.axis.use] = None

    def uses(self, value: ir.Value) -> list[Use | None]:
        """Readers that have a copy of a constant each; ``None`` stands for all that read it whole."""
        copies: list[Use | None] = list(self.copies.get(value.name or "", ()))
        return copies if copies and len(copies) == len(value.uses()) else [*copies, None]

    def expand(self, amount: float, value: ir.Value, use: Use | None = None) -> list[Monomial]:
        """Give ``amount`` times the shares of all axes of ``value`` that are kept."""
        name = value.name or ""
        return self._times(
            amount, (Axis(name, axis, use) for axis in range(len(self.coupling.facts.shapes.get(name, ()))))
        )

    def product(self, amount: float, node: ir.Node) -> list[Monomial]:
        """Give ``amount`` times the shares of what a product of activations writes and of what it sums over."""
        written, read = node.outputs[0].name or "", node.inputs[0]
        name = (read.name or "") if read is not None else ""
        shapes, sums = self.coupling.facts.shapes, self.coupling.contracted
        axes = [Axis(written, axis) for axis in range(len(shapes.get(written, ())))]
        summed = (Axis(name, axis) for axis in range(len(shapes.get(name, ()))))
        return self._times(amount, [*axes, *(axis for axis in summed if node.name in sums.get(axis, ()))])

    def _times(self, amount: float, axes: Iterable[Axis]) -> list[Monomial]:
        polynomial = [Monomial((), amount)]
        for axis in axes:
            owners = self.owners.get(axis)
            if owners:
                linear = list(self._linear(owners, self.coupling.sizes[axis]))
                polynomial = _sum([[_product(one, other) for one in polynomial for other in linear]])
        return polynomial

    def share(self, axis: Axis, units: Mapping[int, int]) -> float:
        """Share of ``axis`` that is kept when each group keeps ``units``."""
        linear = self._linear(self.owners.get(axis, []), self.coupling.sizes[axis])
        return sum(item.factor * (units[item.groups[0]] if item.groups else 1) for item in linear)

    def _linear(self, owners: Sequence[tuple[int, int]], size: int) -> Iterator[Monomial]:
        """Share of an axis that is kept: what no group owns, and each group's indices."""
        owned = sum(width * self.coupling.groups[number].units for number, width in owners)
        if owned < size:
            yield Monomial((), (size - owned) / size)
        for number, width in owners:
            yield Monomial((number,), width / size)


def _product(one: Monomial, other: Monomial) -> Monomial:
    return Monomial(tuple(sorted((*one.groups, *other.groups))), one.factor * other.factor)


def _sum(polynomials: Iterable[Iterable[Monomial]]) -> list[Monomial]:
    total: dict[tuple[int, ...], float] = {}
    for polynomial in polynomials:
        for item in polynomial:
            total[item.groups] = total.get(item.groups, 0.0) + item.factor
    return [Monomial(groups, factor) for groups, factor in total.items()]
