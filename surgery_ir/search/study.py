"""A study: a folder that holds every candidate as soon as it is evaluated, so that a search can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from surgery_ir.analysis.samples import Samples
from surgery_ir.errors import OutputError, SpecError
from surgery_ir.search.candidate import Candidate

__all__ = ["Study", "digest_samples"]

FILE = "candidates.jsonl"


class Study:
    """Candidates in a file of JSON lines, one each, behind a line that says what they are candidates of.

    A search that is repeated with the same study, model, data, goal and seed goes the same way, and finds what it
    evaluated before here.

    Parameters
    ----------
    folder
        Created where it does not exist.
    about
        What the candidates depend on; a folder that was made for something else is refused.

    Raises
    ------
    SpecError
        The folder holds the study of another model, of other data or another goal, or no study.
    OutputError
        The folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], about: dict[str, Any]) -> None:
        self.path = Path(folder) / FILE
        self.about = about
        self.known: dict[str, Candidate] = {}
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._read()
            else:
                self._append({"study": about})
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def add(self, candidate: Candidate) -> None:
        """Append a candidate.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        with self._lock:
            self.known[candidate.profile] = candidate
            try:
                self._append(candidate.to_plain())
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _append(self, plain: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
        if complete != text:
            self.path.write_text(complete, encoding="utf-8")
        try:
            first, *rows = [json.loads(line) for line in complete.splitlines()]
            about = first["study"]
            found = [Candidate.from_plain(row) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise SpecError(f"{self.path}: not a study of surgery-ir; choose another folder") from error
        if about != self.about:
            other = ", ".join(sorted(key for key in self.about if about.get(key) != self.about[key])) or "format"
            raise SpecError(f"{self.path}: belongs to a search with another {other}; choose another folder")
        self.known.update((item.profile, item) for item in found)


def digest_samples(samples: Samples) -> str:
    """Digest of names, shapes, types and values of samples and labels."""
    digest = hashlib.blake2b(digest_size=16)
    arrays = {**samples.feeds, **({} if samples.labels is None else {"\0labels": samples.labels})}
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
