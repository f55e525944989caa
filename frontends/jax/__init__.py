"""JAX and Flax: modules of ``flax.nnx``, and functions with their parameters. JAX is imported only to lower one."""

from __future__ import annotations

from surgery_ir.frontends.jax.frontend import JaxFunction
from surgery_ir.frontends.jax.model import JaxModel

__all__ = ["JaxFunction", "JaxModel"]
