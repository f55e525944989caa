"""The harness of the coupling tests: planted faults must be caught, and a comparison of nothing as well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tests.coupling as harness
from surgery_ir.analysis.coupling.groups import Coupling
from surgery_ir.errors import BackendError, VerificationError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.passes.prune.cutting import Removed, cut, masked
from tests.coupling import assert_cut_is_exact, choose, groups
from tests.harness import small_graph


def build() -> Graph:
    return small_graph(
        "float[N,3,6,6] x | float[8,3,3,3] a, float[8] p, float[6,8,3,3] b, float[2,6,1,1] c | "
        "h = Conv(x, a, p) g = Softplus(h) f = Conv(g, b) y = Conv(f, c)"
    )


def test_a_sound_cut_passes() -> None:
    assert [group.units for group in assert_cut_is_exact(build()).groups] == [8, 6]


def another_unit(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    cut(
        editor,
        coupling,
        {name: (np.asarray(list(units)) + 1) % coupling[name].units for name, units in removed.items()},
    )


def one_group_only(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    cut(editor, coupling, {"Conv_2": removed["Conv_2"]})


def another_order(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    cut(editor, coupling, removed)
    editor.set_weights("b", editor.graph.array("b")[:, ::-1].copy())


def a_wrong_bias(editor: Editor, coupling: Coupling, removed: Removed) -> None:
    cut(editor, coupling, removed)
    editor.set_weights("p", np.zeros_like(editor.graph.array("p")))


@pytest.mark.parametrize("faulty", [another_unit, one_group_only, another_order, a_wrong_bias])
def test_a_cut_that_computes_something_else_is_caught(
    faulty: Callable[[Editor, Coupling, Removed], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "cut", faulty)
    with pytest.raises(AssertionError, match="instead of"):
        assert_cut_is_exact(build())


def test_a_cut_that_changes_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "cut", lambda editor, coupling, removed: None)
    with pytest.raises(AssertionError):
        assert_cut_is_exact(build())


def test_a_mask_that_masks_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "masked", lambda graph, coupling, removed: graph)
    with pytest.raises(AssertionError, match="instead of"):
        assert_cut_is_exact(build())


def test_a_slice_that_is_missing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(editor: Editor, coupling: Coupling, removed: Removed) -> None:
        cut(editor, coupling, removed)
        editor.slice_weights("b", {1: np.arange(2)})

    monkeypatch.setattr(harness, "cut", faulty)
    with pytest.raises((VerificationError, BackendError)):
        assert_cut_is_exact(build())


def test_a_graph_of_which_nothing_can_be_cut_fails_with_its_reasons() -> None:
    with pytest.raises(AssertionError, match=r"nothing can be cut: .*is an output of the model"):
        assert_cut_is_exact(small_graph("float[N,3] x | float[3,4] a | y = MatMul(x, a)"))


def test_units_are_drawn_so_that_one_goes_and_one_stays() -> None:
    coupling = groups(build())
    for share, gone in ((0.0, 1), (0.5, 4), (1.0, 7)):
        units = choose(coupling, share, 0)["Conv_0"]
        assert len(units) == gone
        assert len(set(units.tolist())) == gone
    assert not np.array_equal(choose(coupling, 0.5, 0)["Conv_0"], choose(coupling, 0.5, 1)["Conv_0"])


def test_units_that_are_given_are_those_that_go() -> None:
    case = build()
    removed = {"Conv_0": np.array([3])}
    assert_cut_is_exact(case, removed=removed)
    kept = masked(case, groups(case), removed).array("b")
    assert not kept[:, 3].any()
    assert kept[:, [0, 1, 2, 4, 5, 6, 7]].all()
