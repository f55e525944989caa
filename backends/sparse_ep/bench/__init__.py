"""Benchmarks of the sparse execution provider; run ``python -m bench`` in the folder above."""
