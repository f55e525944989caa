"""The passes that a search chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import options_of
from surgery_ir.passes.registry import builtin_passes
from surgery_ir.passes.spec import create, parse_pipeline, plain_options
from surgery_ir.search.goal import Goal

__all__ = ["COVERS", "METRIC", "PROLOGUE", "budgets", "default_pool", "patterns", "read_pool", "weight_units"]

PROLOGUE: tuple[str, ...] = ("canonicalize",)
"""Passes that every profile starts with. They are exact."""

ORDER = ("prune", "reconnect", "repair", "quantize", "cleanup")
"""Natural order of the passes, by the folder they live in."""

COARSE = ("drop-layers",)
"""Passes that come first in their folder: those that follow then keep within what is asked for, whatever these do.

For a target alone, the others will do.
"""

EXACT = ("macs", "params")
"""Budgets that are kept exactly, so that a pass which serves nothing but a target can be set to it."""

REPAIR = "repair"

RECONNECT = "reconnect"
"""The folder of what creates connections, and the pass that does all of it; the others have to be asked for."""

COVERS: Mapping[str, frozenset[str]] = MappingProxyType({RECONNECT: frozenset({REPAIR})})
"""Passes that do the work of others as well, by name. A search starts without them and tries them instead."""

METRIC = "metric"
"""What every goal limits the drop of."""

ZEROS = "nonzeros"
"""The quantity that passes serve which set weights to zero; in a runtime that skips zeros, they serve latency too."""

PATTERN = "pattern"
"""The option of such a pass that says which weights go together."""

BUDGETS: Mapping[str, Sequence[str]] = {
    "latency": ("latency", "macs"),
    "macs": ("macs", "params"),
    "params": ("params", "macs"),
    "size": ("params", "macs"),
    "nonzeros": ("params", "macs"),
}
"""By what a goal is about: options that say how much of it a pass keeps, or come close to that."""

ALIGNED = 8
"""Widths are multiples of this where nothing is timed, so that the result does not depend on the machine."""


def default_pool(goal: Goal, sparse_speedup: bool = False) -> tuple[Pass, ...]:
    """Give every built-in pass that serves the goal and that a search can set up by itself, in natural order.

    Those that run code or have options without a default are left out, and so are passes for a single kind of
    reconnection, all of which ``reconnect`` does. One that is there for a target only is set to that, where it has the
    option. Where the runtime has a ``sparse_speedup``, what makes zeros serves latency.
    """
    wanted = {METRIC, *_quantities(goal)}
    if sparse_speedup and goal.needs_latency:
        wanted.add(ZEROS)
    chosen = [
        cls
        for name, cls in builtin_passes().items()
        if name not in PROLOGUE
        and (goal.minimize in cls.serves if name in COARSE else wanted & cls.serves)
        and (_folder(cls) != RECONNECT or name == RECONNECT)
        and not cls.runs_code
        and not any(option.required for option in options_of(cls))
    ]
    return _settle([create(cls.name, _aim(cls, goal)) for cls in sorted(chosen, key=_place)], goal)


def read_pool(text: str, goal: Goal) -> tuple[Pass, ...]:
    """Read a pool from its text form, whose order is the natural one. Options that it names are not searched.

    What is repeated in it may be applied so many times.

    Raises
    ------
    SpecError
        It is malformed.
    """
    return _settle([item for item in parse_pipeline(text) if item.name not in PROLOGUE], goal)


def patterns(goal: Goal, preferred: Sequence[str]) -> dict[str, Sequence[str]]:
    """Give the options that are texts and what a search tries for them: patterns that the runtime prefers.

    They cost accuracy and gain nothing but time, so that they are tried only where that counts.
    """
    return {PATTERN: tuple(preferred)} if preferred and goal.needs_latency else {}


def budgets(goal: Goal) -> Callable[[Pass], tuple[str, ...]]:
    """Tell for a pass which options a search should set its strength with, the best first."""

    def options(item: Pass) -> tuple[str, ...]:
        served = [name for name in _quantities(goal) if name in item.serves] or _quantities(goal)
        return tuple(dict.fromkeys(option for name in served for option in BUDGETS.get(name, ())))

    return options


def _quantities(goal: Goal) -> list[str]:
    """What a goal is about, the most important first."""
    return [goal.minimize, *(target.quantity for target in goal.targets)]


def weight_units(graph: Graph) -> dict[str, int]:
    """Name the layers whose ratios are worth searching, with their number of weights: all but first and last."""
    found = find_layers(graph)
    ends = found.first | found.last
    return {layer.name: layer.size for layer in found if layer.name not in ends and not layer.sharers}


def _aim(cls: type[Pass], goal: Goal) -> dict[str, object]:
    """Budgets of a pass that are targets; none where it serves what is minimised, and must be searched."""
    if goal.minimize in cls.serves:
        return {}
    options = {option.name for option in options_of(cls)}
    bounds = [item for item in goal.targets if item.quantity in EXACT and item.quantity in options]
    bounds = [item for item in bounds if item.relation == "<=" and 0.0 < item.value < 1.0]
    return {item.quantity: item.value for item in sorted(bounds, key=lambda item: -item.value)}


def _settle(passes: Sequence[Pass], goal: Goal) -> tuple[Pass, ...]:
    """Decide what need not be searched.

    Repair and reconnection re-solve what pruning would have re-solved, where they follow. Widths are rounded to what
    was measured to be quick only where time counts.
    """
    settled: dict[str, object] = {}
    if any(item.name in (REPAIR, RECONNECT) for item in passes):
        settled["compensate"] = False
    if not goal.needs_latency:
        settled["multiple"] = ALIGNED
    found = []
    for item in passes:
        own = {option.name for option in options_of(type(item))}
        known = {name: value for name, value in settled.items() if name in own}
        found.append(create(item.name, {**known, **plain_options(item)}))
    return tuple(found)


def _folder(cls: type[Pass]) -> str:
    return cls.__module__.removeprefix("surgery_ir.passes.").split(".")[0]


def _place(cls: type[Pass]) -> tuple[int, bool]:
    folder = _folder(cls)
    return ORDER.index(folder) if folder in ORDER else len(ORDER), cls.name not in COARSE
