"""``surgery-ir passes``: every pass, its options, ranges and defaults; plug-ins included."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from surgery_ir.cli.console import show, table
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.errors import SpecError
from surgery_ir.passes.options import Option, options_of
from surgery_ir.passes.registry import builtin_passes, plugin_passes

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Print the passes."""
    described = [_describe(cls, "built in") for cls in builtin_passes().values()]
    broken = []
    for cls in plugin_passes().values():
        if isinstance(cls, SpecError):
            broken.append(str(cls))
        else:
            described.append(_describe(cls, "plug-in"))
    if options.json:
        print(json_bytes({"passes": described, "broken": broken}).decode(), end="")
        return 0
    for item in described:
        notes = [item["origin"]] if item["origin"] != "built in" else []
        notes += ["needs --data"] if item["needs_samples"] else []
        notes += ["runs Python code"] if item["runs_code"] else []
        show(f"{item['name']}  ({', '.join(notes)})" if notes else item["name"], f"  {item['summary']}")
        if item["options"]:
            rows = [
                (f"  {option['name']}", option["values"], _default(option), option["help"])
                for option in item["options"]
            ]
            show(table(["  option", "values", "default", "meaning"], rows))
        print()
    show(*broken)
    return 0


def _describe(cls: Any, origin: str) -> dict[str, Any]:
    return {
        "name": cls.name,
        "summary": " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split()),
        "origin": origin,
        "needs_samples": cls.needs_samples,
        "runs_code": cls.runs_code,
        "options": [_option(option) for option in options_of(cls)],
    }


def _option(option: Option) -> dict[str, Any]:
    span = option.range
    default = option.default
    return {
        "name": option.name,
        "kind": option.kind,
        "values": option.describe(),
        "choices": list(option.choices),
        "range": [span.low, span.high] if span else None,
        "search": list(span.search) if span and span.search else None,
        "required": option.required,
        "default": dict(default) if isinstance(default, Mapping) else default,
        "help": option.help,
    }


def _default(option: Mapping[str, Any]) -> str:
    default = option["default"]
    if option["required"]:
        return "required"
    if isinstance(default, bool):
        return str(default).lower()
    if default is None or default == {}:
        return "none"
    return f"{default:g}" if isinstance(default, float) else str(default)
