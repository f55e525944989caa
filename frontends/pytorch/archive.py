"""Read ``.pt2`` archives without running anything that a stranger may have put there.

``torch.export.load`` trusts its file. It unpickles whatever the restricted unpickler refuses, loads compiled libraries
(AOTInductor), evaluates the texts of symbolic sizes as Python, resolves operators to any function below ``torch``, and
writes names into the source of a function that it compiles. So the archive is read first, with the reader that loads it
afterwards, and refused unless each of these is harmless.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from surgery_ir.errors import ModelError
from surgery_ir.frontends.pytorch.failures import first_line
from surgery_ir.frontends.pytorch.quiet import quiet

__all__ = ["read_program"]

MODEL = "models/model.json"
FILES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json|data/weights/weight_\d+"
    r"|data/constants/tensor_\d+|extra/.*"
)
"""What ``torch.export.save`` writes for a model of tensors alone."""

OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision|quantized_decomposed)(\.(?!__)\w+){1,2}"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+|torch\._sym_\w+"
)
FILE_OPERATORS = ("torch.ops.aten.from_file",)

PLAIN = re.compile(r"[\w.,:;/+<>\[\] -]*")
"""Names, paths of modules, versions: nothing that could end a name in the source that PyTorch writes."""

FREE = frozenset(("as_string", "as_strings", "metadata", "in_spec", "out_spec", "expr_str", "guards_code"))
"""Fields whose texts are looked at in another way, or stay texts."""

SYMBOLIC = frozenset(
    (
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Min",
        "Max",
        "Mod",
        "Abs",
        "Eq",
        "Ne",
        "Equality",
        "Unequality",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "StrictLessThan",
        "StrictGreaterThan",
        "LessThan",
        "GreaterThan",
        "And",
        "Or",
        "Not",
        "Piecewise",
        "ExprCondPair",
        "Tuple",
        "ceiling",
        "floor",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "LShift",
        "RShift",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
    )
)
"""Functions that sizes are written with."""

GUARDING = frozenset(("L", "args", "size", "stride", "storage_offset", "ndim", "dtype", "math", "isnan", "inf"))
"""Names besides these functions that conditions on inputs are written with."""

SYNTAX = (ast.Expression, ast.Call, ast.Name, ast.Constant, ast.keyword, ast.Subscript, ast.Attribute, ast.Load)
ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def read_program(path: Path, trust: bool) -> Any:
    """Load the exported program of an archive.

    Parameters
    ----------
    path
        A file that ``torch.export.save`` wrote.
    trust
        Load it whatever it holds.

    Raises
    ------
    ModelError
        There is no such file, it is truncated or corrupt, or reading it could run code.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        if trust:
            with quiet():
                return torch.export.load(os.fspath(path))
        with quiet(), PT2ArchiveReader(os.fspath(path)) as reader:
            _check(reader, str(path))
        from torch.export.pt2_archive._package import load_pt2  # torch.export.load would try older formats on failure

        with quiet(), _restricted_unpickling():
            return load_pt2(os.fspath(path)).exported_programs["model"]
    except ModelError:
        raise
    except UnpicklingError as error:
        raise _refusal(str(path), "its example inputs are a pickle of more than tensors") from error
    except Exception as error:  # a corrupt archive breaks it anywhere
        raise ModelError(
            f"{path}: not a program that torch.export.save wrote, or truncated, corrupt or of another version of "
            f"PyTorch ({first_line(error)})"
        ) from error


@contextmanager
def _restricted_unpickling() -> Iterator[None]:
    """Have ``torch.load`` read tensors and plain containers only, whatever it is called with."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _check(reader: Any, source: str) -> None:
    files = reader.get_file_names()
    for name in files:
        if not FILES.fullmatch(name):
            raise _refusal(source, f"the archive holds {name!r}, which is not a tensor")
    if MODEL not in files:
        raise ModelError(f"{source}: holds no exported program called 'model'; torch.export.save writes one")
    for name in files:
        if name.endswith("_config.json"):
            _check_payload(json.loads(reader.read_string(name)), source)
    _check_texts(json.loads(reader.read_string(MODEL)), "", source)


def _check_payload(config: Any, source: str) -> None:
    for name, item in config["config"].items():
        if item["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", item["path_name"]):
            raise _refusal(source, f"{name!r} is stored as a pickle")


def _check_texts(value: Any, field: str, source: str) -> None:
    """Look at every text, knowing the field that it stands in."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not PLAIN.fullmatch(key):
                raise _refusal(source, f"it has the name {key!r}")
            if field != "metadata":
                _check_texts(inner, key, source)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, field, source)
    elif isinstance(value, str) and not _is_harmless(value, field):
        raise _refusal(source, f"it has {field} {value[:80]!r}")


def _is_harmless(text: str, field: str) -> bool:
    if field == "target":
        return bool(OPERATOR.fullmatch(text)) and not text.startswith(FILE_OPERATORS)
    if field == "expr_str":
        return _is_arithmetic(text, SYMBOLIC, calls_only=True)
    if field == "guards_code":
        return _is_arithmetic(text, SYMBOLIC | GUARDING, calls_only=False)
    if field in ("in_spec", "out_spec"):
        return _imports_nothing(text)
    return field in FREE or bool(PLAIN.fullmatch(text))


def _is_arithmetic(text: str, functions: frozenset[str], calls_only: bool) -> bool:
    """Whether a text is an expression that calls nothing but ``functions``."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, SYNTAX + ARITHMETIC):
            return False
        if isinstance(node, ast.Attribute) and (calls_only or node.attr not in functions):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in functions:
            return False
        if isinstance(node, ast.Name) and not calls_only and node.id not in functions:
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"\w+", node.value):
            return False
    return True


def _imports_nothing(text: str) -> bool:
    """Whether a tree of containers names no module to import for a default or an enumeration."""
    left: list[Any] = [text]
    while left:
        value: Any = left.pop()
        if isinstance(value, str) and value[:1] in ("{", "[", '"'):
            try:
                left.append(json.loads(value))
            except ValueError:
                return False
        elif isinstance(value, dict):
            if value.keys() & {"__enum__", "default_factory_module"}:
                return False
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and not PLAIN.fullmatch(value):
            return False
    return True


def _refusal(source: str, what: str) -> ModelError:
    return ModelError(f"{source}: {what}, so that reading it may run code; pass --trust if you know where it is from")
