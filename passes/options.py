"""Options of passes: one declaration gives validation, text form, help and search range.

A pass declares an option as an annotated dataclass field::

    ratio: Annotated[float, Range(0.0, 0.99), Help("share of the weights to remove")] = 0.5
    criterion: Literal["magnitude", "wanda", "obs"] = "obs"
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from surgery_ir.errors import SpecError

__all__ = ["Help", "Option", "Range", "Searched", "Value", "options_of", "validate"]

Value = bool | int | float | str | Mapping[str, float]
"""What an option can hold; a mapping gives a number for each layer it names."""


@dataclass(frozen=True, slots=True)
class Range:
    """Closed interval of valid numbers, and the part of it that a search explores.

    ``search`` is ``None`` where the option is not worth searching.
    """

    low: float
    high: float
    search: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Searched:
    """Choices that a search tries, where not all are worth it; the others have to be asked for."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Help:
    """One line about an option."""

    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option as its field declares it.

    ``kind`` is ``bool``, ``int``, ``float``, ``str``, ``choice`` or ``map``; ``optional`` ones may be ``None``.
    ``searched`` are the choices that a search tries.
    """

    name: str
    kind: str
    default: Value | None
    required: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()
    range: Range | None = None
    help: str = ""
    searched: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say in a few words which values are valid."""
        if self.kind == "choice":
            text = " | ".join(self.choices)
        elif self.kind == "map":
            bounds = f" from {self.range.low:g} to {self.range.high:g}" if self.range else ""
            text = f"[layer:number …]{bounds}"
        elif self.range is not None:
            text = f"{self.kind} from {self.range.low:g} to {self.range.high:g}"
        else:
            text = {"str": "text", "bool": "true | false"}.get(self.kind, self.kind)
        return text

    def check(self, value: object) -> Value | None:
        """Return ``value`` in the option's type.

        Raises
        ------
        SpecError
            It has another type, or lies out of range.
        """
        if value is None:
            if self.optional:
                return None
            raise SpecError(f"option {self.name!r} needs a value: {self.describe()}")
        if self.kind == "map":
            return self._check_map(value)
        if self.kind == "bool" and isinstance(value, bool):
            return value
        if self.kind == "choice" and isinstance(value, str) and value in self.choices:
            return value
        if self.kind == "str" and isinstance(value, str):
            return value
        if self.kind in ("int", "float") and isinstance(value, int | float) and not isinstance(value, bool):
            return self._check_number(value)
        raise SpecError(f"option {self.name!r}: {value!r} is not valid, it takes {self.describe()}")

    def _check_number(self, value: float) -> float:
        if not math.isfinite(value):
            raise SpecError(f"option {self.name!r}: {value} is not valid, it takes {self.describe()}")
        if self.kind == "int" and value != int(value):
            raise SpecError(f"option {self.name!r}: {value!r} is not a whole number")
        if self.range is not None and not self.range.low <= value <= self.range.high:
            raise SpecError(
                f"option {self.name!r}: {value:g} is out of range ({self.range.low:g} to {self.range.high:g})"
            )
        return int(value) if self.kind == "int" else float(value)

    def _check_map(self, value: object) -> Mapping[str, float]:
        if not isinstance(value, Mapping):
            raise SpecError(f"option {self.name!r}: {value!r} is not valid, it takes {self.describe()}")
        number = dataclasses.replace(self, kind="float", optional=False)
        checked: dict[str, float] = {}
        for key, item in value.items():
            if not isinstance(item, int | float) or isinstance(item, bool):
                raise SpecError(f"option {self.name!r}: {item!r} for {key!r} is not a number")
            checked[str(key)] = number._check_number(item)
        return types.MappingProxyType(checked)


_KNOWN: dict[type, tuple[Option, ...]] = {}


def options_of(cls: type) -> tuple[Option, ...]:
    """Read the options of a pass class from its dataclass fields, in order; each class is read once."""
    if cls not in _KNOWN:
        hints = typing.get_type_hints(cls, include_extras=True)
        _KNOWN[cls] = tuple(_option(field, hints[field.name]) for field in dataclasses.fields(cls))
    return _KNOWN[cls]


def validate(instance: Any) -> None:
    """Check every field of a pass and store it in the option's type; called when a pass is created.

    Raises
    ------
    SpecError
        A value is not valid; the line names the pass and the option.
    """
    for option in options_of(type(instance)):
        try:
            checked = option.check(getattr(instance, option.name))
        except SpecError as error:
            raise SpecError(f"{instance.name}: {error}") from None
        object.__setattr__(instance, option.name, checked)


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    span: Range | None = None
    text = ""
    searched: tuple[str, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        for extra in extras:
            if isinstance(extra, Range):
                span = extra
            elif isinstance(extra, Help):
                text = extra.text
            elif isinstance(extra, Searched):
                searched = extra.choices
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        members = [item for item in get_args(hint) if item is not type(None)]
        optional = len(members) < len(get_args(hint))
        (hint,) = members
    choices: tuple[str, ...] = ()
    if get_origin(hint) is Literal:
        kind, choices = "choice", tuple(get_args(hint))
    elif isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        kind = "map"
    else:
        kind = {bool: "bool", int: "int", float: "float", str: "str"}[hint]
    default: Any = None
    required = False
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        required = True
    return Option(field.name, kind, default, required, optional, choices, span, text, searched or choices)
