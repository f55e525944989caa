"""The version, kept apart so that every layer and the build can read it without loading the package."""

from __future__ import annotations

__version__ = "0.1.0"
