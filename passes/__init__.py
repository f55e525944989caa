"""Graph-rewrite passes: prune removes connections, repair re-solves the weights that stay."""
