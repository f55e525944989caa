"""Tests of the sparse execution provider against ONNX Runtime's own CPU provider."""
