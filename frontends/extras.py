"""Frameworks are imported only when a model of theirs is given."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from surgery_ir.errors import ModelError

__all__ = ["need"]


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import ``module``, which reading ``what`` takes.

    Raises
    ------
    ModelError
        It is not installed; the message names the extra that brings it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells of itself on importing
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{what} needs {error.name or module}, which is not installed: pip install 'surgery-ir[{extra}]'"
        ) from error
