"""Models that commands look at without changing them."""

from __future__ import annotations

import argparse
from pathlib import Path

from surgery_ir.analysis.runtime import Runtime
from surgery_ir.cli.console import progress
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.load import is_onnx, load_model
from surgery_ir.search.lowering import lower as lower_on_samples

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
    if is_onnx(model):  # which takes no time to speak of
        return load_model(model)
    with progress("lowering"):
        return lower_on_samples(model, Request(runtime, trust=options.trust), options.data, options.labels)
