"""The report as one HTML file: no scripts, nothing loaded from elsewhere, made from the JSON form alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from surgery_ir.report.plot import Point, balance, bar, scatter
from surgery_ir.report.text import LABELS, SHARES, UNKNOWN, against, change, number, percent, quantity, ratio, score

__all__ = ["render_html"]

STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --fill: #2f6fdb; --back: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8ec; --soft: #98a2b3; --line: #333a46; --fill: #6ea2ff; --back: #14171d; --card: #1c2129; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.25rem 0 .5rem; }
.soft, footer { color: var(--soft); }
footer { margin-top: 3rem; font-size: .85rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.tile { background: var(--card); border-radius: .6rem; padding: .7rem 1.1rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); }
.n { text-align: right; white-space: nowrap; }
pre { font: .88em ui-monospace, monospace; background: var(--card); border-radius: .6rem; padding: .8rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
svg { display: block; width: 100%; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); }
.front { fill: none; stroke: var(--fill); stroke-opacity: .35; stroke-width: 2; }
.dot { fill: var(--back); stroke: var(--fill); stroke-width: 2; }
.dot.chosen { fill: var(--fill); }
.bar { height: .6rem; width: 9rem; }
.all { fill: var(--line); }
.kept { fill: var(--fill); }
.gone { fill: var(--soft); }
"""


def render_html(report: Mapping[str, Any]) -> str:
    """Render the JSON form of a report, as :meth:`~surgery_ir.report.data.Report.to_json` gives it."""
    sections = [
        _summary(report),
        _pareto(report),
        _layers(report["layers"]),
        _passes(report),
        _plasticity(report),
        _refusals(report["refusals"]),
        _footer(report),
    ]
    title = escape(str(report["model"]))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} – surgery-ir</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    before, after = report["baseline"], report["compressed"]
    rows = []
    for name, label in LABELS.items():
        cells = [label, quantity(name, before[name]), quantity(name, after[name]), ratio(report["ratios"][name])]
        rows.append(cells)
    metric = before["metric"] or after["metric"]
    difference = change(before["metric"], after["metric"])
    if metric is not None:
        label = f"{metric['name']} on {number(metric['samples'])} samples"
        rows.append([label, score(before["metric"]), score(after["metric"]), difference])
    tiles = [
        (ratio(report["ratios"]["nonzeros"]), "fewer nonzeros"),
        (ratio(report["ratios"]["bytes"]), "smaller file"),
        (ratio(report["ratios"]["latency_ms"]), "speed"),
        (difference, metric["name"] if metric else ""),
        (f"{report['plasticity']:.3g}", "plasticity"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b>{escape(label)}</div>' for value, label in tiles if value != UNKNOWN
    )
    compared = against(report)
    note = f'<div class="soft">Latency of {escape(compared)}.</div>' if compared else ""
    return (
        f'<h1>{escape(str(report["model"]))}</h1><div class="soft">compressed by surgery-ir</div>'
        f'<div class="tiles">{shown}</div>{_table(["", "before", "after", "ratio"], rows, numeric=3)}{note}'
    )


def _pareto(report: Mapping[str, Any]) -> str:
    candidates = [item for item in report["pareto"] if item["metric"]["value"] is not None]
    names = [name for name in LABELS if candidates and all(item.get(name) is not None for item in candidates)]
    if not names:
        return ""

    def spread(name: str) -> float:
        values = [float(item[name]) for item in candidates]
        return (max(values) - min(values)) / max(max(values), 1e-12)

    name = max(names, key=spread)
    metric = candidates[0]["metric"]["name"]
    share = metric in SHARES
    points = [
        Point(
            x=100 * item[name] / (report["baseline"][name] or 1),
            y=item["metric"]["value"] * (100 if share else 1),
            label=f"{quantity(name, item[name])} {LABELS[name]}, {score(item['metric'])} {metric}\n{item['profile']}",
            chosen=item["profile"] == report["profile"],
        )
        for item in candidates
    ]
    plot = scatter(points, f"{LABELS[name]}, % of the baseline", f"{metric}, %" if share else metric)
    return f"<h2>Candidates that no other one beats, scored on the selection samples</h2>{plot}"


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for layer in layers:
        before, after = layer["baseline"], layer["compressed"]
        held = before or after
        if not held["params"] or held["macs"] == 0:
            continue
        kept = (after["nonzeros"] if after else 0) / max(item["params"] for item in (before, after) if item)
        rows.append(
            f"<tr><td>{escape(layer['name'])}</td><td>{escape(layer['op_type'])}</td>"
            f'<td class="n">{number(before["nonzeros"]) if before else "–"}</td>'
            f'<td class="n">{number(after["nonzeros"]) if after else "–"}</td>'
            f'<td class="n">{percent(kept)}</td><td>{bar(kept)}</td></tr>'
        )
    if not rows:
        return ""
    head = _header(["layer", "operator", "before", "after", "kept", ""], range(2, 5))
    return f"<h2>Nonzeros, layer by layer</h2><table>{head}{''.join(rows)}</table>"


def _passes(report: Mapping[str, Any]) -> str:
    total = report["connections"]
    rows = [
        [name, ", ".join(f"{number(count)} {kind}" for kind, count in kinds.items()), *_counts(total["passes"][name])]
        for name, kinds in report["edits"].items()
    ]
    text = f"{number(total['pruned'])} connections pruned, {number(total['created'])} created."
    names = ["pass", "edits", "pruned", "created", "plasticity"]
    profile = escape(report["profile"])
    return f"<h2>What was applied</h2><pre>{profile}</pre><p>{text}</p>{_table(names, rows, numeric=3)}"


def _plasticity(report: Mapping[str, Any]) -> str:
    """Show where connections were created, beside where they were pruned; nothing where none were."""
    total = report["connections"]
    parts = [("elsewhere", total["elsewhere"])] if any(total["elsewhere"].values()) else []
    parts = [*((layer["name"], layer) for layer in report["layers"]), *parts]
    parts = [(name, part) for name, part in parts if part["pruned"] or part["created"]]
    if not total["created"] or not parts:
        return ""
    most = max(max(part["pruned"], part["created"]) for _, part in parts)
    rows = [
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="n">{cell}</td>' for cell in _counts(part))
        + f"<td>{balance(part['pruned'] / most, part['created'] / most)}</td></tr>"
        for name, part in parts
    ]
    text = (
        "What each layer adds to the plasticity: connections created in it / all that were pruned. "
        "Upper bar: pruned; lower bar: created. Those of an added operator count for the layer that it feeds."
    )
    head = _header(["layer", "pruned", "created", "plasticity", ""], range(1, 4))
    return f"<h2>Plasticity, layer by layer</h2><p>{text}</p><table>{head}{''.join(rows)}</table>"


def _counts(part: Mapping[str, Any]) -> list[str]:
    return [number(part["pruned"]), number(part["created"]), f"{part['plasticity']:.3g}"]


def _refusals(refusals: Sequence[Mapping[str, Any]]) -> str:
    if not refusals:
        return ""
    rows = [[item["pass"], item["reason"], ", ".join(item["nodes"]) or "the whole graph"] for item in refusals]
    return f"<h2>What was left alone, and why</h2>{_table(['pass', 'reason', 'nodes'], rows)}"


def _footer(report: Mapping[str, Any]) -> str:
    search = report["search"]
    parts = [f"{name} {version}" for name, version in report["versions"].items()]
    if search:
        how = f"by {search['optimizer']}, seed {search['seed']}"
        parts.insert(0, f"{number(search['evaluated'])} candidates evaluated in {search['seconds']:.0f} s {how}")
    return f"<footer>{escape(' · '.join(parts))}</footer>"


def _header(names: Sequence[str], numeric: Iterable[int]) -> str:
    right = set(numeric)
    return (
        "<tr>"
        + "".join(
            f'<th class="n">{escape(name)}</th>' if i in right else f"<th>{escape(name)}</th>"
            for i, name in enumerate(names)
        )
        + "</tr>"
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], numeric: int = 0) -> str:
    """Write a table; its last ``numeric`` columns are aligned to the right."""
    right = range(len(names) - numeric, len(names))
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{escape(cell)}</td>' if i in right else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table>{_header(names, right)}{body}</table>"
