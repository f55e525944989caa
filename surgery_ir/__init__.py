"""surgery-ir compiles a model file to a smaller one whose accuracy it has measured."""

from __future__ import annotations

from surgery_ir.version import __version__ as __version__
