"""What ``compile`` and ``apply`` print when they are done, from the JSON form of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery_ir.cli.console import show, table
from surgery_ir.frontends.base import Lowered
from surgery_ir.report.text import LABELS, against, change, number, percent, quantity, ratio, score, spread

__all__ = ["show_summary"]

NAMED = 3
"""Operators that are named for each reason, and passes and layers that created connections; the report has all."""

REASONS = 8
"""Reasons that are printed; the report has all."""


def show_summary(report: Mapping[str, Any], written: Sequence[Path], lowered: Lowered | None = None) -> None:
    """Print before and after, where the model came from, what was done and left alone, and the files written."""
    before, after = report["baseline"], report["compressed"]
    rows = [
        (label, quantity(name, before[name]), quantity(name, after[name]), ratio(report["ratios"][name]))
        for name, label in LABELS.items()
        if before[name] is not None or after[name] is not None
    ]
    metric = before["metric"] or after["metric"]
    if metric:
        difference = change(before["metric"], after["metric"])
        rows.append((metric["name"], score(before["metric"]), score(after["metric"]), difference))
    show(table(["", ">before", ">after", ">ratio"], rows), "", *_origin(lowered), *_facts(report, metric))
    refusals = _refusals(report["refusals"])
    if refusals:
        show("", "Left alone:", *refusals)
    show("", *(f"wrote {path}" for path in written))


def _origin(lowered: Lowered | None) -> Iterator[str]:
    """Which framework the model was lowered from, how close it came, and how many parameters have their place."""
    if lowered is None or lowered.live is None:
        return
    bound = {name for binding in lowered.bindings for name in binding.parameters}
    apart = "" if lowered.difference is None else f", largest difference {_short(lowered.difference)} of the scale"
    yield (
        f"lowered     from {lowered.live.framework}{apart}, {number(len(bound))} parameters bound to "
        f"{number(len(lowered.bindings))} initializers"
    )


def _facts(report: Mapping[str, Any], metric: Mapping[str, Any] | None) -> Iterator[str]:
    connections, fidelity, search = report["connections"], report["fidelity"], report["search"]
    yield f"passes      {report['profile']}"
    yield (
        f"plasticity  {report['plasticity']:.3g} "
        f"({number(connections['created'])} connections created, {number(connections['pruned'])} pruned)"
    )
    yield from _created(report)
    if fidelity:
        yield (
            f"fidelity    same answer on {percent(fidelity['top1_agreement'])}, KL {_short(fidelity['kl'])}, "
            f"largest difference {_short(fidelity['max_abs'])}"
        )
    compared = against(report)
    if compared:
        yield f"latency     of {compared}"
    if metric:
        error = report["verified"].get("standard_error")
        sure = "" if error is None else f", the difference has a standard error of {spread(metric['name'], error)}"
        yield f"measured    on {number(metric['samples'])} samples{sure}"
    if search:
        ended = f", {number(search['cut_short'])} cut short" if search["cut_short"] else ""
        yield (
            f"search      {number(search['evaluated'])} candidates evaluated, {number(search['refused'])} refused, "
            f"{number(search['failed'])} failed{ended}, in {search['seconds']:.0f} s (seed {search['seed']})"
        )

    if report["verified"].get("profile_made_for_this_model") is False:
        yield "note        the profile was made for another model"
    if report["verified"].get("connections_add_up") is False:
        yield "note        what the passes logged does not add up to the change in connections"


def _created(report: Mapping[str, Any]) -> Iterator[str]:
    """Which passes created connections, and in which layers most of them are."""

    def listed(parts: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
        ordered = sorted((item for item in parts if item[1]["created"]), key=lambda item: -item[1]["created"])
        shown = [f"{name} {number(item['created'])}" for name, item in ordered[:NAMED]]
        return ", ".join(shown) + (f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else "")

    passes = listed(report["connections"]["passes"].items())
    layers = listed((item["name"], item) for item in report["layers"])
    if passes:
        yield f"created     by {passes}" + (f"; in {layers}" if layers else "")


def _short(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.3g}"


def _refusals(refusals: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each reason, the most frequent first, with a few of the operators that it concerns."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in refusals:
        groups.setdefault((item["pass"], item["reason"]), []).extend(item["nodes"])
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    lines = []
    for (name, reason), nodes in ordered[:REASONS]:
        shown = ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else "")
        lines.append(f"  {name}: {reason}" + (f" ({shown})" if shown else ""))
    if len(ordered) > REASONS:
        lines.append(f"  … and {len(ordered) - REASONS} more reasons (see --json)")
    return lines
