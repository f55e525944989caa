"""Reconnect by channels and skips: bundles of connections, paid for in nonzeros or in multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from surgery_ir.analysis.layers import find_layers
from surgery_ir.errors import PassError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import PassContext, Refusal
from surgery_ir.passes.payment import macs_of, pay_macs
from surgery_ir.passes.reconnect.acceptance import judge_of
from surgery_ir.passes.reconnect.attempts import attempt, keep_best
from surgery_ir.passes.reconnect.bundles import Bundles, bundle
from surgery_ir.passes.reconnect.exchange import Rules
from surgery_ir.passes.repair.refit import Repair
from surgery_ir.passes.sequential import Sequential

__all__ = ["bundled"]

JUDGES = 256
"""Selection samples that judge bundles where rules leave single connections to held-out rows."""

SPARSE = 0.01
"""Share of zeros from which a layer counts as pruned: some weights are zero by chance."""

NEUTRAL = 1.001
"""Share of the multiply-accumulates up to which a bundle counts as paid for already."""


class _UnpaidError(PassError):
    """No units could be cut for what was added."""


def bundled(editor: Editor, ctx: PassContext, bundles: Bundles, rules: Rules, what: str) -> list[Refusal]:
    """Give layers bundles, pay for them, and keep the result if it beats repair alone on selection data.

    Where weights are pruned, every layer pays for its own bundle with its least useful connections. Where there are
    none, units are cut until the multiply-accumulates are what they were.
    """
    if not find_layers(editor.graph).layers:
        return Sequential(editor, ctx, rules.fit, what).refusals
    rules = replace(rules, checks=rules.checks or JUDGES)
    sparse = _is_sparse(editor.graph)
    judge = judge_of(ctx, rules.checks)
    repair = Repair(ridge=rules.fit.ridge, positions=rules.positions)
    attempts = [attempt(editor, judge, "repair alone", lambda copy: repair.apply(copy, ctx))]
    macs = macs_of(editor.graph, ctx)

    def wire(copy: Editor) -> Sequence[Refusal]:
        found = bundle(copy, ctx, replace(bundles, pays=sparse), rules, what).refusals
        if sparse or macs_of(copy.graph, ctx) <= NEUTRAL * macs:
            return found
        try:
            pay_macs(copy, ctx, macs)
        except PassError as error:
            raise _UnpaidError(str(error)) from error
        repair.apply(copy, ctx)
        return found

    try:
        attempts.append(attempt(editor, judge, what, wire))
    except _UnpaidError as error:
        return [*keep_best(editor, attempts), Refusal(f"undone: nothing can pay for it: {error}")]
    return keep_best(editor, attempts)


def _is_sparse(graph: Graph) -> bool:
    """Whether the weights of some layer were pruned one by one."""
    return any(np.mean(graph.array(layer.weight) == 0) >= SPARSE for layer in find_layers(graph))
