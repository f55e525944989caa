"""Layer least squares in plain numpy and scipy: ridge, optimal brain surgery and sparsity patterns. Knows no ONNX."""

from __future__ import annotations
