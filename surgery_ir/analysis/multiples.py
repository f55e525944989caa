"""The multiple that a channel count had best be rounded to, from measured times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from surgery_ir.analysis.probe import Kind, Probe
from surgery_ir.analysis.timing import Timings

__all__ = ["Use", "preferred_multiple"]

LARGEST = 32
"""The largest multiple that is tried."""

USUAL_WIDTH = 64
"""Widths are probed up to here, however many channels there are."""

CACHED = 1 << 16
"""Scalars of activations that fit into the second-level cache several times."""

SOUND, AUDIBLE = 1e-5, 5e-6
"""Seconds that the layers must take to be compared at the usual width, and to be compared at all."""

TOLERANCE, LENIENCE = 0.05, 0.2
"""Share of the time that an aligned count may waste, for noise and for what does not matter: that much, or that part
of the channels between two aligned ones that the multiple is, if that is more."""

IDLE = 0.9
"""Share of the time above which half the channels are no gain."""

CONFIRMATIONS = 4
"""Measurements that may be spent on having a finding confirmed."""


@dataclass(frozen=True, slots=True)
class Use:
    """A layer that has a channel count as one of its widths.

    Parameters
    ----------
    kind
        What layer.
    axis
        Which width: ``inputs``, ``outputs``, or ``both`` where they are the same channels, as in a depthwise Conv.
    other
        The other width; of no account for ``both``.
    """

    kind: Kind
    axis: Literal["inputs", "outputs", "both"]
    other: int = 0

    def small(self) -> Use:
        """The same use on so few samples, and if need be so few pixels, that the caches hold the activations.

        Else the step from one cache to the next would pass for a property of the widths.
        """
        kind = self.kind
        room = max(CACHED // (max(self.other, USUAL_WIDTH) * kind.groups), 1)
        size = kind.size
        while math.prod(size) > room and max(size) > 1:
            size = tuple(-(-length // 2) for length in size)
        return replace(self, kind=replace(kind, size=size, rows=min(kind.rows, max(room // math.prod(size), 1))))

    def probe(self, width: int) -> Probe:
        """The layer with ``width`` channels on that axis."""
        inputs = self.other if self.axis == "outputs" else width
        outputs = self.other if self.axis == "inputs" else width
        return Probe(self.kind, inputs, outputs)


def preferred_multiple(timings: Timings, uses: Sequence[Use], width: int) -> int:
    """Find the multiple that a channel count had best be rounded to.

    Counts just above an aligned one tell the multiples apart, because there a kernel that works in blocks has nearly
    a whole block to waste: 48, 40, 36, 34 and 33 stand for the multiples 16 to 1 between 32 and 64. A count wastes
    what all layers together take beyond the straight line between the aligned ones. A multiple is liked if neither
    its own count nor, on average, those of the multiples above it waste more than is tolerated, see ``TOLERANCE``;
    noise makes for a larger multiple, which is the safe side. More channels are judged between 32 and 64 too, where
    the waste shows most clearly, unless they are too quick there to be timed.

    A finding counts when the next measurement confirms it, so that a busy machine gives the same answer twice.

    Parameters
    ----------
    timings
        What measures, and remembers the finding.
    uses
        The layers that write or read these channels.
    width
        How many channels there are.

    Returns
    -------
    int
        The smallest power of two that is liked, at most 32 and half of what ``width`` is rounded up to; 1 where the
        layers are too quick to be timed at all; and that power of two, or 64, where half the channels are hardly
        quicker than all of them, so that cutting some is idle.

    Raises
    ------
    BackendError
        The runtime refuses such a layer.
    """
    if width <= 1 or not uses:
        return 1
    small = [use.small() for use in uses]
    widest = 1 << (width - 1).bit_length()
    key = (frozenset(small), widest)
    if key not in timings.multiples:
        found = _find(timings, small, widest, again=False)
        for _ in range(CONFIRMATIONS):
            before, found = found, _find(timings, small, widest, again=True)
            if found == before:
                break
        timings.multiples[key] = found
    return timings.multiples[key]


def _find(timings: Timings, uses: Sequence[Use], widest: int, *, again: bool) -> int:
    def times(widths: Sequence[int]) -> list[float]:
        """Seconds of all layers together at each width."""
        found = timings.layer_times([use.probe(count) for use in uses for count in widths], again=again)
        return [float(seconds) for seconds in np.reshape(found, (len(uses), -1)).sum(0)]

    high = min(widest, USUAL_WIDTH)
    low = high // 2
    if widest > USUAL_WIDTH and times([high])[0] < SOUND:
        low, high = widest // 2, widest // 2 + USUAL_WIDTH
    steps = [1 << power for power in reversed(range(min(high - low, 2 * LARGEST).bit_length() - 1))]
    most, least, *between = times([high, low, *(low + step for step in steps)])
    if most < AUDIBLE:
        return 1
    if high == 2 * low and least > IDLE * most:
        return high
    multiple = min(low, LARGEST)
    waste: list[float] = []
    for step, seconds in zip(steps, between, strict=True):
        share = step / (high - low)
        waste.append((seconds - least - (most - least) * share) / most)
        if max(waste[-1], float(np.mean(waste))) <= max(TOLERANCE, LENIENCE * share):
            multiple = step
    return multiple
