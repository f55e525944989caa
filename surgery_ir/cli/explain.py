"""``surgery-ir explain``: what can be cut and pruned, what cannot, and why. Nothing is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from typing import Any

from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.samples import check_samples, read_samples
from surgery_ir.backends.base import backend, baseline_of
from surgery_ir.cli.console import progress, show, table
from surgery_ir.cli.models import lower
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.cli.structure import describe, print_structure, structure
from surgery_ir.errors import PassError
from surgery_ir.graph.edits import Edit
from surgery_ir.passes.base import PassContext, Refusal, run_pass
from surgery_ir.passes.coupled import find_coupling
from surgery_ir.passes.prune.recurrent import RecurrentMatrix, recurrent_matrices
from surgery_ir.passes.spec import format_pipeline, parse_pipeline
from surgery_ir.report.text import UNKNOWN, number, percent

__all__ = ["run"]

DEFAULT = "canonicalize,prune-weights{criterion=magnitude}"
"""Needs no data, and finds the same layers as the criteria that do."""

PROLOGUE = "canonicalize"
"""Units are looked for in the graph that pruning starts from."""


def run(options: argparse.Namespace) -> int:
    """Print every group of units that can be cut, every layer that the passes prune, and every refusal."""
    passes = parse_pipeline(options.passes or DEFAULT)
    runtime = baseline_of(backend(options.provider))
    graph = lower(options.model, options, runtime).graph
    samples = None
    if options.data is not None:
        samples = read_samples(options.data, options.labels)
        check_samples(samples, graph)
    refusals: list[Refusal] = []
    edits: list[Edit] = []
    with progress("looking at the model") as callback:
        context = PassContext(
            reference=graph,
            runtime=runtime,
            samples=samples,
            seed=options.seed,
            progress=callback,
        )
        (prologue,) = parse_pipeline(PROLOGUE)
        clean = run_pass(prologue, graph, context).graph
        units = structure(clean, find_coupling(clean, context))
        for item in passes:
            outcome = run_pass(item, graph, context)
            graph = outcome.graph
            refusals.extend(outcome.refusals)
            edits.extend(outcome.edits)
    matrices = (found for found in recurrent_matrices(graph).values() if not isinstance(found, str))
    layers = _layers([*find_layers(graph).layers, *chain.from_iterable(matrices)], refusals, edits)
    refused = [{"pass": item.pass_name, "nodes": list(item.nodes), "reason": item.reason} for item in refusals]
    explained = {
        "model": str(options.model),
        "passes": format_pipeline(passes),
        **units,
        "layers": layers,
        "refusals": refused,
    }
    if options.json:
        print(json_bytes(explained).decode(), end="")
    else:
        print_structure(units)
        show("")
        _print(explained)
    if not units["groups"]:
        reasons = list(dict.fromkeys(describe(item) for item in units["frozen"])) or ["no layer has constant weights"]
        raise PassError(
            f"{options.model}: 0 of {len(units['frozen'])} groups of units can be cut: {'; '.join(reasons)}"
        )
    return 0


def _layers(
    layers: Sequence[Layer | RecurrentMatrix], refusals: Sequence[Refusal], edits: Sequence[Edit]
) -> list[dict[str, Any]]:
    pruned = {edit.where for edit in edits if edit.pruned}
    reasons: dict[str, list[dict[str, str]]] = {}
    for item in refusals:
        for node in item.nodes:
            reasons.setdefault(node, []).append({"pass": item.pass_name, "reason": item.reason})
    return [
        {
            "name": layer.name,
            "op_type": layer.op_type if isinstance(layer, Layer) else f"{layer.op_type} {layer.role}",
            "groups": layer.groups,
            "outputs": layer.outputs,
            "inputs": layer.inputs,
            "weights": layer.size,
            "pruned": layer.weight in pruned,
            "reasons": reasons.get(layer.name, []),
        }
        for layer in layers
    ]


def _print(explained: dict[str, Any]) -> None:
    layers, refusals = explained["layers"], explained["refusals"]
    show(f"{explained['model']}: {explained['passes']}")
    if layers:
        able = [layer for layer in layers if layer["pruned"]]
        weights = sum(layer["weights"] for layer in layers)
        share = percent(sum(layer["weights"] for layer in able) / weights) if weights else UNKNOWN
        rows = [
            (
                layer["name"],
                layer["op_type"],
                f"{layer['groups']} × " * (layer["groups"] > 1) + f"{layer['outputs']} × {layer['inputs']}",
                number(layer["weights"]),
                "yes" if layer["pruned"] else "no: " + "; ".join(item["reason"] for item in layer["reasons"]),
            )
            for layer in layers
        ]
        show(
            f"{len(able)} of {len(layers)} layers can be pruned, with {share} of their {number(weights)} weights.",
            "",
            table(["layer", "operator", "outputs × inputs", ">weights", "can be pruned"], rows),
        )
    else:
        show("There is no layer with constant weights that could be pruned.")
    known = {layer["name"] for layer in layers}
    others = [item for item in refusals if not item["nodes"] or not known.issuperset(item["nodes"])]
    if others:
        left = [(item["pass"], item["reason"], ", ".join(item["nodes"]) or "the whole model") for item in others]
        show("", "Left alone:", table(["pass", "reason", "operators"], left))
