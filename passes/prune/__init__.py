"""Passes that remove connections."""
