"""Connected components of the index graph, and which way a choice goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from surgery_ir.analysis.coupling import index as index_module
from surgery_ir.analysis.coupling import solve as solve_module
from surgery_ir.analysis.coupling.index import Frost, IndexGraph, OperatorChoice
from surgery_ir.analysis.coupling.relations import Axis, Choice, Free, Mapped, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules import find_rule
from surgery_ir.analysis.coupling.solve import Components, solve
from surgery_ir.graph.model import Graph
from tests.analysis.coupling.sandwich import described
from tests.coupling import assert_cut_is_exact, frozen, groups
from tests.harness import graph, small_graph

Alternatives = Sequence[tuple[Same | Mapped | Free, ...]]


class Net:
    """An index graph that is written axis by axis; axes have one letter."""

    def __init__(self, **sizes: int) -> None:
        self.index = IndexGraph()
        for name, size in sizes.items():
            self.index.number(self.axis(name), size)

    @staticmethod
    def axis(name: str) -> Axis:
        return Axis(name, 0)

    def same(self, one: str, other: str) -> None:
        self.index.same.append((self.index.axes[self.axis(one)], self.index.axes[self.axis(other)]))

    def map(self, one: str, places: Sequence[int], other: str, places_there: Sequence[int]) -> None:
        self.index.mapped.append(self.mapped(one, places, other, places_there))

    def mapped(self, one: str, places: Sequence[int], other: str, places_there: Sequence[int]) -> Mapped:
        return Mapped(self.axis(one), np.array(places), self.axis(other), np.array(places_there))

    def freeze(self, name: str, reason: str = "is kept") -> None:
        self.index.freeze(self.axis(name), Frost("n", "Op", reason))

    def choose(self, *alternatives: tuple[Same | Mapped | Free, ...], signature: str = "s") -> None:
        choice = Choice(tuple(alternatives), signature, "it is cut otherwise")
        self.index.choices.append(OperatorChoice(f"c{len(self.index.choices)}", "Op", choice))

    def solve(self, **worth: float) -> Components:
        return solve(self.index, {self.index.axes[self.axis(name)]: value for name, value in worth.items()})

    def labels(self, found: Components) -> Mapping[str, list[int]]:
        """Component of every index, axis by axis; -1 where it is frozen."""
        result = {}
        for axis, number in self.index.axes.items():
            place = found.classes[number]
            own = found.labels[found.offsets[place] : found.offsets[place + 1]]
            result[axis.value] = [-1 if found.frozen[label] >= 0 else int(label) for label in own]
        return result


def test_an_empty_graph_has_no_components() -> None:
    found = Net().solve()
    assert len(found.labels) == len(found.frozen) == 0


def test_axes_that_are_one_share_components_index_by_index() -> None:
    net = Net(a=3, b=3, c=2)
    net.same("a", "b")
    labels = net.labels(net.solve())
    assert labels["a"] == labels["b"]
    assert len({*labels["a"], *labels["c"]}) == 5


def test_single_indices_are_joined_and_the_others_are_not() -> None:
    net = Net(a=4, b=3)
    net.map("a", [1, 2], "b", [0, 0])
    labels = net.labels(net.solve())
    assert labels["a"][1] == labels["a"][2] == labels["b"][0]
    assert len(set(labels["a"])) == 3
    assert not {*labels["b"][1:]} & {*labels["a"]}


def test_frost_spreads_along_relations_and_no_further() -> None:
    net = Net(whole=5, kept=2, free=3)
    net.map("kept", [0, 1], "whole", [0, 1])
    net.map("free", [0, 1, 2], "whole", [2, 3, 4])
    net.freeze("kept", "is an output")
    found = net.solve()
    labels = net.labels(found)
    assert labels["kept"] == [-1, -1]
    assert labels["whole"][:2] == [-1, -1]
    assert labels["free"] == labels["whole"][2:]
    assert -1 not in labels["free"]
    first = found.frozen[found.labels[found.offsets[found.classes[0]]]]
    assert found.frosts[int(first)].reason == "is an output"


def test_the_first_reason_stays() -> None:
    net = Net(a=2)
    net.freeze("a", "first")
    net.freeze("a", "second")
    assert net.solve().frosts[0].reason == "first"


def test_of_several_frozen_axes_the_first_says_why() -> None:
    net = Net(a=2, b=2, c=2)
    net.map("a", [0, 1], "b", [0, 1])
    net.map("b", [0, 1], "c", [0, 1])
    net.freeze("c", "late")
    net.freeze("b", "early")
    found = net.solve()
    assert {found.frosts[int(number)].reason for number in found.frozen} == {"early"}


def halves(net: Net, one: str, other: str) -> Alternatives:
    """Cut the axes of a 2 × 2 split in one way or the other: by rows or by columns."""
    rows = (net.mapped(one, range(4), other, [0, 0, 2, 2]), net.mapped(other, range(4), one, [0, 0, 2, 2]))
    columns = (net.mapped(one, range(4), other, [0, 1, 0, 1]), net.mapped(other, range(4), one, [0, 1, 0, 1]))
    return rows, columns


def units(labels: Sequence[int]) -> int:
    """How many components an axis has that can be cut."""
    return len(set(labels) - {-1})


def test_the_first_alternative_is_taken_where_both_are_as_good() -> None:
    net = Net(a=4, b=4)
    net.choose(*halves(net, "a", "b"))
    labels = net.labels(net.solve(a=1, b=1))
    assert labels["a"][0] == labels["a"][1] != labels["a"][2]


def test_the_first_alternative_is_taken_where_both_lose_as_much() -> None:
    net = Net(a=4, b=4, kept=1)
    net.choose(*halves(net, "a", "b"))
    net.map("kept", [0], "a", [0])
    net.freeze("kept")
    found = net.solve(a=1, b=1)
    assert found.chosen == (0,)
    assert [label >= 0 for label in net.labels(found)["a"]] == [False, False, True, True]


def test_the_alternative_that_leaves_more_to_cut_is_taken() -> None:
    net = Net(a=4, b=4, kept=1)
    net.choose(*halves(net, "a", "b"))
    net.map("a", [0, 1], "a", [2, 3])  # with rows, all would be one unit that is frozen
    net.map("kept", [0], "a", [1])
    net.freeze("kept")
    labels = net.labels(net.solve(a=1, b=1))
    assert labels["a"] == [labels["a"][0], -1, labels["a"][0], -1]
    assert units(labels["b"]) == 1


def test_a_conflict_is_settled_for_all_that_touch_each_other() -> None:
    """As with a channel shuffle: an operator ahead of it can be cut in one way alone."""
    net = Net(a=4, b=4, c=4, kept=1)
    net.choose(*halves(net, "a", "b"), signature="first")
    net.choose(*halves(net, "b", "c"), signature="second")
    net.map("c", [0, 1], "c", [2, 3])
    net.map("kept", [0], "c", [0])
    net.freeze("kept")
    labels = net.labels(net.solve(a=1, b=1, c=1))
    assert [units(labels[name]) for name in "abc"] == [1, 1, 1]


def test_choices_of_one_signature_are_decided_alike() -> None:
    net = Net(a=4, b=4, c=4, kept=1)
    net.choose(*halves(net, "a", "b"))
    net.choose(*halves(net, "b", "c"))
    net.map("c", [0, 1], "c", [2, 3])
    net.map("kept", [0], "c", [0])
    net.freeze("kept")
    assert net.solve(a=1, b=1, c=1).chosen == (1, 1)


def test_neighbourhoods_are_decided_independently() -> None:
    net = Net(a=4, b=4, c=4, d=4, kept=1)
    net.choose(*halves(net, "a", "b"))
    net.choose(*halves(net, "c", "d"))
    net.map("c", [0, 1], "c", [2, 3])
    net.map("kept", [0], "c", [0])
    net.freeze("kept")
    assert net.solve(a=1, b=1, c=1, d=1).chosen == (0, 1)


def test_an_alternative_of_which_everything_is_frozen_is_not_taken() -> None:
    net = Net(a=4, b=4, c=4)
    dead = (Same(net.axis("a"), net.axis("c")),)
    alive = (Same(net.axis("b"), net.axis("b")),)
    net.choose(dead, alive)
    net.freeze("a")
    net.freeze("c")
    found = net.solve(b=1)
    assert found.chosen == (1,)
    assert units(net.labels(found)["b"]) == 4


def test_axes_that_the_chosen_alternative_leaves_out_are_frozen_with_its_reason() -> None:
    net = Net(a=4, b=4)
    net.choose((Free(net.axis("a")), Same(net.axis("a"), net.axis("a"))), (Same(net.axis("b"), net.axis("b")),))
    found = net.solve(a=2, b=1)
    labels = net.labels(found)
    assert units(labels["a"]) == 4
    assert labels["b"] == [-1] * 4
    assert "it is cut otherwise" in found.frosts[1].reason


def test_no_more_combinations_are_tried_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(a=4, **{f"b{number}": 4 for number in range(8)})
    for number in range(8):
        net.choose(*halves(net, "a", f"b{number}"), signature=str(number))
    tried: list[Mapping[int, int]] = []
    worth = solve_module._Local.worth

    def noted(self: solve_module._Local, decided: Mapping[int, int]) -> float:
        tried.append(decided)
        return 0.5 * worth(self, decided)

    monkeypatch.setattr(solve_module._Local, "worth", noted)
    found = net.solve(a=1)
    assert len(tried) == solve_module.COMBINATIONS
    assert len(found.chosen) == 8


SHUFFLED = (
    "h = Conv(x, a) s = Reshape(h, split) t = Transpose<perm = [0, 2, 1, 3, 4]>(s) g = Reshape(t, back) "
    "f = Conv<group = 12>(g, b) y = Conv(f, c)"
)


def test_a_channel_shuffle_can_be_cut_along_either_factor() -> None:
    weights = (
        "float[12,3,1,1] a, float[12,1,3,3] b, float[2,12,1,1] c, "
        "int64[5] split = {0, 3, 4, 4, 4}, int64[4] back = {0, 12, 4, 4}"
    )
    coupling = assert_cut_is_exact(small_graph(f"float[N,3,4,4] x | {weights} | {SHUFFLED}"))
    assert described(coupling) in (["3 a.0 b.0 -> c.1"], ["4 a.0 b.0 -> c.1"])


def shuffled_by(factor: int) -> Graph:
    """Put a shuffle of 12 channels ahead of a layer of 3 groups."""
    weights = (
        "float[12,3,1,1] a, float[12,4,1,1] b, float[2,12,1,1] c, "
        f"int64[5] split = {{0, {factor}, {12 // factor}, 4, 4}}, int64[4] back = {{0, 12, 4, 4}}"
    )
    return small_graph(f"float[N,3,4,4] x | {weights} | {SHUFFLED.replace('group = 12', 'group = 3')}")


def test_a_shuffle_and_a_grouped_layer_agree_on_what_both_leave() -> None:
    coupling = assert_cut_is_exact(shuffled_by(2))
    assert described(coupling)[0] == "2 a.0 -> b.1"  # places within a group of 4 that the shuffle by 2 keeps apart


def test_a_shuffle_and_a_grouped_layer_that_leave_nothing_are_said_to_stand_against_it() -> None:
    coupling = groups(shuffled_by(3))
    assert not any("a.0" in line for line in described(coupling))
    assert "Conv_0" in frozen(coupling)


def attention(block: int, softmax: int = -1) -> str:
    """Write a block of three heads of four features that reads ``x`` and its own weights."""
    text = (
        "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) "
        "r = Reshape(q, split) l = Reshape(k, split) u = Reshape(v, split) "
        "i = Transpose<perm = [0, 2, 1, 3]>(r) j = Transpose<perm = [0, 2, 3, 1]>(l) "
        "o = Transpose<perm = [0, 2, 1, 3]>(u) s = MatMul(i, j) p = Softmax<axis = AXIS>(s) m = MatMul(p, o) "
        "t = Transpose<perm = [0, 2, 1, 3]>(m) w = Reshape(t, back) f = MatMul(w, d)"
    )
    return re.sub(r"\b([a-wz])\b", rf"\g<1>{block}", text).replace("AXIS", str(softmax))


def weights(block: int) -> str:
    return ", ".join(f"float[8,12] {name}{block}" for name in "abc") + f", float[12,5] d{block}"


SIZES = "int64[4] split = {0, 0, 3, 4}, int64[3] back = {0, 0, 12}"


def test_attention_is_cut_by_heads() -> None:
    coupling = assert_cut_is_exact(
        small_graph(f"float[N,6,8] x | {weights(0)}, {SIZES} | {attention(0)} y = Identity(f0)")
    )
    assert described(coupling) == ["3 a0.1 b0.1 c0.1 -> d0.0"]
    assert {span.indices.shape for span in coupling.groups[0].written} == {(3, 4)}


def test_two_blocks_of_attention_are_decided_each_by_itself() -> None:
    """In the second one a softmax over the heads leaves nothing but their features to cut."""
    nodes = f"{attention(0)} {attention(1, softmax=1)} y = Add(f0, f1)"
    coupling = assert_cut_is_exact(small_graph(f"float[N,6,8] x | {weights(0)}, {weights(1)}, {SIZES} | {nodes}"))
    assert described(coupling) == ["3 a0.1 b0.1 c0.1 -> d0.0", "4 a1.1 b1.1 -> ", "4 c1.1 -> d1.0"]


def test_operands_that_do_not_fit_freeze_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule may say that axes are one of which the sizes differ: neither is cut then."""
    wrong = OperatorRule(lambda site: [Same(site.input(0, 2), site.output(1)), Free(site.input(0, 1))])
    monkeypatch.setattr(
        index_module, "find_rule", lambda domain, op_type: wrong if op_type == "Relu" else find_rule(domain, op_type)
    )
    nodes = "h = MatMul(x, a) r = Relu(h) y = MatMul(r, b)"
    coupling = groups(small_graph(f"float[N,3,4] x | float[4,6] a, float[6,2] b | {nodes}"))
    assert not coupling.groups
    assert frozen(coupling)["MatMul_0"] == "Relu 'Relu_1' has operands that do not fit: 6 and 3"


def test_units_of_a_join_stay_free_where_only_one_part_is_kept() -> None:
    coupling = groups(
        graph(
            "g (float[N,3,4,4] x) => (float[] y, float[] z) <float[4,3,1,1] a, float[6,3,1,1] b, float[2,10,1,1] c> "
            "{ y = Conv(x, a) h = Conv(x, b) s = Concat<axis = 1>(y, h) z = Conv(s, c) }"
        )
    )
    assert described(coupling) == ["6 b.0 -> c.1"]
    assert [span.indices.reshape(-1).tolist() for span in coupling.groups[0].read] == [[4, 5, 6, 7, 8, 9]]
    assert frozen(coupling)["Conv_0"] == "'y' is an output of the model"


def test_units_that_all_depend_on_each_other_are_said_to_be_frozen() -> None:
    weights = "float[6,3,1,1] a, float[2,6,1,1] c, int64[6] ring = {1, 2, 3, 4, 5, 0}"
    nodes = "h = Conv(x, a) g = Gather<axis = 1>(h, ring) s = Add(h, g) y = Conv(s, c)"
    coupling = groups(small_graph(f"float[N,3,4,4] x | {weights} | {nodes}"))
    assert not coupling.groups
    assert "depend on each other" in frozen(coupling)["Conv_0"]
