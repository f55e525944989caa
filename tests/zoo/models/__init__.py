"""Definitions of the zoo's models. They need PyTorch or Keras; what they export is kept in ``tests/zoo/graphs``."""
