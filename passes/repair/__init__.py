"""Passes that re-solve the weights that stay."""
