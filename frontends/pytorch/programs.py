"""How an exported program is called, and whether it can become a graph for batches of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from surgery_ir.errors import ModelError
from surgery_ir.frontends.pytorch.calling import Arguments, Calling, with_rows

__all__ = ["calling_of", "example_call"]


def example_call(program: Any, example: Any, source: str) -> Arguments:
    """Arrange example inputs, those that the program was exported with if there are no others.

    Raises
    ------
    ModelError
        There are none, they do not fit, or the program takes batches of one size only or is for training.
    """
    names = _names(program)
    takes = f"it takes {', '.join(names)}"
    _check(program, source)
    if example is None:
        call = program.example_inputs
        if call is None:
            raise ModelError(f"{source}: it holds no example inputs, and none are given; {takes}")
        return with_rows((tuple(call[0]), dict(call[1])), program.state_dict.values(), source)
    first, second = program.call_spec.in_spec.children()
    count = first.num_children
    if isinstance(example, Mapping):
        if example.keys() != set(names):
            raise ModelError(f"{source}: {takes}; the example has {', '.join(map(str, example))}")
        given = [example[name] for name in names]
    else:
        given = list(example) if isinstance(example, tuple | list) else [example]
        if len(given) != len(names):
            raise ModelError(f"{source}: {takes}; the example holds {len(given)} inputs")
    args, kwargs = tuple(given[:count]), dict(zip(second.context, given[count:], strict=True))
    call = with_rows((args, kwargs), program.state_dict.values(), source)
    if pytree.tree_structure(call) != program.call_spec.in_spec:
        raise ModelError(f"{source}: the example inputs are nested in another way than those it was exported with")
    return call


def calling_of(program: Any) -> Calling:
    """Give how the program is called, its inputs under the names that it gives them."""
    spec = program.call_spec.in_spec
    user = [item for item in program.graph_signature.input_specs if item.kind.name == "USER_INPUT"]
    constant = torch.export.graph_signature.ConstantArgument
    leaves = tuple((item.arg.value,) if isinstance(item.arg, constant) else item.arg.name for item in user)
    return Calling(spec, leaves, tuple(leaf for leaf in leaves if isinstance(leaf, str)))


def _names(program: Any) -> list[str]:
    """Names of the arguments, the keywords last."""
    first, second = program.call_spec.in_spec.children()
    signature = program.module_call_graph[0].signature
    known = list((signature and signature.forward_arg_names) or ())
    positional = known[: first.num_children]
    positional += [f"input {index}" for index in range(len(positional), first.num_children)]
    return [*positional, *map(str, second.context or ())]


def _check(program: Any, source: str) -> None:
    aten = torch.ops.aten
    training = {aten.batch_norm.default: 5, aten.dropout.default: 2}  # which argument says so
    if program.graph_signature.buffers_to_mutate or any(
        node.args[training[node.target]] is True for node in program.graph.nodes if node.target in training
    ):
        raise ModelError(f"{source}: it was exported in training mode; export model.eval()")
    taken = set(program.graph_signature.user_inputs)
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if node.name in taken and isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], int):
            raise ModelError(
                f"{source}: it was exported for batches of {value.shape[0]} only; export it with "
                f'dynamic_shapes={{"{node.target}": {{0: torch.export.Dim.DYNAMIC}}}} and at least two rows'
            )
