"""What compiling gives: the smaller model, how it came about, and the way back into the framework's."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from surgery_ir.backends.base import backend
from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import Lowered
from surgery_ir.frontends.load import live_model
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import write_model
from surgery_ir.passes.base import PassContext
from surgery_ir.report import Report
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.profile import CompressionProfile
from surgery_ir.writeback import parameter_values, write

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """A compressed model, how it came about, and what was measured.

    Parameters
    ----------
    graph
        The compressed model.
    profile
        The passes that were applied; applying it to the same model and data gives the same bytes.
    report
        What was measured.
    policy
        What the search learnt; ``None`` where nothing was searched.
    lowered
        The dense model as its frontend lowered it, with the way from each parameter to its initializer.
    """

    graph: Graph
    profile: CompressionProfile
    report: Report
    policy: SearchPolicy | None = None
    lowered: Lowered | None = field(default=None, repr=False)

    @property
    def plasticity(self) -> float:
        """Connections created / connections pruned."""
        return self.report.plasticity

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, atomically.

        Raises
        ------
        OutputError
            It cannot be written; what stood there before is untouched.
        """
        write_model(self.graph, path)

    def write_back(self, model: object, provider: str = "onnxruntime") -> tuple[str, ...]:
        """Put the new weights, zeros among them, into a model of the framework, which then computes what this one does.

        Parameters
        ----------
        model
            The module or the model that was lowered, or another one of the same architecture and weights. It is changed
            in place.
        provider
            Backend for the comparison of the two.

        Returns
        -------
        Names of the parameters that have new values.

        Raises
        ------
        ModelError
            Layers, channels or connections across layers were removed or created, which the model has no place for,
            or it would compute something else. It is then as it was.
        """
        if self.lowered is None or self.lowered.live is None:
            raise ModelError("the model was not lowered from a framework, there is nothing to write back to")
        live = live_model(model, self.lowered)
        runtime = backend(provider)
        ctx = PassContext(self.lowered.graph, runtime)
        values = parameter_values(self.lowered, self.graph, self.profile.passes, live.parameters(), ctx)
        write(live, values, self.graph, self.lowered.feeds, runtime)
        return tuple(values)
