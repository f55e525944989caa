"""Attention of ONNX Runtime's own operators (``com.microsoft``); heads are units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surgery_ir.analysis.coupling.relations import Indices, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.attention import (
    Place,
    count_heads,
    heads_of,
    kept_heads,
    readers,
    resize_rotary,
    rotary,
    together,
    with_keys,
)
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site

__all__ = ["RULES"]


def _attention(site: Site) -> Iterator[Relation]:
    """Project to queries, keys and values by one weight ``[inputs, q | k | v]`` first."""
    heads = site.number("num_heads", 0)
    merged = np.concatenate([heads_of(size, heads) for size in _projected(site)])
    yield Same(site.input(0, 2), site.input(1, 0), contracted=True)
    places: list[Place] = [(site.output(2), heads_of(site.output_shape()[2], heads)), (site.input(1, 1), merged)]
    if site.has(2):
        places.append((site.input(2, 0), merged))
    if site.has(4):
        places.append((site.input(4, 2), np.arange(heads)))
    if site.writes(1):
        places.append((site.output(2, 1), np.arange(heads)))
    yield from together([*places, *_score_bias(site, 5, heads)])


def _projected(site: Site) -> tuple[int, ...]:
    """Sizes of queries, keys and values."""
    whole = site.shape(1)[1]
    sizes = site.numbers("qkv_hidden_sizes") or (whole // 3,) * 3
    if sum(sizes) != whole:
        raise NotKnown(f"its {whole} columns are not {' + '.join(map(str, sizes))}")
    return sizes


def _score_bias(site: Site, index: int, heads: int, units: Indices | None = None) -> Iterator[Place]:
    """Place the heads of the optional addend of the scores, which all heads may share."""
    if site.has(index) and heads > 1 and site.shape(index)[1] == heads:
        yield site.input(index, 1), np.arange(heads) if units is None else units


def _resize_attention(site: Site, kept: Kept) -> Change:
    change = _resize_heads(site, kept)
    mask = kept.output(2)
    if mask is None or not site.numbers("qkv_hidden_sizes"):
        return change
    sizes = [kept_heads(mask, size) for size in _projected(site)]
    return Change(attributes={**change.attributes, "qkv_hidden_sizes": sizes})


def _multi_head(site: Site) -> Iterator[Relation]:
    """Keys and values have as many heads as queries; either may be packed along an axis of its own."""
    heads = site.number("num_heads", 0)
    places: list[Place] = [(site.output(2), heads_of(site.output_shape()[2], heads))]
    for index in (0, 1, 2):
        if site.has(index):
            axis = _head_axis(site, index)
            places.append((site.input(index, axis), heads_of(site.shape(index)[axis], heads)))
    if site.has(3):
        value = site.output_shape()[2]
        hidden, odd = divmod(site.shape(3)[0] - value, 2)
        if odd:
            raise NotKnown("its bias is not that of queries, keys and values")
        places.append((site.input(3, 0), np.concatenate([heads_of(size, heads) for size in (hidden, hidden, value)])))
    places.extend((site.input(index, 1), np.arange(heads)) for index in (6, 7) if site.has(index))
    places.extend((site.output(1, index), np.arange(heads)) for index in (1, 2, 3) if site.writes(index))
    yield from together([*places, *_score_bias(site, 5, heads)])


def _head_axis(site: Site, index: int) -> int:
    """Axis of the heads: merged with their features, ahead of the positions, or ahead of what is packed."""
    return {3: 2, 4: 1, 5: 2}[len(site.shape(index))]


def _resize_heads(site: Site, kept: Kept) -> Change:
    mask = kept.output(2)
    return Change() if mask is None else Change(attributes=count_heads(site, mask, "num_heads", "kv_num_heads"))


def _grouped_query(site: Site) -> Iterator[Relation]:
    """A key head goes with the query heads that read it."""
    queries, keys = site.number("num_heads", 0), site.number("kv_num_heads", 0)
    if site.has(12) or site.has(13):
        raise NotKnown("its cache is quantized")
    packed = not site.has(1)
    shared = queries if packed and keys == 1 else readers(queries, keys)
    each = heads_of(queries, queries, shared)
    merged = heads_of(site.output_shape()[2], queries, shared)
    places: list[Place] = [(site.output(2), merged)]
    if packed:
        own = heads_of(len(merged) // queries * keys, keys)
        places.append((site.input(0, 2), np.concatenate([merged, own, own])))
    else:
        places.append((site.input(0, 2), merged))
    places.extend([(site.input(11, 0), each)] if site.has(11) else [])
    places.extend([(site.output(1, 3), each)] if site.writes(3) else [])
    places.extend(_score_bias(site, 10, queries, each))
    cached = [(site.input(index, 2), heads_of(site.shape(index)[2], keys)) for index in (1, 2) if not packed]
    cached += [(site.input(index, 1), np.arange(keys)) for index in (3, 4) if site.has(index)]
    cached += [(site.output(1, index), np.arange(keys)) for index in (1, 2) if site.writes(index)]
    yield from with_keys(places, cached) if cached else together(places)


def _rotary(site: Site) -> Iterator[Relation]:
    """Count the heads by the angles, one a pair of features, where no attribute does."""
    return rotary(site, site.number("num_heads", 0) or site.shape(0)[-1] // (2 * site.shape(2)[1]))


RULES: Mapping[str, OperatorRule] = {
    f"com.microsoft::{name}": rule
    for name, rule in {
        "Attention": OperatorRule(_attention, _resize_attention),
        "GroupQueryAttention": OperatorRule(_grouped_query, _resize_heads),
        "MultiHeadAttention": OperatorRule(_multi_head, _resize_heads),
        "RotaryEmbedding": OperatorRule(_rotary, resize_rotary),
    }.items()
}
