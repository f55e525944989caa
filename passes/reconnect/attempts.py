"""Try several ways on copies of the graph, and keep the one whose outputs are nearest to the dense model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surgery_ir.analysis.judge import Judge
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.edits import connections
from surgery_ir.passes.base import Refusal

__all__ = ["Attempt", "attempt", "keep_best"]


@dataclass(frozen=True)
class Attempt:
    """A way that was gone: what it is called, what came out, and how far that is from the dense model."""

    what: str
    editor: Editor
    refusals: Sequence[Refusal]
    divergence: float

    @property
    def created(self) -> int:
        """Connections that it created."""
        return connections(self.editor.edits).created


def attempt(editor: Editor, judge: Judge, what: str, change: Callable[[Editor], Sequence[Refusal]]) -> Attempt:
    """Go one way on a copy of the graph."""
    copy = Editor(editor.graph.clone(), editor.pass_name)
    refusals = change(copy)
    return Attempt(what, copy, refusals, judge.whole(copy.graph))


def keep_best(editor: Editor, attempts: Sequence[Attempt]) -> list[Refusal]:
    """Let the graph become the best attempt; give its refusals, and one for every other attempt that was undone.

    The first attempt is what the others have to beat.
    """
    best = min(attempts, key=lambda item: item.divergence)
    editor.adopt(best.editor)
    refusals = []
    for item in attempts[1:]:
        if item is not best and item.created:
            refusals.append(
                Refusal(
                    f"undone: {item.what} gives a divergence of {item.divergence:.4g} on selection data, {best.what} "
                    f"{best.divergence:.4g}"
                )
            )
        elif item is not best:
            refusals += [refusal for refusal in item.refusals if refusal not in best.refusals]
    return [*refusals, *best.refusals]
