"""``python -m bench``: what the provider gains over ONNX Runtime alone, as tables in Markdown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime_ep_sparse

from bench import ceiling, runs
from bench.patterns import PATTERNS
from bench.rows import Row, markdown, slower
from bench.timing import CLOCKS, Effort

Run = Callable[[runs.Plan], list[Row]]
# Command: (title, what runs, who must not be slower, defaults of the plan)
COMMANDS: dict[str, list[tuple[str, Run, str, dict[str, Sequence[float]]]]] = {
    "layers": [("Layers, fp32", runs.layers, runs.OURS, {"sparsities": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)})],
    "models": [("Models, fp32", runs.models, runs.OURS, {"batches": (1, 16)})],
    "int8": [
        ("Layers, int8", runs.layers_int8, runs.OURS_INT8, {"sparsities": (0.8, 0.9)}),
        ("Models, int8", runs.models_int8, runs.OURS_INT8, {"sparsities": (0.8, 0.9)}),
    ],
    "threads": [("Threads", runs.scaling, "", {"threads": (1, 2), "sparsities": (0.9,), "batches": (1, 16)})],
}
COMMANDS["all"] = [part for parts in list(COMMANDS.values()) for part in parts]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", choices=[*COMMANDS, "ceiling"])
    parser.add_argument("--only", default="", help="layers and models whose name contains this")
    parser.add_argument("--batch", type=int, nargs="+", dest="batches")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--sparsity", type=float, nargs="+", dest="sparsities", help="shares of zeros, 0 to 1")
    parser.add_argument("--pattern", nargs="+", dest="patterns", choices=PATTERNS)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of turns at least (default 9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each contestant at least (default 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine, with one thread")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the provider")
    parser.add_argument("--deepsparse", type=Path, metavar="PYTHON", help="a Python that has deepsparse 1.8.0")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args()
    onnxruntime_ep_sparse.register()
    asked = {key: getattr(arguments, key) for key in ("batches", "threads", "sparsities", "patterns")}
    common = runs.Plan(
        only=arguments.only,
        effort=Effort(arguments.rounds, arguments.seconds, arguments.clock),
        options=dict(option.split("=", 1) for option in arguments.option),
        deepsparse=arguments.deepsparse,
    )
    found: dict[str, object] = {}
    rates: dict[str, float] = {}
    if arguments.command in ("ceiling", "all"):
        rates = ceiling.measure()
        print(f"## Ceiling\n\n{ceiling.markdown(rates)}\n", flush=True)
        found["Ceiling"] = rates
    for title, run, contestant, defaults in COMMANDS["layers" if arguments.command == "ceiling" else arguments.command]:
        settings = defaults | {key: value for key, value in asked.items() if value}
        rows = run(dataclasses.replace(common, **settings))
        if not rows:
            continue
        if rates and run is runs.layers:
            _add_share(rows, rates)
        print(f"## {title}\n\n{markdown(rows)}\n")
        if contestant:
            losers = slower(rows, contestant)
            print("Claimed and slower than dense:", "; ".join(losers) or "none", end="\n\n", flush=True)
        found[title] = [dataclasses.asdict(row) for row in rows]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _add_share(rows: Sequence[Row], rates: dict[str, float]) -> None:
    for row in rows:
        rate = row.notes.get("GFLOP/s", math.nan)
        row.notes["of the ceiling, %"] = 100 * rate / (rates["fma_broadcast_gflops"] * row.threads)


if __name__ == "__main__":
    main()
