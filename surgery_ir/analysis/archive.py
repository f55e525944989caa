"""Read ``.npz`` archives from strangers: nothing is unpickled, nothing bigger than memory is unpacked."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.errors import DataError

__all__ = ["read_archive"]

UNREADABLE = (
    OSError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What a corrupt, encrypted or exotic archive makes zipfile and numpy raise."""


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of the archive at ``path``, by key.

    Raises
    ------
    DataError
        The file is missing, no archive, truncated, corrupt or too big, or holds Python objects.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: is not a file")
    try:
        _check_container(path)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}") from error
    arrays: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except UNREADABLE as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: {name!r} holds Python objects, which are never unpickled; save plain arrays"
            ) from error
        raise DataError(f"{path}: {name!r} cannot be read, truncated or corrupt: {_reason(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: {name!r} is not an array")
    return arrays


def _check_container(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        what = "truncated or corrupt" if zipped else "not an .npz archive (numpy.savez writes one)"
        raise DataError(f"{path}: {what}")
    with zipfile.ZipFile(path) as members:
        need = sum(member.file_size for member in members.infolist())
    if need > _memory():
        raise DataError(f"{path}: unpacks to {need / 2**30:.0f} GiB, more than this machine's memory")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
