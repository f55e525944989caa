"""The passes that a search chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery_ir.analysis.layers import find_layers
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import options_of
from surgery_ir.passes.registry import builtin_passes
from surgery_ir.passes.spec import create, parse_pipeline, plain_options
from surgery_ir.search.goal import Goal

__all__ = ["PROLOGUE", "default_pool", "read_pool", "weight_units"]

PROLOGUE: tuple[str, ...] = ("canonicalize",)
"""Passes that every profile starts with. They are exact."""

ORDER = ("prune", "reconnect", "repair", "quantize", "cleanup")
"""Natural order of the passes, by the folder they live in."""

SIZE_ONLY = ("store-sparse",)
"""Passes that change how a model is stored, and nothing else."""

SETTLED: Mapping[str, Mapping[str, object]] = {"prune-weights": {"compensate": False}}
"""Options that a search need not decide: repair follows, and re-solves what pruning would have re-solved."""


def default_pool(goal: Goal) -> tuple[Pass, ...]:
    """Give every built-in pass that a search can set up by itself, in natural order.

    Those that run code or have options without a default are left out; ``store-sparse`` is in where bytes count.
    """
    sizes = goal.minimize == "size" or any(target.quantity == "size" for target in goal.targets)
    chosen = [
        cls
        for name, cls in builtin_passes().items()
        if name not in PROLOGUE
        and not cls.runs_code
        and not any(option.required for option in options_of(cls))
        and (sizes or name not in SIZE_ONLY)
    ]
    return _settle([create(cls.name, {}) for cls in sorted(chosen, key=_place)])


def read_pool(text: str) -> tuple[Pass, ...]:
    """Read a pool from its text form, whose order is the natural one. Options that it names are not searched.

    Raises
    ------
    SpecError
        It is malformed.
    """
    return _settle([item for item in parse_pipeline(text) if item.name not in PROLOGUE])


def weight_units(graph: Graph) -> dict[str, int]:
    """Name the layers whose ratios are worth searching, with their number of weights: all but first and last."""
    found = find_layers(graph)
    ends = found.first | found.last
    return {layer.name: layer.size for layer in found if layer.name not in ends and not layer.sharers}


def _settle(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """Decide what repair makes irrelevant, where it is in the pool."""
    if not any(_folder(type(item)) == "repair" for item in passes):
        return tuple(passes)
    return tuple(create(item.name, {**SETTLED.get(item.name, {}), **plain_options(item)}) for item in passes)


def _folder(cls: type[Pass]) -> str:
    return cls.__module__.removeprefix("surgery_ir.passes.").split(".")[0]


def _place(cls: type[Pass]) -> int:
    folder = _folder(cls)
    return ORDER.index(folder) if folder in ORDER else len(ORDER)
