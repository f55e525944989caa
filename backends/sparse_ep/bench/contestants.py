"""Who is timed: sessions of ONNX Runtime with and without the provider, and DeepSparse in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
import onnxruntime_ep_sparse
from numpy.typing import NDArray

from bench.timing import CLOCKS

Array = NDArray[Any]
WORKER = Path(__file__).with_name("deepsparse_worker.py")
MATRIX_OPERATORS = {"Conv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"}


class Session:
    """A session over bound buffers: of the CPU provider alone, or with ours if there are options for it."""

    def __init__(
        self, model: Path, x: Array, threads: int, clock: str, options: Mapping[str, str] | None = None
    ) -> None:
        self._clock = CLOCKS[clock]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        # Threads that wait for work would take the processor from whoever has the next turn.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options is not None:
            name = onnxruntime_ep_sparse.get_ep_name()
            devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
            settings.add_provider_for_devices(devices, dict(options))
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._session = onnxruntime.InferenceSession(str(model), settings, enable_fallback=False)
        self.claimed = self._count_claimed() if options is not None else 0
        entry, result = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self._result = onnxruntime.OrtValue.ortvalue_from_numpy(self._session.run(None, {entry: x})[0])
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(entry, onnxruntime.OrtValue.ortvalue_from_numpy(x))
        self._binding.bind_ortvalue_output(result, self._result)

    def _count_claimed(self) -> int:
        parts = self._session.get_provider_graph_assignment_info()
        ours = [part for part in parts if part.ep_name == onnxruntime_ep_sparse.get_ep_name()]
        return sum(node.op_type in MATRIX_OPERATORS for part in ours for node in part.get_nodes())

    def time(self, runs: int) -> list[float]:
        """Seconds of each of so many runs in a row."""
        times = []
        for _ in range(runs):
            begin = self._clock()
            self._session.run_with_iobinding(self._binding)
            times.append(self._clock() - begin)
        return times

    def output(self) -> Array:
        """What the model gives."""
        self._session.run_with_iobinding(self._binding)
        result: Array = self._result.numpy()
        return result


class DeepSparse:
    """An engine in another process, under another Python."""

    def __init__(self, python: Path, model: Path, x: Array, threads: int, clock: str) -> None:
        self._folder = model.parent
        np.save(self._folder / "x.npy", x)
        self._process = subprocess.Popen(
            [python, WORKER, model, self._folder / "x.npy", str(threads), clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"NM_DISABLE_ANALYTICS": "True"},
        )
        self.version = str(self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the DeepSparse worker ended with status {self._process.wait()}")
        answer = json.loads(line)
        if isinstance(answer, dict):
            raise RuntimeError(f"DeepSparse: {answer['error']}")
        return answer

    def _ask(self, request: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def time(self, runs: int) -> list[float]:
        """Seconds of each of so many runs in a row."""
        return [float(seconds) for seconds in self._ask(runs)]

    def output(self) -> Array:
        """What the model gives."""
        path = self._folder / "y.npy"
        self._ask(str(path))
        result: Array = np.load(path)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
