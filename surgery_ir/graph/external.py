"""External data: weights in files beside the model. Found wherever they hide, checked before they are opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path

import onnx_ir as ir

from surgery_ir.errors import ModelError

__all__ = ["attach", "external_tensors", "inline"]

Replace = Callable[[ir.TensorProtocol], None]


def external_tensors(model: ir.Model) -> Iterator[tuple[ir.ExternalTensor, Replace]]:
    """Yield every external tensor of ``model``, and a function that puts another in its place.

    They are initializers and attributes, in the main graph, in subgraphs and in functions.
    """
    for graph in (*model.graphs(), *(inner for function in model.functions.values() for inner in function.subgraphs())):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value, partial(setattr, value, "const_value")
    bodies: tuple[ir.Graph | ir.Function, ...] = (model.graph, *model.functions.values())
    for body in bodies:
        for node in ir.traversal.RecursiveGraphIterator(body):
            for attribute in tuple(node.attributes.values()):
                yield from _in_attribute(node, attribute)


def _in_attribute(node: ir.Node, attribute: ir.Attr) -> Iterator[tuple[ir.ExternalTensor, Replace]]:
    def replace(tensor: ir.TensorProtocol) -> None:
        node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)

    def replace_at(index: int, tensor: ir.TensorProtocol) -> None:
        tensors = list(node.attributes[attribute.name].as_tensors())
        tensors[index] = tensor
        node.attributes[attribute.name] = ir.AttrTensors(attribute.name, tensors)

    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
        yield attribute.value, replace
    elif attribute.type == ir.AttributeType.TENSORS:
        for index, tensor in enumerate(attribute.as_tensors()):
            if isinstance(tensor, ir.ExternalTensor):
                yield tensor, partial(replace_at, index)


def attach(model: ir.Model, folder: str, source: str) -> None:
    """Tell the external tensors of ``model`` where their files are; from then on they can be mapped.

    Raises
    ------
    ModelError
        A file is missing or too short, or lies outside ``folder``. A model without a folder must not have any.
    """
    for tensor, _ in external_tensors(model):
        where = f"{source}: external data of {tensor.name!r}"
        if not folder:
            raise ModelError(f"{where} are in {os.fspath(tensor.location)!r}; give the path of the model file instead")
        _check(tensor, Path(folder), where)
        tensor.base_dir = folder


def _check(tensor: ir.ExternalTensor, folder: Path, where: str) -> None:
    location = os.fspath(tensor.location)
    root = folder.resolve()
    try:
        file = (root / location).resolve()
        status = file.stat() if file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:  # names with a NUL, loops of links
        raise ModelError(f"{where}: the path {location!r} cannot be used: {error}") from error
    if not location or os.path.isabs(location) or not file.is_relative_to(root):
        raise ModelError(f"{where}: the path {location!r} leaves the model's folder")
    if status is None:
        raise ModelError(f"{where}: the file {location!r} is missing")
    if status.st_nlink > 1:
        raise ModelError(f"{where}: {location!r} has several hard links and may be a file from elsewhere; copy it")
    offset = tensor.offset or 0
    length = tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes:
        raise ModelError(f"{where}: {length} bytes are given, but type and shape need {tensor.nbytes}")
    if offset < 0 or length < 0 or offset + length > status.st_size:
        raise ModelError(
            f"{where}: bytes {offset} to {offset + length} are needed, but {location!r} has {status.st_size}"
        )


def inline(model: ir.Model, keep: Container[str] = ()) -> None:
    """Have ``model`` (a clone) carry its weights itself. They stay mapped until they are serialised.

    Parameters
    ----------
    model
        Model to change.
    keep
        Names of the tensors that are left external.
    """
    for tensor, replace in tuple(external_tensors(model)):
        if tensor.name not in keep:
            replace(
                ir.Tensor(
                    tensor.numpy(),
                    dtype=tensor.dtype,
                    name=tensor.name,
                    doc_string=tensor.doc_string,
                    metadata_props=dict(tensor.metadata_props),
                )
            )
