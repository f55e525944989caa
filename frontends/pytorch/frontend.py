"""PyTorch's modules and exported programs, and a word to those who come with a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import settle
from surgery_ir.frontends.base import LiveModel, Lowered, Request
from surgery_ir.frontends.extras import need
from surgery_ir.frontends.parameters import bind

__all__ = ["TorchCheckpoint", "TorchModule", "TorchProgram"]

EXTRA = "torch"


class TorchModule:
    """Lowers a ``torch.nn.Module``, in evaluation mode."""

    reads = "torch.nn.Module"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a module. PyTorch is not imported unless the caller did."""
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(source, torch.nn.Module)

    def load(self, source: Any, request: Request) -> Lowered:
        """Lower the module and compare the two; the module is left as it was.

        Raises
        ------
        ModelError
            There are no example inputs or they do not fit, the exporter fails, or what it gives computes something
            else than the module.
        """
        name = type(source).__name__
        _need(name)
        from surgery_ir.frontends.pytorch import calling, failures, lowering
        from surgery_ir.frontends.pytorch.live import LiveModule, evaluating

        module = _inner_module(source)
        call = calling.arguments(module, request.example_inputs, name)
        shapes, wished = calling.default_shapes(module, call), request.dynamic_shapes
        with evaluating(module):
            raw = failures.in_one_line(lambda: lowering.export(module, call, shapes, wished), name, module, call)
        lowering.name_axes(raw.model, invent=wished is None)
        parameters = tuple(module.state_dict())
        graph, layers = lowering.tidy(raw, parameters, lowering.leaf_layers(module), name)
        bindings = bind(graph, parameters)
        live = LiveModule(module, calling.Calling.of(call, [value.name or "" for value in graph.inputs]), layers)
        try:
            return settle(graph, bindings, live, live.calling.feeds(call), request.runtime)
        except ModelError:
            with evaluating(module):
                failures.try_out(module, call, name)
            raise

    def live(self, source: Any, lowered: Lowered) -> LiveModel:
        """Give access to ``source``, which need not be the module that was lowered but is called as that one is.

        Raises
        ------
        ModelError
            It has other parameters.
        """
        _need(type(source).__name__)
        from surgery_ir.frontends.pytorch.calling import calling_by_name
        from surgery_ir.frontends.pytorch.live import LiveModule, LiveProgram, same_parameters

        before, module = lowered.live, _inner_module(source)
        if isinstance(before, LiveModule):
            return same_parameters(LiveModule(module, before.calling, before.layers), lowered, type(source).__name__)
        calling = (
            before.calling
            if isinstance(before, LiveProgram)
            else calling_by_name(module, [value.name or "" for value in lowered.graph.inputs])
        )
        return same_parameters(LiveModule(module, calling), lowered, type(source).__name__)


class TorchProgram:
    """Lowers a ``torch.export.ExportedProgram``, in memory or in a ``.pt2`` file."""

    reads = ".pt2 files"

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is an exported program, or a path that ends in ``.pt2``."""
        if isinstance(source, str | Path):
            return Path(source).suffix.lower() == ".pt2"
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(source, torch.export.ExportedProgram)

    def load(self, source: Any, request: Request) -> Lowered:
        """Lower the program and compare the two.

        Raises
        ------
        ModelError
            The file cannot be read or may run code when read, the exporter fails, or what it gives computes
            something else than the program.
        """
        name = str(source) if isinstance(source, str | Path) else "the exported program"
        _need(name)
        from surgery_ir.frontends.pytorch import calling, failures, lowering
        from surgery_ir.frontends.pytorch.archive import read_program
        from surgery_ir.frontends.pytorch.live import LiveProgram
        from surgery_ir.frontends.pytorch.programs import example_call

        program = read_program(Path(source), request.trust) if isinstance(source, str | Path) else source
        call = example_call(program, request.example_inputs, name)
        raw = failures.in_one_line(lambda: lowering.convert(program), name)
        lowering.name_axes(raw.model, invent=True)
        parameters = tuple(program.state_dict)
        graph, _ = lowering.tidy(raw, parameters, (), name)
        bindings = bind(graph, parameters)
        live = LiveProgram(program, calling.Calling.of(call, [value.name or "" for value in graph.inputs]))
        return settle(graph, bindings, live, live.calling.feeds(call), request.runtime)

    def live(self, source: Any, lowered: Lowered) -> LiveModel:
        """Give access to a program in memory.

        Raises
        ------
        ModelError
            It is a file, or has other parameters.
        """
        if isinstance(source, str | Path):
            raise ModelError(f"{source}: weights are put back into objects: load it with torch.export.load first")
        from surgery_ir.frontends.pytorch.live import LiveModule, LiveProgram, same_parameters
        from surgery_ir.frontends.pytorch.programs import calling_of

        before = lowered.live
        calling = before.calling if isinstance(before, LiveModule | LiveProgram) else calling_of(source)
        return same_parameters(LiveProgram(source, calling), lowered, "the exported program")


class TorchCheckpoint:
    """Refuses pickles: they hold code, and most of them no model but its weights alone."""

    reads = ".pt and .pth files (made .pt2 first)"

    SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")

    def accepts(self, source: object) -> bool:
        """Whether ``source`` is a path that ends as checkpoints do; it is never opened."""
        return isinstance(source, str | Path) and Path(source).suffix.lower() in self.SUFFIXES

    def load(self, source: Any, request: Request) -> Lowered:
        """Say what to do instead.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError(
            f"{source}: a checkpoint is a pickle, which may run code and holds no graph; write a .pt2 with "
            'torch.export.save(torch.export.export(model.eval(), (example,)), "model.pt2"), or name the code that '
            "makes the model, as package.module:function"
        )


def _need(source: str) -> None:
    need("torch", EXTRA, source)
    need("onnxscript", EXTRA, source)


def _inner_module(module: Any) -> Any:
    """Unwrap what ``torch.compile`` made.

    Raises
    ------
    ModelError
        It is a TorchScript module, of which nothing but its code is left.
    """
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{type(module).__name__}: TorchScript cannot be lowered; give the module that it was made from"
        )
    return getattr(module, "_orig_mod", module)
