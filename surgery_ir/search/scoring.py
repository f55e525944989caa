"""Score candidates on the selection samples in stages: a few samples tell already that a candidate cannot win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.fidelity import Divergence
from surgery_ir.analysis.samples import Samples
from surgery_ir.backends.base import Session
from surgery_ir.backends.evaluate import Metric, Score, difference, predict
from surgery_ir.errors import SurgeryError

__all__ = ["Scored", "Scorer"]

Outputs = Mapping[str, NDArray[Any]]

STAGES = (64, 256)
"""Samples of the early stages; all of them are the last one."""

CERTAIN = 3.0
"""Standard errors by which a drop must exceed the limit for scoring to stop."""


@dataclass(frozen=True)
class Scored:
    """Scores of a candidate on the samples that were used; see :class:`surgery_ir.search.candidate.Candidate`."""

    metric: float
    drop: float
    error: float
    divergence: float
    samples: int
    complete: bool


class Scorer:
    """Scores sessions against the dense model on the same samples, in an order drawn once.

    Parameters
    ----------
    dense
        The dense model.
    samples
        Selection samples.
    metric
        Judges outputs.
    max_drop
        A candidate whose drop is certainly beyond this is not scored to the end.
    seed
        Of the order of the samples; sorted data would make the early stages blind.
    """

    def __init__(self, dense: Session, samples: Samples, metric: Metric, max_drop: float, seed: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(samples))
        self.samples = samples.take(order)
        self.metric = metric
        self.max_drop = max_drop
        self.reference = predict(dense, self.samples)
        self._divergence = Divergence(self.reference)
        self.baseline = metric(self.reference, self.samples.labels, self.reference)
        self._stages = {len(samples): self.baseline}
        for count in STAGES:
            if count < len(samples):
                try:
                    self._stages[count] = self._score(self.reference, count)
                except SurgeryError:  # a metric of the user's own that needs more samples than that
                    continue

    def score(self, session: Session, *, limit: int | None = None) -> Scored:
        """Score a candidate.

        Parameters
        ----------
        session
            The candidate, loaded.
        limit
            Stop at the first stage with this many samples, because the candidate cannot win for other reasons.
        """
        outputs: dict[str, NDArray[Any]] = {}
        done = 0
        for count in sorted(self._stages):
            fresh = predict(session, self.samples.take(slice(done, count)))
            outputs = {name: np.concatenate([outputs[name], new]) if outputs else new for name, new in fresh.items()}
            done = count
            score = self._score(outputs, count)
            gap = difference(score, self._stages[count])
            hopeless = -gap.value - CERTAIN * gap.standard_error > self.max_drop
            if hopeless or (limit is not None and count >= limit):
                break
        return Scored(
            metric=score.value,
            drop=-gap.value,
            error=gap.standard_error,
            divergence=float(self._divergence.shares(outputs).mean()),
            samples=done,
            complete=done == len(self.samples),
        )

    def _score(self, outputs: Outputs, count: int) -> Score:
        labels = None if self.samples.labels is None else self.samples.labels[:count]
        return self.metric(_head(outputs, count), labels, _head(self.reference, count))


def _head(outputs: Outputs, count: int) -> dict[str, NDArray[Any]]:
    return {name: array[:count] for name, array in outputs.items()}
