"""The files and the summary of ``compile`` and ``apply``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from surgery_ir.cli.outputs import check_outputs, json_bytes, write_bytes, write_outputs
from surgery_ir.cli.summary import show_summary
from surgery_ir.compiler import Result
from surgery_ir.report import render_html

__all__ = ["check_paths", "write_result"]

INPUTS = {"MODEL": "model", "--data": "data", "--selection-data": "selection_data", "--eval-data": "eval_data"}
"""Files that must not be overwritten. A policy may: learning goes on in the same file."""

OUTPUTS = {
    "-o": "out",
    "--json": "json",
    "--report": "report",
    "--profile-out": "profile_out",
    "--policy-out": "policy_out",
}


def check_paths(options: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, before any work is done.

    Raises
    ------
    OutputError
        One cannot be, or would overwrite an input or another output.
    """
    check_outputs(
        {option: getattr(options, name, None) for option, name in OUTPUTS.items()},
        {option: getattr(options, name, None) for option, name in INPUTS.items()},
    )


def write_result(result: Result, options: argparse.Namespace) -> None:
    """Write the model and the files that were asked for, all or none, and print the summary.

    Raises
    ------
    OutputError
        A file cannot be written; nothing was replaced.
    """
    report = result.report.to_json()
    files: dict[Path, Callable[[Path], None]] = {}
    if options.json is not None:
        files[options.json] = write_bytes(json_bytes(report))
    if options.report is not None:
        files[options.report] = write_bytes(render_html(report).encode())
    if getattr(options, "profile_out", None) is not None:
        files[options.profile_out] = result.profile.write
    if getattr(options, "policy_out", None) is not None and result.policy is not None:
        files[options.policy_out] = result.policy.write
    write_outputs(files, lambda: result.save(options.out))
    show_summary(report, [options.out, *files], result.lowered)
