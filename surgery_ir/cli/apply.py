"""``surgery-ir apply``: apply given passes, or a profile that compile wrote."""

from __future__ import annotations

import argparse

from surgery_ir import compiler
from surgery_ir.cli.console import progress
from surgery_ir.cli.results import check_paths, write_result
from surgery_ir.passes.spec import parse_pipeline
from surgery_ir.search.profile import CompressionProfile

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Apply the passes, write the model, and print before and after."""
    check_paths(options)
    if options.profile is not None:
        passes = CompressionProfile.read(options.profile, trust=options.trust)
    else:
        passes = CompressionProfile(parse_pipeline(options.passes), options.seed)
    with progress("loading") as callback:
        result = compiler.apply(
            options.model,
            passes,
            options.data,
            labels=options.labels,
            selection_data=options.selection_data,
            eval_data=options.eval_data,
            metric=options.metric,
            seed=options.seed,
            provider=options.provider,
            progress=callback,
            trust=options.trust,
        )
    write_result(result, options)
    return 0
