"""What ``surgery-ir explain`` says of units: groups, what they save, and which are frozen by whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.products import Monomial, evaluate, macs_polynomial, params_polynomial
from surgery_ir.cli.console import show, table
from surgery_ir.graph.model import Graph
from surgery_ir.passes.coupled import BATCH
from surgery_ir.passes.prune.kinds import is_heads, is_width
from surgery_ir.report.text import number, percent

__all__ = ["describe", "print_structure", "structure"]


def structure(graph: Graph, coupling: Coupling) -> dict[str, list[dict[str, Any]]]:
    """Describe groups and frozen units in plain values.

    Parameters
    ----------
    graph
        The graph.
    coupling
        Its groups.

    Returns
    -------
    dict
        ``groups`` with what one unit saves while all others stay, and ``frozen`` with the operator that forbids a cut.
    """
    macs, params = macs_polynomial(graph, coupling), params_polynomial(graph, coupling)
    groups = [
        {
            "name": group.name,
            "kind": _kind(graph, group),
            "units": group.units,
            "width": (group.written or group.read)[0].indices.shape[1],
            "macs_per_unit": round(_saved(macs, coupling, index) / BATCH),
            "params_per_unit": round(_saved(params, coupling, index)),
            "share_of_macs": _share(macs, coupling, index),
            "written_by": _readers(graph, [span.axis.value for span in group.written]),
            "read_by": _readers(graph, [span.axis.value for span in group.read]),
        }
        for index, group in enumerate(coupling.groups)
    ]
    frozen = [
        {
            "name": item.name,
            "units": item.units,
            "operator": item.frost.node,
            "op_type": item.frost.op_type,
            "reason": item.frost.reason,
        }
        for item in coupling.frozen
    ]
    return {"groups": groups, "frozen": frozen}


def print_structure(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print groups and frozen units as tables."""
    groups, frozen = found["groups"], found["frozen"]
    show(f"{len(groups)} of {len(groups) + len(frozen)} groups of units can be cut.")
    if groups:
        rows = [
            (
                item["name"],
                item["kind"],
                number(item["units"]) + (f" × {item['width']}" if item["width"] > 1 else ""),
                number(item["macs_per_unit"]),
                number(item["params_per_unit"]),
                percent(item["share_of_macs"]),
                ", ".join(item["read_by"]) or "–",
            )
            for item in groups
        ]
        heads = ["group", "units are", ">units", ">MACs/unit", ">params/unit", ">of all MACs", "read by"]
        show("", table(heads, rows))
    if frozen:
        left = [(item["name"], number(item["units"]), describe(item)) for item in frozen]
        show("", "Frozen:", table(["written by", ">units", "because"], left))


def _kind(graph: Graph, group: Group) -> str:
    if is_heads(graph, group):
        return "heads"
    return "neurons" if is_width(graph, group) else "channels"


def describe(item: dict[str, Any]) -> str:
    """Say why frozen units are frozen."""
    return f"{item['op_type']} {item['operator']!r} {item['reason']}" if item["operator"] else str(item["reason"])


def _saved(polynomial: Sequence[Monomial], coupling: Coupling, index: int) -> float:
    """What one unit of group ``index`` less saves."""
    units = [group.units for group in coupling.groups]
    whole = [item for item in polynomial if index in item.groups]
    less = [count - (place == index) for place, count in enumerate(units)]
    return evaluate(whole, units) - evaluate(whole, less)


def _share(polynomial: Sequence[Monomial], coupling: Coupling, index: int) -> float:
    """Share of everything that depends on group ``index``."""
    units = [group.units for group in coupling.groups]
    total = evaluate(polynomial, units)
    return evaluate([item for item in polynomial if index in item.groups], units) / total if total else 0.0


def _readers(graph: Graph, weights: Sequence[str]) -> list[str]:
    names = [use.node.name or "" for weight in weights for use in graph.initializers[weight].uses()]
    return list(dict.fromkeys(names))
