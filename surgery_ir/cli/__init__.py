"""The command ``surgery-ir``: parses, dispatches, and turns every failure into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from surgery_ir.cli.parser import build_parser
from surgery_ir.errors import ConstraintError, SurgeryError

__all__ = ["main"]

ERROR, UNMET, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 3, 130, 141, 143
DEBUG = "SURGERY_IR_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 done; 1 error, one line on stderr and nothing written; 2 usage; 3 the constraints could not be met, nothing
        written; 130, 141 and 143 where the user, the reader of a pipe or the system ended it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help or the usage error
        return stop.code if isinstance(stop.code, int) else ERROR
    # What a caller names as module:function may lie in the present folder; last, so that it can replace nothing.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with _terminable():
        return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    try:
        status: int = import_module(f"surgery_ir.cli.{options.command}").run(options)
        sys.stdout.flush()
    except ConstraintError as error:
        return _fail(str(error), UNMET)
    except SurgeryError as error:
        return _fail(str(error), ERROR)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except _Terminated:
        return _fail("terminated", TERMINATED)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError:
        return _fail("out of memory", ERROR)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), ERROR)
    except Exception as error:  # noqa: BLE001 - a bug of ours must not look like a crash of the shell's
        return _fail(
            f"internal error, please report it: {type(error).__name__}: {error} ({DEBUG}=1 shows where)", ERROR
        )
    return status


def _fail(message: str, status: int) -> int:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


class _Terminated(BaseException):
    """SIGTERM arrived; raised so that temporary files are removed on the way out."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever runs us there deals with signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
