"""Nevergrad, behind one class: the only file that imports it.

Encoding matters more than the optimiser, so all it sees is a flat array in [0, 1]; what that means is decoded
elsewhere. Traps of its version 1.0: constraint violations are multiplied by the loss, so losses must be positive to
count; :mod:`~surgery_ir.search.strategy` tells it costs, not their logarithms.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of its dependencies, while they are imported
    import nevergrad as ng

__all__ = ["OPTIMIZER", "Optimizer"]

OPTIMIZER = "DiscreteLenglerOnePlusOne"
"""Among the best of nevergrad's at 20 to 200 evaluations of mixed problems; it takes points it did not ask for."""


class Optimizer:
    """Minimises a positive loss over [0, 1]ⁿ by asking for points and being told their losses.

    Parameters
    ----------
    start : (n,)
        Where to start.
    spread : (n,)
        Scale on which each coordinate varies.
    seed
        Seed of its draws.
    budget
        Expected number of points, which some optimisers plan with.
    name
        Name in nevergrad's registry.
    """

    def __init__(
        self,
        start: NDArray[np.float64],
        spread: NDArray[np.float64],
        seed: int,
        budget: int | None = None,
        name: str = OPTIMIZER,
    ) -> None:
        self.name = name
        array = ng.p.Array(init=np.clip(start, 0.0, 1.0))
        array.set_mutation(sigma=np.clip(spread, 1e-3, 0.3))  # wider ones would stick to the bounds
        array.set_bounds(0.0, 1.0)
        array.random_state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        with _quiet():
            self._optimizer = ng.optimizers.registry[name](array, budget=budget, num_workers=1)
        self._asked: dict[bytes, ng.p.Parameter] = {}

    def suggest(self, point: NDArray[np.float64]) -> None:
        """Have the next :meth:`ask` give this point."""
        self._optimizer.suggest(np.clip(point, 0.0, 1.0))

    def ask(self) -> NDArray[np.float64]:
        """Give a point to evaluate."""
        with _quiet():
            parameter = self._optimizer.ask()
        point = np.array(parameter.value, dtype=np.float64)
        self._asked[point.tobytes()] = parameter
        return point

    def tell(self, point: NDArray[np.float64], loss: float, violations: Sequence[float] = ()) -> None:
        """Tell the loss of a point, whether it was asked for or not, and how far it violates each constraint."""
        parameter = self._asked.pop(point.tobytes(), None)
        if parameter is None:
            parameter = self._optimizer.parametrization.spawn_child(new_value=np.clip(point, 0.0, 1.0))
        with _quiet():
            self._optimizer.tell(parameter, min(loss, 1e6), constraint_violation=list(violations) or None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence nevergrad's own advice about budgets and settings, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ng.errors.NevergradWarning)
        yield
