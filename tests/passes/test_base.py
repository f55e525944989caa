"""The template that every pass is run by, and the cache that passes share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from surgery_ir.errors import PassError, VerificationError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import Edit
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Cache, Outcome, Pass, PassContext, Refusal, run_pass
from tests.harness import RUNTIME, graph

TEXT = "g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { r = Relu(x) y = MatMul(r, w) }"

Apply = Callable[[Editor, PassContext], Sequence[Refusal]]


def run(apply: Apply, *, needs_samples: bool = False, check: Refusal | None = None) -> tuple[Graph, Outcome]:
    """Run a pass that does what a test wants; give the graph before and the outcome."""
    body = {
        "name": "planted",
        "needs_samples": needs_samples,
        "apply": lambda self, editor, ctx: apply(editor, ctx),
        "check": lambda self, graph, ctx: check,
    }
    planted: Any = dataclass(frozen=True)(type("Planted", (Pass,), body))
    found = graph(TEXT)
    return found, run_pass(planted(), found, PassContext(reference=found, runtime=RUNTIME))


def zero(editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
    editor.set_weights("w", np.zeros((3, 2)))
    return [Refusal("it is a Relu", ("Relu_0",))]


def never(editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
    raise AssertionError("it must not be applied")


def test_what_a_pass_did_is_in_the_outcome() -> None:
    found, outcome = run(zero)
    assert outcome.changed
    assert outcome.edits == (Edit("set-weights", "planted", "w", 6, 0),)
    assert outcome.refusals == (Refusal("it is a Relu", ("Relu_0",), "planted"),)
    assert not outcome.graph.array("w").any()
    assert found.array("w").all()


def test_without_edits_the_graph_itself_comes_back_whatever_was_done_to_the_copy() -> None:
    def behind_the_back(editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        editor.graph.model.graph.outputs.clear()
        return [Refusal("nothing to do")]

    found, outcome = run(behind_the_back)
    assert outcome == Outcome(found, (), (Refusal("nothing to do", (), "planted"),), outcome.applied)
    assert outcome.applied is not None
    assert outcome.applied.name == "planted"
    assert outcome.graph is found
    assert not outcome.changed


def test_a_silent_pass_is_an_error() -> None:
    with pytest.raises(PassError, match=r"^planted: changed nothing and gave no reason$"):
        run(lambda editor, ctx: [])


def test_what_breaks_the_graph_is_an_error_that_names_the_pass() -> None:
    def swap(editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        editor.set_input(editor.graph.node("MatMul_1"), 1, editor.graph.inputs[0])
        return []

    with pytest.raises(VerificationError, match=r"^after planted: <memory>: node 'MatMul_1' \(MatMul\): ") as caught:
        run(swap)
    assert "> y = MatMul(r, x)  [MatMul_1]" in caught.value.neighbourhood


def rename_output(editor: Editor) -> None:
    editor.graph.outputs[0].name = "z"


def rename_input(editor: Editor) -> None:
    editor.graph.inputs[0].name = "z"


def add_output(editor: Editor) -> None:
    editor.graph.model.graph.outputs.append(editor.graph.inputs[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_output, r"the outputs of the graph changed from \[\('y', .*\)\] to \[\('z', "),
        (rename_input, r"the inputs of the graph changed from \[\('x', .*\)\] to \[\('z', "),
        (add_output, r"the outputs of the graph changed from \[\('y', .*\)\] to \[\('y', .*\), \('x', "),
    ],
)
def test_the_interface_of_the_graph_may_not_change(change: Callable[[Editor], None], message: str) -> None:
    def apply(editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        change(editor)
        return zero(editor, ctx)

    with pytest.raises(VerificationError, match=f"^after planted: {message}"):
        run(apply)


def test_check_refuses_before_anything_is_applied() -> None:
    found, outcome = run(never, check=Refusal("not this one", ("Relu_0",)))
    assert outcome.graph is found
    assert outcome.refusals == (Refusal("not this one", ("Relu_0",), "planted"),)


def test_a_pass_that_needs_samples_is_not_applied_without() -> None:
    found, outcome = run(never, needs_samples=True)
    assert outcome.graph is found
    assert outcome.refusals == (Refusal("needs sample inputs: pass --data", (), "planted"),)


# --- cache


def test_the_cache_computes_once() -> None:
    cache, calls = Cache(), []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [cache.get("a", compute), cache.get("a", compute), cache.get("b", compute)] == [1, 1, 2]


def test_nothing_is_dropped_before_the_cache_is_full() -> None:
    cache, computed = Cache(size=8), []
    for _ in range(2):
        for key in range(6):
            cache.get(key, lambda key=key: computed.append(key))  # type: ignore[misc]
    assert computed == list(range(6))


def test_the_cache_keeps_what_was_used_last() -> None:
    cache, computed = Cache(size=2), []

    def get(key: str) -> None:
        cache.get(key, lambda: computed.append(key))

    for key in "abacabc":
        get(key)
    assert computed == ["a", "b", "c", "b", "c"]


def test_an_error_is_raised_and_not_kept() -> None:
    cache = Cache()
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 5) == 5


def test_threads_that_ask_for_the_same_wait_for_one() -> None:
    cache, started, calls = Cache(), threading.Event(), []

    def compute() -> int:
        calls.append(1)
        started.wait(10)
        return 7

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.get, "a", compute) for _ in range(3)]
        assert pool.submit(cache.get, "b", lambda: 8).result(10) == 8
        started.set()
        assert [item.result(10) for item in waiting] == [7, 7, 7]
    assert calls == [1]
