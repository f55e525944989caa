"""Plain values in YAML files: how profiles and policies are stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from surgery_ir.errors import SpecError
from surgery_ir.graph.serialize import atomic_output

__all__ = ["check_fields", "read_yaml", "write_yaml"]


def check_fields(plain: object, where: str, kind: str, version: int, known: set[str]) -> dict[str, Any]:
    """Check that plain values are a mapping of a kind, in a format that is understood, without unknown fields.

    Raises
    ------
    SpecError
        They are not.
    """
    if not isinstance(plain, dict) or kind not in plain:
        raise SpecError(f"{where}: not a {kind.removeprefix('surgery-ir ')} of surgery-ir")
    if plain[kind] != version:
        raise SpecError(f"{where}: format {plain[kind]!r} is not known, this version reads format {version}")
    unknown = [str(key) for key in plain if key != kind and key not in known]
    if unknown:
        raise SpecError(f"{where}: unknown fields {', '.join(unknown)}")
    return plain


def read_yaml(path: str | os.PathLike[str]) -> object:
    """Read a YAML file; nothing in it is executed.

    Raises
    ------
    SpecError
        It is missing, or not YAML.
    """
    path = Path(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def write_yaml(plain: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write plain values as YAML, atomically and in their order.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text = yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True, width=120)
    with atomic_output(Path(path)) as file:
        file.write(text.encode())
