"""How a module is called: example inputs become arguments, arrays by name take the places of their tensors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery_ir.errors import ModelError

__all__ = [
    "Arguments",
    "Calling",
    "arguments",
    "as_array",
    "as_tensor",
    "calling_by_name",
    "default_shapes",
    "parameter_names",
    "shapes_of",
    "with_rows",
]

RECURRENT = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Layers whose inputs of rank 3 are sequences."""

COLLECTING = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Calling:
    """The arguments of a call, as a tree with places for tensors.

    Parameters
    ----------
    spec
        Structure of the positional and keyword arguments.
    leaves
        Names of tensors, and what is no tensor as it is.
    names
        Names of the tensors, in the order of the leaves.
    """

    spec: Any
    leaves: tuple[Any, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, call: Arguments, names: Sequence[str]) -> Calling:
        """Give the tensors of ``call`` the names of the graph's inputs, which are in the same order.

        Raises
        ------
        ModelError
            There are more or fewer of them.
        """
        leaves, spec = pytree.tree_flatten(call)
        tensors = sum(isinstance(leaf, Tensor) for leaf in leaves)
        if tensors != len(names):
            raise ModelError(f"the example holds {tensors} tensors, the model takes {len(names)}: {', '.join(names)}")
        left = iter(names)
        return cls(spec, tuple(next(left) if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves), tuple(names))

    def feeds(self, call: Arguments) -> dict[str, NDArray[Any]]:
        """Give the tensors of ``call`` by name."""
        tensors = (leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor))
        return {name: as_array(tensor) for name, tensor in zip(self.names, tensors, strict=True)}

    def fill(self, feeds: Mapping[str, NDArray[Any]], device: Any) -> Arguments:
        """Put arrays by name where the tensors belong."""
        leaves = [as_tensor(feeds[leaf], device) if isinstance(leaf, str) else leaf[0] for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs


def arguments(module: nn.Module, example: Any, source: str) -> Arguments:
    """Arrange example inputs as arguments of ``module``, at least two rows of each.

    One row is repeated: PyTorch takes an axis of size 1 for one that never has another size.

    Parameters
    ----------
    module
        The module that is called.
    example
        An array or a tensor, a tuple of them in order, or a mapping by the names of the parameters of ``forward``.
        Arrays of float64, NumPy's default, become of the module's type.
    source
        What to call it in messages.

    Raises
    ------
    ModelError
        There are none, they do not fit the parameters, or their numbers of rows differ.
    """
    takes = f"forward takes {', '.join(parameter_names(module)) or 'nothing'}"
    if example is None:
        raise ModelError(
            f"{source}: PyTorch needs example inputs to lower a module: give example_inputs, a tuple of arrays in "
            f"order or a mapping by name, with the first axis for the batch (on the command line: --data, or a "
            f"function that gives a pair of model and example); {takes}"
        )
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise ModelError(f"{source}: the example inputs do not fit: {error}; {takes}") from error
    return with_rows((bound.args, bound.kwargs), module.parameters(), source)


def calling_by_name(module: nn.Module, names: Sequence[str]) -> Calling:
    """Call ``module`` with inputs that are known by name alone: by these, or in order where ``forward`` has others."""
    places = [torch.empty(0) for _ in names]
    if set(names) <= {name.strip("[]") for name in parameter_names(module)}:
        return Calling.of(((), dict(zip(names, places, strict=True))), names)
    return Calling.of((tuple(places), {}), names)


def with_rows(call: Arguments, state: Iterable[Any], source: str) -> Arguments:
    """Make tensors of the arrays in ``call``, fit for what holds the tensors ``state``, and repeat a single row."""
    first = next((item for item in state if isinstance(item, Tensor) and item.is_floating_point()), None)

    def tensor(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | np.generic):
            return leaf
        made = as_tensor(np.asarray(leaf), None if first is None else first.device)
        return made.to(first.dtype) if first is not None and made.dtype == torch.float64 else made

    def repeat(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf

    call = pytree.tree_map(tensor, call)
    sizes = {leaf.shape[0] for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor) and leaf.ndim}
    if not sizes:
        raise ModelError(f"{source}: the example inputs hold no tensor with an axis for the batch")
    if len(sizes) > 1 or 0 in sizes:
        raise ModelError(
            f"{source}: the first axis is the batch, but the example inputs are of {shapes_of(call)}; "
            "give each the same number of rows"
        )
    return pytree.tree_map(repeat, call) if sizes == {1} else call


def default_shapes(module: nn.Module, call: Arguments) -> dict[str, Any]:
    """Say which axes are open: the first of every tensor, and the second where it is a sequence.

    A sequence is what a tensor of integers or booleans of rank 2 or 3 holds (tokens, masks), or a tensor of rank 3 for
    a module with recurrent or attention layers of PyTorch's; and any second axis of the same size as one of these.
    They are left to PyTorch to find out (``Dim.AUTO``): a length that the model fixes stays fixed.

    Returns
    -------
    What ``torch.export.export`` takes as ``dynamic_shapes``.
    """
    auto = torch.export.Dim.AUTO
    recurrent = any(isinstance(layer, RECURRENT) for layer in module.modules())
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor)]
    lengths = {tensor.shape[1] for tensor in tensors if _is_sequence(tensor, recurrent)}

    def axes(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor):
            return None
        return {axis: auto for axis in range(min(leaf.ndim, 2)) if axis == 0 or leaf.shape[1] in lengths}

    bound = inspect.signature(module.forward).bind(*call[0], **call[1])
    shapes: dict[str, Any] = pytree.tree_map(axes, dict(bound.arguments))
    return shapes


def _is_sequence(tensor: Tensor, recurrent: bool) -> bool:
    counts = not tensor.is_floating_point() and tensor.ndim in (2, 3)
    return counts or (recurrent and tensor.ndim == 3)


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of ``forward``; those that a call may leave out in brackets."""
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(
        item.name if item.default is item.empty else f"[{item.name}]"
        for item in parameters
        if item.kind not in COLLECTING
    )


def shapes_of(call: Any) -> str:
    """Write the shapes of the tensors: ``[2, 3], [2, 4]``."""
    return ", ".join(str(list(leaf.shape)) for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor))


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Look at a tensor as an array, without copying where it is on the CPU."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
        bits: NDArray[Any] = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: NDArray[Any] = tensor.numpy()
    return array


def as_tensor(array: NDArray[Any], device: Any = None) -> Tensor:
    """Copy an array to a tensor."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16), device=device).view(torch.bfloat16)
    return torch.tensor(array, device=device)
