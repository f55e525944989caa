"""``surgery-ir compile``: search passes that make a model smaller, and write the best model found."""

from __future__ import annotations

import argparse

from surgery_ir import compiler
from surgery_ir.cli.console import progress, show, table
from surgery_ir.cli.results import check_paths, write_result
from surgery_ir.errors import ConstraintError
from surgery_ir.report.text import UNKNOWN
from surgery_ir.search.candidate import Candidate
from surgery_ir.search.goal import Goal, Target
from surgery_ir.search.policy import SearchPolicy

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Search, write what was found, and print before and after."""
    check_paths(options)
    goal = Goal(options.minimize, options.max_drop, tuple(Target.parse(text) for text in options.target))
    policy = None if options.policy is None else SearchPolicy.read(options.policy)
    try:
        result = _compile(options, goal, policy)
    except ConstraintError as error:
        _show_closest(error)
        raise
    write_result(result, options)
    return 0


def _compile(options: argparse.Namespace, goal: Goal, policy: SearchPolicy | None) -> compiler.Result:
    with progress("loading") as callback:
        return compiler.compile(
            options.model,
            options.data,
            goal,
            labels=options.labels,
            selection_data=options.selection_data,
            eval_data=options.eval_data,
            metric=options.metric,
            budget=options.budget,
            time_limit=options.time_limit,
            passes=options.passes,
            policy=policy,
            seed=options.seed,
            provider=options.provider,
            workers=options.workers,
            study=options.study,
            progress=callback,
            trust=options.trust,
        )


def _show_closest(error: ConstraintError) -> None:
    candidates = [item for item in error.closest if isinstance(item, Candidate)]
    names = list(dict.fromkeys(name for item in candidates for name in item.shares))
    rows = [
        (
            item.profile,
            f"{item.drop + 0.0:.4f} ± {item.error:.4f}",
            *(f"{item.shares[name]:.3f}" if name in item.shares else UNKNOWN for name in names),
            f"{item.plasticity:.3g}",
        )
        for item in candidates
    ]
    if rows:
        columns = ["passes", ">drop", *(f">{name}" for name in names), ">plasticity"]
        show("Closest candidates, costs as shares of the original:", "", table(columns, rows))
