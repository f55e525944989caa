"""Where groups lie on constants, whether those count as weights or not."""

from __future__ import annotations

from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.graph.model import Graph
from tests.coupling import assert_cut_is_exact
from tests.harness import graph

__all__ = ["contributed", "cut_constants", "places"]


def contributed(inputs: str, weights: str, nodes: str, opset: int = 21) -> Graph:
    """Build a graph that may use ``com.microsoft``, written ``ms.``."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return graph(f"{head} g ({inputs}) => (float[] y) <{weights}> {{ {nodes.replace('ms.', 'com.microsoft.')} }}")


def places(coupling: Coupling, case: Graph) -> list[str]:
    """Every group as ``units: constant.axis …``, in the order of the constants' names."""
    found = []
    for group in coupling.groups:
        axes = sorted(
            f"{item.axis.value}.{item.axis.axis}" for item in group.spans if is_constant(case, item.axis.value)
        )
        found.append(f"{group.units}: {' '.join(axes)}")
    return found


def cut_constants(case: Graph, tolerance: float = 1e-4) -> list[str]:
    """Check that a cut of every group is exact; give the :func:`places` of the groups."""
    return places(assert_cut_is_exact(case, tolerance=tolerance), case)


def is_constant(case: Graph, name: str) -> bool:
    """Whether an initializer has this name."""
    return name in case.initializers
