"""Attention and rotary embeddings of ONNX itself (opset 23 on).

Heads are units: a head owns consecutive indices where they are merged into one axis, or one index where they have an
axis of their own. With fewer heads for keys than for queries, a key head goes with all query heads that read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.relations import Axis, Frozen, Indices, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, NotKnown, Site

__all__ = [
    "RULES",
    "Place",
    "count_heads",
    "heads_of",
    "kept_heads",
    "readers",
    "resize_rotary",
    "rotary",
    "together",
    "with_keys",
]

Place = tuple[Axis, Indices]
"""An axis, and the unit that each of its indices belongs to."""


def heads_of(size: int, heads: int, shared: int = 1) -> Indices:
    """Unit of every index of an axis of ``size`` in which ``heads`` follow each other, ``shared`` of them a unit.

    Raises
    ------
    NotKnown
        The axis does not divide into them.
    """
    if heads < 1 or size % heads or heads % shared:
        raise NotKnown(f"{size} indices do not divide into {heads} heads")
    return np.arange(size) // (size // heads * shared)


def together(places: Sequence[Place]) -> Iterator[Mapped]:
    """Tie every index of a unit, wherever it lies, to the first one of the first place."""
    hub, units = places[0]
    first = np.searchsorted(units, np.arange(units[-1] + 1))
    for axis, owners in places:
        yield Mapped(axis, np.arange(len(owners)), hub, first[owners])


def kept_heads(mask: NDArray[np.bool_], heads: int) -> int:
    """Count the heads that stay on an axis where ``heads`` follow each other."""
    return int(np.count_nonzero(mask)) * heads // len(mask)


def readers(queries: int, keys: int) -> int:
    """Count the query heads of a unit: those that share a key head, or one where all of them share the only one.

    Raises
    ------
    NotKnown
        Key heads do not have equally many.
    """
    if keys < 1 or queries < 1 or queries % keys:
        raise NotKnown(f"{queries} query heads do not share {keys} key heads")
    return queries // keys if keys > 1 else 1


def with_keys(places: Sequence[Place], cached: Sequence[Place]) -> Iterator[Relation]:
    """Tie heads together, and keys and values with them, unless there is one head of these for all queries."""
    if cached[0][1][-1] > 0:
        yield from together([*places, *cached])
        return
    yield from together(places)
    yield from (Frozen(axis, "reads it with every query head") for axis, _ in cached)


def count_heads(site: Site, mask: NDArray[np.bool_], queries: str, keys: str) -> dict[str, int]:
    """Give the attributes that count heads their new values; an only key head stays."""
    found = {name: site.number(name, 0) for name in (queries, keys) if name in site.node.attributes}
    return {name: 1 if count == 1 else kept_heads(mask, count) for name, count in found.items()}


QUERY, KEY, VALUE, MASK, PAST_KEY, PAST_VALUE = range(6)


def _attention(site: Site) -> Iterator[Relation]:
    """``softmax(scale Q Kᵀ + mask) V`` for every head."""
    rank = len(site.shape(QUERY))
    queries, keys = _counts(site)
    if len(site.shape(KEY)) != rank or len(site.shape(VALUE)) != rank:
        raise NotKnown("its operands differ in rank")
    shared = readers(queries, keys)
    axis = 1 if rank == 4 else 2
    each = heads_of(queries, queries, shared)
    places: list[Place] = [(site.input(QUERY, axis), heads_of(site.shape(QUERY)[axis], queries, shared))]
    if site.has(MASK) and len(site.shape(MASK)) > 2 and site.shape(MASK)[-3] == queries:
        places.append((site.input(MASK, -3), each))
    if site.writes(0):
        places.append((site.output(axis), heads_of(site.output_shape()[axis], queries, shared)))
    if site.writes(3):
        places.append((site.output(1, 3), each))
    cached: list[Place] = [(site.input(index, axis), heads_of(site.shape(index)[axis], keys)) for index in (KEY, VALUE)]
    cached += [(site.input(index, 1), np.arange(keys)) for index in (PAST_KEY, PAST_VALUE) if site.has(index)]
    cached += [(site.output(1, index), np.arange(keys)) for index in (1, 2) if site.writes(index)]
    yield from with_keys(places, cached)
    if rank == 4:
        yield from _features(site)


def _features(site: Site) -> Iterator[Relation]:
    """Relate the features of a head: keys are summed over with queries, values are handed on."""
    yield Same(site.input(QUERY, 3), site.input(KEY, 3), contracted=True)
    for index, source in ((PAST_KEY, KEY), (PAST_VALUE, VALUE)):
        if site.has(index):
            yield Same(site.input(source, 3), site.input(index, 3))
    for index, source in ((0, VALUE), (1, KEY), (2, VALUE)):
        if site.writes(index):
            yield Same(site.input(source, 3), site.output(3, index))


def _counts(site: Site) -> tuple[int, int]:
    """Count the heads of queries and of keys; where they have an axis of their own, it tells."""
    if len(site.shape(QUERY)) == 4:
        return site.shape(QUERY)[1], site.shape(KEY)[1]
    return site.number("q_num_heads", 0), site.number("kv_num_heads", 0)


def _resize_attention(site: Site, kept: Kept) -> Change:
    """Count the heads anew; a default scale stays that of the head size there was."""
    attributes: dict[str, int | float] = {}
    merged = len(site.shape(QUERY)) == 3
    mask = kept.input(QUERY, 2 if merged else 1)
    if mask is not None:
        attributes.update(count_heads(site, mask, "q_num_heads", "kv_num_heads"))
    if not merged and kept.input(QUERY, 3) is not None and "scale" not in site.node.attributes:
        attributes["scale"] = 1 / math.sqrt(site.shape(QUERY)[3])
    return Change(attributes=attributes)


def rotary(site: Site, heads: int) -> Iterator[Relation]:
    """Turn pairs of features of each of ``heads`` heads by an angle that depends on the position."""
    if len(site.shape(0)) == 4:
        yield Same(site.input(0, 1), site.output(1))
        yield from (Frozen(axis, "rotates pairs of its indices") for axis in (site.input(0, 3), site.output(3)))
    else:
        units = heads_of(site.shape(0)[2], heads)
        yield from together([(site.input(0, 2), units), (site.output(2), units)])


def _rotary(site: Site) -> Iterator[Relation]:
    return rotary(site, site.number("num_heads", 0))


def resize_rotary(site: Site, kept: Kept) -> Change:
    """Count the heads anew where an attribute says how many there are."""
    mask, heads = kept.output(1 if len(site.shape(0)) == 4 else 2), site.number("num_heads", 0)
    return Change() if mask is None or not heads else Change(attributes={"num_heads": kept_heads(mask, heads)})


RULES: Mapping[str, OperatorRule] = {
    "Attention": OperatorRule(_attention, _resize_attention),
    "RotaryEmbedding": OperatorRule(_rotary, resize_rotary),
}
