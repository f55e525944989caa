"""The proof of a cut: planted faults are caught, only the group that is at fault stays, and the graph is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from surgery_ir.analysis.coupling import index
from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.analysis.coupling.relations import Free, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule, unchanged
from surgery_ir.analysis.coupling.rules import find_rule
from surgery_ir.analysis.coupling.site import Site
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune import cutting, proven
from surgery_ir.passes.prune.cutting import Removed, cut
from surgery_ir.passes.prune.proof import reason_against_cut
from surgery_ir.passes.prune.proven import UnitCut
from tests.coupling import choose, groups
from tests.harness import small_graph
from tests.passes.helpers import context

TEXT = (
    "float[N,3,6,6] x | float[8,3,3,3] a, float[8] p, float[6,8,3,3] b, float[6] q, "
    "float[6,1,1,1] d, float[2,6,1,1] c | "
    "h = Conv(x, a, p) g = Softplus(h) f = Conv(g, b, q) e = Tanh(f) s = Conv<group = 6>(e, d) y = Conv(s, c)"
)

Cut = Callable[[Editor, Coupling, Removed], None]


def build() -> Graph:
    return small_graph(TEXT)


def patched(monkeypatch: pytest.MonkeyPatch, module: object, op_type: str, rule: OperatorRule) -> None:
    monkeypatch.setattr(
        module, "find_rule", lambda domain, name: rule if name == op_type else find_rule(domain, name), raising=True
    )


def reason(graph: Graph, make: Cut = cut, seed: int = 0) -> str | None:
    """Cut all groups with ``make``; what the proof says."""
    coupling = groups(graph)
    removed = choose(coupling, 0.4, seed)
    editor = Editor(graph.clone(), "cut")
    make(editor, coupling, removed)
    return reason_against_cut(graph, editor.graph, coupling, removed, context(graph))


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_cut_is_proven(seed: int) -> None:
    assert reason(build(), seed=seed) is None


def other_units(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    """Remove as many units, but other ones."""
    cut(
        editor,
        coupling,
        {name: (np.asarray(list(units)) + 1) % coupling[name].units for name, units in removed.items()},
    )


def one_side_shifted(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    """Let the reading layer keep other inputs than the writing one keeps outputs."""
    before = editor.graph.array("b").copy()
    cut(editor, coupling, removed)
    kept = np.setdiff1d(np.arange(8), (np.asarray(list(removed["Conv_0"])) + 1) % 8)
    rows = np.setdiff1d(np.arange(6), np.asarray(list(removed["Conv_2"])))
    editor.set_weights("b", before[np.ix_(rows, kept)])


def bias_of_others(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    """Slice a bias to the right size, at the wrong places."""
    before = editor.graph.array("p").copy()
    cut(editor, coupling, removed)
    editor.set_weights("p", before[: len(editor.graph.array("p"))])


def one_slice_missing(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    """Leave the inputs of the second layer as they are."""
    whole = editor.graph.array("b").copy()
    cut(editor, coupling, removed)
    editor.graph.initializers["b"].const_value = editor.graph.clone().initializers["b"].const_value
    editor.slice_weights("b", {1: np.arange(1)})
    assert whole.shape[1] == 8


@pytest.mark.parametrize(
    ("make", "clause"),
    [
        (other_units, "differs from that of the masked one"),
        (one_side_shifted, "differs from that of the masked one"),
        (bias_of_others, "differs from that of the masked one"),
        (one_slice_missing, "does not run"),
    ],
)
def test_faults_of_a_cut_are_caught(make: Cut, clause: str) -> None:
    found = reason(build(), make)
    assert found is not None
    assert clause in found


def test_a_group_attribute_that_is_not_written_anew_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = find_rule("", "Conv")
    assert rule is not None
    patched(monkeypatch, cutting, "Conv", OperatorRule(rule.couple, unchanged))
    found = reason(build())
    assert found is not None
    assert "does not run" in found


def test_a_bias_that_a_rule_does_not_relate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = find_rule("", "Conv")
    assert rule is not None

    def forgetful(site: Site) -> Iterator[Relation]:
        for relation in rule.couple(site):
            forgotten = isinstance(relation, Same) and relation.other.value in ("p", "q")
            yield Free(relation.other) if isinstance(relation, Same) and forgotten else relation

    patched(monkeypatch, index, "Conv", OperatorRule(forgetful, rule.resize))
    found = reason(build())
    assert found is not None
    assert "does not run" in found


SOFT = TEXT.replace("e = Tanh(f)", "e = Softmax<axis = 1>(f)")


def careless(site: Site) -> Iterator[Relation]:
    """Say that a softmax treats every index by itself."""
    for axis in range(len(site.shape(0))):
        yield Same(site.input(0, axis), site.output(axis))


def test_only_the_group_at_fault_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch, index, "Softmax", OperatorRule(careless))
    graph = small_graph(SOFT)
    before = graph.fingerprint()
    coupling = groups(graph)
    cuts = {name: UnitCut(units) for name, units in choose(coupling, 0.4, 0).items()}
    kept, refusals = proven.proven(graph, coupling, cuts, context(graph))
    assert list(kept) == ["Conv_0"]
    assert [item.nodes for item in refusals] == [("Conv_2",)]
    assert refusals[0].reason.startswith("cutting it cannot be proven: output 'y' of the cut graph differs")
    assert graph.fingerprint() == before


def test_groups_that_only_fail_together_all_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(editor: Editor, coupling: Coupling, removed: Removed) -> None:
        (other_units if len(removed) > 1 else cut)(editor, coupling, removed)

    monkeypatch.setattr(proven, "cut", failing)
    graph = build()
    coupling = groups(graph)
    cuts = {name: UnitCut(units) for name, units in choose(coupling, 0.4, 0).items()}
    kept, refusals = proven.proven(graph, coupling, cuts, context(graph))
    assert not kept
    assert refusals[-1].nodes == ("Conv_0", "Conv_2")
    assert refusals[-1].reason.startswith("cutting them together cannot be proven")


def test_what_is_not_finite_has_to_be_so_in_the_same_places() -> None:
    text = "float[N,3] x | float[3,8] a, float[8,40] b, float z = {0} | h = MatMul(x, a) g = MatMul(h, b) y = Div(g, z)"
    assert reason(small_graph(text)) is None
    found = reason(small_graph(text), other_units)
    assert found is not None
    assert "is not finite in the same places" in found
