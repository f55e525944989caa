"""PyTorch: modules, exported programs, and a word to those who come with a checkpoint."""
