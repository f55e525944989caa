"""Residual branches: what goes with one, and runs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery_ir.graph.editor import WEIGHT_INPUTS
from surgery_ir.graph.model import Graph
from surgery_ir.graph.view import STANDARD, Operator, View, bodies
from surgery_ir.passes.base import Refusal

__all__ = ["Branch", "find_branches", "runs"]

SKIP_LENGTH = 8
"""Operators that may lie on a skip path: a convolution and its norm, pooling."""

BETWEEN = 2
"""Operators that may lie between two blocks of a run: an activation or a norm."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A sum y = u + f, or a run of such sums, whose u may stand for the whole.

    Parameters
    ----------
    node
        Name of the Add that ends it.
    total
        y, the value that it writes.
    kept
        u, the value that stays: the input of the block, or what its skip path makes of it.
    entry
        The value that the branch leaves.
    removed
        Names of the operators that nobody needs when y no longer depends on f.
    length
        Number of branches in it.
    """

    node: str
    total: str
    kept: str
    entry: str
    removed: frozenset[str]
    length: int = 1


def find_branches(graph: Graph) -> tuple[list[Branch], list[Refusal]]:
    """Find every residual branch that holds weights, in topological order, and say why other sums are none."""
    view = graph.view()
    found: list[Branch] = []
    refusals: list[Refusal] = []
    for operator in view.operators():
        if operator.op_type != "Add" or operator.domain not in STANDARD:
            continue
        computed = {value for value in operator.inputs if not graph.is_constant(graph.initializers.get(value))}
        if len(computed) == 2:
            branch = _branch(graph, view, operator)
            if isinstance(branch, Branch):
                found.append(branch)
            else:
                refusals.append(Refusal(branch, (operator.name,)))
    return found, refusals


def runs(graph: Graph, branches: Sequence[Branch], longest: int) -> Iterator[Branch]:
    """Yield every run of 2 to ``longest`` consecutive branches; the input of the first stands for the output."""
    view = graph.view()
    by_entry = {branch.entry: branch for branch in branches if branch.kept == branch.entry}
    for first in branches:
        last = first
        for length in range(2, longest + 1):
            following = [by_entry[value] for value in _after(view, last.total) if value in by_entry]
            if not following:
                break
            last = following[0]
            removed = _only_for(graph, view, view.operator(last.node), first.kept)
            if first.node not in removed or _subgraphs(graph, removed):
                break
            yield Branch(last.node, last.total, first.kept, first.entry, removed, length)


def _branch(graph: Graph, view: View, add: Operator) -> Branch | str:
    """Take the shorter side of a sum for its skip, of two equally long ones that which leaves more weights to go."""
    first, second = add.inputs
    best: tuple[int, int, Branch] | None = None
    reason = "no side of the sum branches off the other"
    for kept, other in ((first, second), (second, first)):
        removed = _only_for(graph, view, add, kept)
        read = {value for name in removed for value in view.operator(name).inputs}
        path = list(_path(graph, view, kept))
        steps = next((index for index, value in enumerate(path) if value in read), None)
        if steps is None:
            if _reaches(view, other, kept):
                reason = "what lies on the branch is read elsewhere too"
            continue
        weights = _weights(graph, removed)
        if not weights:
            reason = "no layer with weights lies on the branch"
        elif _subgraphs(graph, removed):
            reason = "operators with subgraphs lie on the branch"
        elif best is None or (steps, -weights) < best[:2]:
            best = steps, -weights, Branch(add.name, add.outputs[0], kept, path[steps], removed)
    return reason if best is None else best[2]


def _only_for(graph: Graph, view: View, add: Operator, kept: str) -> frozenset[str]:
    """Operators that nobody needs when ``add`` makes its output of ``kept`` alone."""
    outputs = {value.name for value in graph.outputs}
    removed: set[str] = set()
    allowed = {add.name}
    queue = [value for value in add.inputs if value != kept]
    while queue:
        name = view.producer(queue.pop())
        if name is None or name in removed:
            continue
        operator = view.operator(name)
        if kept in operator.outputs or outputs.intersection(operator.outputs):
            continue
        if all(allowed.issuperset(view.consumers(value)) for value in operator.outputs if value):
            removed.add(name)
            allowed.add(name)
            queue.extend(value for value in (*operator.inputs, *operator.captures) if value)
    return frozenset(removed)


def _path(graph: Graph, view: View, value: str) -> Iterator[str]:
    """Yield ``value`` and what it is made of, as long as every operator reads one computed value."""
    yield value
    for _ in range(SKIP_LENGTH):
        name = view.producer(value)
        if name is None:
            return
        operator = view.operator(name)
        read = [item for item in (*operator.inputs, *operator.captures) if item and item not in graph.initializers]
        if len(read) != 1:
            return
        (value,) = read
        yield value


def _reaches(view: View, value: str, source: str) -> bool:
    """Whether ``value`` is computed from ``source``."""
    producer = view.producer(source)
    first = view.operator(producer).index if producer is not None else -1
    queue, seen = [value], set()
    while queue:
        item = queue.pop()
        name = view.producer(item)
        if item == source:
            return True
        if name is None or name in seen or view.operator(name).index <= first:
            continue
        seen.add(name)
        queue.extend((*view.operator(name).inputs, *view.operator(name).captures))
    return False


def _after(view: View, value: str) -> Iterator[str]:
    """Yield ``value`` and what the one operator that reads it makes of it."""
    yield value
    for _ in range(BETWEEN):
        readers = view.consumers(value)
        if len(readers) != 1 or len(view.operator(readers[0]).outputs) != 1:
            return
        (value,) = view.operator(readers[0]).outputs
        yield value


def _weights(graph: Graph, nodes: frozenset[str]) -> int:
    """Number of weights that the operators called ``nodes`` hold."""
    found = set()
    for name in nodes:
        node = graph.node(name)
        for index in WEIGHT_INPUTS.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if graph.is_constant(value):
                found.add(value)
    return sum(graph.array(value.name or "").size for value in found if value is not None)


def _subgraphs(graph: Graph, nodes: frozenset[str]) -> bool:
    return any(True for name in nodes for _ in bodies(graph.node(name)))
