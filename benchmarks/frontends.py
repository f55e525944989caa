"""What lowering keeps and costs: models of every framework against the framework's own converter.

Six small models in each framework that can express them, see ``tests/frontends/matrix.py``: the difference between the
graph and the framework, parameters whose names initializers bear, Transposes, and processor time over that of the
converter, in turns. Then half of the weights is cut and put back, and 30 % of every group of channels is cut::

    python -m benchmarks.frontends                                         # all of it, half an hour
    python -m benchmarks.frontends --frameworks PyTorch JAX --models vit bert
    python -m benchmarks.frontends --rounds 5 --json frontends.json        # kept in a file as it comes
    python -m benchmarks.frontends --show frontends.json --markdown        # the table of the documentation
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import surgery_ir
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.errors import SurgeryError
from surgery_ir.frontends.agreement import compare
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.frontends.load import live_model, load_model
from surgery_ir.graph.model import Graph
from tests.frontends.matrix import CELLS, MISSING, MODELS, NEEDED, Cell, hushed

RUNTIME = OnnxRuntimeBackend()
ROUNDS = 3

WEIGHTS = "canonicalize,cancel-transposes,prune-weights{ratio=0.5 ends=true},repair"
CHANNELS = "canonicalize,cancel-transposes,prune-channels{ratio=0.3 multiple=1}"

IN_MEMORY = ("PyTorch", "Hugging Face", "Keras", "JAX")

HEAD = (
    "framework",
    "model",
    "difference",
    "names kept",
    "Transposes",
    "by the converter",
    "time",
    "half of the weights, written back",
    "30 % of the channels, parameters left",
)

CAPTION = (
    "difference: between graph and framework, relative to the largest output; names kept: parameters under whose names "
    "there are initializers, of all, the others are merged with them; Transposes: after lowering → after "
    "cancel-transposes; time: processor time of lowering, comparison included, over that of the framework's own "
    "converter, median of rounds in turns; written back: difference between the framework and the compressed graph"
)

Arrays = Mapping[str, NDArray[Any]]
Convert = Callable[[Any, Arrays], onnx.ModelProto]


@dataclass(frozen=True)
class Row:
    """What was found of one model in one framework. Times are processor seconds.

    ``converter_note`` says what is wrong with what the framework's own converter gives, ``failures`` what went wrong
    here.
    """

    framework: str
    model: str
    difference: float = nan
    kept: int = 0
    parameters: int = 0
    transposes: int = 0
    cancelled: int = 0
    converter_transposes: int | None = None
    converter_note: str = ""
    seconds: float = nan
    converter_seconds: float = nan
    cut: float = nan
    written: float | None = None
    left: float = nan
    failures: tuple[str, ...] = ()

    def cells(self) -> tuple[str, ...]:
        theirs = "–" if self.converter_transposes is None else str(self.converter_transposes)
        ratio = self.seconds / self.converter_seconds
        return (
            self.framework,
            self.model,
            f"{self.difference:.1e}",
            f"{self.kept} of {self.parameters}",
            f"{self.transposes} → {self.cancelled}",
            self.converter_note or theirs,
            "–" if np.isnan(ratio) else f"{ratio:.2f}×",
            "; ".join(self.failures) or self._written(),
            "–" if np.isnan(self.left) else f"{self.left:.0%}",
        )

    def _written(self) -> str:
        if self.written is not None:
            return f"yes, {self.written:.1e}"
        return "a file" if self.framework not in IN_MEMORY else "–"


def by_torch(model: Any, feeds: Arrays) -> onnx.ModelProto:
    import torch

    given = {name: torch.from_numpy(value) for name, value in feeds.items()}
    axes = {name: range(2 if value.dtype.kind == "i" else 1) for name, value in feeds.items()}
    shapes = {name: dict.fromkeys(open_axes, torch.export.Dim.AUTO) for name, open_axes in axes.items()}
    program = torch.onnx.export(model, (), kwargs=given, dynamo=True, dynamic_shapes=shapes, verbose=False)
    proto: onnx.ModelProto = program.model_proto
    return proto


def by_keras(model: Any, feeds: Arrays) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        model.export(Path(folder) / "model.onnx", format="onnx", verbose=False)
        return onnx.load(Path(folder) / "model.onnx")


def by_tf2onnx(model: Any, feeds: Arrays) -> onnx.ModelProto:
    """Do what ``python -m tf2onnx.convert --saved-model`` does."""
    import tensorflow as tf
    from tf2onnx import convert, tf_loader

    frozen, inputs, outputs, tables, renamed = tf_loader.from_saved_model(
        str(model), None, None, return_initialized_tables=True, return_tensors_to_rename=True
    )
    with tf.device("/cpu:0"):
        proto, _ = convert._convert_common(
            frozen,
            opset=18,
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=renamed,
            initialized_tables=tables,
        )
    made: onnx.ModelProto = proto
    return made


def by_tflite(model: Any, feeds: Arrays) -> onnx.ModelProto:
    from tf2onnx import convert

    proto, _ = convert.from_tflite(str(model), opset=18)
    made: onnx.ModelProto = proto
    return made


def by_jax(model: Any, feeds: Arrays) -> onnx.ModelProto:
    import jax
    import jax2onnx

    model.eval()
    specs = []
    for value in feeds.values():
        lengths = ("sequence", *value.shape[2:]) if value.dtype.kind == "i" else value.shape[1:]
        specs.append(jax.ShapeDtypeStruct(("batch", *lengths), value.dtype))
    proto: onnx.ModelProto = jax2onnx.to_onnx(model, specs)
    return proto


CONVERTERS: dict[str, Convert] = {
    "PyTorch": by_torch,
    "Hugging Face": by_torch,
    "Keras": by_keras,
    "SavedModel": by_tf2onnx,
    "TFLite": by_tflite,
    "JAX": by_jax,
}


def run(framework: str, model: str, rounds: int, surgery: bool = True) -> Row:
    """Lower one model in turns with the converter, then cut it and put the weights back unless ``surgery`` is off."""
    row, cell = Row(framework, model), CELLS[framework, model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            source = cell.make(folder)
            row = _timed(row, source, cell, rounds)
            row = _cut(row, source, cell, folder) if surgery else row
        except SurgeryError as error:
            row = replace(row, failures=(*row.failures, str(error)))
    return row


def _timed(row: Row, source: Any, cell: Cell, rounds: int) -> Row:
    example = cell.example()
    convert, request = CONVERTERS[row.framework], Request(RUNTIME, example)
    proto: onnx.ModelProto | None = None
    ours, theirs, note = [], [], ""
    for _ in range(rounds):
        seconds, lowered = _clocked(lambda: load_model(source, request))
        ours.append(seconds)
        if note:
            continue
        try:
            with hushed():
                seconds, proto = _clocked(lambda: convert(source, example))
            theirs.append(seconds)
        except Exception as error:  # noqa: BLE001 - converters may raise anything
            note = f"fails: {type(error).__name__}"
    if proto is not None:
        note = _fault(proto, lowered)
    return replace(
        row,
        **_facts(lowered),
        converter_transposes=None if proto is None else transposes(proto),
        converter_note=note,
        seconds=median(ours),
        converter_seconds=median(theirs) if theirs else nan,
    )


def _clocked(action: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    found = action()
    return time.process_time() - start, found


def _facts(lowered: Lowered) -> dict[str, Any]:
    assert lowered.live is not None
    parameters = {name for name, value in lowered.live.parameters().items() if value.dtype.kind == "f" and value.ndim}
    return {
        "difference": lowered.difference,
        "kept": len(parameters & lowered.graph.initializers.keys()),
        "parameters": len(parameters),
        "transposes": transposes(lowered.graph.to_proto()),
    }


def _fault(proto: onnx.ModelProto, lowered: Lowered) -> str:
    """Say what is wrong with what the converter gave, compared with the framework; nothing where it is right."""
    assert lowered.live is not None
    try:
        graph = Graph.from_proto(proto)
        names = [value.name or "" for value in graph.inputs]
        wanted = lowered.live.run(lowered.feeds)
        found = RUNTIME.load(graph).run(dict(zip(names, lowered.feeds.values(), strict=True)))
    except (SurgeryError, ValueError):
        return "does not load"
    for actual, expected in zip(found.values(), wanted, strict=False):
        if actual.shape != expected.shape or not np.allclose(actual, expected, atol=1e-4 * np.abs(expected).max()):
            return "is wrong"
    return ""


def _cut(row: Row, source: Any, cell: Cell, folder: Path) -> Row:
    data, example = cell.data(), cell.example()
    pipeline = WEIGHTS.replace("{ratio", "{criterion=magnitude ratio") if row.model == "lstm" else WEIGHTS
    result = surgery_ir.apply(source, pipeline, data, example_inputs=example)
    costs = result.report.baseline.nonzeros, result.report.compressed.nonzeros
    row = replace(row, cancelled=transposes(result.graph.to_proto()), cut=1 - costs[1] / costs[0])
    if row.framework in IN_MEMORY:
        row = _written_back(row, result, cell.make(folder), example)
    report = surgery_ir.apply(source, CHANNELS, data, example_inputs=example).report
    return replace(row, left=report.compressed.params / report.baseline.params)


def _written_back(row: Row, result: surgery_ir.Result, model: Any, example: Arrays) -> Row:
    try:
        result.write_back(model)
        assert result.lowered is not None
        difference = compare(result.graph, live_model(model, result.lowered), example, RUNTIME)
    except SurgeryError as error:
        return replace(row, failures=(*row.failures, str(error)))
    return replace(row, written=difference)


def transposes(proto: onnx.ModelProto) -> int:
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    return sum(node.op_type == "Transpose" for nodes in bodies for node in nodes)


def table(rows: Iterable[Row]) -> Table:
    made = Table(title="lowering", caption=CAPTION, caption_justify="left")
    for heading in HEAD:
        made.add_column(heading)
    last = ""
    for row in rows:
        if row.framework != last:
            made.add_section()
        last = row.framework
        made.add_row(*row.cells())
    return made


def markdown(rows: Sequence[Row]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    listed = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join(listed)


def read(files: Iterable[Path]) -> list[Row]:
    plain = [row for file in files for row in json.loads(file.read_text())]
    rows = [Row(**{**row, "failures": tuple(row["failures"])}) for row in plain]
    order = [*CELLS]
    return sorted(rows, key=lambda row: order.index((row.framework, row.model)))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=NEEDED, default=[*NEEDED])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that each is converted")
    parser.add_argument("--markdown", action="store_true", help="print the table as GitHub has them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as they come")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print the table of these rows instead")
    return parser.parse_args()


def measured(given: argparse.Namespace, console: Console) -> list[Row]:
    rows: list[Row] = []
    for framework in given.frameworks:
        missing = [name for name in NEEDED[framework] if find_spec(name.split(".")[0]) is None]
        if missing:
            console.print(f"{framework} is left out: {', '.join(missing)} is not installed")
            continue
        warm = False
        for model in given.models:
            if (framework, model) in MISSING:
                console.print(f"{framework} {model} is left out: {MISSING[framework, model]}", soft_wrap=True)
                continue
            if not warm:  # what is imported by the first conversion counts for neither
                warm = bool(run(framework, model, 1, surgery=False))
            row = run(framework, model, given.rounds)
            console.print(" | ".join(row.cells()), style="red" if row.failures else "dim", markup=False, soft_wrap=True)
            rows.append(row)
            if given.json:
                given.json.write_text(json.dumps([asdict(item) for item in rows], indent=1))
    return rows


def main() -> None:
    given = options()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    console = Console(width=170)
    rows = read(given.show) if given.show else measured(given, console)
    if given.markdown:
        print(markdown(rows))
    else:
        console.print(table(rows))


if __name__ == "__main__":
    main()
