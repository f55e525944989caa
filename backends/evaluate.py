"""Run a model over samples, and score what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import Fidelity, fidelity
from surgery_ir.analysis.samples import Batch, Samples
from surgery_ir.backends.base import Session
from surgery_ir.backends.metrics import Metric, find_metric
from surgery_ir.backends.scores import Difference, Score, difference
from surgery_ir.errors import DataError

__all__ = [
    "Difference",
    "Fidelity",
    "Metric",
    "Score",
    "difference",
    "evaluate",
    "fidelity",
    "find_metric",
    "predict",
]


def predict(session: Session, samples: Samples, batch: int = 64) -> dict[str, NDArray[Any]]:
    """Run ``session`` over ``samples``.

    Outputs whose first axis runs over the samples of a batch are concatenated. Where one does not (it is computed
    from the batch as a whole), every sample is run alone and the outputs are stacked. Outputs that are no arrays
    (sequences, maps) are left out.

    Parameters
    ----------
    session
        The loaded model.
    samples
        What to feed.
    batch
        Samples per run, where the model leaves that open.

    Returns
    -------
    dict
        Array by output name, first axis = samples.

    Raises
    ------
    DataError
        The samples do not fit, or an output has another shape for each of them.
    BackendError
        The runtime failed.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    for run in samples.batches(session.inputs, batch):
        outputs = {name: output for name, output in session.run(run.feeds).items() if isinstance(output, np.ndarray)}
        if not outputs:
            raise DataError(f"{samples.source}: no output of the model is an array")
        if run.size > 1:
            strays = [name for name, output in outputs.items() if not run.has_axis(output)]
            if strays:
                return _predict_singly(session, samples, run, strays[0])
        for name, output in outputs.items():
            parts.setdefault(name, []).append(run.trim(output) if run.has_axis(output) else output[None])
    return {name: _concatenate(name, arrays, samples) for name, arrays in parts.items()}


def _predict_singly(session: Session, samples: Samples, run: Batch, stray: str) -> dict[str, NDArray[Any]]:
    if run.fixed:
        raise DataError(
            f"{samples.source}: the model takes {run.size} samples at once, "
            f"but its output {stray!r} has no axis of that size to tell them apart"
        )
    return predict(session, samples, 1)


def _concatenate(name: str, arrays: list[NDArray[Any]], samples: Samples) -> NDArray[Any]:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise DataError(
            f"{samples.source}: output {name!r} has shape {list(one)} for one sample and {list(other)} for another, "
            "so outputs cannot be compared"
        )
    return np.concatenate(arrays)


def evaluate(
    session: Session,
    samples: Samples,
    metric: Metric,
    reference: Mapping[str, NDArray[Any]],
    batch: int = 64,
) -> Score:
    """Score ``session`` on ``samples``.

    Parameters
    ----------
    session
        The loaded model.
    samples
        What to feed, with labels where the metric needs them.
    metric
        From :func:`~surgery_ir.backends.metrics.find_metric`.
    reference
        Outputs of the reference model on the same samples.
    batch
        Samples per run, where the model leaves that open.
    """
    return metric(predict(session, samples, batch), samples.labels, reference)
