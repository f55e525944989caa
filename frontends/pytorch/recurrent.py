"""Keep PyTorch's exporter from unrolling recurrent layers.

To learn the shapes of what ``aten.lstm`` and ``aten.gru`` give, PyTorch runs them step by step, which fixes the length
of the sequences at that of the example, here and in whatever follows. Their shapes need no steps: for the time of an
export both operators are given an implementation that says the shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

__all__ = ["unrolled_nowhere"]

KEY = torch._C.DispatchKey.CompositeImplicitAutograd


@contextmanager
def unrolled_nowhere() -> Iterator[None]:
    """Export LSTM and GRU layers as they are, for sequences of every length."""
    rules = {torch.ops.aten.lstm.input: _lstm, torch.ops.aten.gru.input: _gru}
    kernels = {operator: dict(operator.py_kernels) for operator in rules}
    tables = {operator: decomposition_table.get(operator) for operator in rules}
    try:
        for operator, rule in rules.items():
            operator.py_kernels[KEY] = decomposition_table[operator] = rule
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator in rules:
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels[operator])
            operator._dispatch_cache.clear()
            decomposition_table.pop(operator)
            if tables[operator] is not None:
                decomposition_table[operator] = tables[operator]


def _lstm(
    inputs: Tensor,
    states: list[Tensor],
    _params: list[Tensor],
    _has_biases: bool,
    _layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    _batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _sequence(inputs, states[0], bidirectional), torch.empty_like(states[0]), torch.empty_like(states[1])


def _gru(
    inputs: Tensor,
    state: Tensor,
    _params: list[Tensor],
    _has_biases: bool,
    _layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    _batch_first: bool,
) -> tuple[Tensor, Tensor]:
    return _sequence(inputs, state, bidirectional), torch.empty_like(state)


def _sequence(inputs: Tensor, state: Any, bidirectional: bool) -> Tensor:
    """Shape of all steps: that of the inputs, the width of the state for each direction in the last axis."""
    return inputs.new_empty((*inputs.shape[:-1], (1 + bidirectional) * state.shape[-1]))
