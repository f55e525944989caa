"""Passes that create connections where they do more than those that are dropped for them."""
