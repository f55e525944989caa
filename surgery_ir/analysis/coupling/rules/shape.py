"""Operators that read sizes.

Nothing that is computed from a size notices a cut: the size that was read is held at what it was, so that the square
root of a width, a quotient of two widths or the length of a range are those of the whole network, as they are where
units are masked. Operands that hold the size of an axis that is cut are written anew by the operators that read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from surgery_ir.analysis.coupling.relations import Free, Frozen, Relation
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.site import Change, Kept, Site
from surgery_ir.analysis.coupling.sizes import is_held, measured_axes

__all__ = ["RULES"]


def _shape(site: Site) -> Iterator[Relation]:
    """Reading sizes binds nothing, as long as all who read them can be told what they were."""
    target = site.node.outputs[0]
    escapes = target.is_graph_output() or any(use.node.graph is not site.node.graph for use in target.uses())
    for axis in range(len(site.shape(0))):
        source = site.input(0, axis)
        yield Frozen(source, "hands its size on as an output or into a subgraph") if escapes else Free(source)


def _hold(site: Site, kept: Kept) -> Change:
    """Hold the sizes of axes that are cut where somebody reads them."""
    axes = measured_axes(site)
    held = {element: site.shape(0)[axis] for element, axis in enumerate(axes) if is_held(site, kept, element)}
    return Change(results={0: held} if held else {})


def _count(site: Site) -> Iterator[Relation]:
    """The number of elements may be a product with sizes that vary, so that it cannot be held."""
    for axis in range(len(site.shape(0))):
        yield Frozen(site.input(0, axis), "computes with its size")


RULES: Mapping[str, OperatorRule] = {"Shape": OperatorRule(_shape, _hold), "Size": OperatorRule(_count)}
