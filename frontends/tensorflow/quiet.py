"""TensorFlow and tf2onnx talk a lot; what they say while a model is lowered is nobody's business."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from surgery_ir.frontends.extras import need

__all__ = ["need_tensorflow", "quiet"]

LOGGERS = ("absl", "keras", "tensorflow", "tf2onnx")
NEVER = logging.CRITICAL + 1

EXTRA = "tensorflow"


def need_tensorflow(what: str, *modules: str) -> None:
    """Import TensorFlow and ``modules`` without a word from them, for reading ``what``.

    Raises
    ------
    ModelError
        One is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        for module in ("tensorflow", *modules):
            need(module, EXTRA, what)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings, logs and prints back, also what libraries in C++ write to the file of standard error."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), _without_stderr():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(NEVER)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
