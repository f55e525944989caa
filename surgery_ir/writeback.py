"""Put the weights of a compressed model back into the model of the framework that it was lowered from.

A pass changes initializers, and rewrites that leave the model's outputs alone change what they hold: a BatchNorm is
folded into the layer ahead of it. So the rewrites of the profile are done once more on the dense graph, which tells
what each initializer of the compressed graph corresponds to; what was folded is divided out again; and the bindings of
the frontend lead from initializers to parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from surgery_ir.analysis.runtime import Runtime
from surgery_ir.errors import ModelError
from surgery_ir.frontends.agreement import compare
from surgery_ir.frontends.base import LiveModel, Lowered
from surgery_ir.frontends.parameters import Binding
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, run_pass
from surgery_ir.passes.cleanup.batchnorm import Normalization, along_outputs, read_normalization

__all__ = ["parameter_values", "write"]

SHOWN = 3
"""Names in a message."""

Arrays = Mapping[str, NDArray[Any]]


def parameter_values(
    lowered: Lowered, compressed: Graph, passes: Sequence[Pass], parameters: Arrays, ctx: PassContext
) -> dict[str, NDArray[Any]]:
    """Find values of the framework's parameters for which its model computes what ``compressed`` computes.

    Parameters
    ----------
    lowered
        The dense model.
    compressed
        What became of it.
    passes
        Passes that were applied.
    parameters
        Values of the framework's parameters so far.
    ctx
        Context for the passes that are done once more.

    Returns
    -------
    New values of the parameters that change, by name, in the element types that they have. A bias that a layer did
    not have is among them as ``<layer>.bias``.

    Raises
    ------
    ModelError
        The two differ by more than weights, or a value cannot be traced back to parameters.
    """
    reference = lowered.graph
    for item in passes:
        if item.exact:
            reference = run_pass(item, reference, ctx).graph
    _check_structure(reference, compressed)
    changes = dict(_changes(lowered, reference, compressed))
    bindings = {binding.initializer: binding for binding in lowered.bindings}
    current = dict(parameters)
    for name, array in changes.items():
        if name not in lowered.graph.initializers:
            current[name] = array
        elif name in bindings:
            binding = bindings[name]
            current |= binding.backward(array.astype(lowered.graph.array(name).dtype), current)
        else:
            raise ModelError(f"{name!r} has new values, but holds no parameter of the model's; nothing was written")
    values = {name: value for name, value in current.items() if not _is_equal(parameters.get(name), value)}
    for binding in lowered.bindings:
        if not values.keys().isdisjoint(binding.parameters):
            _check_places(binding, changes.get(binding.initializer), lowered.graph, current)
    return values


def _is_equal(old: NDArray[Any] | None, new: NDArray[Any]) -> bool:
    return old is new or (old is not None and np.array_equal(old, new))


def write(live: LiveModel, values: Arrays, compressed: Graph, feeds: Arrays, runtime: Runtime) -> None:
    """Assign ``values`` and make sure that the model computes what ``compressed`` computes.

    Raises
    ------
    ModelError
        It does not, or a value has no place in it. It is then as it was; a bias that was added is zero.
    """
    before = live.parameters()
    old = {name: np.array(before[name]) if name in before else np.zeros_like(value) for name, value in values.items()}
    live.assign(values)
    try:
        compare(compressed, live, feeds, runtime, "the compressed model")
    except ModelError:
        live.assign(old)
        raise


def _check_places(binding: Binding, changed: NDArray[Any] | None, dense: Graph, parameters: Arrays) -> None:
    """Refuse what one of the places that a parameter is used in does not agree with."""
    old = dense.array(binding.initializer)
    if not np.array_equal(binding.forward(parameters), old if changed is None else changed.astype(old.dtype)):
        raise ModelError(f"{', '.join(binding.parameters)}: used in several places, which have different values now")


def _check_structure(reference: Graph, compressed: Graph) -> None:
    """Refuse what weights alone cannot express, and say what it is."""
    old = {node.name or "": node for node in reference.model.graph}
    new = {node.name or "": node for node in compressed.model.graph}
    why = "only weights can be written back"
    for name, value in reference.initializers.items():
        if name in compressed.initializers and reference.array(name).shape != compressed.array(name).shape:
            raise ModelError(
                f"channels were cut: {value.name!r} has shape {list(compressed.array(name).shape)} instead of "
                f"{list(reference.array(name).shape)}, {why}"
            )
    for names, what in ((new.keys() - old.keys(), "created"), (old.keys() - new.keys(), "removed")):
        if names:
            raise ModelError(f"operators were {what} ({_some(names)}), {why}")
    rewired = [name for name, node in new.items() if not _is_same(old[name], node)]
    if rewired:
        raise ModelError(f"operators were rewired ({_some(rewired)}), {why}")


def _is_same(old: ir.Node, new: ir.Node) -> bool:
    """Whether two operators compute the same but for their weights; one may have a bias that the other lacks."""
    computed = [
        [value.name if value is not None and not value.is_initializer() else None for value in node.inputs]
        for node in (old, new)
    ]
    length = max(len(inputs) for inputs in computed)
    one, other = ([*inputs, *[None] * (length - len(inputs))] for inputs in computed)
    return old.op_type == new.op_type and one == other


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:SHOWN]) + (" …" if len(shown) > SHOWN else "")


@dataclass(frozen=True)
class _Fold:
    """A BatchNorm of the dense model that was folded into the layer ahead of it."""

    layer: ir.Node
    normalization: Normalization


def _changes(lowered: Lowered, reference: Graph, compressed: Graph) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield new values of initializers of the lowered graph, and biases that it does not have."""
    bound = {binding.initializer for binding in lowered.bindings}
    done: set[str] = set()
    for fold in _folds(lowered.graph, reference):
        layer = compressed.node(fold.layer.name or "")
        names = [value.name or "" for value in layer.inputs[1:3] if value is not None]
        done.update(names)
        if any(not np.array_equal(reference.array(name), compressed.array(name)) for name in names):
            yield from _unfolded(fold, lowered.graph, reference, compressed, bound)
    for name in compressed.initializers:
        if name in done:
            continue
        new = compressed.array(name)
        if name not in reference.initializers:
            yield name, new
        elif not np.array_equal(reference.array(name), new):
            if name not in lowered.graph.initializers:
                raise ModelError(f"{name!r} was made of other weights by a rewrite and has new values: no way back")
            yield name, new


def _folds(dense: Graph, reference: Graph) -> Iterator[_Fold]:
    kept = {node.name for node in reference.model.graph}
    for node in dense.model.graph:
        if node.op_type == "BatchNormalization" and node.name not in kept:
            source = node.inputs[0]
            layer = source.producer() if source is not None else None
            if layer is not None and layer.name in kept:
                yield _Fold(layer, read_normalization(dense, node))


def _unfolded(
    fold: _Fold, dense: Graph, reference: Graph, compressed: Graph, bound: set[str]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield weights and shift for which layer and BatchNorm together compute what the one layer computes now.

    With s = γ/√(σ² + ε): W = W'/s, and β = b' − s (b − μ). Where γ is 0, it becomes √(σ² + ε), and s = 1. The
    statistics stay; without a β of its own, a BatchNorm is shifted by its mean instead.
    """
    norm, node = fold.normalization, compressed.node(fold.layer.name or "")
    weight, bias = (value.name or "" for value in node.inputs[1:3] if value is not None)
    scale = np.where(norm.factor == 0, 1.0, norm.factor)
    kept = norm.factor != 0
    new = compressed.array(weight).astype(np.float64)
    same = compressed.array(weight) == reference.array(weight)
    factor = along_outputs(node, new, scale)
    yield weight, np.where(same & (along_outputs(node, new, kept) != 0), dense.array(weight), new / factor)
    own = fold.layer.inputs[2] if len(fold.layer.inputs) > 2 else None
    inner = dense.array(own.name or "").astype(np.float64) if own is not None else np.zeros(())
    shift = compressed.array(bias).astype(np.float64)
    unshifted = kept & (compressed.array(bias) == reference.array(bias))
    if norm.names[1] in bound:
        yield norm.names[1], np.where(unshifted, norm.beta, shift - scale * (inner - norm.mean))
    else:
        yield norm.names[2], np.where(unshifted, norm.mean, inner - (shift - norm.beta) / scale)
    if not kept.all():
        yield norm.names[0], np.where(kept, norm.gamma, norm.deviation)
