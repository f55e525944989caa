"""Time of a model as a function of its widths, from a made-up clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.analysis.multiples import Use
from surgery_ir.analysis.probe import Kind, Probe
from surgery_ir.passes.base import PassContext
from surgery_ir.passes.coupled import find_coupling
from surgery_ir.passes.prune import pace as under_test
from surgery_ir.passes.prune.pace import Pace
from surgery_ir.solvers.allocation import Term
from tests.harness import RUNTIME, graph

NET = """net (float[N,3,8,8] x) => (float[N,5] y)
<float[12,3,3,3] w1, float[12,1,3,3] d, float[20,12,1,1] w2, float[20,20,1,1] w3, float[5,40] w4> {
    [one] a = Conv(x, w1)
    ra = Relu(a)
    [depthwise] b = Conv<group=12>(ra, d)
    [two] c = Conv(b, w2)
    [three] e = Conv(c, w3)
    f = Concat<axis=1>(c, e)
    g = GlobalAveragePool(f)
    h = Flatten(g)
    [four] y = Gemm<transB=1>(h, w4)
}"""


class Clock:
    """Every layer takes inputs × outputs / 10 seconds, whatever it is."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []

    def layer_times(self, probes: Sequence[Probe]) -> list[float]:
        return [probe.inputs * probe.outputs / 10 for probe in probes]

    def time_table(self, kind: Kind, inputs: Sequence[int], outputs: Sequence[int]) -> NDArray[np.float64]:
        assert list(inputs) == sorted(set(inputs))
        assert list(outputs) == sorted(set(outputs))
        self.kinds.append(kind)
        return np.asarray(np.multiply.outer(np.array(inputs, float), np.array(outputs, float)) / 10)


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    clock = Clock()
    monkeypatch.setattr(under_test, "shared_timings", lambda runtime: clock)
    found = graph(NET)
    context = PassContext(found, RUNTIME)
    return Pace(found, find_coupling(found, context), context)


def cost(terms: Sequence[Term], levels: Sequence[int]) -> float:
    return sum(float(term.table[tuple(levels[group] for group in term.groups)]) for term in terms)


def test_layers_take_the_time_of_the_widths_that_are_left(pace: Pace) -> None:
    names = [group.name for group in pace.coupling.groups]
    assert names == ["one", "two", "three"]
    sizes: list[Indices] = [np.array([12, 8, 4]), np.array([20, 10]), np.array([20, 4])]
    terms = pace.terms(sizes)
    # The Gemm, whose inputs two groups share, counts by its MACs, at the rate of the others.
    timed = (3 * 12 + 12 * 12 + 12 * 20 + 20 * 20) / 10
    macs = 36 * 9 * 3 * 12 + 16 * 9 * 12 + 16 * 12 * 20 + 16 * 20 * 20
    rate = timed / (2 * macs)
    assert cost(terms, (0, 0, 0)) == pytest.approx(timed + rate * 5 * 40 * 2)
    less = (3 * 4 + 4 * 4 + 4 * 10 + 10 * 4) / 10
    assert cost(terms, (2, 1, 1)) == pytest.approx(less + rate * 5 * 14 * 2)
    assert pace.seconds() == pytest.approx(cost(terms, (0, 0, 0)))


def test_layers_are_timed_for_a_batch_that_takes_long_enough(pace: Pace) -> None:
    pace.terms([np.array([12, 8]), np.array([20, 10]), np.array([20, 4])])
    clock = pace.timings
    assert isinstance(clock, Clock)
    assert {kind.rows for kind in clock.kinds} == {under_test.MOST_SAMPLES}
    assert [kind.group_shape for kind in clock.kinds] == [None, (1, 1), None, None]
    assert [kind.fed for kind in clock.kinds] == [True, False, False, False]


def test_a_group_is_used_by_all_layers_that_write_and_read_it(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Sequence[Use], int]] = []

    def preferred(timings: object, uses: Sequence[Use], width: int) -> int:
        seen.append((uses, width))
        return 16

    monkeypatch.setattr(under_test, "preferred_multiple", preferred)
    groups = {group.name: group for group in pace.coupling.groups}
    assert pace.multiple(groups["one"]) == 16
    assert [(use.axis, use.other) for use in seen[0][0]] == [("outputs", 3), ("both", 1), ("inputs", 20)]
    assert seen[0][1] == 12
    pace.multiple(groups["two"])
    assert [(use.axis, use.other) for use in seen[1][0]] == [("outputs", 12), ("inputs", 20), ("inputs", 5)]
