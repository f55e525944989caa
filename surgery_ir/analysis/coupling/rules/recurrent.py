"""Recurrent layers: LSTM, GRU and RNN, of one direction or two.

Unit h of the hidden state is row h of every gate, column h of the recurrence weights, and entry h of the biases, the
peepholes, the initial state and all outputs. The directions have one ``hidden_size``, so h goes in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Axis, Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES"]

SEQUENCE, WEIGHT, RECURRENCE, BIAS, LENGTHS, INITIAL_STATE, INITIAL_CELL, PEEPHOLES = range(8)


def _recurrent(site: Site) -> Iterator[Relation]:
    """Relate everything to the columns of the recurrence weights, which each step sums over."""
    hidden = site.input(RECURRENCE, 2)
    if not site.is_constant(RECURRENCE):
        yield Frozen(hidden, "multiplies it by recurrence weights that are computed")
    yield Same(site.input(SEQUENCE, 2), site.input(WEIGHT, 2), contracted=True)
    yield Same(hidden, hidden, contracted=True)  # with the state of the step before, which no value holds
    for index in (WEIGHT, RECURRENCE, BIAS, PEEPHOLES):
        if site.has(index):
            rows = np.arange(site.shape(index)[1])
            yield Mapped(site.input(index, 1), rows, hidden, rows % site.shape(RECURRENCE)[2])
    yield from _values(site, hidden)


def _values(site: Site, hidden: Axis) -> Iterator[Relation]:
    """Relate states and outputs, whose axes ``layout`` orders."""
    batch_first = site.number("layout", 0) == 1
    sequence, batch = (1, 0) if batch_first else (0, 1)
    samples = site.input(SEQUENCE, batch)
    yield Frozen(site.input(SEQUENCE, sequence), "steps along it")
    if site.has(LENGTHS):
        yield Same(samples, site.input(LENGTHS, 0))
    states = [
        (site.input(index, -1), site.input(index, batch), site.input(index, 1 - batch))
        for index in (INITIAL_STATE, INITIAL_CELL)
        if site.has(index)
    ]
    states += [
        (site.output(-1, index), site.output(batch, index), site.output(1 - batch, index))
        for index in (1, 2)
        if site.writes(index)
    ]
    if site.writes(0):
        yield Frozen(site.output(sequence), "steps along it")
        states.append((site.output(-1), site.output(0 if batch_first else 2), site.output(2 if batch_first else 1)))
    for units, own_samples, directions in states:
        yield Same(hidden, units)
        yield Same(samples, own_samples)
        yield Frozen(directions, "runs once for every direction along it")


def _resize(site: Site, kept: Kept) -> Change:
    hidden = kept.input(RECURRENCE, 2)
    return Change() if hidden is None else Change(attributes={"hidden_size": int(np.count_nonzero(hidden))})


RULES: Mapping[str, OperatorRule] = {name: OperatorRule(_recurrent, _resize) for name in ("LSTM", "GRU", "RNN")}
