"""The report as data. Its JSON form is an interface: fields are added, never renamed or removed."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from surgery_ir.analysis.cost import LayerCost
from surgery_ir.analysis.fidelity import Fidelity
from surgery_ir.backends.scores import Score
from surgery_ir.graph.edits import Connections, Edit, connections, plasticity, tally
from surgery_ir.passes.base import Refusal
from surgery_ir.version import __version__

__all__ = ["Candidate", "Latencies", "Layer", "Measurement", "Report", "Search", "compare_layers", "versions"]

RATIOS = ("params", "nonzeros", "bytes", "macs", "latency_ms")
NONE = Connections()
DISTRIBUTIONS = ("onnx", "onnxruntime", "onnx-ir", "numpy", "nevergrad")
SPARSE = "onnxruntime-ep-sparse"


@dataclass(frozen=True)
class Measurement:
    """What one model costs and how good it is.

    Parameters
    ----------
    params, nonzeros, bytes, macs
        As :mod:`surgery_ir.analysis.cost` defines them; ``macs`` is ``None`` where shapes are not known.
    latency_ms
        Median time of one run in milliseconds; ``None`` where it was not measured.
    metric
        Score on the report samples; ``None`` where there were none.
    """

    params: int
    nonzeros: int
    bytes: int
    macs: int | None = None
    latency_ms: float | None = None
    metric: Score | None = None

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {**{name: getattr(self, name) for name in RATIOS}, "metric": _score(self.metric)}


@dataclass(frozen=True)
class Latencies:
    """What was timed where: median milliseconds of one run by backend, all of them in turns.

    Parameters
    ----------
    provider
        Backend that the compressed model is for.
    baseline_provider
        Backend of the dense model that it is compared with.
    baseline, compressed
        Times of the two models, on both backends where these are two; empty where nothing was timed.
    """

    provider: str = "onnxruntime"
    baseline_provider: str = "onnxruntime"
    baseline: Mapping[str, float] = field(default_factory=dict)
    compressed: Mapping[str, float] = field(default_factory=dict)

    def pair(self) -> tuple[float | None, float | None]:
        """Give what is compared: the dense model on its backend, and the compressed one on that which it is for."""
        return self.baseline.get(self.baseline_provider), self.compressed.get(self.provider)


@dataclass(frozen=True)
class Candidate:
    """A candidate on the Pareto front; its metric is that of the selection samples."""

    profile: str
    macs: int | None
    latency_ms: float | None
    bytes: int
    metric: Score
    plasticity: float
    nonzeros: int

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "profile": self.profile,
            "macs": self.macs,
            "latency_ms": self.latency_ms,
            "bytes": self.bytes,
            "nonzeros": self.nonzeros,
            "metric": _score(self.metric),
            "plasticity": self.plasticity,
        }


@dataclass(frozen=True)
class Search:
    """How the search went: candidates by outcome, seconds, and what it can be repeated with.

    ``cut_short`` are those that the time limit ended, which ``failed`` does not count.
    """

    evaluated: int
    refused: int
    failed: int
    seconds: float
    seed: int
    optimizer: str
    cut_short: int = 0


@dataclass(frozen=True)
class Layer:
    """One operator before and after; ``None`` where there is none of that name.

    ``edits`` are the connections that were pruned and created in it. Those of an operator that was added to feed it
    count here.
    """

    name: str
    op_type: str
    baseline: LayerCost | None
    compressed: LayerCost | None
    edits: Connections = NONE

    def to_json(self, total: Connections) -> dict[str, Any]:
        """Give plain values; ``total`` are the connections of all layers."""
        return {
            "name": self.name,
            "op_type": self.op_type,
            "baseline": _layer_cost(self.baseline),
            "compressed": _layer_cost(self.compressed),
            **_connections(self.edits, total),
        }


@dataclass(frozen=True)
class Report:
    """Everything that is said about one compression.

    Parameters
    ----------
    model
        Where the model came from.
    baseline, compressed
        The model before and after, measured on the same samples.
    profile
        Text form of the passes that were applied; ``apply -p`` takes it.
    edits
        The edit log. Counts, connections and plasticity are derived from it. The plasticity of a pass or a layer is
        what it adds to the whole: connections that it created / connections that were pruned anywhere.
    fidelity
        Distance of the compressed model's outputs from the baseline's; ``None`` without samples.
    policy
        The updated search policy as plain values; ``None`` where nothing was searched.
    refusals
        What was left alone, and why.
    pareto
        Candidates that no other one beats.
    search
        ``None`` where nothing was searched.
    verified
        Checks that the written model passed, by name.
    layers
        Operators before and after.
    latencies
        What was timed, and on which backends. The latency of ``baseline`` is that of the dense model on the baseline
        provider.
    """

    model: str
    baseline: Measurement
    compressed: Measurement
    profile: str
    edits: tuple[Edit, ...] = field(repr=False)
    fidelity: Fidelity | None = None
    policy: Mapping[str, Any] | None = field(default=None, repr=False)
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    pareto: tuple[Candidate, ...] = field(default=(), repr=False)
    search: Search | None = None
    verified: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def plasticity(self) -> float:
        """Connections created / connections pruned."""
        return plasticity(self.edits)

    @property
    def ratios(self) -> dict[str, float | None]:
        """Baseline over compressed, so that 4 means a quarter; ``None`` where either is not known or zero."""
        return {name: _ratio(getattr(self.baseline, name), getattr(self.compressed, name)) for name in RATIOS}

    def to_json(self) -> dict[str, Any]:
        """Give plain values that strict JSON can hold: numbers that are not finite become ``None``."""
        total = connections(self.edits)
        passes = tally(self.edits, lambda edit: edit.pass_name)
        elsewhere = total - sum((item.edits for item in self.layers), NONE)
        counts: dict[str, Counter[str]] = {}
        for edit in self.edits:
            counts.setdefault(edit.pass_name, Counter())[edit.kind] += 1
        plain = {
            "model": self.model,
            "baseline": self.baseline.to_json(),
            "compressed": self.compressed.to_json(),
            "ratios": self.ratios,
            "fidelity": None if self.fidelity is None else asdict(self.fidelity),
            "plasticity": self.plasticity,
            "connections": {
                "pruned": total.pruned,
                "created": total.created,
                "passes": {name: _connections(item, total) for name, item in passes.items()},
                "elsewhere": _connections(elsewhere, total),
            },
            "profile": self.profile,
            "policy": self.policy,
            "edits": counts,
            "refusals": [
                {"pass": item.pass_name, "nodes": list(item.nodes), "reason": item.reason} for item in self.refusals
            ],
            "pareto": [item.to_json() for item in self.pareto],
            "search": None if self.search is None else asdict(self.search),
            "verified": self.verified,
            "layers": [item.to_json(total) for item in self.layers],
            "provider": self.latencies.provider,
            "baseline_provider": self.latencies.baseline_provider,
            "latencies_ms": {"baseline": self.latencies.baseline, "compressed": self.latencies.compressed},
            "versions": versions(),
        }
        strict: dict[str, Any] = _strict(plain)
        return strict


def compare_layers(
    baseline: Sequence[LayerCost], compressed: Sequence[LayerCost], edits: Mapping[str, Connections] | None = None
) -> tuple[Layer, ...]:
    """Put operators of the same name side by side: those of the baseline in its order, then new ones.

    ``edits`` are the connections that were pruned and created, by operator.
    """
    changed = edits or {}
    before = {item.name: item for item in baseline}
    after = {item.name: item for item in compressed}
    names = dict.fromkeys((*before, *after))
    return tuple(
        Layer(
            name,
            (after.get(name) or before[name]).op_type,
            before.get(name),
            after.get(name),
            changed.get(name, NONE),
        )
        for name in names
    )


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python, of this package, of what computes the numbers, and of providers that are installed."""
    return {
        "surgery-ir": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in DISTRIBUTIONS},
        **_optional_versions(),
    }


def _optional_versions() -> dict[str, str]:
    """Version of the sparse provider where it is installed."""
    try:
        return {SPARSE: metadata.version(SPARSE)}
    except metadata.PackageNotFoundError:
        return {}


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before is not None and after else None


def _score(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else {"name": score.name, "value": score.value, "samples": score.samples}


def _layer_cost(cost: LayerCost | None) -> dict[str, Any] | None:
    return None if cost is None else {"params": cost.params, "nonzeros": cost.nonzeros, "macs": cost.macs}


def _connections(part: Connections, total: Connections) -> dict[str, Any]:
    """What was pruned and created in a part of the log, and the part of the plasticity that is due to it."""
    return {"pruned": part.pruned, "created": part.created, "plasticity": total.share(part.created)}


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
