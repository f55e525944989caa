"""Inputs made up from what a model declares, for measuring time where no data are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import InputSpec
from surgery_ir.errors import DataError

__all__ = ["synthetic_feeds"]


def synthetic_feeds(
    specs: Mapping[str, InputSpec], batch: int = 1, dims: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Make random inputs for one run.

    Parameters
    ----------
    specs
        From :func:`~surgery_ir.analysis.inputs.input_specs`.
    batch
        Size of an open first axis, and of every axis that bears its symbol.
    dims
        Sizes of other symbolic axes.
    seed
        The same seed gives the same inputs.

    Returns
    -------
    dict
        Floats are standard normal, 8-bit integers anything, other integers 0 (an index that is always valid),
        booleans ``True``.

    Raises
    ------
    DataError
        A size is not known, a symbol in ``dims`` does not exist, or an input is not numeric.
    """
    sizes = dict(dims or {})
    symbols = {size for spec in specs.values() for size in spec.shape or () if isinstance(size, str)}
    unknown = sorted(sizes.keys() - symbols)
    if unknown:
        there = ", ".join(sorted(symbols)) or "none"
        raise DataError(f"the model has no symbolic axis called {unknown[0]!r} (it has: {there})")
    for spec in specs.values():
        leading = spec.shape[0] if spec.shape else None
        if isinstance(leading, str) and spec.shape and spec.shape.count(leading) == 1:  # others are placeholders: "?"
            sizes.setdefault(leading, batch)
    rng = np.random.default_rng(seed)
    return {name: _array(name, spec, batch, sizes, rng) for name, spec in specs.items()}


def _array(name: str, spec: InputSpec, batch: int, sizes: Mapping[str, int], rng: np.random.Generator) -> NDArray[Any]:
    if spec.dtype is None or spec.shape is None or spec.dtype == object:
        raise DataError(f"input {name!r} ({spec}): no random values can be made for it; give samples")
    shape = []
    for axis, declared in enumerate(spec.shape):
        size = sizes.get(declared) if isinstance(declared, str) else declared
        if size is None and axis == 0:
            size = batch
        if size is None:
            how = f"set it with --dim {declared}=N" if declared else "give samples"
            raise DataError(f"input {name!r} ({spec}): the size of axis {axis} is not known; {how}")
        shape.append(size)
    if spec.dtype.itemsize == 1 and spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        return rng.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
    if spec.dtype.kind in "iub":
        return np.full(shape, spec.dtype.kind == "b", spec.dtype)
    return rng.standard_normal(shape).astype(spec.dtype)
