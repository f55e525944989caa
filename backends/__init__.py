"""Runtimes that load a graph, run it and measure it."""
