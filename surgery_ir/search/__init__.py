"""The search over compression profiles: space, policy, evaluator and searcher."""
