"""``surgery-ir explain``: what can be pruned, what cannot, and why. A dry run of real passes; nothing is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from surgery_ir.analysis.layers import Layer, find_layers
from surgery_ir.analysis.samples import check_samples, read_samples
from surgery_ir.backends.base import backend
from surgery_ir.cli.console import progress, show, table
from surgery_ir.cli.outputs import json_bytes
from surgery_ir.frontends.load import load_model
from surgery_ir.graph.edits import Edit
from surgery_ir.passes.base import PassContext, Refusal, run_pass
from surgery_ir.passes.spec import format_pipeline, parse_pipeline
from surgery_ir.report.text import UNKNOWN, number, percent

__all__ = ["run"]

DEFAULT = "canonicalize,prune-weights{criterion=magnitude}"
"""Needs no data, and finds the same layers as the criteria that do."""


def run(options: argparse.Namespace) -> int:
    """Print every layer, whether the passes prune it, and every refusal."""
    passes = parse_pipeline(options.passes or DEFAULT)
    graph = load_model(options.model).graph
    samples = None
    if options.data is not None:
        samples = read_samples(options.data)
        check_samples(samples, graph)
    refusals: list[Refusal] = []
    edits: list[Edit] = []
    with progress("looking at the model") as callback:
        context = PassContext(
            reference=graph,
            runtime=backend(options.provider),
            samples=samples,
            seed=options.seed,
            progress=callback,
        )
        for item in passes:
            outcome = run_pass(item, graph, context)
            graph = outcome.graph
            refusals.extend(outcome.refusals)
            edits.extend(outcome.edits)
    layers = _layers(find_layers(graph).layers, refusals, edits)
    refused = [{"pass": item.pass_name, "nodes": list(item.nodes), "reason": item.reason} for item in refusals]
    explained = {
        "model": str(options.model),
        "passes": format_pipeline(passes),
        "layers": layers,
        "refusals": refused,
    }
    if options.json:
        print(json_bytes(explained).decode(), end="")
    else:
        _print(explained)
    return 0


def _layers(layers: Sequence[Layer], refusals: Sequence[Refusal], edits: Sequence[Edit]) -> list[dict[str, Any]]:
    pruned = {edit.where for edit in edits if edit.pruned}
    reasons: dict[str, list[dict[str, str]]] = {}
    for item in refusals:
        for node in item.nodes:
            reasons.setdefault(node, []).append({"pass": item.pass_name, "reason": item.reason})
    return [
        {
            "name": layer.name,
            "op_type": layer.op_type,
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
