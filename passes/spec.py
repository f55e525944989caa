"""The text form of passes, both ways: ``prune-weights{criterion=obs ratio=0.8},repair``.

::

    pipeline := item (',' item)*
    item     := pass | 'repeat(' count ')' '{' pipeline '}'
    pass     := name [ '{' (option '=' value)* '}' ]
    value    := word | "quoted, as in JSON" | '[' (layer ':' number)* ']' | number '..' number

A repetition is written out while it is read: ``repeat(3){prune-weights{ratio=0.5..0.9},repair}`` is six passes, whose
ratios are 0.5, 0.7 and 0.9. A *schedule* ``a..b`` goes from ``a`` in the first repetition to ``b`` in the last one in
equal steps, or is ``b`` where there is one repetition; in nested ones it follows the innermost. Pipelines are always
formatted pass by pass.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Option, options_of
from surgery_ir.passes.registry import pass_class

__all__ = ["create", "format_pass", "format_pipeline", "parse_pipeline", "plain_options"]

TOKEN = re.compile(r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\],=:])|(?P<word>[^\s{}\[\],=:"]+))')
WORD = re.compile(r'[^\s{}\[\],=:"]+')
NONE = "none"

COUNT = re.compile(r"[1-9][0-9]*")
SCHEDULE = re.compile(r"(.+?)\.\.(.+)")

MOST_PASSES = 1000
"""Passes of a pipeline, repetitions written out."""

DEEPEST = 8
"""Repetitions inside each other."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """Which repetition is being written out, from 0, of how many, and how deep it is nested; outside, depth 0."""

    index: int = 0
    count: int = 1
    depth: int = 0

    def value(self, first: float, last: float) -> float:
        """Value of a schedule in this repetition, without the digits that rounding errors leave behind."""
        if self.index in (0, self.count - 1):
            return last if self.index or self.count == 1 else first
        between = float(f"{first + (last - first) * self.index / (self.count - 1):.12g}")
        return min(max(between, min(first, last)), max(first, last))


class _Reader:
    """Reads tokens of a pipeline and says where it stands when something is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.passes = 0
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            found = TOKEN.match(text, position)
            if found is None:
                raise SpecError(f"pipeline {text!r}: unexpected {text[position]!r} at character {position + 1}")
            kind = found.lastgroup or ""
            self.tokens.append((kind, found.group(kind), found.start(kind)))
            position = found.end()
        self.index = 0

    def peek(self) -> str:
        return self.tokens[self.index][1] if self.index < len(self.tokens) else ""

    def next(self, expected: str = "") -> tuple[str, str]:
        if self.index == len(self.tokens):
            raise SpecError(f"pipeline {self.text!r}: ends where {expected or 'more'!r} should follow")
        kind, token, position = self.tokens[self.index]
        if expected and (kind != "mark" or token != expected):
            raise SpecError(f"pipeline {self.text!r}: {expected!r} expected at character {position + 1}, not {token!r}")
        self.index += 1
        return kind, token

    def name(self, what: str) -> str:
        kind, token = self.next()
        if kind == "quoted":
            try:
                return str(json.loads(token))
            except json.JSONDecodeError as error:
                raise SpecError(f"pipeline {self.text!r}: {token!r} is not quoted as in JSON: {error.msg}") from None
        if kind != "word":
            raise SpecError(f"pipeline {self.text!r}: {what} expected, not {token!r}")
        return token


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Read a pipeline from its text form.

    Raises
    ------
    SpecError
        The text is malformed, a pass or an option does not exist, or a value is out of range.
    """
    reader = _Reader(text)
    if not reader.tokens:
        raise SpecError("the pipeline is empty: name at least one pass")
    passes = _parse_items(reader, _Turn())
    if reader.peek():
        reader.next(",")
    return tuple(passes)


def _parse_items(reader: _Reader, turn: _Turn) -> list[Pass]:
    passes = _parse_item(reader, turn)
    while reader.peek() == ",":
        reader.next(",")
        passes += _parse_item(reader, turn)
    return passes


def _parse_item(reader: _Reader, turn: _Turn) -> list[Pass]:
    if reader.peek().startswith("repeat("):
        return _parse_repeat(reader, turn.depth + 1)
    reader.passes += 1
    if reader.passes > MOST_PASSES:
        raise SpecError(f"pipeline {reader.text!r}: repetitions come to more than {MOST_PASSES:,} passes")
    return [_parse_pass(reader, turn)]


def _parse_repeat(reader: _Reader, depth: int) -> list[Pass]:
    """Read what is repeated once for every repetition, so that each finds the schedules at its own place."""
    word = reader.name("a repetition")
    while not word.endswith(")") and reader.peek() not in ("", *"{}[],=:"):  # repeat( 3 )
        word += reader.name("a count")
    count = word.removeprefix("repeat(").removesuffix(")")
    if not word.endswith(")") or not COUNT.fullmatch(count):
        raise SpecError(f"pipeline {reader.text!r}: {word!r} is no repetition: write repeat(3){{pass,…}}")
    if depth > DEEPEST:
        raise SpecError(f"pipeline {reader.text!r}: repetitions are nested more than {DEEPEST} deep")
    start, times = reader.index, int(count[:9])  # far more than there may be passes
    passes: list[Pass] = []
    for index in range(times):
        reader.index = start
        reader.next("{")
        passes += _parse_items(reader, _Turn(index, times, depth))
        reader.next("}")
    return passes


def _parse_pass(reader: _Reader, turn: _Turn) -> Pass:
    name = reader.name("the name of a pass")
    cls = pass_class(name)
    values: dict[str, object] = {}
    if reader.peek() == "{":
        reader.next("{")
        declared = {option.name: option for option in options_of(cls)}
        while reader.peek() != "}":
            key = reader.name("the name of an option").replace("-", "_")
            reader.next("=")
            raw = _parse_value(reader)
            if key in values:
                raise SpecError(f"{name}: option {key!r} is given twice")
            values[key] = _convert(name, declared[key], raw, turn) if key in declared and isinstance(raw, str) else raw
        reader.next("}")
    return create(name, values)


def _parse_value(reader: _Reader) -> str | dict[str, float]:
    if reader.peek() != "[":
        value = reader.name("a value")
        while reader.peek() == ":":  # module:function and N:M
            reader.next(":")
            value += ":" + reader.name("a value")
        return value
    reader.next("[")
    items: dict[str, float] = {}
    while reader.peek() != "]":
        layer = reader.name("the name of a layer")
        reader.next(":")
        number = reader.name("a number")
        if layer in items:
            raise SpecError(f"pipeline {reader.text!r}: {layer!r} is given twice")
        try:
            items[layer] = float(number)
        except ValueError:
            raise SpecError(f"pipeline {reader.text!r}: {number!r} is not a number") from None
    reader.next("]")
    return items


def _convert(name: str, option: Option, text: str, turn: _Turn) -> object:
    if option.optional and text == NONE:
        return None
    if option.kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if option.kind in ("int", "float"):
        ends = SCHEDULE.fullmatch(text)
        try:
            return float(text) if ends is None else _scheduled(name, option, float(ends[1]), float(ends[2]), turn)
        except ValueError:
            return text
    return text


def _scheduled(name: str, option: Option, first: float, last: float, turn: _Turn) -> float:
    """Value of an option in one repetition; both ends must be valid, whole numbers are rounded half up."""
    if not turn.depth:
        raise SpecError(f"{name}: option {option.name!r}: a schedule {first:g}..{last:g} needs a repetition around it")
    for end in (first, last):
        try:
            option.check(end)
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from None
    value = turn.value(first, last)
    return math.floor(value + 0.5) if option.kind == "int" else value


def create(name: str, values: Mapping[str, object]) -> Pass:
    """Create the pass called ``name`` with plain option values, as a profile holds them.

    Raises
    ------
    SpecError
        The pass or an option does not exist, one that is required is absent, or a value is not valid.
    """
    cls = pass_class(name)
    declared = {option.name: option for option in options_of(cls)}
    for key in values:
        if key not in declared:
            known = ", ".join(declared) or "none"
            raise SpecError(f"{name}: there is no option {key!r} (options: {known})")
    for option in declared.values():
        if option.required and option.name not in values:
            raise SpecError(f"{name}: option {option.name!r} is required ({option.describe()})")
    return cls(**values)


def plain_options(pass_: Pass) -> dict[str, object]:
    """Options that differ from their defaults, as plain values that YAML and JSON can hold."""
    plain: dict[str, object] = {}
    for option in options_of(type(pass_)):
        value = getattr(pass_, option.name)
        if option.required or value != option.default:
            plain[option.name] = dict(value) if isinstance(value, Mapping) else value
    return plain


def format_pass(pass_: Pass) -> str:
    """Text form of one pass; defaults are left out."""
    options = " ".join(f"{key}={_format(value)}" for key, value in plain_options(pass_).items())
    return f"{pass_.name}{{{options}}}" if options else pass_.name


def format_pipeline(passes: Sequence[Pass]) -> str:
    """Text form of a pipeline; :func:`parse_pipeline` reads it back to equal passes."""
    return ",".join(format_pass(item) for item in passes)


def _format(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "[" + " ".join(f"{_word(str(key))}:{float(item)!r}" for key, item in value.items()) + "]"
    return _word(str(value))


def _word(text: str) -> str:
    return text if WORD.fullmatch(text) else json.dumps(text)
