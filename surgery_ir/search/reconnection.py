"""The part of a search policy that is about reconnection: beliefs about genes, read as a reconnection policy.

Every field of :class:`~surgery_ir.passes.reconnect.policy.ReconnectionPolicy` is an option of the pass ``reconnect``,
and so a gene of the search. What a policy file says under ``reconnection`` are the most likely values of those genes;
who changes a value there changes where the next search looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery_ir.errors import SpecError
from surgery_ir.passes.options import options_of
from surgery_ir.passes.reconnect.policy import ReconnectionPolicy
from surgery_ir.search.genes import Gene, option_genes

__all__ = ["GENES", "most_likely", "moved_means", "read_reconnection"]

GENES = option_genes(ReconnectionPolicy, "reconnect#1")
"""The genes of the pass in the last round."""


def most_likely(means: Mapping[str, float]) -> ReconnectionPolicy:
    """Give the policy that the means of genes stand for, by name; fields of other genes are at their default."""
    known: dict[str, Any] = {
        item.option.name: item.decode(means[item.gene.name]) for item in GENES if item.gene.name in means
    }
    return ReconnectionPolicy(**known)


def read_reconnection(plain: object, where: str) -> dict[str, Any]:
    """Read fields of a reconnection policy.

    Raises
    ------
    SpecError
        They are no mapping, a field is unknown, or a value is not valid.
    """
    if not isinstance(plain, Mapping):
        raise SpecError(f"{where}: 'reconnection' must be a mapping, not {plain!r}")
    declared = {option.name: option for option in options_of(ReconnectionPolicy)}
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in declared:
            raise SpecError(f"{where}: reconnection: there is no field {name!r} (fields: {', '.join(declared)})")
        try:
            values[name] = declared[name].check(value)
        except SpecError as error:
            raise SpecError(f"{where}: reconnection: {error}") from None
    return values


def moved_means(values: Mapping[str, Any], means: Mapping[str, float]) -> Iterator[tuple[Gene, float]]:
    """Yield the genes that stand for other values than ``means`` do, with the mean nearest to the value."""
    believed = most_likely(means)
    for item in GENES:
        name = item.option.name
        if name in values and values[name] != getattr(believed, name):
            yield item.gene, item.encode(values[name])
