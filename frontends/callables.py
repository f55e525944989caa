"""Models that Python code makes: ``package.module:name`` stands for a function that gives one, or for the model."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Lowered, Request, installed

__all__ = ["PythonName"]

NOT_THE_USERS = ("<frozen ", *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")))
"""How names of files begin that hold code which the user did not write."""

MISSING = object()


class PythonName:
    """Reads what a name such as ``nets.small:create`` stands for.

    The module is imported, looked for in the present folder first, as ``python -m`` does. What it holds under the name
    is a model, or is called without arguments and gives one, or a pair of one and example inputs. To name code is the
    wish to run it, so that no trust is asked for. What it prints goes to stderr.
    """

    reads = "package.module:function"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is two dotted names with a colon between them, and no path, drives included."""
        if not isinstance(source, str | Path):
            return False
        module, colon, name = str(source).partition(":")
        parts = (*module.split("."), *name.split("."))
        is_name = bool(colon) and all(part.isidentifier() for part in parts)
        return is_name and not Path(source).drive and not Path(source).exists()

    def load(self, source: object, request: Request) -> Lowered:
        """Import the module, call the function, and lower what it gives.

        Example inputs of the request, which come from the user's data, take precedence over the function's.

        Raises
        ------
        ModelError
            There is no such module or name in it, its code fails, or what it gives is no model.
        """
        from surgery_ir.frontends.load import load_model  # it has this class in its table

        where = str(source)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the module may import TensorFlow, which tells of itself
        with _present_folder_first(), redirect_stdout(sys.stderr):
            found = _look_up(where)
            if _is_function(found) and not self._is_model(found):
                found = _guarded(where, found)
        if isinstance(found, tuple) and len(found) == 2 and not self._is_model(found):
            found, example = found
            if request.example_inputs is None:
                request = replace(request, example_inputs=example)
        if not self._is_model(found):
            raise ModelError(f"{where}: is or gives {_kind(found)}, which cannot be read as a model")
        return load_model(found, request)

    def _is_model(self, found: object) -> bool:
        """Whether a frontend takes ``found``. A further name is no model; plug-ins are not asked about functions."""
        from surgery_ir.frontends.load import BUILT_IN

        if self.accepts(found):
            return False
        if any(frontend.accepts(found) for frontend in BUILT_IN):
            return True
        if _is_function(found) or isinstance(found, tuple):
            return False
        return any(frontend.accepts(found) for frontend in installed())


def _is_function(found: object) -> bool:
    """Whether ``found`` is to be called: a function, a class, or what functools makes of one."""
    wrapped = isinstance(found, partial) or hasattr(found, "__wrapped__")
    return inspect.isroutine(found) or inspect.isclass(found) or wrapped


@contextmanager
def _present_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _look_up(where: str) -> Any:
    """Give what is called ``where``.

    Raises
    ------
    ModelError
        There is no such thing, or importing the module fails.
    """
    module, _, name = where.partition(":")
    try:
        found = _guarded(where, import_module, module)
    except ModelError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):  # else it is an import of the module's own
            raise
        raise ModelError(f"{where}: there is no module {missing!r}, neither in {Path.cwd()} nor installed") from cause
    reached = module
    for part in name.split("."):
        found = _guarded(where, getattr, found, part, MISSING)
        if found is MISSING:
            raise ModelError(f"{where}: {reached} has no {part!r}")
        reached += f".{part}"
    return found


def _guarded(where: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call what may raise anything.

    Raises
    ------
    ModelError
        It raised; the message says what, and in which line.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # a script without a main guard exits
        text = " ".join(str(error).split())
        raise ModelError(f"{where}: {type(error).__name__}{text and ': '}{text}{_line(error)}") from error


def _line(error: BaseException) -> str:
    """File and line of the user's code that ``error`` came from."""
    if isinstance(error, SyntaxError):
        return ""  # its own text says where
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    theirs = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)] or frames
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""


def _kind(found: object) -> str:
    if isinstance(found, str | Path):
        return repr(str(found))
    kind = type(found)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
