"""Tests of surgery-ir."""
