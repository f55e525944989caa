"""One batch for a model: the user's example, or a made-up one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.inputs import InputSpec
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.errors import DataError, ModelError

__all__ = ["feeds_of"]

BATCH = 2
OPEN_AXIS = 8
"""Size of an open axis that is not the first."""

SMALLEST_VOCABULARY = 2

Specs = Mapping[str, Any]


def feeds_of(specs: Specs, example: Any, source: str) -> dict[str, NDArray[Any]]:
    """Give one batch, by the names of the inputs.

    Parameters
    ----------
    specs
        ``tf.TensorSpec`` by name.
    example
        An array, a tuple of them in order, a mapping by name, or ``None``: random numbers, and integers of 0 and 1.
    source
        The model, for messages.

    Raises
    ------
    ModelError
        The example does not fit.
    """
    if example is None:
        return _made_up(specs, source)
    if not isinstance(example, Mapping):
        items = example if isinstance(example, tuple | list) else (example,)
        if len(items) != len(specs):
            raise ModelError(f"{source}: it takes {', '.join(specs)}; the example has {len(items)} arrays")
        example = dict(zip(specs, items, strict=True))
    if example.keys() != specs.keys():
        raise ModelError(f"{source}: it takes {', '.join(specs)}; the example has {', '.join(map(str, example))}")
    feeds = {}
    for name, spec in specs.items():
        array = np.asarray(example[name])
        if not spec.shape.is_compatible_with(array.shape):
            raise ModelError(f"{source}: {name!r} is of shape {list(spec.shape)}, the example of {list(array.shape)}")
        feeds[name] = array.astype(spec.dtype.as_numpy_dtype)
    return feeds


def _made_up(specs: Specs, source: str) -> dict[str, NDArray[Any]]:
    wanted = {}
    for name, spec in specs.items():
        if spec.shape.rank is None:
            raise ModelError(f"{source}: the number of axes of {name!r} is not known; give example inputs")
        sizes = [OPEN_AXIS if size is None else size for size in spec.shape]
        if sizes and spec.shape[0] is None:
            sizes[0] = BATCH
        wanted[name] = InputSpec(np.dtype(spec.dtype.as_numpy_dtype), tuple(sizes))
    try:
        feeds = synthetic_feeds(wanted)
    except DataError as error:
        raise ModelError(f"{source}: {error}") from error
    rng = np.random.default_rng(0)
    for name, array in feeds.items():
        if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
            feeds[name] = rng.integers(0, SMALLEST_VOCABULARY, array.shape).astype(array.dtype)
    return feeds
