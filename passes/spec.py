"""The text form of passes, both ways: ``prune-weights{criterion=obs ratio=0.8},repair``.

::

    pipeline := pass (',' pass)*
    pass     := name [ '{' (option '=' value)* '}' ]
    value    := word | "quoted, as in JSON" | '[' (layer ':' number)* ']'
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.options import Option, options_of
from surgery_ir.passes.registry import pass_class

__all__ = ["create", "format_pass", "format_pipeline", "parse_pipeline", "plain_options"]

TOKEN = re.compile(r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\],=:])|(?P<word>[^\s{}\[\],=:"]+))')
WORD = re.compile(r'[^\s{}\[\],=:"]+')
NONE = "none"


class _Reader:
    """Reads tokens of a pipeline and says where it stands when something is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text
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
    passes = [_parse_pass(reader)]
    while reader.peek():
        reader.next(",")
        passes.append(_parse_pass(reader))
    return tuple(passes)


def _parse_pass(reader: _Reader) -> Pass:
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
            values[key] = _convert(declared[key], raw) if key in declared and isinstance(raw, str) else raw
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


def _convert(option: Option, text: str) -> object:
    if option.optional and text == NONE:
        return None
    if option.kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if option.kind in ("int", "float"):
        try:
            return float(text)
        except ValueError:
            return text
    return text


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
