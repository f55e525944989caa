"""Groups of small graphs, and the proof that cutting them is exact."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.facts import observe
from surgery_ir.analysis.coupling.groups import Coupling, find_groups
from surgery_ir.analysis.inputs import input_specs
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.prune.cutting import cut, masked
from tests.harness import RUNTIME, assert_equivalent, random_feeds

__all__ = ["assert_cut_is_exact", "choose", "frozen", "groups"]


def groups(graph: Graph) -> Coupling:
    """Groups of ``graph``, from the shapes of two samples, so that a batch is no axis of size 1."""
    return find_groups(graph, observe(graph, RUNTIME, random_feeds(input_specs(graph), 2, 0)))


def frozen(coupling: Coupling) -> dict[str, str]:
    """Reason against cutting what a layer writes, by the layer's name."""
    return {item.name: str(item.frost) for item in coupling.frozen}


def choose(coupling: Coupling, share: float, seed: int) -> dict[str, NDArray[np.intp]]:
    """Draw units of every group: at least one goes, and at least one stays."""
    rng = np.random.default_rng(seed)
    removed = {}
    for group in coupling.groups:
        count = min(max(1, round(share * group.units)), group.units - 1)
        removed[group.name] = np.sort(rng.permutation(group.units)[:count])
    return removed


def assert_cut_is_exact(
    graph: Graph,
    share: float = 0.4,
    seed: int = 0,
    removed: Mapping[str, NDArray[np.intp]] | None = None,
    tolerance: float = 1e-4,
) -> Coupling:
    """Cut units out of every group at once, and compare with the graph in which nothing reads them."""
    coupling = groups(graph)
    assert coupling.groups, f"nothing can be cut: {frozen(coupling)}"
    removed = removed if removed is not None else choose(coupling, share, seed)
    editor = Editor(graph.clone(), "cut")
    cut(editor, coupling, removed)
    verify(editor.graph)
    assert editor.edits
    assert_equivalent(editor.graph, masked(graph, coupling, removed), tolerance=tolerance, seed=seed)
    return coupling
