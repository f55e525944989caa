"""What the commands show: tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from surgery_ir.passes.base import Progress as Callback

__all__ = ["progress", "show", "table", "width"]

PLAIN_WIDTH = 10_000
"""Width where the output is no terminal: lines are as long as they need to be."""

LINE_SECONDS = 5.0


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table. Columns whose names begin with ``>`` are aligned to the right; in the others long texts fold."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        if column.startswith(">"):
            made.add_column(column[1:], justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def width() -> int:
    """Characters that fit a line of stdout."""
    return _console(sys.stdout).width


def show(*items: RenderableType) -> None:
    """Print to stdout: styled and as wide as the terminal, or plain, unwrapped lines where it is none."""
    console = _console(sys.stdout)
    with console.capture() as capture:
        for item in items:
            console.print(Text(item) if isinstance(item, str) else item)
    print("\n".join(line.rstrip() for line in capture.get().removesuffix("\n").split("\n")))


class _Console(Console):
    """Leaves a reader that went away to the command, which has an exit code for it; rich itself would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else PLAIN_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


@contextmanager
def progress(verb: str) -> Iterator[Callback]:
    """Show on stderr how far work has come: a bar on a terminal, a line every few seconds otherwise.

    Parameters
    ----------
    verb
        What the command does, shown until the work says something more exact.
    """
    with _bar(verb) if sys.stderr.isatty() else _lines(verb) as callback:
        yield callback


@contextmanager
def _bar(verb: str) -> Iterator[Callback]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[count]}"))
    with Progress(*columns, TimeElapsedColumn(), console=_console(sys.stderr), transient=True) as shown:
        task = shown.add_task(verb, total=None, count="")

        def callback(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total or None, count=_count(done, total))

        yield callback


@contextmanager
def _lines(verb: str) -> Iterator[Callback]:
    start = time.monotonic()
    latest = verb
    over = threading.Event()

    def callback(what: str, done: int, total: int) -> None:
        nonlocal latest
        latest = f"{what} {_count(done, total)}".rstrip()

    def tick() -> None:
        while not over.wait(LINE_SECONDS):
            print(f"[{time.monotonic() - start:4.0f} s] {latest}", file=sys.stderr, flush=True)

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    ticker.start()
    try:
        yield callback
    finally:
        over.set()
        ticker.join()


def _count(done: int, total: int) -> str:
    return f"{done}/{total}" if total else str(done or "")
