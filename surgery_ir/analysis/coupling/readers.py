"""Layers that read the units of a group, and the columns of their regression that each unit owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.analysis.layers import Layer

__all__ = ["UnitReader", "layers_by_weight", "unit_readers"]


@dataclass(frozen=True, slots=True, eq=False)
class UnitReader:
    """A layer that reads units.

    Parameters
    ----------
    layer
        The layer.
    columns : (units, width) int
        Columns of its matrix that each unit owns, in every group of a grouped Conv.
    """

    layer: Layer
    columns: Indices


def layers_by_weight(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers by the initializer that holds their weights."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.weight, []).append(layer)
    return found


def unit_readers(group: Group, layers: Mapping[str, Sequence[Layer]]) -> list[UnitReader]:
    """Find the layers that read ``group`` along their inputs.

    Parameters
    ----------
    group
        The group.
    layers
        From :func:`layers_by_weight`. What reads the units but is no layer (a recurrent layer, a product of
        activations) is not among the results.
    """
    return [
        UnitReader(layer, _columns(layer, span.indices))
        for span in group.read
        for layer in layers.get(span.axis.value, ())
        if span.axis.axis == _input_axis(layer)
    ]


def _input_axis(layer: Layer) -> int:
    if layer.op_type == "Conv":
        return 1
    return 0 if layer.transposed else 1


def _columns(layer: Layer, channels: Indices) -> Indices:
    """Columns of input channels: one for each place of the kernel, the channel fastest."""
    places = np.arange(layer.inputs // layer.channels) * layer.channels
    return (channels[:, :, None] + places).reshape(len(channels), -1)
