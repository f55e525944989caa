"""What a reconnection may do: which connections, how far they reach, what ranks them, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from surgery_ir.passes.options import Help, Range

__all__ = ["Criteria", "Granularity", "ReconnectionPolicy"]

Granularity = Literal["weight", "channel", "layer"]

Criteria = Literal[
    "gradient",
    "correlation",
    "divergence",
    "gradient+correlation",
    "gradient+divergence",
    "correlation+divergence",
    "gradient+correlation+divergence",
]


@dataclass(frozen=True)
class ReconnectionPolicy:
    """Fields of a reconnection policy; they are options of the pass ``reconnect``, so a search moves all of them.

    Budgets are neutral: whatever is created is paid for by what is least useful, in nonzeros where single weights are
    wired and in MACs where channels and layers are.
    """

    granularity: Annotated[
        Granularity, Help("what is wired: single weights, channels of earlier values, or whole layers by skips")
    ] = "weight"
    radius: Annotated[
        int, Range(0, 16, search=(0, 8)), Help("layers that a new connection may jump over; 0 stays inside the layer")
    ] = 2
    criteria: Annotated[
        Criteria,
        Help(
            "gradient regrows pruned weights, correlation wires earlier values, divergence adds skips where features "
            "have drifted"
        ),
    ] = "gradient+correlation"
    budget: Annotated[
        float, Range(0.0, 1.0, search=(0.02, 1.0)), Help("most connections created, as a share of what ``per`` says")
    ] = 1.0
    per: Annotated[
        Literal["pruned", "nonzeros", "macs"],
        Help("what the budget is a share of: a layer's pruned weights, its nonzeros, or all that it multiplies"),
    ] = "pruned"
    shift: Annotated[
        float,
        Range(0.0, 1.0, search=(0.0, 1.0)),
        Help("how far budgets move to the layers where an error costs most; 0: every layer keeps its own"),
    ] = 0.5
    accept: Annotated[
        float,
        Range(0.0, 0.5, search=(0.0, 0.05)),
        Help("share by which the divergence on selection data has to fall for a layer's new connections to stay"),
    ] = 0.0
