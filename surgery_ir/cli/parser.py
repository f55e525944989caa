"""The options of every command. Nothing heavy is imported here, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from surgery_ir.version import __version__

__all__ = ["build_parser"]

EXIT_CODES = """\
exit codes: 0 done; 1 error (one line on stderr, nothing written); 2 wrong usage;
3 the constraints could not be met (nothing written, the closest candidates are printed)
"""

KINDS = "an .onnx, .pt2, .keras or .tflite file, a SavedModel folder, or package.module:function"

EXAMPLES = {
    "compile": """\
  surgery-ir compile model.onnx -o small.onnx --data inputs.npz --time-limit 300
  surgery-ir compile model.onnx -o small.onnx --data inputs.npz --minimize nonzeros \\
      --selection-data labelled.npz --eval-data test.npz --labels label --max-drop 0.01
  surgery-ir compile model.onnx -o small.onnx --data inputs.npz --target 'macs<=0.5' --target 'plasticity>=0.05'
  surgery-ir compile model.onnx -o small.onnx --data inputs.npz --policy learnt.yaml --policy-out learnt.yaml
  surgery-ir compile model.onnx -o small.onnx --data inputs.npz --minimize latency --provider sparse
  surgery-ir compile model.keras -o small.onnx --data inputs.npz --time-limit 300
  surgery-ir compile package.module:function -o small.onnx --data inputs.npz
""",
    "apply": """\
  surgery-ir apply model.onnx -p canonicalize -o clean.onnx
  surgery-ir apply model.onnx -p 'canonicalize,prune-weights{criterion=obs ratio=0.8},repair' \\
      --data inputs.npz -o small.onnx
  surgery-ir apply model.onnx -p 'canonicalize,repeat(3){prune-weights{ratio=0.5..0.9},repair}' \\
      --data inputs.npz -o small.onnx
  surgery-ir apply model.onnx --profile profile.yaml --data inputs.npz -o small.onnx
  surgery-ir apply model.pt2 -p canonicalize -o model.onnx
""",
    "explain": """\
  surgery-ir explain model.onnx
  surgery-ir explain model.onnx -p 'canonicalize,prune-weights{criterion=magnitude pattern=2:4}'
  surgery-ir explain model.onnx --json > layers.json
  surgery-ir explain package.module:function --data inputs.npz
""",
    "inspect": """\
  surgery-ir inspect model.onnx
  surgery-ir inspect model.onnx --dim sequence=128 --threads 1
  surgery-ir inspect model.onnx --data inputs.npz
  surgery-ir inspect saved_model/
""",
    "passes": """\
  surgery-ir passes
  surgery-ir passes --json
""",
    "bench": """\
  surgery-ir bench model.onnx small.onnx
  surgery-ir bench model.onnx small.onnx --batch 32 --threads 1
  surgery-ir bench model.onnx small.onnx --data inputs.npz
  surgery-ir bench model.onnx small.onnx --provider sparse
  surgery-ir bench model.tflite small.onnx
""",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="surgery-ir",
        description="Compile a model to a smaller one, of ONNX, whose accuracy has been measured.",
        epilog=f"{EXIT_CODES}\n`surgery-ir COMMAND --help` shows the options of a command, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"surgery-ir {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=description or f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    _compile(command("compile", "search passes that make a model smaller, and write the best model found"))
    _apply(command("apply", "apply given passes, or a profile that compile wrote"))
    _explain(command("explain", "show what can be pruned, what cannot, and why"))
    _inspect(command("inspect", "show parameters, nonzeros, MACs, bytes and measured time, layer by layer"))
    _passes(command("passes", "list every pass with its options; plug-ins included"))
    _bench(command("bench", "measure models against the first one, taking turns"))
    return parser


def _compile(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _out(parser)
    _data(parser, required=True)
    goal = parser.add_argument_group("goal")
    goal.add_argument(
        "--minimize",
        choices=("latency", "macs", "size", "nonzeros"),
        default="nonzeros",
        help="what to make small (default: %(default)s)",
    )
    goal.add_argument(
        "--max-drop",
        type=_number(float, 0),
        default=0.01,
        metavar="D",
        help="loss of the metric to put up with (default: %(default)s)",
    )
    goal.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="'Q<=V'",
        help="a constraint, e.g. 'macs<=0.5' (share of the original) or 'plasticity>=0.05'; may be repeated",
    )
    search = parser.add_argument_group("search")
    search.add_argument("--budget", type=_number(int, 1), metavar="N", help="candidates to evaluate at most")
    search.add_argument(
        "--time-limit", type=_number(float, 0, open_end=True), metavar="S", help="seconds to search at most"
    )
    search.add_argument("--passes", metavar="LIST", help="passes to search over, comma-separated, options allowed")
    search.add_argument("--policy", type=Path, metavar="P.yaml", help="continue from what an earlier search learnt")
    search.add_argument("--workers", type=_number(int, 1), default=1, metavar="N", help="candidates at a time")
    search.add_argument("--study", type=Path, metavar="DIR", help="keep every candidate there, and resume from it")
    _seed(search)
    _runtime(search)
    also = parser.add_argument_group("also write")
    also.add_argument(
        "--profile-out", type=Path, metavar="F", help="the passes that were applied; `apply --profile` takes it"
    )
    also.add_argument("--policy-out", type=Path, metavar="F", help="what the search learnt; `--policy` takes it")
    _reports(also)


def _apply(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "-p",
        "--passes",
        metavar="LIST",
        help="passes in order: 'pass{option=value …},pass'; by turns: 'repeat(3){pass{option=0.5..0.9},pass}'",
    )
    which.add_argument("--profile", type=Path, metavar="F", help="a profile that compile wrote")
    _out(parser)
    _data(parser, required=False)
    _seed(parser)
    _runtime(parser)
    _reports(parser.add_argument_group("also write"))


def _explain(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("-p", "--passes", metavar="LIST", help="explain for these passes (nothing is written)")
    parser.add_argument("--data", type=Path, metavar="D.npz", help="inputs, for models and passes that need them")
    parser.add_argument("--labels", metavar="KEY", help="key of an array of labels among them, which is left out")
    _seed(parser)
    _runtime(parser)
    _to_stdout(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _inputs(parser)
    _threads(parser)
    parser.add_argument("--no-time", action="store_true", help="do not run the model")
    _to_stdout(parser)


def _passes(parser: argparse.ArgumentParser) -> None:
    _to_stdout(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help=f"{KINDS}; the first is what others are compared to"
    )
    _trust(parser)
    _inputs(parser)
    _threads(parser)
    _runtime(parser)
    parser.add_argument(
        "--seconds",
        type=_number(float, 0, open_end=True),
        default=3.0,
        metavar="S",
        help="time to spend (default: %(default)s)",
    )
    _to_stdout(parser)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help=KINDS)
    _trust(parser)


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="run Python code that a model file or a profile brings along"
    )


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="file to write; replaced only when all went well"
    )


def _data(parser: argparse.ArgumentParser, required: bool) -> None:
    data = parser.add_argument_group("data", ".npz files: keys are the model's inputs, first axes the samples")
    data.add_argument(
        "--data",
        type=Path,
        required=required,
        metavar="D.npz",
        help="a few hundred inputs, labels not needed; split three ways where the other two are not given"
        if required
        else "a few hundred inputs, for passes that need them; labels not needed",
    )
    data.add_argument(
        "--selection-data",
        type=Path,
        metavar="S.npz",
        help="samples that score candidates, and on which passes judge what they keep",
    )
    data.add_argument("--eval-data", type=Path, metavar="E.npz", help="samples for the report, used once at the end")
    data.add_argument("--labels", metavar="KEY", help="key of the array of labels")
    data.add_argument(
        "--metric", metavar="M", help="accuracy, fidelity or module:function (default: accuracy where there are labels)"
    )


def _inputs(parser: argparse.ArgumentParser) -> None:
    inputs = parser.add_argument_group(
        "inputs", "those of --data, else the model's own example inputs, else random ones by the declared shapes"
    )
    inputs.add_argument("--data", type=Path, metavar="D.npz", help="run on samples of this file")
    inputs.add_argument("--labels", metavar="KEY", help="key of an array of labels among them, which is left out")
    inputs.add_argument(
        "--batch", type=_number(int, 1), default=1, metavar="N", help="samples per run (default: %(default)s)"
    )
    inputs.add_argument(
        "--dim",
        action="append",
        type=_dimension,
        default=[],
        metavar="NAME=N",
        help="size of a symbolic axis; may be repeated",
    )
    _seed(inputs)


def _seed(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--seed", type=_number(int, 0), default=0, metavar="N", help="seed of everything random (default: %(default)s)"
    )


def _runtime(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--provider",
        default="onnxruntime",
        metavar="NAME",
        help="what runs the models: onnxruntime, sparse, or a plug-in's (default: %(default)s)",
    )


def _threads(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--threads", type=_number(int, 1), metavar="N", help="threads of the runtime (default: its own choice)"
    )


def _reports(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", type=Path, metavar="R.json", help="the report as JSON")
    parser.add_argument("--report", type=Path, metavar="R.html", help="the report as a page")


def _to_stdout(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _number(kind: type[int] | type[float], low: float, open_end: bool = False) -> Callable[[str], float]:
    """Make a reader of numbers from ``low`` on, itself left out where ``open_end``."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
        if not math.isfinite(value) or value < low or (open_end and value == low):
            raise argparse.ArgumentTypeError(
                f"{text} is out of range: {'more than' if open_end else 'at least'} {low:g}"
            )
        return value

    return read


def _dimension(text: str) -> tuple[str, int]:
    name, equals, size = text.partition("=")
    if not (name and equals and size.isdecimal() and int(size) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N with N at least 1")
    return name, int(size)
