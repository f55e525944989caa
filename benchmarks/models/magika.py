"""Magika's standard model (Google, Apache-2.0), which tells file types by their first and last bytes.

``pip install magika==1.0.3`` brings the model; nothing else of the package is used. The samples are files of the
running Python installation: sources, compiled files, shared libraries, text, archives, images, sound. There are no
labels: a compressed model is judged by its agreement with the dense one.
"""

from __future__ import annotations

import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.task import Task, Unavailable
from surgery_ir.analysis.samples import Samples
from surgery_ir.graph.serialize import read_model

__all__ = ["load"]

MODEL = Path("models", "standard_v3_3", "model.onnx")
ENDS, BLOCK, PADDING = 1024, 4096, 256
"""Bytes of each end that the model sees, bytes that are looked at to find them, and what stands for none."""

LEAST = 16
"""Shorter files do not go through the model."""

PER_SUFFIX = 150
"""Files of one suffix at most: Python sources would be nearly everything otherwise."""

CALIBRATION, SELECTION, REPORT = 512, 768, 1536


def load() -> Task:
    """Give the model with files of this machine.

    Raises
    ------
    Unavailable
        Magika is not installed.
    """
    found = find_spec("magika")
    if found is None or not found.submodule_search_locations:
        raise Unavailable("pip install magika==1.0.3")
    model = Path(found.submodule_search_locations[0]) / MODEL
    if not model.exists():
        raise Unavailable(f"this magika has no {MODEL}: pip install magika==1.0.3")
    ends = np.stack(list(islice(_distinct(_files()), CALIBRATION + SELECTION + REPORT)))
    calibration, selection, report = (
        Samples({"bytes": part}) for part in np.split(ends, [CALIBRATION, CALIBRATION + SELECTION])
    )
    return Task("magika", read_model(model), calibration, selection, report)


def _files() -> list[Path]:
    """Files of the standard library and of what is installed, in random order, no suffix too often."""
    rng = np.random.default_rng(0)
    by_suffix = defaultdict(list)
    for root in dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")):
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and path.stat().st_size >= LEAST:
                by_suffix[path.suffix.lower()].append(path)
    chosen = [
        paths[index] for paths in by_suffix.values() for index in rng.permutation(len(paths))[:PER_SUFFIX].tolist()
    ]
    return [chosen[index] for index in rng.permutation(len(chosen)).tolist()]


def _distinct(paths: list[Path]) -> Iterator[NDArray[np.int32]]:
    """Yield what the model is fed of each file, equal ones once."""
    seen = set()
    for path in paths:
        row = _ends(path)
        key = row.tobytes()
        if (row != PADDING).sum() >= LEAST and key not in seen:
            seen.add(key)
            yield row


def _ends(path: Path) -> NDArray[np.int32]:
    """First bytes without the white space ahead, last ones without that behind, padded inwards: Magika's features."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(BLOCK).lstrip()
        file.seek(max(0, size - BLOCK))
        tail = file.read(BLOCK).rstrip()
    row = np.full(2 * ENDS, PADDING, np.int32)
    first, last = head[:ENDS], tail[-ENDS:]
    row[: len(first)] = np.frombuffer(first, np.uint8)
    row[2 * ENDS - len(last) :] = np.frombuffer(last, np.uint8)
    return row
