"""Compile a model to a smaller one, or apply passes to it, and measure what that did."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery_ir.backends.base import backend, baseline_of
from surgery_ir.backends.evaluate import Score, find_metric
from surgery_ir.errors import ConstraintError, DataError, SpecError
from surgery_ir.frontends.base import Lowered, Request
from surgery_ir.graph.model import Graph
from surgery_ir.passes.base import Pass, PassContext, Progress, Refusal, silent
from surgery_ir.passes.spec import create, parse_pipeline
from surgery_ir.report import Candidate as Reported
from surgery_ir.report import Report, Search
from surgery_ir.report.measure import LATENCY_SECONDS, measure_both
from surgery_ir.result import Result
from surgery_ir.search.candidate import pareto_front
from surgery_ir.search.dealing import Data, Roles, check_labels, deal, load_samples, replayed_parts
from surgery_ir.search.evaluator import Evaluator
from surgery_ir.search.goal import Goal
from surgery_ir.search.loop import Criteria, Found, search
from surgery_ir.search.lowering import lower
from surgery_ir.search.network import Network, Prefixes
from surgery_ir.search.policy import SearchPolicy
from surgery_ir.search.pool import PROLOGUE, budgets, default_pool, patterns, read_pool, weight_units
from surgery_ir.search.profile import CompressionProfile
from surgery_ir.search.searcher import OPTIMIZER
from surgery_ir.search.space import Space
from surgery_ir.search.study import Study, digest_samples
from surgery_ir.search.winner import CONFIRMING_SECONDS, Winner, choose
from surgery_ir.version import __version__

if TYPE_CHECKING:
    from typing import TypeAlias

    Model: TypeAlias = Any
    """A path, ``package.module:callable``, or a model in memory: of ONNX, onnx-graphsurgeon, or a framework."""

__all__ = ["Result", "apply", "compile", "export"]

DEFAULT_BUDGET = 64
"""Candidates where neither a budget nor a time limit is given."""

CLOSEST = 3


def compile(
    model: Model,
    data: Data,
    goal: Goal | None = None,
    *,
    labels: str | None = None,
    selection_data: Data | None = None,
    eval_data: Data | None = None,
    metric: str | None = None,
    budget: int | None = None,
    time_limit: float | None = None,
    passes: str | None = None,
    policy: SearchPolicy | None = None,
    seed: int = 0,
    provider: str = "onnxruntime",
    workers: int = 1,
    study: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    trust: bool = False,
) -> Result:
    """Search for passes that make a model smaller within the limits of a goal, and apply the best.

    Samples are an ``.npz`` path, arrays by input name, or :class:`~surgery_ir.analysis.samples.Samples`. They are used
    three ways: calibration fits weights, selection scores candidates, and report is touched once, at the end.

    Parameters
    ----------
    model
        A path, ``package.module:callable``, or a model in memory: of ONNX, PyTorch, Keras, JAX …
    data
        Calibration samples, dealt to all three parts where the other sets are not given.
    goal
        What to minimise, and the constraints; fewest nonzeros within one point of the metric by default.
    labels
        Name of the labels among the arrays.
    selection_data, eval_data
        Samples for selection and for the report.
    metric
        ``accuracy``, ``fidelity`` or ``module:function``; accuracy where there are labels.
    budget, time_limit
        Candidates to try, and seconds to take, at most. The same seed and budget give the same bytes; a time limit
        makes the result depend on the machine, and its profile is what repeats it.
    passes
        Passes to choose from, in text form; options that are given are not searched.
    policy
        What an earlier search learnt.
    seed
        Seed of everything random.
    provider
        Backend that the compressed model is measured on. Passes, and the dense model that it is compared with, run on
        that backend's baseline, where it has another one: ``sparse`` is compared with plain ONNX Runtime.
    workers
        Candidates at a time.
    study
        Folder that keeps every candidate, and from which a search that was cut short is resumed.
    progress
        Told how far the search has come.
    example_inputs
        One batch as a framework's model takes it; the first samples of ``data`` by default.
    dynamic_shapes
        What the framework's exporter takes under this name; batches and sequences are of any size by default.
    trust
        Whether code that comes inside a model file may run.

    Raises
    ------
    ConstraintError
        No candidate meets the goal; its message and ``closest`` hold those that come nearest.
    SurgeryError
        Model, data or options are faulty.
    """
    start = time.perf_counter()
    goal = goal or Goal()
    runtime = backend(provider)
    stock, able = baseline_of(runtime), runtime.capabilities
    progress("lowering", 0, 0)
    lowered = lower(model, Request(stock, example_inputs, dynamic_shapes, trust), data, labels)
    dense = lowered.graph
    roles = deal(dense, data, selection_data, eval_data, labels, seed)
    pool = default_pool(goal, able.sparse_speedup) if passes is None else read_pool(passes, goal)
    prologue = tuple(create(name, {}) for name in PROLOGUE)
    judge = find_metric(metric or ("fidelity" if roles.selection.labels is None else "accuracy"))
    ctx = PassContext(dense, stock, roles.calibration, seed, selection=roles.selection)
    kept = None if study is None else Study(study, _about(dense, roles, goal, judge.name, seed, provider))
    progress("loading", 0, 0)
    began = time.perf_counter()
    evaluator = Evaluator(
        dense, ctx, runtime, roles.selection, judge, goal, prologue=len(prologue), workers=workers, study=kept
    )
    reserve = 2.5 * (time.perf_counter() - began) * len(roles.report) / len(roles.selection) + 1.5 * LATENCY_SECONDS
    reserve += 1.5 * CONFIRMING_SECONDS if goal.minimize == "latency" else 0.0
    units = weight_units(evaluator.networks.apply(prologue).graph)
    space = Space(pool, prologue, lambda _: units, budgets=budgets(goal), texts=patterns(goal, able.patterns))
    if budget is None and time_limit is None:
        budget = DEFAULT_BUDGET
    criteria = Criteria(budget, time_limit, reserve, start=start)
    found = search(space, evaluator, goal, criteria, policy, seed=seed, progress=progress)
    progress("proving", 0, 0)
    winner = choose(found.candidates, evaluator, goal)
    if winner.candidate is None and goal.targets:
        raise _unmet(found, goal)
    network = winner.network or evaluator.networks.apply(prologue)
    chosen = CompressionProfile(network.applied, seed, roles.shares, _source(dense), roles.selection_shares)
    progress("measuring", 0, 0)
    judge = find_metric(metric or ("fidelity" if roles.report.labels is None else "accuracy"))
    measured = measure_both(dense, network, runtime, roles.report, judge)
    measured["verified"] |= _agreement(lowered)
    report = Report(
        **measured,
        profile=str(chosen),
        policy=found.policy.to_plain(),
        refusals=_reasons(network, evaluator, found, winner, goal),
        pareto=_pareto(found, winner, evaluator.scorer.baseline.name, goal),
        search=Search(
            evaluated=evaluator.evaluated,
            refused=evaluator.refused,
            failed=evaluator.failed,
            seconds=time.perf_counter() - start,
            seed=seed,
            optimizer=OPTIMIZER,
            cut_short=evaluator.cut_short,
        ),
    )
    return Result(network.graph, chosen, report, found.policy, lowered)


def apply(
    model: Model,
    passes: str | Sequence[Pass] | CompressionProfile,
    data: Data | None = None,
    *,
    labels: str | None = None,
    selection_data: Data | None = None,
    eval_data: Data | None = None,
    metric: str | None = None,
    seed: int = 0,
    provider: str = "onnxruntime",
    progress: Progress = silent,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    trust: bool = False,
) -> Result:
    """Apply passes to a model, in order.

    Parameters
    ----------
    model
        A path, ``package.module:callable``, or a model in memory: of ONNX, PyTorch, Keras, JAX …
    passes
        Text form, passes, or a profile. A profile brings its own seed, and deals ``data`` as the search did that made
        it, so that the same model and data give the same bytes.
    data
        Calibration samples, for passes that need them.
    labels
        Name of the labels among the arrays.
    selection_data
        Samples on which passes judge what they keep; without them they hold out some of ``data``.
    eval_data
        Samples to measure on; without them costs are measured, but no metric.
    metric
        ``accuracy``, ``fidelity`` or ``module:function``; accuracy where there are labels.
    seed
        Seed of everything random; a profile's own takes precedence.
    provider
        Backend that the compressed model is measured on. Passes, and the dense model that it is compared with, run on
        that backend's baseline, where it has another one: ``sparse`` is compared with plain ONNX Runtime.
    progress
        Told how far a pass has come.
    example_inputs
        One batch as a framework's model takes it; the first samples of ``data`` by default.
    dynamic_shapes
        What the framework's exporter takes under this name; batches and sequences are of any size by default.
    trust
        Whether code that comes inside a model file may run.

    Raises
    ------
    SurgeryError
        Model, data or passes are faulty, or a pass needs samples that are not given.
    """
    if not isinstance(passes, CompressionProfile):
        passes = CompressionProfile(parse_pipeline(passes) if isinstance(passes, str) else tuple(passes), seed)
    chosen, seed, source = passes.passes, passes.seed, passes.source
    runtime = backend(provider)
    stock = baseline_of(runtime)
    progress("lowering", 0, 0)
    lowered = lower(model, Request(stock, example_inputs, dynamic_shapes, trust), data, labels)
    dense = lowered.graph
    samples = None if data is None else load_samples(data, labels, dense)
    judging = None if selection_data is None else load_samples(selection_data, labels, dense, "selection data")
    final = None if eval_data is None else load_samples(eval_data, labels, dense, "evaluation data")
    check_labels(labels, samples, judging, final)
    for item in chosen:
        if item.needs_samples and samples is None:
            raise DataError(f"{item.name} needs sample inputs: give it data")
    calibration, selection = replayed_parts(samples, judging, passes.shares, passes.selection_shares, seed)
    ctx = PassContext(dense, stock, calibration, seed, progress=progress, selection=selection)
    network = Prefixes(dense, ctx).apply(chosen)
    judge = find_metric(metric or ("fidelity" if final is None or final.labels is None else "accuracy"))
    measured = measure_both(dense, network, runtime, final, judge, example=final or samples)
    measured["verified"] |= _agreement(lowered)
    fingerprint = source.get("fingerprint")
    if fingerprint is not None:
        measured["verified"]["profile_made_for_this_model"] = fingerprint == dense.fingerprint()
    profile = replace(passes, passes=network.applied, source=source or _source(dense))
    report = Report(**measured, profile=str(profile), refusals=network.refusals)
    return Result(network.graph, profile, report, lowered=lowered)


def export(
    model: Model,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    passes: str | Sequence[Pass] | CompressionProfile | None = None,
    data: Data | None = None,
    goal: Goal | None = None,
    **options: Any,
) -> Result:
    """Export a framework's model to a file of ONNX, compressed on the way.

    It takes the place of ``torch.onnx.export(model, example_inputs, path)`` and of Keras'
    ``model.export(path, format="onnx")``. With ``passes`` they are applied; with ``data`` alone, or a goal, passes
    are searched; with neither the model is only lowered, compared with what the framework computes, and tidied.

    Parameters
    ----------
    model
        A module, a model, or anything else that :func:`compile` takes.
    example_inputs
        One batch as the model takes it: an array, a tuple of them, or a mapping from the names of the inputs. ``None``
        where the model knows the shapes of its inputs, or where there are data.
    path
        File to write, atomically.
    passes
        Text form, passes, or a profile.
    data
        Calibration samples.
    goal
        What to minimise, and the constraints.
    **options
        Further options of :func:`apply` where there are passes, of :func:`compile` where there are none.

    Raises
    ------
    SurgeryError
        The model cannot be lowered, options are faulty, or the file cannot be written; nothing is written then.
    """
    options["example_inputs"] = example_inputs
    if passes is not None and goal is not None:
        raise SpecError("passes are applied as they are, a goal is searched for: give one of them")
    if passes is None and (data is not None or goal is not None):
        if data is None:
            raise DataError("a search needs sample inputs: give it data")
        result = compile(model, data, goal, **options)
    else:
        result = apply(model, "canonicalize" if passes is None else passes, data, **options)
    result.save(path)
    return result


def _agreement(lowered: Lowered) -> dict[str, Any]:
    """How the graph was compared with the framework's model, for the report."""
    if lowered.live is None:
        return {}
    return {"framework": lowered.live.framework, "difference_from_framework": lowered.difference}


def _unmet(found: Found, goal: Goal) -> ConstraintError:
    """Say that nothing meets the goal, and what comes closest."""
    tried = [item for item in found.candidates if not item.failure]
    closest = sorted(tried, key=lambda item: sum(item.excesses(goal)))[:CLOSEST]
    nearest = f"the closest is {closest[0]}" if closest else "none could be applied"
    return ConstraintError(f"no candidate of {len(found.candidates)} meets {goal}; {nearest}", closest)


def _reasons(network: Network, evaluator: Evaluator, found: Found, winner: Winner, goal: Goal) -> tuple[Refusal, ...]:
    """What the chosen passes left alone; where nothing was cut, why not, from everything that was tried."""
    reasons = [*network.refusals, *winner.notes]
    if winner.candidate is None or not winner.candidate.changed:
        failures = dict.fromkeys(item.failure for item in found.candidates if item.failure)
        reasons += [Refusal(text, pass_name="search") for text in failures]
        smaller = [item for item in found.candidates if item.changed]
        if smaller:
            closest = min(smaller, key=lambda item: sum(item.excesses(goal)))
            lacking = f"has measurably less {goal.minimize}" if closest.feasible(goal) else f"meets {goal}"
            reasons.append(Refusal(f"no smaller model {lacking}; closest: {closest}", pass_name="search"))
        else:
            for item in found.candidates:
                if not item.failure:
                    reasons += evaluator.networks.apply(parse_pipeline(item.profile)).refusals
    return tuple({(item.pass_name, item.reason, item.nodes): item for item in reasons}.values())


def _pareto(found: Found, winner: Winner, metric: str, goal: Goal) -> tuple[Reported, ...]:
    """Candidates that no other one beats, as a report has them; the winner as it was applied in the end."""
    candidates = [item for item in found.candidates if winner.tried is None or item.profile != winner.tried]
    held = [] if winner.candidate is None else [winner.candidate]
    return tuple(
        Reported(
            profile=item.profile,
            macs=int(item.quantities["macs"]) if "macs" in item.quantities else None,
            latency_ms=item.quantities.get("latency"),
            bytes=int(item.quantities["size"]),
            metric=Score(metric, item.metric, item.samples, np.empty(0)),
            plasticity=item.plasticity,
            nonzeros=int(item.quantities["nonzeros"]),
        )
        for item in pareto_front([*candidates, *held], goal)
    )


def _source(graph: Graph) -> dict[str, str]:
    return {"fingerprint": graph.fingerprint(), "surgery-ir": __version__}


def _about(graph: Graph, roles: Roles, goal: Goal, metric: str, seed: int, provider: str) -> dict[str, str]:
    """What candidates depend on."""
    return {
        "model": graph.fingerprint(),
        "calibration data": digest_samples(roles.calibration),
        "selection data": digest_samples(roles.selection),
        "goal": str(goal),
        "metric": metric,
        "seed": str(seed),
        "provider": provider,
        "version": __version__,
    }
