"""Measured time of a layer as a function of its widths.

Halving a layer's multiply-accumulates halves its time only where the runtime's kernels fit the new widths. ONNX
Runtime's convolutions compute blocks of 8 or 16 channels, depending on the machine, and pad the last one: 33 channels
then cost as much as 48, and where a width does not fit the blocks at all, twice as much. So nothing is assumed here;
layers are timed on the machine at hand, in the graphs of :mod:`~surgery_ir.analysis.probe`.

Other work on the machine only ever adds to a time. Probes therefore take turns, and the least time counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.probe import Kind, Probe
from surgery_ir.analysis.runtime import Runtime, Session

__all__ = ["Timings", "shared_timings"]

SECONDS = 8e-3
"""Time that a probe gets, warm-up aside; slow ones get their least rounds whatever that takes."""

SETTLED, PATIENCE = 0.02, 4
"""Rounds go on while a time has gone down by this share in the later half of them, for up to so many times as long."""

WARMUP = 2
LEAST_ROUNDS, MOST_ROUNDS = 5, 300

RESOLUTION = 0.02
"""Share of a probe's time below which its layer cannot be told from its neighbours."""

MOST_SESSIONS = 24
MOST_WEIGHTS = 1 << 26
"""Weights of the probes that take turns, all together."""

KNOTS = 8
"""Widths per axis at which a table is measured."""


class Timings:
    """Times of layers, each measured once.

    Safe to use from threads; only one measures at a time.

    Parameters
    ----------
    runtime
        What runs the layers.
    threads
        Threads of the runtime.
    clock
        Tells the time in seconds.

    Attributes
    ----------
    multiples
        What :func:`~surgery_ir.analysis.multiples.preferred_multiple` has found.
    """

    def __init__(self, runtime: Runtime, *, threads: int = 1, clock: Callable[[], float] = perf_counter) -> None:
        self.runtime = runtime
        self.threads = threads
        self.clock = clock
        self.multiples: dict[Hashable, int] = {}
        self._seconds: dict[Probe, float] = {}
        self._lock = threading.Lock()

    def layer_time(self, kind: Kind, inputs: int, outputs: int) -> float:
        """Give the seconds that a layer takes.

        Parameters
        ----------
        kind
            What layer.
        inputs, outputs
            Its widths, per group; equal to each other where ``kind`` counts groups.

        Raises
        ------
        BackendError
            The runtime refuses such a layer.
        """
        (seconds,) = self.layer_times([Probe(kind, inputs, outputs)])
        return seconds

    def layer_times(self, probes: Sequence[Probe], *, again: bool = False) -> list[float]:
        """Give the seconds of several layers; those that are measured take turns.

        Parameters
        ----------
        probes
            What layers, at what widths.
        again
            Measure those that are known once more; the least time counts.

        Raises
        ------
        BackendError
            The runtime refuses one of them.
        """
        carriers = [probe.carrier() for probe in probes]
        with self._lock:
            wanted = dict.fromkeys((*probes, *carriers))
            for batch in _batches(probe for probe in wanted if again or probe not in self._seconds):
                for probe, seconds in zip(batch, self._measure(batch), strict=True):
                    self._seconds[probe] = min(seconds, self._seconds.get(probe, np.inf))
            pairs = [(self._seconds[probe], self._seconds[rest]) for probe, rest in zip(probes, carriers, strict=True)]
        return [max(whole - rest, RESOLUTION * whole) for whole, rest in pairs]

    def time_table(self, kind: Kind, inputs: Sequence[int], outputs: Sequence[int]) -> NDArray[np.float64]:
        """Tabulate the seconds of a layer over its widths.

        The time is measured along the two outer edges of the table, at up to ``KNOTS`` widths each, and is linear
        between those. Inside, it is the product of the two, each relative to the widest layer: kernels that work in
        blocks take as many steps as there are pairs of blocks. What does not shrink with the widths is told from the
        narrowest corner, and left out of the product.

        Parameters
        ----------
        kind
            What layer. Where it counts groups, the table depends on ``inputs`` only.
        inputs, outputs
            Widths, ascending; multiples of what the runtime likes, for the time between knots is interpolated.

        Returns
        -------
        ndarray
            Seconds, inputs × outputs.

        Raises
        ------
        BackendError
            The runtime refuses such a layer.
        """
        rows, columns = _knots(inputs), _knots(outputs)
        if kind.group_shape is not None:
            curve = np.array(self.layer_times([Probe(kind, width, width) for width in rows]))
            return np.repeat(np.interp(inputs, rows, curve)[:, None], len(outputs), axis=1)
        down = [Probe(kind, width, outputs[-1]) for width in rows]
        across = [Probe(kind, inputs[-1], width) for width in columns]
        seconds = np.array(self.layer_times([*down, *across, Probe(kind, inputs[0], outputs[0])]))
        by_input = np.interp(inputs, rows, seconds[: len(rows)])
        by_output = np.interp(outputs, columns, seconds[len(rows) : -1])
        fixed = _fixed(seconds[-1], by_input, by_output)
        table: NDArray[np.float64] = fixed + np.outer(by_input - fixed, (by_output - fixed) / (by_output[-1] - fixed))
        return table

    def _measure(self, probes: Sequence[Probe]) -> list[float]:
        """Least seconds of one run of each probe; they take turns until the least times have settled."""
        loaded = []
        for probe in probes:
            graph, feeds = probe.build()
            loaded.append((self.runtime.load(graph, threads=self.threads), feeds))
        for session, feeds in loaded:
            for _ in range(WARMUP):
                session.run(feeds)
        least = np.full(len(loaded), np.inf)
        settled = 0
        start = self.clock()
        for index in range(MOST_ROUNDS):
            spent = (self.clock() - start) / (SECONDS * len(loaded))
            if index >= LEAST_ROUNDS and spent >= (1 if index >= 2 * settled else PATIENCE):
                break
            before = least.copy()
            turns = list(range(len(loaded)))
            for turn in turns if index % 2 == 0 else reversed(turns):
                least[turn] = min(least[turn], self._time(*loaded[turn]))
            if np.any(least < (1 - SETTLED) * before):
                settled = index
        return [float(seconds) for seconds in least]

    def _time(self, session: Session, feeds: Mapping[str, NDArray[Any]]) -> float:
        before = self.clock()
        session.run(feeds)
        return self.clock() - before


_SHARED: dict[tuple[Runtime, int], Timings] = {}


def shared_timings(runtime: Runtime, threads: int = 1) -> Timings:
    """Give the times that everything in this process shares, so that a search measures a layer once."""
    return _SHARED.setdefault((runtime, threads), Timings(runtime, threads=threads))


def _batches(probes: Iterable[Probe]) -> Iterator[list[Probe]]:
    """Deal out the probes so that those that take turns fit into memory."""
    batch: list[Probe] = []
    for probe in probes:
        if batch and (len(batch) == MOST_SESSIONS or sum(item.weights for item in (*batch, probe)) > MOST_WEIGHTS):
            yield batch
            batch = []
        batch.append(probe)
    if batch:
        yield batch


def _knots(widths: Sequence[int]) -> list[int]:
    """Up to ``KNOTS`` of the widths, evenly, the first and the last among them."""
    places = np.linspace(0, len(widths) - 1, min(KNOTS, len(widths))).round().astype(int)
    return [int(widths[place]) for place in places]


def _fixed(corner: float, by_input: NDArray[np.float64], by_output: NDArray[np.float64]) -> float:
    """The part a of all times for which (t(i, O) - a)(t(I, o) - a) / (t(I, O) - a) + a is right at the corner too."""
    narrow, short, widest = float(by_input[0]), float(by_output[0]), float(by_input[-1])
    curved = corner + widest - narrow - short
    if curved <= RESOLUTION * widest:  # times add up along the axes instead, or one of them has a single width
        return 0.0
    return float(np.clip((corner * widest - narrow * short) / curved, 0.0, min(corner, narrow, short)))
