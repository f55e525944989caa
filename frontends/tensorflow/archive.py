"""Read ``.keras`` files without running anything that a stranger may have put there.

A file is an archive of a description in JSON and of weights. The description names classes and functions to call,
and may hold Python code. Keras itself refuses code (``safe_mode``); here the description is read first, and refused
unless all that it names is Keras' own or was registered by the running program.
"""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError
from surgery_ir.frontends.tensorflow.quiet import quiet
from surgery_ir.frontends.tensorflow.signature import one_line

__all__ = ["read_archive"]

DESCRIPTION = "config.json"

LARGEST = 1 << 28
"""Bytes of a description; that of a model of a thousand layers has a few millions."""

OWN = re.compile(
    r"keras\.(activations|constraints|dtype_policies|initializers|layers|models|ops|quantizers|random|regularizers)"
    r"(\.\w+)*|keras|keras\.src\.(activations|constraints|dtype_policies|initializers|layers|models|ops|quantizers"
    r"|random|regularizers|backend\.\w+)(\.\w+)*"
)
"""Modules of Keras that hold what models are made of."""

PLAIN = frozenset(("__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"))
CODE = frozenset(("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"))
"""Keras' own classes that run what the file, or another file, says."""


@dataclass(frozen=True)
class Foreign:
    """Something that is not Keras' own: what, its name in the model, and where it comes from."""

    kind: str
    layer: str
    module: str
    registered: str

    def __str__(self) -> str:
        where = f" of {self.module}" if self.module and self.kind not in CODE else ""
        what = "Python code (a lambda)" if self.kind == "__lambda__" else f"{self.kind}{where}"
        return f"{self.layer!r} is {what}" if self.layer else what


def read_archive(path: Path, trust: bool) -> Any:
    """Load the model of a file, not compiled.

    Parameters
    ----------
    path
        A ``.keras`` file.
    trust
        Import the modules that the description names, and run the code in it.

    Raises
    ------
    ModelError
        There is no such file, it is corrupt, or it wants code to run.
    """
    import keras

    foreign = [item for item in _foreign(_description(path), "") if not _is_registered(item)]
    if foreign and not trust:
        raise ModelError(
            f"{path}: {foreign[0]}, which is not Keras' own; if you trust where the file comes from, let its code run "
            "with --trust (trust=True)"
        )
    known = {item.registered or item.kind: _import(item, path) for item in foreign if item.kind not in CODE}
    try:
        with quiet():
            return keras.saving.load_model(path, custom_objects=known, compile=False, safe_mode=not trust)
    except Exception as error:  # a corrupt archive breaks Keras anywhere, and custom objects may raise anything
        raise ModelError(f"{path}: Keras cannot load it: {one_line(error)}") from error


def _description(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(DESCRIPTION).file_size > LARGEST:
                raise ModelError(f"{path}: its {DESCRIPTION} is of {archive.getinfo(DESCRIPTION).file_size} bytes")
            described = json.loads(archive.read(DESCRIPTION))
    except KeyError as error:
        raise ModelError(f"{path}: not a .keras file: there is no {DESCRIPTION} in the archive") from error
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RecursionError, NotImplementedError) as error:
        raise ModelError(f"{path}: not a .keras file, or truncated or corrupt ({one_line(error)})") from error
    if not isinstance(described, dict):
        raise ModelError(f"{path}: not a .keras file: its {DESCRIPTION} describes no model")
    described.pop("compile_config", None)  # the model is not compiled
    return described


def _foreign(value: Any, layer: str) -> Iterator[Foreign]:
    """Yield everything in a description that Keras would look up outside itself, or run."""
    if isinstance(value, list):
        for item in value:
            yield from _foreign(item, layer)
    if not isinstance(value, dict):
        return
    inner = value.get("config")
    if "class_name" in value:
        layer = _text(inner.get("name")) if isinstance(inner, dict) and inner.get("name") else layer
        found = _object(value, layer)
        if found is not None:
            yield found
    for item in value.values():
        yield from _foreign(item, layer)


def _object(value: dict[str, Any], layer: str) -> Foreign | None:
    kind, module = _text(value["class_name"]), _text(value.get("module"))
    if kind in PLAIN or (kind == "function" and module == "builtins"):
        return None
    if kind not in CODE and (OWN.fullmatch(module) or (not module and not value.get("registered_name"))):
        return None
    name = _text(value.get("config")) if kind == "function" else kind
    return Foreign(name, layer, module, _text(value.get("registered_name")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_registered(item: Foreign) -> bool:
    """Whether the running program itself registered it with Keras."""
    import keras

    return item.kind not in CODE and keras.saving.get_registered_object(item.registered) is not None


def _import(item: Foreign, path: Path) -> Any:
    try:
        return getattr(importlib.import_module(item.module), item.kind)
    except Exception as error:  # a stranger's module may raise anything
        raise ModelError(f"{path}: {item} cannot be imported: {one_line(error)}") from error
