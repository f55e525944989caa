"""Sparse eight-bit layers give what ONNX Runtime's own eight-bit kernels give, within one quantum."""

from __future__ import annotations

import pytest

from tests import quantized_cases

QUICK, ALL = 100, 1000


@pytest.mark.parametrize("seed", range(QUICK))
def test_random_quantized_model(seed: int) -> None:
    quantized_cases.check(quantized_cases.make(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(QUICK, ALL))
def test_more_random_quantized_models(seed: int) -> None:
    quantized_cases.check(quantized_cases.make(seed))
