"""The benchmarks: who runs what against whom, verified before it is timed."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench.contestants import DeepSparse, Session
from bench.models import LAYERS, MODELS, LayerShape, nonzeros
from bench.patterns import KEPT_OF_FOUR
from bench.quantize import quantize, with_batch
from bench.rows import Row
from bench.timing import Contestant, Effort, interleave

DENSE, OURS, DEEPSPARSE, DENSE_INT8, OURS_INT8 = "ORT fp32", "sparse fp32", "DeepSparse", "ORT int8", "sparse int8"
# Largest relative distance (2-norm) between two outputs of the same model.
SAME_FLOATS, SAME_CODES = 1e-4, 0.05


@dataclass(frozen=True)
class Plan:
    """What to run, from the command line."""

    batches: Sequence[int] = (1,)
    threads: Sequence[int] = (1,)
    sparsities: Sequence[float] = (0.8, 0.9, 0.95)
    patterns: Sequence[str] = ("unstructured",)
    only: str = ""
    effort: Effort = field(default_factory=Effort)
    options: dict[str, str] = field(default_factory=dict)
    deepsparse: Path | None = None

    def amounts(self) -> list[tuple[float, str]]:
        """Sparsities with their patterns; those that fix the share of zeros come once."""
        pairs = [(s, pattern) for pattern in self.patterns for s in self.sparsities if pattern not in KEPT_OF_FOUR]
        return pairs + [(1 - KEPT_OF_FOUR[p] / 4, p) for p in self.patterns if p in KEPT_OF_FOUR]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def layers(plan: Plan) -> list[Row]:
    """The ten layer shapes in fp32; `GFLOP/s` counts the multiplications by nonzero weights alone."""
    rows = []
    for shape, batch, (sparsity, pattern) in _combinations(plan, LAYERS):
        model = shape.build(batch, sparsity, pattern)
        for threads in plan.threads:
            row = _floats(plan, shape.name, model, batch, threads, sparsity, pattern)
            work = 2 * nonzeros(model) * shape.positions * batch
            row.notes["GFLOP/s"] = work / row.milliseconds[OURS] / 1e6 if row.claimed else math.nan
            rows.append(row)
    return rows


def layers_int8(plan: Plan) -> list[Row]:
    """The same layers quantized, against ONNX Runtime's eight-bit kernels."""
    rows = []
    for shape, batch, (sparsity, pattern) in _combinations(plan, LAYERS):
        quantized = with_batch(quantize(shape.build(1, sparsity, pattern)), batch)
        rows += [_codes(plan, shape.name, quantized, None, batch, t, sparsity, pattern) for t in plan.threads]
    return rows


def models(plan: Plan) -> list[Row]:
    """Whole models in fp32."""
    rows = []
    for name, batch, (sparsity, pattern) in _combinations(plan, list(MODELS)):
        model = MODELS[name](batch, sparsity, pattern)
        rows += [_floats(plan, name, model, batch, threads, sparsity, pattern) for threads in plan.threads]
    return rows


def models_int8(plan: Plan) -> list[Row]:
    """Whole models quantized, with the float model for comparison."""
    rows = []
    for name, batch, (sparsity, pattern) in _combinations(plan, list(MODELS)):
        model = MODELS[name](1, sparsity, pattern)
        quantized = quantize(model)
        for m in (model, quantized):
            with_batch(m, batch)
        rows += [_codes(plan, name, quantized, model, batch, t, sparsity, pattern) for t in plan.threads]
    return rows


def scaling(plan: Plan) -> list[Row]:
    """ResNet-50 on more threads; the first contestant is one thread."""
    rows = []
    for name, batch, (sparsity, pattern) in _combinations(plan, ["resnet50"]):
        with _saved(MODELS[name](batch, sparsity, pattern)) as path:
            x, clock = _input(path), plan.effort.clock
            runners: dict[str, Contestant] = {}
            claimed = 0
            for threads in sorted({1, *plan.threads}):
                ours = Session(path, x, threads, clock, plan.options)
                claimed = ours.claimed
                runners[f"{OURS}, {threads} threads"] = ours
            for threads in sorted({1, *plan.threads}):
                runners[f"{DENSE}, {threads} threads"] = Session(path, x, threads, clock)
            times = interleave(runners, plan.effort)
        dense = {key: value for key, value in times.items() if key.startswith(DENSE)}
        most = max(plan.threads)
        notes = {f"{DENSE}: {most} threads over one, ×": next(iter(dense.values())) / list(dense.values())[-1]}
        ours_only = {key: value for key, value in times.items() if key not in dense}
        rows.append(Row(name, batch, most, sparsity, pattern, ours_only, claimed, notes))
    return rows


def _combinations(plan: Plan, things: Sequence[Any]) -> Iterator[tuple[Any, int, tuple[float, str]]]:
    for thing in things:
        name = thing.name if isinstance(thing, LayerShape) else thing
        if plan.only not in name:
            continue
        for batch in plan.batches:
            for amount in plan.amounts():
                say(f"{name}, batch {batch}, {amount[0]:.3g} {amount[1]}")
                yield thing, batch, amount


def _floats(
    plan: Plan, name: str, model: onnx.ModelProto, batch: int, threads: int, sparsity: float, pattern: str
) -> Row:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_saved(model))
        x, clock = _input(path), plan.effort.clock
        dense, ours = Session(path, x, threads, clock), Session(path, x, threads, clock, plan.options)
        expected = dense.output()
        _verify(OURS, ours.output(), expected, SAME_FLOATS)
        contestants: dict[str, Contestant] = {DENSE: dense, OURS: ours}
        if plan.deepsparse:
            try:
                other = stack.enter_context(DeepSparse(plan.deepsparse, path, x, threads, clock))
                _verify(DEEPSPARSE, other.output(), expected, SAME_FLOATS)
                contestants[DEEPSPARSE] = other
            except RuntimeError as error:
                say(f"  left out: {error}")
        times = interleave(contestants, plan.effort)
    return _row(name, batch, threads, sparsity, pattern, times, ours.claimed)


def _codes(
    plan: Plan,
    name: str,
    quantized: onnx.ModelProto,
    model: onnx.ModelProto | None,
    batch: int,
    threads: int,
    sparsity: float,
    pattern: str,
) -> Row:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_saved(quantized))
        x, clock = _input(path), plan.effort.clock
        dense, ours = Session(path, x, threads, clock), Session(path, x, threads, clock, plan.options)
        _verify(OURS_INT8, ours.output(), dense.output(), SAME_CODES)
        contestants: dict[str, Contestant] = {DENSE_INT8: dense, OURS_INT8: ours}
        if model is not None:
            real = stack.enter_context(_saved(model))
            contestants |= {
                OURS: Session(real, x, threads, clock, plan.options),
                DENSE: Session(real, x, threads, clock),
            }
        times = interleave(contestants, plan.effort)
    return _row(name, batch, threads, sparsity, pattern, times, ours.claimed)


def _row(
    name: str, batch: int, threads: int, sparsity: float, pattern: str, times: dict[str, float], claimed: int
) -> Row:
    said = ", ".join(f"{who} {ms:.4g} ms" for who, ms in times.items())
    say(f"  {threads} threads, {claimed} claimed: {said}")
    return Row(name, batch, threads, sparsity, pattern, times, claimed)


def _verify(who: str, output: NDArray[Any], expected: NDArray[Any], tolerance: float) -> None:
    distance = float(np.linalg.norm(output - expected) / max(float(np.linalg.norm(expected)), 1e-30))
    if not distance <= tolerance:
        raise RuntimeError(f"{who} gives another result than ONNX Runtime: relative distance {distance:.2g}")


def _input(path: Path) -> NDArray[np.float32]:
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    rng = np.random.default_rng(2)
    return rng.standard_normal([dim.dim_value for dim in shape.dim], dtype=np.float32)


@contextlib.contextmanager
def _saved(model: onnx.ModelProto) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        yield path
