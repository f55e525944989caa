"""Models that commands look at without changing them."""

from __future__ import annotations

import argparse
from pathlib import Path

from surgery_ir.analysis.runtime import Runtime
from surgery_ir.cli.console import progress
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.load import is_onnx, load_model
from surgery_ir.search.dealing import example_inputs

__all__ = ["lower"]


def lower(model: Path, options: argparse.Namespace, runtime: Runtime) -> Lowered:
    """Read ``model``; what is not ONNX is lowered, with the first samples of ``--data`` as its example inputs.

    Raises
    ------
    ModelError
        It cannot be read, or needs example inputs and has none.
    DataError
        The samples cannot be read.
    """
    if is_onnx(model):
        return load_model(model)
    example = None if options.data is None else example_inputs(options.data, options.labels)
    with progress("lowering"):
        return load_model(model, Request(runtime, example, trust=options.trust))
