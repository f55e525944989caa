"""The proof that a cut graph computes what the dense one computes when nothing reads the units that went."""

from __future__ import annotations

import numpy as np

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.errors import BackendError
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.coupled import feeds
from surgery_ir.passes.prune.cutting import Removed, masked

__all__ = ["SAMPLES", "TOLERANCE", "reason_against_cut"]

SAMPLES = 4
TOLERANCE = 1e-4
"""Largest difference of an output, relative to its largest magnitude."""

ROUNDINGS = 4
"""Differences of so many units in the last place of 1 are a runtime's own: it has Sigmoid and the like no better."""


def reason_against_cut(
    dense: Graph, small: Graph, coupling: Coupling, removed: Removed, ctx: PassContext
) -> str | None:
    """Run the cut graph and the masked one on a few samples; say where they differ, or ``None``.

    Parameters
    ----------
    dense
        The graph before the cut.
    small
        The same after the cut, nothing re-solved yet.
    coupling, removed
        What was cut.
    ctx
        Runtime and samples; random inputs where there are none.
    """
    inputs = feeds(dense, ctx, SAMPLES)
    try:
        wanted = ctx.runtime.load(masked(dense, coupling, removed)).run(inputs)
        found = ctx.runtime.load(small).run(inputs)
    except BackendError as error:
        return f"the cut graph does not run: {error}"
    for name, expected in wanted.items():
        reason = _difference(found[name], expected)
        if reason is not None:
            return f"output {name!r} of the cut graph {reason}"
    return None


def _difference(found: object, expected: object) -> str | None:
    if not isinstance(found, np.ndarray) or not isinstance(expected, np.ndarray):
        return None if type(found) is type(expected) else "is of another type"
    if found.shape != expected.shape:
        return f"has shape {list(found.shape)}, not {list(expected.shape)}"
    if not np.issubdtype(expected.dtype, np.floating):
        return None if np.array_equal(found, expected) else "is not equal to that of the masked one"
    finite = np.isfinite(expected)
    if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(found), 0, found), equal_nan=True):
        return "is not finite in the same places as that of the masked one"
    if not finite.any():
        return None
    scale = float(np.abs(expected[finite]).max()) or 1.0
    worst = float(np.abs(found[finite].astype(np.float64) - expected[finite]).max())
    if worst <= max(TOLERANCE * scale, ROUNDINGS * float(np.finfo(expected.dtype).eps)):
        return None
    return f"differs from that of the masked one by {worst / scale:.2g} of its scale"
