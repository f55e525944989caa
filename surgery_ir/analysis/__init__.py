"""Read-only facts about a graph: layers, statistics, cost and sensitivity."""
