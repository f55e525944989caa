"""Finds passes: our own by looking into this package, third parties' through the entry points ``surgery_ir.passes``.

A file that defines a :class:`~surgery_ir.passes.base.Pass` with a name is all that it takes; there is no table.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import options_of

__all__ = ["builtin_passes", "pass_class", "plugin_passes"]

GROUP = "surgery_ir.passes"
FOLDERS = ("cleanup", "prune", "reconnect", "repair")


@cache
def builtin_passes() -> Mapping[str, type[Pass]]:
    """Every pass of this package by name, in the order of the folders."""
    found: dict[str, type[Pass]] = {}
    for folder in FOLDERS:
        package = importlib.import_module(f"surgery_ir.passes.{folder}")
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, Pass) and cls.__module__ == module.__name__ and "name" in vars(cls):
                    found[cls.name] = cls
    return MappingProxyType(found)


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def plugin_passes() -> Mapping[str, type[Pass] | SpecError]:
    """Import every plug-in that is installed and give its passes by name; for a broken one, what is wrong with it."""
    found: dict[str, type[Pass] | SpecError] = {}
    for name in sorted(_plugins().keys() - builtin_passes().keys()):
        try:
            found[name] = pass_class(name)
        except SpecError as error:
            found[name] = error
    return found


def pass_class(name: str) -> type[Pass]:
    """Give the pass called ``name``; a plug-in is imported only when it is named.

    Raises
    ------
    SpecError
        There is no such pass, or the plug-in is not one.
    """
    builtin = builtin_passes()
    if name in builtin:
        return builtin[name]
    plugins = _plugins()
    if name not in plugins:
        known = ", ".join([*builtin, *sorted(plugins)])
        raise SpecError(f"there is no pass called {name!r} (passes: {known})")
    try:
        cls = plugins[name].load()
        if not (inspect.isclass(cls) and issubclass(cls, Pass) and getattr(cls, "name", None) == name):
            raise SpecError(f"the plug-in {plugins[name].value!r} is not a pass called {name!r}")
        options_of(cls)
    except SpecError:
        raise
    except Exception as error:  # a stranger's module may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(f"the plug-in pass {name!r} cannot be imported: {reason}") from error
    return cls
