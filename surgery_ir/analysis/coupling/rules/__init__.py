"""The rule table: every file of this folder holds the rules of one family of operators.

A rule is data: what couples the axes of an operator, and what a cut changes besides them. A file that defines
``RULES`` is all that it takes; an operator that is in no file freezes every axis it touches.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.graph.view import STANDARD

__all__ = ["find_rule", "rule_table"]


@cache
def rule_table() -> Mapping[str, OperatorRule]:
    """Every rule by operator; those of another domain than ONNX's own as ``domain::operator``."""
    table: dict[str, OperatorRule] = {}
    for module in sorted(item.name for item in pkgutil.iter_modules(__path__)):
        rules: Mapping[str, OperatorRule] = importlib.import_module(f"{__name__}.{module}").RULES
        twice = table.keys() & rules.keys()
        assert not twice, f"{module} repeats the rules of {sorted(twice)}"
        table.update(rules)
    return MappingProxyType(table)


def find_rule(domain: str, op_type: str) -> OperatorRule | None:
    """Rule of an operator, or ``None`` where it has none."""
    return rule_table().get(op_type if domain in STANDARD else f"{domain}::{op_type}")
