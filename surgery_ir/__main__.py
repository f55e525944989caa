"""``python -m surgery_ir`` is ``surgery-ir``."""

from __future__ import annotations

import sys

from surgery_ir.cli import main

sys.exit(main())
