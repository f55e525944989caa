"""A candidate: a profile that was applied and evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from surgery_ir.search.goal import Goal

__all__ = ["Candidate", "pareto_front"]

Numbers = Mapping[str, float]


def _none() -> Numbers:
    return MappingProxyType({})


@dataclass(frozen=True)
class Candidate:
    """What is known of a compression profile after it was tried.

    Parameters
    ----------
    profile
        Its passes in text form.
    passes
        Number of them.
    quantities
        What it costs by quantity: ``nonzeros``, ``params``, ``size`` in bytes, ``macs``, ``latency`` in ms; those
        that are not known are absent.
    shares
        The same relative to the baseline.
    metric
        Value of the metric on the selection samples that were used.
    drop, error
        The baseline's metric minus the candidate's, and the standard error of that paired difference.
    divergence
        Distance of the outputs from the dense model's, see :class:`~surgery_ir.analysis.fidelity.Divergence`.
    samples
        Selection samples used.
    complete
        Whether that was all of them; otherwise scoring stopped early because the candidate cannot win.
    pruned, created, plasticity
        From the edit log.
    changed
        Whether any pass but the exact ones that every profile starts with changed anything.
    refused
        Whether a pass of it changed nothing.
    density
        Share of nonzeros among the weights that a layer has left, by layer.
    failure
        Why it could not be applied or evaluated; empty where it could.
    seconds
        Time it took, not counting what other candidates had done already.
    """

    profile: str
    passes: int = 0
    quantities: Numbers = field(default_factory=_none)
    shares: Numbers = field(default_factory=_none)
    metric: float = 0.0
    drop: float = 0.0
    error: float = 0.0
    divergence: float = 0.0
    samples: int = 0
    complete: bool = False
    pruned: int = 0
    created: int = 0
    plasticity: float = 0.0
    changed: bool = False
    refused: bool = False
    density: Numbers = field(default_factory=_none)
    failure: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def bound(self) -> float:
        """The drop with its safety margin of one standard error."""
        return self.drop + self.error

    def excesses(self, goal: Goal) -> tuple[float, ...]:
        """How far each constraint of ``goal`` is exceeded, the drop first."""
        return goal.excesses({**self.shares, "plasticity": self.plasticity}, self.bound)

    def feasible(self, goal: Goal) -> bool:
        """Whether it was fully evaluated and meets every constraint."""
        return not self.failure and self.complete and not any(self.excesses(goal))

    def overdone(self, goal: Goal) -> bool:
        """Whether it is too strong for ``goal``, rather than too weak.

        Where scoring stopped early, because a target is missed, the drop is judged without its margin, which so few
        samples make wide.
        """
        return bool(self.failure) or goal.overdone(self.shares, self.bound if self.complete else self.drop)

    def cost(self, goal: Goal) -> float:
        """What is to be minimised, as a share of the baseline; 1 where it is not known."""
        return self.shares.get(goal.minimize, 1.0)

    def to_plain(self) -> dict[str, Any]:
        """Give plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Candidate:
        """Read what :meth:`to_plain` gave.

        Raises
        ------
        TypeError
            A field is unknown or missing.
        """
        return cls(**plain)

    def __str__(self) -> str:
        if self.failure:
            return f"{self.profile}: failed: {self.failure}"
        costs = ", ".join(f"{name} {value:.3g}" for name, value in self.shares.items())
        return f"{self.profile}: drop {self.drop:.4f} ± {self.error:.4f}, {costs}, plasticity {self.plasticity:.3g}"


def pareto_front(candidates: Sequence[Candidate], goal: Goal | None = None) -> list[Candidate]:
    """Give the fully evaluated candidates that no other one beats in the metric and every cost.

    Those that are equal in all of these are told apart by plasticity, of which more is better. Where ``goal`` has a
    target for it, plasticity is an objective like the others: what is more plastic than everything that is cheaper or
    better stays. (Everywhere else that would keep whatever happened to create a connection more.)
    """
    complete = [item for item in candidates if item.complete and not item.failure]
    plastic = goal is not None and any(target.quantity == "plasticity" for target in goal.targets)
    return [item for item in complete if not any(_beats(other, item, plastic) for other in complete)]


def _beats(one: Candidate, other: Candidate, plastic: bool) -> bool:
    """Whether ``one`` is nowhere worse than ``other``, and better somewhere."""
    pairs = [(one.metric, other.metric)]
    pairs += [(-one.quantities[name], -value) for name, value in other.quantities.items() if name in one.quantities]
    if plastic or all(a == b for a, b in pairs):
        pairs.append((one.plasticity, other.plasticity))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
