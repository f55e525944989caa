"""ONNX Runtime with the execution provider for pruned weights, the distribution ``onnxruntime-ep-sparse``."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping
from importlib import import_module, metadata
from tempfile import mkdtemp
from types import MappingProxyType, ModuleType

from surgery_ir.backends.base import Capabilities
from surgery_ir.backends.onnxruntime import CPU, ORT_ERRORS, OnnxRuntimeBackend, OnnxRuntimeSession, session_options
from surgery_ir.errors import BackendError
from surgery_ir.graph.model import Graph

__all__ = ["SparseBackend"]

MODULE, DISTRIBUTION = "onnxruntime_ep_sparse", "onnxruntime-ep-sparse"

PATTERNS = ("4x1", "1x4")
"""Four outputs share what is loaded of one input; four input channels are one step of the int8 kernels."""


REFUSALS: tuple[type[Exception], ...] = (*ORT_ERRORS, OSError)


class SparseBackend:
    """ONNX Runtime with the sparse provider: layers of pruned weights run there, everything else on the CPU provider.

    The provider measures at load which layers gain by it. What it measured is kept in the folder :attr:`measured` for
    the lifetime of this object, and shared by all models that are loaded through it.

    Parameters
    ----------
    options
        Options of the provider by name, as its documentation has them: ``{"threshold": "0.5"}``.

    Raises
    ------
    BackendError
        The provider is not installed, or does not go with the version of ONNX Runtime.
    """

    name = "sparse"

    def __init__(self, options: Mapping[str, str] = MappingProxyType({})) -> None:
        self._stock = OnnxRuntimeBackend()
        self._provider = _registered()
        self.measured = mkdtemp(prefix="surgery-ir-")
        weakref.finalize(self, shutil.rmtree, self.measured, ignore_errors=True)
        self._options = {"cache": self.measured, **options}

    @property
    def capabilities(self) -> Capabilities:
        stock = self._stock.capabilities
        return Capabilities(
            version=f"{stock.version} with {DISTRIBUTION} {metadata.version(DISTRIBUTION)}",
            sparse_speedup=True,
            patterns=PATTERNS,
            baseline=self._stock.name,
        )

    def load(self, graph: Graph, *, threads: int = 0) -> OnnxRuntimeSession:
        options = session_options(threads)
        for key, value in self._options.items():
            options.add_session_config_entry(f"ep.{self._provider.lower()}.{key}", value)
        return OnnxRuntimeSession(graph, options, (self._provider, CPU))


def _registered() -> str:
    """Make the provider known to ONNX Runtime; give its name."""
    try:
        module: ModuleType = import_module(MODULE)
    except ImportError as error:
        missing = error.name or MODULE
        raise BackendError(
            f"the provider 'sparse' needs {missing}, which is not installed: pip install 'surgery-ir[sparse]', "
            "or ./backends/sparse_ep in a clone"
        ) from error
    try:
        module.register()
    except REFUSALS as error:
        text = " ".join(str(error).split())
        raise BackendError(f"ONNX Runtime refuses the provider 'sparse': {text}") from error
    return str(module.get_ep_name())
