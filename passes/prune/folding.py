"""Folding: units that are alike become one (model folding, Wang et al., ICLR 2025)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import ward

from surgery_ir.analysis.coupling.groups import Coupling, Group
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.merging import constants_along, unit_rows
from surgery_ir.solvers.clusters import cluster

__all__ = ["distortions", "fold_labels"]


def features(graph: Graph, coupling: Coupling, group: Group) -> NDArray[np.float64]:
    """Give what makes each unit: the rows of all constants along it, each constant on the scale of its norm."""
    parts = []
    for span in constants_along(graph, coupling, group):
        rows = unit_rows(graph.array(span.axis.value), span).astype(np.float64)
        norm = np.linalg.norm(rows)
        parts.append(rows / norm if norm > 0 else rows)
    return np.concatenate(parts, axis=1) if parts else np.zeros((group.units, 1))


def distortions(graph: Graph, coupling: Coupling, group: Group) -> NDArray[np.float64]:
    """Squared distance of all units from the means of their clusters, by how many are folded away.

    Returns
    -------
    (units + 1,) float64
        Relative to the distance from the common mean; along Ward's tree (1963), and 1 where no unit is left.
    """
    rows = features(graph, coupling, group)
    steps = np.cumsum(ward(rows)[:, 2] ** 2) / 2
    total = steps[-1] if steps[-1] > 0 else 1.0
    return np.concatenate([[0.0], steps / total, [1.0]])


def fold_labels(graph: Graph, coupling: Coupling, group: Group, kept: int, seed: int) -> Indices:
    """Cluster of every unit when ``kept`` are to be left."""
    return cluster(features(graph, coupling, group), kept, seed)
