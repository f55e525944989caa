"""Connected components of the index graph, and the best choice wherever an operator can be cut in several ways."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from surgery_ir.analysis.coupling.index import Frost, IndexGraph, OperatorChoice, as_mapped, axes_of
from surgery_ir.analysis.coupling.relations import Axis, Free, Indices, Mapped, Same

__all__ = ["Components", "solve"]

COMBINATIONS = 64
"""Ways of cutting that are compared where several choices touch each other."""

Edges = tuple[Indices, Indices]


@dataclass(frozen=True, eq=False)
class Components:
    """What is cut together.

    Parameters
    ----------
    classes : (axes,) int
        Class of every axis; axes of one class are the same, index by index.
    offsets : (classes + 1,) int
        Where the indices of a class begin among all indices.
    labels : (indices,) int
        Component of every index.
    frozen : (components,) int
        Number of the axis whose frost forbids cutting a component, -1 where none does.
    frosts
        Why an axis cannot be cut, with what the choices brought.
    chosen
        Alternative of every choice of the index graph.
    """

    classes: Indices
    offsets: Indices
    labels: Indices
    frozen: Indices
    frosts: Mapping[int, Frost]
    chosen: tuple[int, ...] = ()


class _Solver:
    """The steps of :func:`solve` and what they share."""

    def __init__(self, index: IndexGraph, worth: NDArray[np.float64]) -> None:
        self.index = index
        self.frosts = dict(index.frosts)
        count = len(index.sizes)
        pairs = np.array(index.same, dtype=np.intp).reshape(-1, 2)
        self.classes = _label(count, (pairs[:, 0], pairs[:, 1]))
        number = int(self.classes.max(initial=-1)) + 1
        sizes = np.zeros(number, np.intp)
        sizes[self.classes] = index.sizes
        self.sizes = sizes
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.worth = np.bincount(self.classes, worth, number) if count else np.zeros(0)
        self.base = [self._edges(item) for item in index.mapped]

    def run(self) -> Components:
        """Decide the choices, then label all indices."""
        labels, frozen = self._components(self.base, self.frosts)
        cold = frozen[labels] >= 0  # frozen whatever is chosen
        edges = list(self.base)
        chosen = self._choose(cold)
        for item, which in zip(self.index.choices, chosen, strict=True):
            edges.extend(self._alternative(item.choice.alternatives[which]))
            for axis in self._left_out(item, which):
                self.frosts.setdefault(axis, Frost(item.node, item.op_type, f"stands against it: {item.choice.reason}"))
        labels, frozen = self._components(edges, self.frosts)
        return Components(self.classes, self.offsets, labels, frozen, self.frosts, tuple(chosen))

    def _choose(self, cold: NDArray[np.bool_]) -> list[int]:
        """Alternative of every choice: the first, or the one that leaves most worth to cut in its neighbourhood."""
        chosen = []
        alive: dict[int, list[int]] = {}
        for number, item in enumerate(self.index.choices):
            options = [
                which
                for which, alternative in enumerate(item.choice.alternatives)
                if any(not (cold[one].all() or cold[other].all()) for one, other in self._alternative(alternative))
            ]
            chosen.append(options[0] if options else 0)
            if len(options) > 1:
                alive[number] = options
        for around in self._neighbourhoods(alive, cold):
            for number, which in self._best(around, alive, chosen, cold).items():
                chosen[number] = which
        return chosen

    def _neighbourhoods(self, alive: Mapping[int, Sequence[int]], cold: NDArray[np.bool_]) -> Iterator[_Neighbourhood]:
        """Yield open choices that touch each other, with what lies around them."""
        if not alive:
            return
        warm = np.array([not cold[self.span(number)].all() for number in range(len(self.sizes))])
        links = np.array(
            [(self._class(item.one), self._class(item.other)) for item in self.index.mapped], np.intp
        ).reshape(-1, 2)
        linking = np.flatnonzero(warm[links].all(axis=1))
        touched = [[item for item in self._touched(choice) if warm[item]] for choice in self.index.choices]
        ones = np.concatenate([links[linking, 0], *(np.full(len(item), item[:1]) for item in touched if item)])
        others = np.concatenate([links[linking, 1], *(np.array(item) for item in touched if item)])
        labels = _label(len(self.sizes), (ones.astype(np.intp), others.astype(np.intp)))
        found: dict[int, _Neighbourhood] = {}
        for number in alive:
            found.setdefault(int(labels[touched[number][0]]), _Neighbourhood()).open.append(number)
        for number, item in enumerate(touched):
            if item and int(labels[item[0]]) in found:
                found[int(labels[item[0]])].choices.append(number)
        for number in map(int, linking):
            label = int(labels[links[number, 0]])
            if label in found:
                found[label].mapped.append(number)
        for number in map(int, np.flatnonzero(warm)):
            if int(labels[number]) in found:
                found[int(labels[number])].classes.append(number)
        yield from found.values()

    def _best(
        self,
        around: _Neighbourhood,
        alive: Mapping[int, Sequence[int]],
        chosen: Sequence[int],
        cold: NDArray[np.bool_],
    ) -> dict[int, int]:
        """Compare the combinations of one neighbourhood; choices of one signature are decided alike."""
        local = _Local(self, around, cold)
        kinds: dict[str, list[int]] = {}
        for number in around.open:
            kinds.setdefault(self.index.choices[number].choice.signature, []).append(number)
        options = [sorted({which for number in kind for which in alive[number]}) for kind in kinds.values()]
        best: dict[int, int] = {}
        most = -1.0
        for combination in itertools.islice(itertools.product(*options), COMBINATIONS):
            decided = {
                number: which if which in alive[number] else alive[number][0]
                for kind, which in zip(kinds.values(), combination, strict=True)
                for number in kind
            }
            worth = local.worth({**{number: chosen[number] for number in around.choices}, **decided})
            if worth > most:
                best, most = decided, worth
            if most >= local.bound:
                break
        return best

    def _components(self, edges: Iterable[Edges], frosts: Mapping[int, Frost]) -> tuple[Indices, Indices]:
        """Label all indices; give for every component the first axis that freezes it."""
        labels = _label(int(self.offsets[-1]), _join(edges))
        frozen = np.full(int(labels.max(initial=-1)) + 1, -1)
        for axis in sorted(frosts, reverse=True):
            frozen[labels[self.span(int(self.classes[axis]))]] = axis
        return labels, frozen

    def span(self, number: int) -> slice:
        """Indices of class ``number``."""
        return slice(int(self.offsets[number]), int(self.offsets[number + 1]))

    def _class(self, axis: Axis) -> int:
        return int(self.classes[self.index.axes[axis]])

    def _edges(self, relation: Mapped) -> Edges:
        one, other = self.offsets[self._class(relation.one)], self.offsets[self._class(relation.other)]
        return one + relation.one_index, other + relation.other_index

    def _alternative(self, alternative: Sequence[Same | Mapped | Free]) -> list[Edges]:
        return [
            self._edges(as_mapped(item, self.index.sizes[self.index.axes[item.one]]))
            for item in alternative
            if not isinstance(item, Free)
        ]

    def _left_out(self, item: OperatorChoice, chosen: int) -> list[int]:
        """Axes of a choice that the chosen alternative does not mention."""
        mentioned = {axis for relation in item.choice.alternatives[chosen] for axis in axes_of(relation)}
        return [self.index.axes[axis] for axis in _all_axes(item) if axis not in mentioned]

    def _touched(self, item: OperatorChoice) -> list[int]:
        return list(dict.fromkeys(self._class(axis) for axis in _all_axes(item)))


@dataclass(eq=False)
class _Neighbourhood:
    """Open choices that touch each other, all choices among them, and the relations and classes around."""

    open: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    mapped: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)


class _Local:
    """The part of the index graph in one neighbourhood, to try combinations on."""

    def __init__(self, solver: _Solver, around: _Neighbourhood, cold: NDArray[np.bool_]) -> None:
        self.solver = solver
        classes = np.array(sorted(around.classes), np.intp)
        self.indices = np.concatenate([np.arange(solver.offsets[item], solver.offsets[item + 1]) for item in classes])
        begins = np.cumsum([0, *solver.sizes[classes[:-1]]])
        self.begins = dict(zip(classes.tolist(), begins.tolist(), strict=True))
        self.starts = begins[solver.sizes[classes] > 0]
        self.cold = cold[self.indices]
        self.value = np.repeat(solver.worth[classes], solver.sizes[classes])
        self.base = [solver.base[number] for number in around.mapped]
        self.bound = float(self.value[~self.cold].sum())

    def worth(self, decided: Mapping[int, int]) -> float:
        """Worth that stays free when ``decided`` says how each choice is taken."""
        edges = list(self.base)
        cold = self.cold.copy()
        for number, which in decided.items():
            item = self.solver.index.choices[number]
            edges.extend(self.solver._alternative(item.choice.alternatives[which]))
            for axis in self.solver._left_out(item, which):
                number = int(self.solver.classes[axis])
                if number in self.begins:
                    cold[self.begins[number] : self.begins[number] + self.solver.sizes[number]] = True
        (one, is_inside), (other, other_is_inside) = map(self._place, _join(edges))
        inside = is_inside & other_is_inside
        labels = _label(len(self.indices), (one[inside], other[inside]))
        frozen = np.zeros(int(labels.max(initial=-1)) + 1, bool)
        frozen[labels[cold]] = True
        lowest, highest = (step.reduceat(labels, self.starts) for step in (np.minimum, np.maximum))
        frozen[lowest[lowest == highest]] = True  # it holds all of an axis, of which something has to stay
        return float(self.value[~frozen[labels]].sum())

    def _place(self, ends: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """Find where indices of the whole graph lie in this part of it, and which of them do."""
        places = np.searchsorted(self.indices, ends)
        return places, self.indices.take(places, mode="clip") == ends


def solve(index: IndexGraph, worth: Mapping[int, float]) -> Components:
    """Find what must be cut together.

    Parameters
    ----------
    index
        The index graph.
    worth
        What an index of an axis is worth when it can be cut (weights saved); axes that are missing are worth nothing.
    """
    values = np.zeros(len(index.sizes))
    for axis, value in worth.items():
        values[axis] = value
    return _Solver(index, values).run()


def _all_axes(item: OperatorChoice) -> Iterable[Axis]:
    """Axes that any alternative mentions, once each."""
    return dict.fromkeys(axis for other in item.choice.alternatives for relation in other for axis in axes_of(relation))


def _label(count: int, edges: Edges) -> Indices:
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.intp)


def _join(edges: Iterable[Edges]) -> Edges:
    pairs = list(edges)
    if not pairs:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])
