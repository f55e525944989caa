"""Ways in: each frontend turns a model of some kind into a graph."""
