"""Models of the benchmarks, each with its data split into calibration, selection and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.models import fashion, magika, mlp
from benchmarks.models.task import Quality, Task, Unavailable

__all__ = ["TASKS", "Quality", "Task", "Unavailable"]

TASKS: Mapping[str, Callable[[], Task]] = {
    "resnet": fashion.resnet,
    "vit": fashion.vit,
    "mlp": mlp.load,
    "magika": magika.load,
}
"""What loads a task; :class:`Unavailable` says what is missing."""
