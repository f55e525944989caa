"""The sparse execution provider for ONNX Runtime.

>>> import onnxruntime
>>> import onnxruntime_ep_sparse
>>> onnxruntime_ep_sparse.register()
>>> devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == onnxruntime_ep_sparse.get_ep_name()]
>>> options = onnxruntime.SessionOptions()
>>> options.add_provider_for_devices(devices, {"threshold": "0.7"})
>>> session = onnxruntime.InferenceSession("pruned.onnx", options)
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["__version__", "get_ep_name", "get_ep_names", "get_library_path", "register"]

_DISTRIBUTION = "onnxruntime-ep-sparse"
_NAME = "SparseExecutionProvider"
_OLDEST, _NEWEST = (1, 24), (1, 31)

__version__ = importlib.metadata.version(_DISTRIBUTION)


def get_ep_name() -> str:
    """Return the name of the provider, as sessions and devices carry it."""
    return _NAME


def get_ep_names() -> list[str]:
    """Return the names of all providers in the library: there is one."""
    return [_NAME]


def get_library_path() -> str:
    """Return the absolute path of the library, for ``onnxruntime.register_execution_provider_library``.

    Raises
    ------
    FileNotFoundError
        If the package was installed without the library.
    """
    # Not looked for beside this file: that may be the source of an editable install, or of a clone one works in.
    for file in importlib.metadata.files(_DISTRIBUTION) or ():
        if file.stem == "libonnxruntime_ep_sparse":
            return str(Path(str(file.locate())).resolve())
    raise FileNotFoundError(f"{_DISTRIBUTION} is installed without its library: install it again with pip")


def register() -> None:
    """Make the provider known to ONNX Runtime, once in this process; a second call does nothing.

    Raises
    ------
    RuntimeError
        If the installed ONNX Runtime is not one that the provider works with.
    """
    import onnxruntime

    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    if not _OLDEST <= (major, minor) <= _NEWEST:
        oldest, newest = (".".join(map(str, version)) for version in (_OLDEST, _NEWEST))
        raise RuntimeError(
            f"{_DISTRIBUTION} {__version__} works with ONNX Runtime {oldest} to {newest}, "
            f"this is {onnxruntime.__version__}"
        )
    if all(device.ep_name != _NAME for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(_NAME, get_library_path())
