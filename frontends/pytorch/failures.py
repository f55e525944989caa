"""What PyTorch's exporter says on pages, in one line."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import nn

from surgery_ir.errors import ModelError
from surgery_ir.frontends.pytorch.calling import Arguments, parameter_names, shapes_of
from surgery_ir.frontends.pytorch.quiet import quiet

__all__ = ["explain", "first_line", "in_one_line", "try_out"]

Result = TypeVar("Result")

UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
DATA_DEPENDENT = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException")
GRAPH_BREAK = re.compile(r"[Dd]ata-dependent (branching|operator|jump)")
WRAPPERS = ("TorchExportError", "ConversionError")
SHAPES = re.compile(r"Constraints violated|dynamic_shapes|dynamic shape|marked .* as dynamic", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[^.])\. (?=[A-Z])")
COLOUR = re.compile(r"\x1b\[\d*m")
NOT_THE_USERS = ("<", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def in_one_line(
    run: Callable[[], Result], source: str, module: nn.Module | None = None, call: Arguments = ((), {})
) -> Result:
    """Run an exporter silently.

    Parameters
    ----------
    run
        What to run.
    source
        What to call the model in messages.
    module, call
        What is exported, to learn whether the example inputs are to blame.

    Raises
    ------
    ModelError
        It fails.
    """
    try:
        with quiet():
            return run()
    except Exception as error:  # the exporter lets through whatever the model's code raises
        if module is not None:
            try_out(module, call, source)
        raise ModelError(f"{source}: {explain(error)}") from error


def try_out(module: nn.Module, call: Arguments, source: str) -> None:
    """Run the module on the example inputs.

    Raises
    ------
    ModelError
        It fails on them.
    """
    try:
        with quiet():
            module(*call[0], **call[1])
    except Exception as error:  # code of the user's
        raise ModelError(
            f"{source}: it does not take the example inputs {shapes_of(call)}: {first_line(error)}; "
            f"forward takes {', '.join(parameter_names(module))}"
        ) from error


def explain(error: BaseException) -> str:
    """Say in one line what the exporter stumbled over, where in the user's code, and what helps."""
    chain = list(_chain(error))
    for one in chain:
        if found := UNSUPPORTED.search(str(one)):
            return f"PyTorch's exporter knows no ONNX operator for {found[1]}; write it with operators that ONNX has"
    deepest = next(
        (one for one in chain[1:] if type(one).__name__ not in ("TorchExportError", "ConversionError")), error
    )
    where = next(filter(None, (_where(one) for one in reversed(chain))), "")
    text = first_line(deepest)
    if any(type(one).__name__ in DATA_DEPENDENT or GRAPH_BREAK.search(str(one)) for one in chain):
        return (
            f"what it computes depends on the values of its inputs{where}, which a graph cannot follow: write the "
            "choice with torch.where or torch.cond, and sizes without .item()"
        )
    if any(SHAPES.search(str(one)) for one in chain):
        return f"dynamic_shapes and the model do not agree{where}: {text}"
    help_ = "; set config.use_cache = False" if "cache_utils" in text else ""
    return f"PyTorch cannot export it{where}: {text}{help_}"


def first_line(error: BaseException) -> str:
    """Kind of the error and the first sentence of its message that says something."""
    lines = (COLOUR.sub("", line).strip() for line in str(error).splitlines())
    text = SENTENCE.split(next(filter(None, lines), ""))[0].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _where(error: BaseException) -> str:
    """Give the last line of the user's code that ran: `` (net.py, line 7: `if x.sum() > 0:`)``."""
    found = ""
    trace: Any = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        module = trace.tb_frame.f_globals.get("__name__", "")
        if not code.co_filename.startswith(NOT_THE_USERS) and not module.startswith("surgery_ir."):
            line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            found = f" ({code.co_filename}, line {trace.tb_lineno}{f': `{line}`' if line else ''})"
        trace = trace.tb_next
    return found
