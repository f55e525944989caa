"""Retargeted moments equal moments that had the new targets from the start."""

from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.solvers.quadratic import Moments
from surgery_ir.solvers.retarget import Retargeted


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("centred", [True, False])
def test_equals_moments_of_the_new_targets(mean: float, centred: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(mean, 1.0, (300, 5)).astype(np.float32)
    old, new = rng.normal(size=(2, 300, 3))
    new += x[:, :3]
    first, direct = Moments(5, 3), Moments(5, 3)
    for part in np.array_split(np.arange(300), 4):
        first.add(x[part], old[part])
        direct.add(x[part], new[part])
    freed = Retargeted(first)
    for part in np.array_split(np.arange(300), 7):
        freed.add(x[part], new[part])

    mine, theirs = freed.quadratic(centred), direct.quadratic(centred)
    weights = rng.normal(size=(3, 5))
    scale = 1.0 + mean**2
    np.testing.assert_allclose(mine.h, theirs.h, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(mine.r, theirs.r, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(mine.yy, theirs.yy, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(freed.intercept(weights), direct.intercept(weights), rtol=1e-9, atol=1e-9 * scale)


def test_rows_that_are_missing_are_an_error() -> None:
    moments = Moments(2, 1)
    moments.add(np.ones((4, 2)), np.ones((4, 1)))
    freed = Retargeted(moments)
    freed.add(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="3 rows were given new targets, the moments have 4"):
        freed.quadratic(centred=True)
