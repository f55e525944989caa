"""The two sample models, on the sample data."""

from __future__ import annotations

from pathlib import Path

from benchmarks.models.task import Task
from surgery_ir.analysis.samples import read_samples
from surgery_ir.graph.serialize import read_model

__all__ = ["SAMPLES", "resnet", "vit"]

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def resnet() -> Task:
    return _task("resnet", "fashion_resnet.onnx")


def vit() -> Task:
    return _task("vit", "fashion_vit.onnx")


def _task(name: str, file: str) -> Task:
    calibration = read_samples(SAMPLES / "calibration.npz")
    selection, report = (read_samples(SAMPLES / f"{part}.npz", "label") for part in ("selection", "report"))
    return Task(name, read_model(SAMPLES / file), calibration, selection, report)
