"""Read and write ONNX files: untrusted on the way in, atomic on the way out."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from surgery_ir.errors import ModelError, OutputError
from surgery_ir.graph import sparse
from surgery_ir.graph.external import external_tensors, inline
from surgery_ir.graph.model import Graph

__all__ = ["atomic_output", "read_model", "write_model"]

SINGLE_FILE_LIMIT = 1_800_000_000
"""Weights up to this many bytes go inside the protobuf, whose hard limit is 2 GiB."""

EXTERNAL_THRESHOLD = 1024
"""Tensors smaller than this many bytes stay inside the protobuf when external data are written."""


def read_model(path: str | os.PathLike[str]) -> Graph:
    """Read an ONNX file. External data stay memory-mapped on disk.

    Raises
    ------
    ModelError
        The file is missing, empty, truncated or not a model, or its external data are missing, too short, or
        lie outside the model's folder.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: is not a file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or truncated or corrupt (protobuf cannot parse it)") from error
    del data
    if not proto.HasField("graph") or not proto.ir_version or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model (it holds no graph, IR version or opset)")
    return Graph.from_proto(proto, str(path), str(path.parent.absolute()))


def write_model(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write ``graph`` to ``path`` atomically: a killed or failed run leaves what stood there before.

    Models that came with external data, or are too big for one file, get a data file beside them whose name
    holds a digest of its bytes. The model file is replaced last, so the pair always fits together.

    Raises
    ------
    OutputError
        The folder does not exist, the disk is full, or the file may not be written.
    """
    path = Path(path)
    model = graph.model
    size = sum(tensor.nbytes for tensor in _initializer_tensors(model))
    external = size > SINGLE_FILE_LIMIT or any(True for _ in external_tensors(model))
    before = _data_files(path)
    data: Path | None = None
    try:
        if external:
            graph = graph.clone()
            data = _externalize(graph.model, path)
        payload = graph.to_proto(inlined=not external).SerializeToString(deterministic=True)
        with atomic_output(path) as file:
            file.write(payload)
    except BaseException as error:
        if data is not None and data not in before:
            data.unlink()
        if isinstance(error, EncodeError | ValueError):
            raise OutputError(f"{path}: the model cannot be serialised: {error}") from error
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise
    for stale in before - {data}:
        stale.unlink(missing_ok=True)


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that replaces it only when the block ends without an error.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _initializer_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


class _HashingWriter:
    """Counts and hashes what passes through, so that the data file is written and digested in one go."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.blake2b(digest_size=4)
        self.position = 0

    def write(self, chunk: bytes | memoryview) -> int:
        self.digest.update(chunk)
        self.position += len(chunk) if isinstance(chunk, bytes) else chunk.nbytes
        return self.file.write(chunk)


def _externalize(model: ir.Model, path: Path) -> Path:
    """Move the big tensors of ``model`` (a clone) to a new data file beside ``path``."""
    folder = path.parent
    values = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.nbytes >= EXTERNAL_THRESHOLD
        and value.const_value.dtype != ir.DataType.STRING
        and not sparse.is_sparse(value)
    ]
    inline(model, keep={value.name or "" for value in values})
    spans: list[tuple[int, int]] = []
    pending = path.with_name(f".{path.name}.data.tmp")
    with atomic_output(pending) as file:
        writer = _HashingWriter(file)
        for value in values:
            assert value.const_value is not None
            start = writer.position
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.tofile(writer)  # piece by piece
            else:
                writer.write(value.const_value.tobytes())
            spans.append((start, writer.position - start))
    data = folder / f"{path.stem}-{writer.digest.hexdigest()}.data"
    os.replace(pending, data)
    for value, (offset, length) in zip(values, spans, strict=True):
        tensor = value.const_value
        assert tensor is not None and value.name is not None
        value.const_value = ir.ExternalTensor(
            data.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name,
            base_dir=folder,
        )
    return data


def _data_files(path: Path) -> set[Path]:
    """Data files of ours that the model now at ``path`` refers to."""
    pattern = re.compile(re.escape(path.stem) + r"-[0-9a-f]{8}\.data")
    if not path.is_file() or not any(pattern.fullmatch(file.name) for file in path.parent.iterdir()):
        return set()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, OSError):
        return set()
    locations = {
        entry.value
        for graph in sparse.graphs_of(proto.graph)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and pattern.fullmatch(entry.value)
    }
    return {path.parent / location for location in locations}
