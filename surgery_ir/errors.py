"""Every error that a caller can cause.

::

    SurgeryError                  printed as one line, ``error: …``; the command exits with 1
    ├── ModelError                the model file or graph cannot be used: what, and where
    │   └── VerificationError     an edited graph is broken; the message shows the neighbourhood
    ├── DataError                 the samples do not fit the model
    ├── SpecError                 a pass, an option, a profile or a policy is written wrongly
    ├── PassError                 a pass cannot do its work on this graph
    ├── BackendError              a runtime refused or failed
    ├── OutputError               a file could not be written; nothing was replaced
    └── ConstraintError           no candidate meets the constraints; the command exits with 3
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BackendError",
    "ConstraintError",
    "DataError",
    "ModelError",
    "OutputError",
    "PassError",
    "SpecError",
    "SurgeryError",
    "VerificationError",
]


class SurgeryError(Exception):
    """Base of every error that surgery-ir raises on purpose; its text is one line."""


class ModelError(SurgeryError):
    """The model cannot be read, or what it says contradicts itself."""


class VerificationError(ModelError):
    """A graph breaks an invariant. ``neighbourhood`` shows the operators around the fault."""

    def __init__(self, message: str, neighbourhood: str = "") -> None:
        super().__init__(message)
        self.neighbourhood = neighbourhood


class DataError(SurgeryError):
    """Sample data are missing, unreadable, or do not fit the model's inputs."""


class SpecError(SurgeryError):
    """A pass name, an option, a pipeline, a profile or a policy is not valid."""


class PassError(SurgeryError):
    """A pass was asked for work that it cannot do on this graph."""


class BackendError(SurgeryError):
    """The runtime refused the model or failed while running it."""


class OutputError(SurgeryError):
    """An output could not be written. What stood there before is untouched."""


class ConstraintError(SurgeryError):
    """No candidate meets the constraints of the search. ``closest`` are those that come nearest, nearest first."""

    def __init__(self, message: str, closest: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.closest = tuple(closest)
