"""Which indices of which axes must be cut together: one index graph, one small rule per operator family."""
