"""The in-memory graph: an onnx-ir model, a NetworkX view of it, and the one editor that may change it."""
