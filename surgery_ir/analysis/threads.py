"""BLAS on one thread.

A layer's problem is thousands of small factorisations. Spread over threads that wait for each other by spinning, they
were measured 12 times slower on two busy cores than on one thread. And one thread adds in the same order on every
machine, so results do not depend on the number of cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 - its BLAS must be loaded before the controller looks for libraries
from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run the block with one BLAS thread."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
