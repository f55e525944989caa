"""The files that a command writes: all of them or none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgery_ir.errors import OutputError
from surgery_ir.graph.serialize import atomic_output

__all__ = ["check_outputs", "json_bytes", "write_bytes", "write_outputs"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse, before any work is done, outputs that cannot be written or would destroy an input.

    Parameters
    ----------
    outputs, inputs
        Paths by the name of their option.

    Raises
    ------
    OutputError
        A folder does not exist or may not be written, an output is a folder, or two paths are the same file.
    """
    seen = {path.resolve(): f"{option} {path}" for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        where = f"{option} {path}"
        parent = path.parent
        if not parent.is_dir():
            raise OutputError(f"{where}: the folder {str(parent)!r} does not exist")
        if path.is_dir():
            raise OutputError(f"{where}: is a folder")
        if not os.access(parent, os.W_OK):
            raise OutputError(f"{where}: the folder {str(parent)!r} may not be written")
        other = seen.setdefault(path.resolve(), where)
        if other is not where:
            raise OutputError(f"{where}: is the same file as {other}")


def write_outputs(files: Mapping[Path, Callable[[Path], None]], write_model: Callable[[], None]) -> None:
    """Write ``files`` and the model, together: if anything fails, every file stays as it was.

    The files are on disk under temporary names before the model, the biggest, is written, and take their names after
    it.

    Parameters
    ----------
    files
        What writes each file, given where.
    write_model
        Writes the model, atomically.

    Raises
    ------
    OutputError
        A file cannot be written; nothing was replaced.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            staged[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                write(staged[path])
            except OutputError as error:
                raise OutputError(str(error).replace(str(staged[path]), str(path))) from error
        write_model()
        for path, temporary in staged.items():
            os.replace(temporary, path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def write_bytes(data: bytes) -> Callable[[Path], None]:
    """Make a writer of ``data`` for :func:`write_outputs`."""

    def write(path: Path) -> None:
        with atomic_output(path) as file:
            file.write(data)

    return write


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Encode strict JSON, indented, ending in a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
