"""A module in memory: run it as the graph is run, look inside, read and write its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery_ir.errors import ModelError
from surgery_ir.frontends.base import LiveModel, Lowered
from surgery_ir.frontends.pytorch.calling import Calling, as_array, as_tensor
from surgery_ir.frontends.pytorch.failures import first_line
from surgery_ir.frontends.pytorch.quiet import quiet

__all__ = ["LiveModule", "LiveProgram", "evaluating", "same_parameters"]

Arrays = Mapping[str, NDArray[Any]]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have ``module`` and all inside of it in evaluation mode, and as they were afterwards; no gradients meanwhile."""
    before = [(layer, layer.training) for layer in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for layer, training in before:
            layer.training = training


@dataclass(frozen=True, eq=False)
class LiveModule:
    """A ``torch.nn.Module``.

    Parameters
    ----------
    module
        The module; it is never copied.
    calling
        How to call it with arrays by name.
    layers
        Path of the module inside, by the value of the graph that holds its output.
    """

    module: nn.Module
    calling: Calling
    layers: Mapping[str, str] = field(default_factory=dict)
    framework: str = "PyTorch"

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch.

        Raises
        ------
        ModelError
            The module fails on it.
        """
        args, kwargs = self.calling.fill(feeds, _device(self.module))
        try:
            with quiet(), evaluating(self.module):
                found = self.module(*args, **kwargs)
        except Exception as error:  # code of the user's
            sizes = _sizes(feeds)
            raise ModelError(f"{type(self.module).__name__} does not take {sizes}: {first_line(error)}") from error
        return tuple(as_array(leaf).copy() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor))

    def inner(self, feeds: Arrays) -> Mapping[str, tuple[str, NDArray[Any]]]:
        """Outputs of the modules inside that give one tensor and ran once, in the order in which they ran."""
        found: dict[str, list[Tensor]] = {}

        def keep(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.setdefault(path, []).append(output.clone())

        hooks = [
            layer.register_forward_hook(partial(keep, path))
            for path, layer in self.module.named_modules()
            if path in self.layers.values()
        ]
        try:
            self.run(feeds)
        finally:
            for hook in hooks:
                hook.remove()
        values = {layer: value for value, layer in self.layers.items()}
        return {values[path]: (path, as_array(given[0])) for path, given in found.items() if len(given) == 1}

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers under the names of ``state_dict``; read-only views where they are on the CPU."""
        return _views(self.module.state_dict())

    def assign(self, values: Arrays) -> None:
        """Write new values into parameters and buffers; a bias that a layer was made without is added to it.

        Raises
        ------
        ModelError
            There is no parameter of that name, or its shape is another; nothing was written.
        """
        held = self.module.state_dict()
        added = {name: self._missing_bias(name) for name in values if name not in held}
        for name, layer in added.items():
            if values[name].shape != (size := _outputs(layer),):
                raise ModelError(f"{name!r} has shape {list(values[name].shape)}, a bias of [{size}] fits")
        _write({name: held[name] for name in values if name in held}, values)
        for name, layer in added.items():
            like = layer.weight
            bias = as_tensor(values[name], like.device).to(like.dtype)
            layer.bias = nn.Parameter(bias, requires_grad=like.requires_grad)

    def _missing_bias(self, name: str) -> Any:
        """Find the layer that may have a bias called ``name`` and has none."""
        path, _, last = name.rpartition(".")
        layer = dict(self.module.named_modules()).get(path)
        if last != "bias" or layer is None or _outputs(layer) is None or layer._parameters.get("bias", 0) is not None:
            raise ModelError(f"{type(self.module).__name__} has no parameter called {name!r}")
        return layer


@dataclass(frozen=True, eq=False)
class LiveProgram:
    """A ``torch.export.ExportedProgram``."""

    program: Any
    calling: Calling
    framework: str = "PyTorch"

    def run(self, feeds: Arrays) -> tuple[NDArray[Any], ...]:
        """Run one batch.

        Raises
        ------
        ModelError
            The program fails on it.
        """
        args, kwargs = self.calling.fill(feeds, None)
        try:
            with quiet(), torch.no_grad():
                found = self.program.module()(*args, **kwargs)
        except Exception as error:  # whatever the operators raise
            sizes = _sizes(feeds)
            raise ModelError(f"the exported program does not take {sizes}: {first_line(error)}") from error
        return tuple(as_array(leaf).copy() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor))

    def inner(self, feeds: Arrays) -> Mapping[str, tuple[str, NDArray[Any]]]:
        """Nothing: a program has no layers to listen at."""
        return {}

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by name; read-only views where they are on the CPU."""
        return _views(self.program.state_dict)

    def assign(self, values: Arrays) -> None:
        """Write new values into parameters and buffers.

        Raises
        ------
        ModelError
            There is no parameter of that name, or its shape is another; nothing was written.
        """
        held = self.program.state_dict
        unknown = [name for name in values if name not in held]
        if unknown:
            raise ModelError(f"the exported program has no parameter called {unknown[0]!r}")
        _write({name: held[name] for name in values}, values)


def same_parameters(live: LiveModel, lowered: Lowered, source: str) -> LiveModel:
    """Give ``live`` if it has the parameters that the graph was made of.

    Raises
    ------
    ModelError
        One is missing, or has another shape.
    """
    held = live.parameters()
    shapes = {} if lowered.live is None else {name: array.shape for name, array in lowered.live.parameters().items()}
    for name in dict.fromkeys(name for binding in lowered.bindings for name in binding.parameters):
        if name not in held:
            raise ModelError(f"{source} has no parameter called {name!r}; it is not of the kind that was lowered")
        if held[name].shape != shapes.get(name, held[name].shape):
            raise ModelError(f"{name!r} of {source} has shape {list(held[name].shape)}, not {list(shapes[name])}")
    return live


def _sizes(feeds: Arrays) -> str:
    return ", ".join(f"{name} of {list(value.shape)}" for name, value in feeds.items())


def _write(held: Mapping[str, Tensor], values: Arrays) -> None:
    for name, tensor in held.items():
        if tuple(tensor.shape) != values[name].shape:
            raise ModelError(f"{name!r} has shape {list(tensor.shape)}, its new values {list(values[name].shape)}")
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.detach().copy_(as_tensor(np.asarray(values[name])))


def _views(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):  # extra state may be anything
            found[name] = as_array(tensor).view()
            found[name].flags.writeable = False
    return found


def _outputs(layer: Any) -> int | None:
    """Size of the bias of a layer; ``None`` for layers that are none of the kinds which add one to each output."""
    if isinstance(layer, nn.Linear):
        return int(layer.out_features)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return int(layer.out_channels)
    return None


def _device(module: nn.Module) -> Any:
    first = next(iter((*module.parameters(), *module.buffers())), None)
    return None if first is None else first.device
