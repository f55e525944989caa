"""Timing of layers, with a runtime that only pretends to work and a clock that only it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis import timing
from surgery_ir.analysis.layers import Geometry, Layer, find_layers
from surgery_ir.analysis.multiples import Use, preferred_multiple
from surgery_ir.analysis.probe import Kind, Probe
from surgery_ir.analysis.timing import Timings, shared_timings
from surgery_ir.backends.onnxruntime import OnnxRuntimeBackend
from surgery_ir.graph.model import Graph

Cost = Callable[[int, int, int], float]
"""Seconds of a layer with so many groups, and input and output channels per group."""

CALL, CARRY = 4e-6, 1e-6
"""Seconds of a call that computes nothing, and of each of a carrier's channels."""


@dataclass
class Fake:
    """Takes ``cost`` seconds for each layer but the carrier's, a little for that, and longer while it is disturbed."""

    cost: Cost
    disturb: Callable[[], float] = lambda: 0.0
    name: str = "fake"
    now: float = 0.0
    threads: set[int] = field(default_factory=set)
    built: list[Graph] = field(default_factory=list)
    log: list[int] = field(default_factory=list)

    def __hash__(self) -> int:
        return id(self)

    def load(self, graph: Graph, *, threads: int = 0) -> Session:
        self.threads.add(threads)
        self.built.append(graph)
        return Session(self, len(self.built) - 1, CALL + sum(map(self._seconds, find_layers(graph))))

    def _seconds(self, layer: Layer) -> float:
        if layer.inputs == 1 and layer.groups == 1 and layer.op_type == "Conv":
            return CARRY * layer.outputs
        return self.cost(layer.groups, layer.channels, layer.outputs)

    def timings(self) -> Timings:
        return Timings(self, clock=lambda: self.now)


@dataclass
class Session:
    runtime: Fake
    index: int
    seconds: float

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.runtime.now += self.seconds * (1 + self.runtime.disturb())
        self.runtime.log.append(self.index)
        return {}


def conv(side: int = 8, rows: int = 4, **options: Any) -> Kind:
    return Kind("Conv", rows, (side, side), Geometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), **options)


def blocks(inputs: int, outputs: int, unit: float = 1e-6, fixed: float = 2e-5) -> Cost:
    """A kernel that works in blocks of channels."""

    def cost(groups: int, width_in: int, width_out: int) -> float:
        padded = math.ceil(width_in / inputs) * inputs * math.ceil(width_out / outputs) * outputs
        return fixed + unit * groups * padded

    return cost


def busy(seed: int) -> Callable[[], float]:
    """Disturbances: small ones always, and a run in three is interrupted."""
    rng = np.random.default_rng(seed)
    return lambda: float(rng.exponential(0.02) + (rng.random() < 0.3) * rng.exponential(2.0))


# --- one layer


def test_a_layer_is_what_its_probe_takes_beyond_the_carrier() -> None:
    runtime = Fake(blocks(1, 1))
    found = runtime.timings()
    assert found.layer_time(conv(), 32, 48) == pytest.approx(2e-5 + 32 * 48e-6)
    assert found.layer_time(conv(fed=True), 3, 16) == pytest.approx(2e-5 + 3 * 16e-6)
    assert found.layer_time(conv(groups=2), 8, 24) == pytest.approx(2e-5 + 2 * 8 * 24e-6)
    assert found.layer_time(conv(group_shape=(1, 2)), 32, 32) == pytest.approx(2e-5 + 32 * 2e-6)
    assert found.layer_time(Kind("MatMul", 4, transposed=True), 32, 48) == pytest.approx(2e-5 + 32 * 48e-6)
    assert runtime.threads == {1}


def test_the_carrier_is_aligned_even_where_the_layer_is_not() -> None:
    seconds = Fake(blocks(1, 1)).timings().layer_time(conv(), 33, 48)
    assert seconds == pytest.approx(2e-5 + 33 * 48e-6 - CARRY * (48 - 33))


def test_a_layer_that_cannot_be_told_from_its_neighbours_still_takes_time() -> None:
    assert Fake(lambda *_: -1e-5).timings().layer_time(conv(), 64, 64) == pytest.approx(0.02 * (CALL + 64e-6 - 1e-5))


def test_known_layers_are_not_measured_again() -> None:
    runtime = Fake(blocks(1, 1))
    found = runtime.timings()
    first = found.layer_times([Probe(conv(), 16, 16), Probe(conv(), 16, 32), Probe(conv(), 16, 16)])
    assert len(runtime.built) == 3  # two layers and the carrier that both have
    assert found.layer_times([Probe(conv(), 16, 32), Probe(conv(), 16, 16)]) == [first[1], first[0]]
    assert len(runtime.built) == 3
    found.layer_time(conv(side=4), 16, 16)
    assert len(runtime.built) == 5


def test_the_least_time_of_all_measurements_counts() -> None:
    slowdown = [1.0]
    found = Fake(blocks(1, 1), lambda: slowdown[0]).timings()
    probe = Probe(conv(), 16, 16)
    (slow,) = found.layer_times([probe])
    slowdown[0] = 0.0
    assert found.layer_times([probe]) == [slow]
    (quick,) = found.layer_times([probe], again=True)
    assert quick == pytest.approx(slow / 2)
    slowdown[0] = 3.0
    assert found.layer_times([probe], again=True) == [quick]


def test_probes_take_turns() -> None:
    runtime = Fake(lambda *_: 1.0)
    runtime.timings().layer_times([Probe(conv(fed=True), 8, 8), Probe(conv(fed=True), 8, 16)])
    assert runtime.log == [0, 0, 1, 1, 2, 2] + [0, 1, 2, 2, 1, 0] * 2 + [0, 1, 2]


def test_rounds_go_on_until_the_least_times_have_settled() -> None:
    steady, falling = Fake(lambda *_: 1e-3), Fake(lambda *_: 1e-3)
    falling.disturb = lambda: math.exp(-falling.now / 0.05)
    for runtime in (steady, falling):
        runtime.timings().layer_time(conv(fed=True), 8, 8)
    assert steady.now < 1.5 * 2 * timing.SECONDS < falling.now < 1.5 * timing.PATIENCE * 2 * timing.SECONDS


@pytest.mark.parametrize(("weights", "together"), [(timing.MOST_WEIGHTS, timing.MOST_SESSIONS), (8 * 8 * 9 * 7, 7)])
def test_probes_that_take_turns_fit_into_memory(weights: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_WEIGHTS", weights)
    runtime = Fake(lambda *_: 1.0)
    probes = [Probe(conv(side=side, rows=1, fed=True), 8, 8) for side in range(1, 31)]
    runtime.timings().layer_times(probes)
    first = runtime.log[: timing.WARMUP * together + 1]
    assert first == [*np.repeat(range(together), timing.WARMUP), 0]
    assert len(runtime.built) == len(probes) + 1


def test_everything_in_a_process_shares_times() -> None:
    one, other = OnnxRuntimeBackend(), OnnxRuntimeBackend()
    assert shared_timings(one) is shared_timings(other)
    assert shared_timings(one) is not shared_timings(OnnxRuntimeBackend(optimize=False))
    assert shared_timings(one) is not shared_timings(one, 2)


# --- tables


def test_a_table_of_blocks_is_exact_at_aligned_widths() -> None:
    widths = list(range(16, 113, 16))
    table = Fake(blocks(16, 16, fixed=0.0)).timings().time_table(conv(), widths, widths)
    assert table == pytest.approx(np.outer(widths, widths) * 1e-6)


def test_steps_along_the_outputs_are_kept() -> None:
    """As those of kernels that take four blocks of outputs at a time."""
    inputs, outputs = [16, 32, 48], [16, 32, 48, 64, 80, 96]
    table = Fake(blocks(16, 64, fixed=0.0)).timings().time_table(conv(), inputs, outputs)
    assert table == pytest.approx(np.outer(inputs, [64, 64, 64, 64, 128, 128]) * 1e-6)


def test_many_widths_are_interpolated_from_few_probes() -> None:
    runtime = Fake(lambda _, inputs, outputs: 1e-6 * inputs * (outputs + 5))
    inputs, outputs = list(range(16, 400, 16)), list(range(2, 400, 2))
    table = runtime.timings().time_table(conv(), inputs, outputs)
    layers = [probe for probe in runtime.built if any(layer.inputs > 1 for layer in find_layers(probe))]
    assert len(layers) <= 2 * timing.KNOTS
    assert table == pytest.approx(np.outer(inputs, np.add(outputs, 5)) * 1e-6)


def test_what_does_not_shrink_shows_at_the_narrow_end() -> None:
    widths = [16, 32, 48, 64]
    table = Fake(blocks(16, 16, fixed=1e-3)).timings().time_table(conv(), widths, widths)
    expected = 1e-3 + np.outer(widths, widths) * 1e-6
    assert table == pytest.approx(expected)


def test_times_that_add_up_do_not_break_the_table() -> None:
    widths = [16, 32, 48, 64]
    table = Fake(lambda _, inputs, outputs: 1e-5 * (inputs + outputs)).timings().time_table(conv(), widths, widths)
    assert table[-1] == pytest.approx(1e-5 * (64 + np.array(widths)))
    assert np.all(np.diff(table, axis=0) > 0)
    assert np.all(np.diff(table, axis=1) > 0)


def test_a_layer_that_always_takes_the_same() -> None:
    table = Fake(lambda *_: 1e-3).timings().time_table(conv(), [16, 32], [16, 32])
    assert table == pytest.approx(np.full((2, 2), 1e-3))


def test_a_table_over_groups() -> None:
    runtime = Fake(blocks(1, 1, fixed=0.0))
    table = runtime.timings().time_table(conv(group_shape=(4, 2)), [4, 8, 16], [1, 2])
    assert len(runtime.built) == 2 * 3
    assert table == pytest.approx(np.array([[32, 32], [64, 64], [128, 128]]) * 1e-6)


def test_a_table_of_one_width() -> None:
    table = Fake(blocks(1, 1, fixed=0.0)).timings().time_table(conv(fed=True), [3], [16, 32])
    assert table == pytest.approx(np.array([[48, 96]]) * 1e-6)


# --- multiples


def both(kind: Kind) -> list[Use]:
    """A channel count between two layers of a kind."""
    return [Use(kind, "outputs", 32), Use(kind, "inputs", 32)]


def groups_of(block: int) -> Cost:
    return lambda groups, *_: 1e-5 * math.ceil(groups / block) * block


@pytest.mark.parametrize("disturbed", [None, 0, 1, 2])
@pytest.mark.parametrize(
    ("cost", "uses", "width", "multiple"),
    [
        (blocks(1, 1), both(conv()), 112, 1),
        (blocks(8, 8), both(conv()), 112, 8),
        (blocks(16, 16), both(conv()), 112, 16),
        (blocks(32, 32), both(conv()), 112, 32),
        (blocks(16, 1), both(conv()), 112, 16),
        (blocks(1, 16), both(conv()), 112, 16),
        (blocks(1, 16), both(conv())[1:], 112, 1),
        (blocks(16, 16), both(conv()), 40, 16),
        (blocks(16, 16), both(conv()), 24, 16),
        (blocks(4, 4), both(conv()), 16, 4),
        (blocks(16, 16), both(conv(groups=4)), 64, 16),
        (groups_of(16), [Use(conv(group_shape=(1, 1)), "both")], 96, 16),
        (blocks(16, 16), both(Kind("MatMul", 64, transposed=True)), 3072, 16),
    ],
)
def test_the_blocks_of_a_kernel_are_found(
    cost: Cost, uses: list[Use], width: int, multiple: int, disturbed: int | None
) -> None:
    runtime = Fake(cost) if disturbed is None else Fake(cost, busy(disturbed))
    assert preferred_multiple(runtime.timings(), uses, width) == multiple


@pytest.mark.parametrize(
    ("slowdown", "multiple"),
    [
        (lambda width: 1 + (width % 4 > 0), 4),  # takes any width, but the quick way only where four divide it
        (lambda width: 1 + (width % 32 > 0 and width % 8 == 0), 32),  # 36 would do, but its multiples would not
        (lambda width: 1 + 0.03 * (width % 2), 1),  # too little to matter
        (lambda width: 1 + 0.1 * (width % 32 > 0), 16),  # matters less where the steps are wide
    ],
)
def test_what_other_kernels_like(slowdown: Callable[[int], float], multiple: int) -> None:
    runtime = Fake(lambda _, inputs, outputs: 1e-6 * inputs * outputs * slowdown(inputs))
    assert preferred_multiple(runtime.timings(), [Use(conv(), "inputs", 32)], 64) == multiple


@pytest.mark.parametrize(("share", "multiple"), [(0.9, 16), (0.36, 8), (0.1, 1)])
def test_layers_count_as_much_as_they_take(share: float, multiple: int) -> None:
    """One layer works in blocks, three take any width; which they are is told by their other width."""

    def cost(_: int, inputs: int, outputs: int) -> float:
        return share * math.ceil(inputs / 16) * 16e-4 if outputs == 8 else (1 - share) / 3 * inputs * 1e-4

    uses = [Use(conv(), "inputs", other) for other in (8, 9, 10, 11)]
    assert preferred_multiple(Fake(cost).timings(), uses, 64) == multiple


@pytest.mark.parametrize(("width", "answer"), [(16, 16), (12, 16), (64, 64), (500, 64)])
def test_halving_is_idle_where_it_saves_nothing(width: int, answer: int) -> None:
    assert preferred_multiple(Fake(lambda *_: 1e-3).timings(), both(conv()), width) == answer


@pytest.mark.parametrize(("block", "width", "multiple"), [(16, 32, 1), (4, 16, 4)])
def test_layers_too_quick_to_be_timed_have_no_preference(block: int, width: int, multiple: int) -> None:
    runtime = Fake(lambda _, inputs, outputs: 2e-6 * math.ceil(inputs / block))
    assert preferred_multiple(runtime.timings(), [Use(Kind("Gemm", 1), "inputs", 8)], width) == multiple


@pytest.mark.parametrize(("block", "multiple"), [(8, 8), (64, 32)])
def test_quick_layers_are_judged_at_their_own_width(block: int, multiple: int) -> None:
    runtime = Fake(lambda _, inputs, outputs: 5e-6 * (inputs % block > 0) + 1e-10 * inputs * outputs)
    uses = [Use(Kind("Gemm", 1), "inputs", 256)]
    assert preferred_multiple(runtime.timings(), uses, 2000) == multiple
    widths = {layer.inputs for graph in runtime.built for layer in find_layers(graph)}
    assert widths == {64, 1024, 1025, 1026, 1028, 1032, 1040, 1056, 1088}


@pytest.mark.parametrize(("width", "uses"), [(1, both(conv())), (64, [])])
def test_nothing_to_measure(width: int, uses: list[Use]) -> None:
    runtime = Fake(blocks(16, 16))
    assert preferred_multiple(runtime.timings(), uses, width) == 1
    assert not runtime.built


def test_findings_are_remembered() -> None:
    runtime = Fake(blocks(16, 16))
    found = runtime.timings()
    assert preferred_multiple(found, both(conv()), 112) == 16
    count = len(runtime.built)
    assert preferred_multiple(found, both(conv())[::-1], 100) == 16
    assert len(runtime.built) == count
    for uses, width, answer in [(both(conv()), 4, 4), (both(conv(side=7)), 112, 16)]:
        count = len(runtime.built)
        assert preferred_multiple(found, uses, width) == answer
        assert len(runtime.built) > count


def test_probes_for_a_multiple_are_small() -> None:
    runtime = Fake(blocks(16, 16))
    preferred_multiple(runtime.timings(), both(conv(side=100, rows=64)), 112)
    shapes = [graph.inputs[0].shape for graph in runtime.built]
    assert {shape.numpy() for shape in shapes if shape is not None} == {(1, 1, 25, 25)}


def test_a_finding_needs_a_second_measurement() -> None:
    """The first is made while something else slows down whatever is wide."""
    runtime = Fake(lambda _, inputs, outputs: 0.0)
    clean = blocks(16, 16)
    runtime.cost = lambda *sizes: clean(*sizes) * (4 if len(runtime.built) < 12 and max(sizes) == 48 else 1)
    assert preferred_multiple(runtime.timings(), both(conv()), 64) == 16


def test_activations_are_made_to_fit_the_cache() -> None:
    big = Use(conv(side=100, rows=64), "inputs", 256).small()
    assert big.kind.rows == 1
    assert 256 * math.prod(big.kind.size) <= 1 << 16
    assert big.kind.size == (13, 13)
    assert Use(conv(side=4, rows=64), "inputs", 64).small().kind == conv(side=4, rows=64)
    assert Use(conv(side=4, rows=64, groups=32), "inputs", 64).small().kind == conv(side=4, rows=2, groups=32)
    assert Use(Kind("Gemm", 10**6), "outputs", 1024).small().kind == Kind("Gemm", 64)
