"""Random networks over the rule table: pieces that read any activation of the right rank, one behind another."""

from __future__ import annotations

import onnx

from tests.analysis.coupling import random_attention, random_common, random_images, random_sequences
from tests.analysis.coupling.random_builder import Builder, Flow
from tests.analysis.coupling.random_common import fitting, layer

__all__ = ["OPSETS", "random_model"]

FAMILIES = (random_attention, random_common, random_images, random_sequences)
"""Modules whose pieces are drawn: to import them is to register these."""

OPSETS = (12, 13, 17, 18, 21, 23, 24)
"""At each of them operators have changed that the pieces are spelled with."""

LARGEST = 48
"""Channels from which on a piece is preceded by a layer that has fewer."""


def random_model(seed: int) -> onnx.ModelProto:
    """Build the network of ``seed``; every activation that nothing else reads becomes an output, behind a layer."""
    b = Builder(seed, 0)
    b.opset = int(b.pick(OPSETS))
    flow = _first(b)
    flows = [layer(b, flow)]
    for _ in range(int(b.rng.integers(3, 13))):
        flow = flows[-1] if b.chance(0.8) else b.pick(flows)
        if flow.channels > LARGEST:
            flow = layer(b, flow)
        flows.append(fitting(b, flow).build(b, flow))
    read = {name for node in b.nodes for name in node.input}
    for flow in {item.name: item for item in flows}.values():
        if flow.name not in read or flow is flows[-1]:
            _finish(b, flow)
    return b.model()


def _first(b: Builder) -> Flow:
    kind = int(b.rng.integers(8))
    if kind < 4:
        return b.input((b.width(1, 4), *b.pick([(4, 4), (6, 4), (3, 5)])))
    if kind < 6:
        return b.input((int(b.pick([4, 5, 6])), b.width(1, 8)))
    if kind == 6:
        return b.input((b.width(1, 8),))
    ids = b.input((6,), integers=True)
    table = b.weight(5, 8, inputs=1)
    return Flow(b.op("Gather", table, ids.name), (6, 8))


def _finish(b: Builder, x: Flow) -> None:
    channels = 2
    last = b.op("Tanh", b.op("Add", layer(b, x, channels).name, b.scalar(0.3)))
    sizes = [b.batch, *x.with_channels(channels)]
    b.outputs.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, sizes))
