"""The rule table: every operator is named once, exists, and has a test of its own."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import onnx
import pytest

from surgery_ir.analysis.coupling import rules
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules import elementwise, find_rule, rule_table

HERE = Path(__file__).parent
MODULES = sorted(item.name for item in pkgutil.iter_modules(rules.__path__))
NOT_OF_ONNX = {"SimplifiedLayerNormalization"}
"""Operators that ONNX Runtime puts into ONNX's own domain."""

OWN = ("test_rule_table", "test_random_graphs", "test_groups", "test_solve", "test_products")
"""Tests that are not those of a family of operators."""


def named() -> set[str]:
    """Operators that the tests of families name; behind ``ms.`` and in files of their own those of com.microsoft."""
    found = {*elementwise.UNARY, *elementwise.BROADCAST}  # over which a test runs
    for path in HERE.glob("test_*.py"):
        if path.stem not in OWN:
            for prefix, word in re.findall(r"(ms\.|com\.microsoft\.)?\b([A-Z][A-Za-z0-9]+)", path.read_text("utf-8")):
                found.add(f"com.microsoft::{word}" if prefix or path.stem.startswith("test_microsoft") else word)
                if path.stem.startswith("test_microsoft"):
                    found.add(word)
    return found


def test_every_operator_has_a_case() -> None:
    missing = rule_table().keys() - named()
    assert not missing, f"no test of a family names {sorted(missing)}"


def test_no_operator_is_in_two_files() -> None:
    names = [name for module in MODULES for name in importlib.import_module(f"{rules.__name__}.{module}").RULES]
    assert len(names) == len(set(names)) == len(rule_table())


@pytest.mark.parametrize("name", sorted(rule_table()))
def test_keys_are_operators(name: str) -> None:
    domain, _, op_type = name.rpartition("::")
    assert isinstance(rule_table()[name], OperatorRule)
    if domain:
        assert domain == "com.microsoft"
    elif op_type not in NOT_OF_ONNX:
        assert onnx.defs.has(op_type), f"ONNX has no operator {op_type}"


def test_rules_are_found_by_domain() -> None:
    assert find_rule("", "Conv") is find_rule("ai.onnx", "Conv") is rule_table()["Conv"]
    assert find_rule("com.microsoft", "FusedConv") is rule_table()["com.microsoft::FusedConv"]
    assert find_rule("com.microsoft", "Conv") is None
    assert find_rule("acme", "Conv") is None
    assert find_rule("", "Loop") is None


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        rule_table()["Conv"] = rule_table()["Relu"]  # type: ignore[index]
