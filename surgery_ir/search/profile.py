"""A compression profile: the ordered passes that were applied, in a file that replays to the same bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from surgery_ir.errors import SpecError
from surgery_ir.passes.base import Pass
from surgery_ir.passes.registry import pass_class
from surgery_ir.passes.spec import create, format_pipeline, plain_options
from surgery_ir.search.documents import check_fields, read_yaml, write_yaml

__all__ = ["CompressionProfile"]

KIND, FORMAT = "surgery-ir profile", 1


@dataclass(frozen=True)
class CompressionProfile:
    """The passes that turn a model into its compressed form, and what else it takes to repeat that.

    Parameters
    ----------
    passes
        Passes in order.
    seed
        Seed of everything random in them.
    shares
        How the samples were dealt: relative size of each part, calibration first. Empty where all of them served
        for calibration. Replaying deals the samples again, by the same shares and seed.
    selection_shares
        The same for a selection set of its own that the report part was taken from.
    source
        Which model it was made for, and with what: fingerprint, versions. For people, and for a note where it is
        replayed on something else.
    """

    passes: tuple[Pass, ...]
    seed: int = 0
    shares: tuple[float, ...] = ()
    source: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    selection_shares: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Text form of the passes, as ``apply -p`` takes it."""
        return format_pipeline(self.passes)

    def to_plain(self) -> dict[str, Any]:
        """Give plain values."""
        steps = [{item.name: options} if (options := plain_options(item)) else item.name for item in self.passes]
        plain: dict[str, Any] = {KIND: FORMAT, "passes": steps, "seed": self.seed}
        if self.shares:
            plain["data_shares"] = list(self.shares)
        if self.selection_shares:
            plain["selection_shares"] = list(self.selection_shares)
        if self.source:
            plain["source"] = dict(self.source)
        return plain

    @classmethod
    def from_plain(cls, plain: object, where: str = "<profile>", trust: bool = False) -> CompressionProfile:
        """Read plain values.

        Raises
        ------
        SpecError
            They are not a profile, or a pass in it runs Python code and ``trust`` is false. Such a pass is not even
            created.
        """
        fields = check_fields(
            plain, where, KIND, FORMAT, {"passes", "seed", "data_shares", "selection_shares", "source"}
        )
        steps, seed = fields.get("passes"), fields.get("seed", 0)
        if not isinstance(steps, list):
            raise SpecError(f"{where}: 'passes' must be a list")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise SpecError(f"{where}: 'seed' must be a whole number from 0, not {seed!r}")
        shares, selection_shares = (_read_shares(fields, name, where) for name in ("data_shares", "selection_shares"))
        source = fields.get("source", {})
        if not isinstance(source, dict):
            raise SpecError(f"{where}: 'source' must be a mapping")
        passes = tuple(_read_step(step, where, trust) for step in steps)
        about = MappingProxyType({str(key): str(value) for key, value in source.items()})
        return cls(passes, seed, shares, about, selection_shares)

    @classmethod
    def read(cls, path: str | os.PathLike[str], trust: bool = False) -> CompressionProfile:
        """Read a profile file.

        Parameters
        ----------
        path
            File to read.
        trust
            Accept passes that run Python code which the profile names.

        Raises
        ------
        SpecError
            The file is missing or no profile, or it runs code and is not trusted.
        """
        return cls.from_plain(read_yaml(path), os.fspath(path), trust)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a profile file, atomically.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        write_yaml(self.to_plain(), path)


def _read_shares(fields: Mapping[str, Any], name: str, where: str) -> tuple[float, ...]:
    shares = fields.get(name, [])
    if not isinstance(shares, list) or not all(isinstance(item, int | float) and item > 0 for item in shares):
        raise SpecError(f"{where}: {name!r} must be a list of positive numbers, not {shares!r}")
    return tuple(float(item) for item in shares)


def _read_step(step: object, where: str, trust: bool) -> Pass:
    named = {step: {}} if isinstance(step, str) else step
    ((name, options),) = named.items() if isinstance(named, dict) and len(named) == 1 else ((None, None),)
    if not isinstance(name, str) or not isinstance(options, dict):
        raise SpecError(f"{where}: {step!r} is not a pass; write a name, or 'name: {{option: value}}'")
    try:
        if pass_class(name).runs_code and not trust:
            raise SpecError(f"{name} runs Python code that the profile names; read it, then trust the profile")
        return create(name, {str(key): value for key, value in options.items()})
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
